"""The kernels on every combination of hard numbers, for every storage, under every hard row.

The judge is the rule in numpy, to the bit; and of the rule itself, float64.
"""

from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import hard_numbers as hard
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import storage_oracle as stored
from rows_call import traced_rows, update_rows, update_rows_as_on_gpu
from stored_arrays import misaligned
from stored_arrays import stored as for_cuda
from stored_step import MOMENTS, Flushed, Leaf, after_step, assert_same_bits
from update_call import BITS, MU_IS_GRADIENT, STREAMS, update, with_key
from x64 import enable_x64

import nadam_xla.jax  # noqa: F401 - registers the handlers
from nadam_xla import _native_testing as native
from nadam_xla.coefficients import Coefficients
from nadam_xla.jax.reference import update_reference

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
BF16, F16 = stored.BFLOAT16, stored.FLOAT16
KEY = {"seed": 0xDEADBEEF, "step": 2**31 - 1}

STORAGES: dict[str, dict[str, Any]] = {
    "float32": {},
    "float64": dict.fromkeys(("params", "grads", "mu", "nu"), F64),
    "bfloat16": dict.fromkeys(("params", "grads", "mu", "nu"), BF16),
    "float16": dict.fromkeys(("params", "grads", "mu", "nu"), F16),
    "mixed": {"params": F16, "grads": BF16, "mu": F32, "nu": F16},
    "average": {"average": F32},
    "average of bfloat16": {"params": BF16, "grads": BF16, "average": F32},
    "float32 master of bfloat16": {"params": BF16, "grads": BF16, "master": F32},
    "float32 master of float16": {"params": F16, "grads": F16, "master": F32},
    "remainder": {"params": BF16, "grads": BF16, "master": np.dtype(np.uint16)},
    "correction": {"params": BF16, "mu": BF16, "nu": BF16, "master": np.dtype(np.uint8)},
    "codes": {"codes": True},
    "codes and a remainder": {
        "params": BF16, "grads": BF16, "master": np.dtype(np.uint16), "codes": True
    },
}  # fmt: skip
IN_ROWS = [name for name in STORAGES if "average" not in name and "codes" not in name]
EVERY_STORAGE = pytest.mark.parametrize("storage", STORAGES)
EVERY_ROUNDING = pytest.mark.parametrize("stochastic", [False, True], ids=["nearest", "stochastic"])


@cache
def leaf_of(storage: str) -> dict[str, np.ndarray]:
    """The streams in the order in which they travel: gradients and moments in every combination."""
    leaf = _leaf_of(STORAGES[storage])
    return {name: leaf[name] for name in STREAMS if name in leaf}


def _leaf_of(dtypes: Mapping[str, Any]) -> dict[str, np.ndarray]:
    p, g, m, v = (dtypes.get(name, F32) for name in ("params", "grads", "mu", "nu"))
    if "codes" in dtypes:
        return _in_codes(dtypes)
    wide = F32 if "master" in dtypes else p
    params, *others = hard.combinations_with(
        hard.numbers(wide), hard.numbers(g), hard.numbers(m), hard.magnitudes(v)
    )
    leaf = _with_master(params, dtypes) | dict(zip(("grads", "mu", "nu"), others, strict=True))
    if "average" in dtypes:
        leaf["average"] = np.resize(hard.numbers(dtypes["average"])[:-1], len(params))
    return leaf


def _with_master(params: np.ndarray, dtypes: Mapping[str, Any]) -> dict[str, np.ndarray]:
    stored_as, master = dtypes.get("params", F32), dtypes.get("master")
    if master is None:
        return {"params": params.astype(stored_as)}
    if master == F32:
        return {"params": stored.nearest(params, stored_as), "master": params}
    bits = 8 * master.itemsize
    whole = stored.to_24_bits(params) if bits == 8 else params
    return dict(zip(("params", "master"), stored.split(whole, bits), strict=True))


def _in_codes(dtypes: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """``[combinations, numbers]``: a block has parameters, and moments that are finite or are not.

    One that is not finite leaves no code of its block.
    """
    grads, bad_mu, nu = hard.combinations(
        hard.numbers(dtypes.get("grads", F32)), np.float32([0, hard.NAN, hard.INF]),
        hard.magnitudes(F32),
    )  # fmt: skip
    finite = hard.numbers(F32)[np.isfinite(hard.numbers(F32))]
    params, mu = hard.combinations_with(hard.numbers(F32), finite)
    shape = len(grads), len(params)
    leaf = _with_master(np.broadcast_to(params, shape).copy(), dtypes)
    leaf["grads"] = np.broadcast_to(grads[:, None], shape).copy()
    moments = {"mu": mu + bad_mu[:, None], "nu": np.broadcast_to(nu[:, None], shape)}
    for name, encoded in MOMENTS.items():
        leaf[name], leaf[f"{name}_scales"] = encoded(np.ascontiguousarray(moments[name]))
    return leaf


def table_of(storage: str) -> np.ndarray:
    """``[1, rows, K]``: of each hard row one, with weights of an average and a key."""
    dtype = F64 if storage == "float64" else F32
    off = dict.fromkeys(Coefficients._fields, 0.0)
    table = np.array([list({**off, **row}.values()) for row in hard.ROWS.values()], dtype)[None]
    table[..., oracle.AVERAGE] = 0.75, 0.25
    return with_key(table, **KEY)


@pytest.fixture(scope="module")
def flushes() -> bool:
    """Whether JAX's threads take numbers too small to be normal for zeros."""
    tiny = np.full(3, 1e-42, np.float32)
    leaf = {"params": tiny, "grads": tiny, "mu": tiny, "nu": tiny}
    (found,) = update(MU_IS_GRADIENT[None, None], [leaf])
    return not found["mu"].any()


def check(found: Mapping[str, np.ndarray], expected: Leaf, row: str) -> None:
    for name, x in expected.items():
        assert_same_bits(found[name], x, f"{name}, {row}")


@EVERY_ROUNDING
@EVERY_STORAGE
def test_the_call_is_the_rule_to_the_bit(storage: str, stochastic: bool, flushes: bool) -> None:
    leaf, table = leaf_of(storage), table_of(storage)
    with enable_x64(True):
        found = update(table, [leaf] * len(hard.ROWS), stochastic=stochastic)
    for i, (name, of_row) in enumerate(zip(hard.ROWS, table[0], strict=True)):
        expected = after_step(
            of_row, leaf, stochastic=stochastic, flushes=flushes, leaf=i, **KEY
        )  # fmt: skip
        check(found[i], expected, name)


@EVERY_ROUNDING
@EVERY_STORAGE
def test_so_is_a_gpus(storage: str, stochastic: bool) -> None:
    """Its kernels run on the host, by threads that flush nothing, as a GPU's do not."""
    leaf, table = leaf_of(storage), table_of(storage)
    names = [name for name in STREAMS if name in leaf]
    for i, (row, of_row) in enumerate(zip(hard.ROWS, table[0], strict=True)):
        arrays = {name: misaligned(leaf[name].ravel(), 0) for name in names}
        native.update_as_on_gpu(
            of_row,
            1,
            1,
            False,
            [
                (
                    for_cuda(list(arrays.values())),
                    for_cuda([arrays[n] for n in names if n != "grads"]),
                )
            ],
            streams=sum(1 << BITS[name] for name in names),
            stochastic=stochastic,
            columns=[leaf["grads"].shape[-1]],
        )
        expected = after_step(of_row, leaf, stochastic=stochastic, leaf=i, **KEY)
        check({n: x.reshape(leaf[n].shape) for n, x in arrays.items()}, expected, row)


@pytest.mark.parametrize("storage", ["float32", "float64", "average"])
def test_so_is_the_rule_of_platforms_without_a_kernel(storage: str, flushes: bool) -> None:
    """But for the sign of a zero, which a decay of zero may change there.

    Operation by operation: where XLA compiles it whole, it joins products with sums.
    """
    leaf, table = leaf_of(storage), table_of(storage)
    with enable_x64(True):
        given = {name: [jnp.asarray(x)] for name, x in leaf.items()}
        for row, of_row in zip(hard.ROWS, table[0], strict=True):
            results = update_reference(jnp.asarray(of_row[None, None]), given, returns_change=False)
            names = [name for name in leaf if name != "grads"]
            expected = after_step(of_row, leaf, flushes=flushes)
            for name, found in zip(names, results, strict=True):
                np.testing.assert_array_equal(found, expected[name], f"{name}, {row}")


COLUMNS = 8


def as_rows(leaf: Leaf) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """The leaf as a table, every row touched once, in no order: indices, gradients, table."""
    rows = {name: x.reshape(-1, COLUMNS) for name, x in leaf.items()}
    grads = rows.pop("grads")
    order = np.random.default_rng(0).permutation(len(grads)).astype(np.int32)
    return order, grads[order], rows


@EVERY_ROUNDING
@pytest.mark.parametrize("storage", IN_ROWS)
def test_rows_have_the_same_bits(storage: str, stochastic: bool, flushes: bool) -> None:
    leaf, table = leaf_of(storage), table_of(storage)
    indices, grads, rows = as_rows(leaf)
    step = jax.jit(partial(traced_rows, stochastic=stochastic))
    for i, (row, of_row) in enumerate(zip(hard.ROWS, table[0], strict=True)):
        given = of_row[None, None], indices, grads, rows
        with enable_x64(True):
            found = {name: np.asarray(x).ravel() for name, x in step(*given).items()}
        expected = after_step(of_row, leaf, stochastic=stochastic, flushes=flushes, leaf=i, **KEY)
        check(found, expected, row)
        batched = (x[None] for x in (indices, grads))
        of_gpu, _ = update_rows_as_on_gpu(
            of_row[None, None],
            *batched,
            {name: x[None] for name, x in rows.items()},
            stochastic=stochastic,
        )
        expected = after_step(of_row, leaf, stochastic=stochastic, leaf=i, **KEY)
        check({name: x.ravel() for name, x in of_gpu.items()}, expected, row)


@pytest.mark.parametrize("dtype", [F32, F64, BF16, F16], ids=str)
def test_gradients_of_one_row_add_up_as_numbers_do(dtype: np.dtype, flushes: bool) -> None:
    """As computed: infinity less infinity is NaN, the largest twice is infinite."""
    computed = F64 if dtype == F64 else F32
    first, second = hard.combinations(hard.numbers(dtype), hard.numbers(dtype))
    height = len(first)
    indices = np.concatenate([np.arange(height), np.arange(height)[::-1]]).astype(np.int32)
    grads = np.concatenate([first, second[::-1]])[:, None]
    zeros = np.zeros((height, 1), computed)
    rows = {"params": zeros, "mu": zeros, "nu": zeros}
    given = [x.astype(computed) for x in (first, second)]
    of_row = MU_IS_GRADIENT.astype(computed)
    with enable_x64(True):
        found = update_rows(of_row[None, None], indices, grads, rows)
    of_gpu, _ = update_rows_as_on_gpu(
        of_row[None, None],
        indices[None],
        grads[None],
        {name: x[None] for name, x in rows.items()},
    )
    for mu, is_flushed in ((found["mu"], flushes), (of_gpu["mu"], False)):
        a, b = (x.view(Flushed) if is_flushed else x for x in given)
        with np.errstate(all="ignore"):
            expected = np.asarray(a + b) + computed.type(0)
        assert_same_bits(mu.ravel(), expected, "mu")


class Watched(np.ndarray):
    """Float64 numbers; ``left`` notes where a result is no normal float32, nor zero."""

    left: list[np.ndarray] = []  # noqa: RUF012 - of the one computation at a time

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: object, **options: object
    ) -> np.ndarray:
        result = getattr(ufunc, method)(*map(np.asarray, inputs), **options)
        self.left.append(~is_normal(result))
        return result.view(Watched)


def is_normal(x: np.ndarray) -> np.ndarray:
    """Whether it is one of float32's normal numbers, or zero."""
    return (x == 0) | ((np.abs(x) >= hard.TINY) & (np.abs(x) <= hard.LARGEST))


@pytest.mark.parametrize("name", hard.ROWS)
def test_the_rule_is_float64s_where_that_leaves_no_range(name: str) -> None:
    """Sixteen roundings, of numbers that are no larger than the sum of what they are made of.

    But where a gradient and the l2 term cancel: the root is then of what is left.
    """
    row = table_of("float32")[0, list(hard.ROWS).index(name)]
    leaf = leaf_of("float32")
    given = [leaf[stream] for stream in ("params", "grads", "mu", "nu")]
    wide = [x.astype(np.float64) for x in given]
    Watched.left.clear()
    with np.errstate(all="ignore"):
        exact = oracle.rule(row.astype(np.float64), *(x.view(Watched) for x in wide))
        # Of magnitudes nothing cancels.
        bounds = oracle.rule(np.abs(row).astype(np.float64), *map(np.abs, wide))
    stays = np.logical_and.reduce([*(is_normal(x) for x in wide), *(~x for x in Watched.left)])
    stays &= (hard.ROWS[name].get("l2", 0) == 0) | (np.sign(wide[0]) * np.sign(wide[1]) >= 0)
    for found, x, bound in zip(oracle.rule(row, *given), exact, bounds, strict=True):
        error = np.abs(found[stays].astype(np.float64) - np.asarray(x)[stays])
        magnitude = (np.abs(wide[0]) - bounds[1] if bound is bounds[0] else np.abs(bound))[stays]
        assert np.all(error <= 16 * 2.0**-24 * magnitude)
    assert stays.any() or not np.isfinite(row).all() or name == "largest scale"
