"""What becomes of the rule's results where they are not just rounded to the nearest."""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from nadam_xla.blockwise import BLOCK, SCALES, scales_shape
from nadam_xla.coefficients import Coefficients
from nadam_xla.jax.blockwise import Moment, encoded
from nadam_xla.jax.random_bits import (
    DRAW_OF_CODES,
    DRAW_OF_MOMENTS,
    DRAW_OF_PARAMS,
    RandomKey,
    random_bits,
    swapped_bytes,
)
from nadam_xla.jax.reference import row_of
from nadam_xla.jax.stored_numbers import REMAINDER_BITS, drawn, joined, split
from nadam_xla.storage import NARROW
from nadam_xla.streams import Streams

BitsOf: TypeAlias = Callable[[Coefficients, jax.Array, int], jax.Array]
"""Of a leaf's row, an array of its shape, and which of its numbers: these."""


def returns_change_of_stored(streams: Streams) -> bool:
    """Whether the change is that of the parameters as they are stored, and not as the rule says."""
    may_differ = streams.has_master or streams.is_stochastic
    return streams.returns_change and streams.has_params and may_differ


def params_of_masters(
    params: Sequence[jax.Array], masters: Sequence[jax.Array], dtype: Any
) -> list[jax.Array]:
    """The parameters as their masters have them, in the dtype that is computed in."""
    pairs = zip(params, masters, strict=True)
    return [(joined(p, m) if m.dtype in REMAINDER_BITS else m).astype(dtype) for p, m in pairs]


def stored_results(
    coefficients: jax.Array | Coefficients,
    results: Sequence[jax.Array],
    changes: Sequence[jax.Array],
    given: Mapping[str, Sequence[jax.Array]],
    dtypes: Sequence[Any],
    streams: Streams,
    bits_of: BitsOf,
) -> list[jax.Array]:
    """The primitive's results, of those of the rule.

    Args:
        coefficients: as the rule takes them.
        results: the new parameters, or their change where there are none; the new states of the
            rule.
        changes: of the parameters, where they are to be returned.
        given: the arrays of each stream, as they are stored.
        dtypes: of the primitive's results.
        streams: as everywhere.
        bits_of: the random numbers, of what is rounded by them.
    """
    n = len(given["grads"])
    by_leaf = [
        _of_leaf(
            row_of(coefficients, i, given["grads"][i]),
            results[i::n],
            changes[i] if changes else None,
            {name: group[i] for name, group in given.items()},
            dtypes[i::n],
            streams,
            bits_of,
        )
        for i in range(n)
    ]
    return [result for group in zip(*by_leaf, strict=True) for result in group]


def _of_leaf(
    row: Coefficients,
    results: Sequence[jax.Array],
    change: jax.Array | None,
    given: Mapping[str, jax.Array],
    dtypes: Sequence[Any],
    streams: Streams,
    bits_of: BitsOf,
) -> list[jax.Array]:
    first, *new_states = results
    draws = _draws(row, given, streams, bits_of)
    new = dict(zip(streams.states, new_states, strict=False))
    states, scales = _stored_moments(row, {"mu": new["mu"], "nu": new["nu"]}, given, draws)
    if streams.has_average:
        states.append(_stored(new["average"], given["average"].dtype, None))
    by_rule = streams.returns_change and change is None
    if not streams.has_params or by_rule:
        return [first.astype(dtypes[0]), *states, *scales]
    if change is not None and not streams.has_master and str(given["params"].dtype) not in NARROW:
        # The parameters are what the rule says, and so is their change.
        return [change.astype(dtypes[0]), *states, *scales]
    params, master = _stored_params(first, given, draws.get("params"))
    if master is not None:
        # A skipped one may be of numbers that somebody has overwritten.
        params = jnp.where(row.skip != 0, given["params"], params)
        master = jnp.where(row.skip != 0, given["master"], master)
    if streams.returns_change:
        before = given["params"].astype(dtypes[0])
        params = jnp.where(row.skip != 0, -0.0, params.astype(dtypes[0]) - before)
    return [params, *states, *([] if master is None else [master]), *scales]


def _stored_moments(
    row: Coefficients,
    moments: Mapping[Moment, jax.Array],
    given: Mapping[str, jax.Array],
    draws: Mapping[str, jax.Array],
) -> tuple[list[jax.Array], list[jax.Array]]:
    """The new moments as they are stored, and the scales of those that are in codes."""
    stored, scales = [], []
    for name, x in moments.items():
        if SCALES[name] not in given:
            stored.append(_stored(x, given[name].dtype, draws.get(name)))
            continue
        new = encoded(x.astype(jnp.float32), name, draws[name])
        # What is skipped would else be rounded once more.
        stored.append(jnp.where(row.skip != 0, given[name], new.codes))
        scales.append(jnp.where(row.skip != 0, given[SCALES[name]], new.scales))
    return stored, scales


def _stored(x: jax.Array, dtype: Any, draws: jax.Array | None) -> jax.Array:
    return x.astype(dtype) if draws is None else drawn(x.astype(jnp.float32), dtype, draws)


def _stored_params(
    params: jax.Array, given: Mapping[str, jax.Array], draws: jax.Array | None
) -> tuple[jax.Array, jax.Array | None]:
    """The new parameters as they are stored, and their master where they have one."""
    dtype = given["params"].dtype
    if "master" not in given:
        return _stored(params, dtype, draws), None
    kind = given["master"].dtype
    if kind in REMAINDER_BITS:
        return split(params.astype(jnp.float32), kind, draws)
    return params.astype(dtype), params.astype(kind)


def _draws(
    row: Coefficients, given: Mapping[str, jax.Array], streams: Streams, bits_of: BitsOf
) -> dict[str, jax.Array]:
    """The random numbers of what is rounded by them, by its stream."""
    if not streams.is_drawn:
        return {}
    draws: dict[str, jax.Array] = {}
    narrow = {name for name, x in given.items() if str(x.dtype) in NARROW}
    if not streams.is_stochastic:
        narrow = set()
    if streams.has_scales:
        bits = _bits_of_codes(row, given["grads"])
        draws.update(mu=bits, nu=swapped_bytes(bits))
    if narrow & {"mu", "nu"}:
        bits = bits_of(row, given["grads"], DRAW_OF_MOMENTS)
        of_moments = {"mu": bits, "nu": swapped_bytes(bits)}
        draws.update({name: of_moments[name] for name in narrow & {"mu", "nu"}})
    if "params" in narrow:
        draws["params"] = bits_of(row, given["grads"], DRAW_OF_PARAMS)
    return draws


def _bits_of_codes(row: Coefficients, like: jax.Array) -> jax.Array:
    """The same for moments in codes: of each element's place in its block, and of its block."""

    def bits(*words: jax.Array) -> jax.Array:
        key, blocks = RandomKey(*words), scales_shape(like.shape[batched:])
        drawn_bits = random_bits(key, prod(blocks) * BLOCK, DRAW_OF_CODES)
        in_rows = drawn_bits.reshape(*blocks[:-1], blocks[-1] * BLOCK)
        return in_rows[..., : like.shape[-1]]

    batched = int(jnp.ndim(row.seed_low) > 0)
    if not batched:
        return bits(*key_of(row))
    return jax.vmap(bits)(*(jnp.asarray(word).reshape(-1) for word in key_of(row)))


def bits_of_leaf(row: Coefficients, like: jax.Array, draw: int) -> jax.Array:
    """Numbers of the leaf's shape; each entry of a batch has those that it would have alone."""

    def bits(*key: jax.Array) -> jax.Array:
        return random_bits(RandomKey(*key), prod(like.shape[batched:]), draw)

    batched = int(jnp.ndim(row.seed_low) > 0)
    key = [jnp.asarray(word).reshape(-1) if batched else word for word in key_of(row)]
    drawn_bits = jax.vmap(bits)(*key) if batched else bits(*key)
    return drawn_bits.reshape(like.shape)


def zeros_of_leaf(row: Coefficients, like: jax.Array, draw: int) -> jax.Array:
    """What stands for them where nothing depends on them."""
    del row, draw
    return jnp.zeros(like.shape, jnp.uint32)


def key_of(row: Coefficients) -> RandomKey:
    """The key in a row of coefficients."""

    def whole(x: Any) -> jax.Array:
        return jnp.asarray(x).astype(jnp.int32).astype(jnp.uint32)

    return RandomKey(
        seed=whole(row.seed_high) << 16 | whole(row.seed_low),
        shard=whole(row.shard),
        leaf=whole(row.leaf),
        step=whole(row.step_high) << 16 | whole(row.step_low),
    )
