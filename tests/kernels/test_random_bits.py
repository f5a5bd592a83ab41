"""The random numbers: the published generator's, in each of the two languages."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import storage_oracle

from nadam_xla.jax.random_bits import RandomKey, random_bits, random_words, swapped_bytes

# The known answers that Random123 is distributed with (its file kat_vectors), of 13 rounds:
# counter, key, result.
PI = (
    [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
    [0xA4093822, 0x299F31D0, 0x082EFA98, 0xEC4E6C89],
)
KNOWN_ANSWERS = [
    ([0] * 4, [0] * 4, [0x531C7E4F, 0x39491EE5, 0x2C855A92, 0x3D6ABF9A]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 4, [0xC4189358, 0x1C9CC83A, 0xD5881C67, 0x6A0A89E0]),
    (*PI, [0x4AA71D8F, 0x734738C2, 0x431FC6A8, 0xAE6DEBF1]),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_the_oracle_is_threefry(
    counter: Sequence[int], key: Sequence[int], expected: Sequence[int]
) -> None:
    words = storage_oracle.threefry(np.array(counter, np.uint32)[:, None], np.array(key, np.uint32))
    assert words.ravel().tolist() == expected


@pytest.mark.parametrize("draw", [0, 1])
@pytest.mark.parametrize("length", [1, 7, 8, 1001])
def test_those_of_jax(length: int, draw: int) -> None:
    key = {"seed": 0xFEDCBA98, "shard": 3, "leaf": 12345, "step": 0x89ABCDEF}
    words = RandomKey(**{name: jnp.uint32(word) for name, word in key.items()})
    found = jax.jit(random_bits, static_argnums=(1, 2))(words, length, draw)
    expected = storage_oracle.draws(length, draw, **key)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(swapped_bytes(found), storage_oracle.swapped_bytes(expected))


def test_jax_has_the_known_answer() -> None:
    zero = jnp.uint32(0)
    found = random_words(RandomKey(zero, zero, zero, zero), 4, 0)
    _, _, words = KNOWN_ANSWERS[0]
    assert np.asarray(found).tolist() == words
