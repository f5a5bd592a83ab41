"""How a call is cut into chunks and shared among threads, below XLA."""

import itertools

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nadam_xla import _native_testing as native


@settings(max_examples=300, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 700), max_size=12),
    batch=st.integers(0, 5),
    chunk_length=st.sampled_from([64, 128, 320]),
)
def test_chunks_cover_every_element_once(lengths: list[int], batch: int, chunk_length: int) -> None:
    chunks = native.stretches(lengths, batch, chunk_length)
    covered = [
        (leaf, entry, element)
        for chunk in chunks
        for leaf, entry, begin, length in chunk
        for element in range(begin, begin + length)
    ]
    expected = [
        (leaf, entry, element)
        for leaf, length in enumerate(lengths)
        for entry in range(batch)
        for element in range(length)
    ]
    assert covered == expected
    for chunk in chunks:
        assert 0 < sum(length for *_, length in chunk) <= chunk_length
        assert all(begin % 64 == 0 for _, _, begin, _ in chunk), "a cut inside a cache line"


@pytest.mark.parametrize("start", ["at once", "on threads", "late"])
@pytest.mark.parametrize(
    ("chunks", "threads"), [*itertools.product([0, 1, 2, 7, 1000], [0, 1, 2, 8])]
)
def test_every_chunk_runs_once_whenever_the_helpers_start(
    chunks: int, threads: int, start: str
) -> None:
    runs, late = native.run_chunks(chunks, threads, start)
    assert runs == [1] * chunks
    if start == "late":
        assert late == max(0, min(chunks, threads, 3) - 1), "the caller wakes two, and these others"


@pytest.mark.parametrize("threads", [1, 2, 16, 64, 192])
@pytest.mark.parametrize("elements", [0, 1, 8192, 2**18, 2**21, 2**26, 2**31])
def test_every_thread_has_some_chunks_that_are_neither_short_nor_long(
    elements: int, threads: int
) -> None:
    length = native.chunk_length(elements, threads)
    assert length % 64 == 0
    assert 8192 <= length <= 128 * 1024
    chunks = -(-elements // length)
    has_work_for_all = elements >= 8192 * 8 * threads
    assert chunks >= (8 * threads if has_work_for_all else elements // 8192)


def test_elements_beyond_2_to_the_31() -> None:
    """Chunks at the start, around element 2**31 and at the end of a leaf that no int32 can index.

    The four arrays hold 34 GB, of which only the pages of these chunks are ever touched.
    """
    length = 2**31 + 200_000
    chunk_length = 128 * 1024
    chunks = [0, 2**31 // chunk_length - 1, 2**31 // chunk_length, length // chunk_length]
    params, grads, mu, nu = (np.zeros(length, np.float32) for _ in range(4))
    row = oracle.rows(np.random.default_rng(0), (), "float32")
    touched = [slice(c * chunk_length, min((c + 1) * chunk_length, length)) for c in chunks]
    before = np.random.default_rng(1)
    expected = []
    for part in touched:
        values = before.normal(size=(4, part.stop - part.start)).astype(np.float32)
        values[3] = values[3] ** 2
        params[part], grads[part], mu[part], nu[part] = values
        expected.append(oracle.rule(row, *values))

    count = native.run_update_chunks(row, params, grads, mu, nu, chunks)

    assert count == -(-length // chunk_length)
    for part, (new_params, _, new_mu, new_nu) in zip(touched, expected, strict=True):
        np.testing.assert_array_equal(params[part], new_params)
        np.testing.assert_array_equal(mu[part], new_mu)
        np.testing.assert_array_equal(nu[part], new_nu)
