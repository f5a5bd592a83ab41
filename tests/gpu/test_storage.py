"""Leaves that are stored in any way, on a GPU: the bits of the CPU's kernel.

What that stores is compared with an independent rule elsewhere. Its threads flush numbers that are
too small to be normal, so there are none.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from blockwise_oracle import encoded_signed, encoded_unsigned
from x64 import enable_x64

from nadam_xla.jax import Blockwise, nadam_update

NARROW = ["bfloat16", "float16"]
MASTERS = {"float32": np.float32, "remainder": np.uint16, "correction": np.uint8}

# Around a group of eight elements, and a tile of 1024.
LENGTHS = [0, 1, 7, 8, 9, 31, 32, 33, 255, 257, 1023, 1024, 1025, 1031, 2049, 100_003]

Leaf = dict[str, np.ndarray]


@pytest.fixture(autouse=True)
def needs_a_gpu(on_gpu: bool) -> None:
    if not on_gpu:
        pytest.skip("there is no GPU: both sides would be the CPU's kernel")


def table_of(rng: np.random.Generator, shape: tuple[int, ...], dtype: str = "float32") -> Any:
    """Rows with a key, of which each has one of its own."""
    table = oracle.rows(rng, shape, dtype)
    table[..., oracle.KEY] = rng.integers(0, 2**16, (*shape, 6))
    return table


def leaf_of(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    dtypes: tuple[str, ...],
    master: str | None = None,
) -> Leaf:
    """Parameters, gradients and both moments, stored so; and the master of the parameters."""
    names = ("params", "grads", "mu", "nu")
    leaf = {
        name: rng.normal(size=shape).astype(jnp.dtype(dtype))
        for name, dtype in zip(names, dtypes, strict=True)
    }
    leaf["nu"] = np.abs(leaf["nu"])
    if master == "float32":
        leaf["master"] = leaf["params"].astype(np.float32)
    elif master is not None:
        stored = MASTERS[master]
        leaf["master"] = rng.integers(0, np.iinfo(stored).max, shape, stored, endpoint=True)
    return leaf


def update(table: Any, leaves: list[Any], **options: Any) -> Any:
    trees = {name: [leaf[name] for leaf in leaves] for name in leaves[0]}
    return nadam_update(table, **trees, **options)


def of_gpu_and_cpu(function: Any, table: Any, leaves: list[Any]) -> Any:
    """The results of both."""
    with enable_x64(True):
        return [
            jax.tree.leaves(jax.jit(function)(*jax.device_put((table, leaves), device)))
            for device in (jax.local_devices()[0], jax.local_devices(backend="cpu")[0])
        ]


def assert_the_cpus_bits(function: Any, table: Any, leaves: list[Any]) -> None:
    found, expected = of_gpu_and_cpu(function, table, leaves)
    for number, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(
            np.asarray(a).view(np.uint8), np.asarray(b).view(np.uint8), err_msg=f"result {number}"
        )


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("returns", ["params", "change"])
@pytest.mark.parametrize("computed", ["float32", "float64"])
def test_every_mixture(computed: str, returns: str, rounding: str) -> None:
    rng = np.random.default_rng(0)
    dtypes = [*NARROW, "float32", "float64"]
    leaves = [
        leaf_of(rng, (length,), (params, *rng.choice(dtypes, 3)))
        for params in ([*NARROW, "float32"] if computed == "float32" else ["float64"])
        for length in LENGTHS
    ]
    table = table_of(rng, (len(leaves),), computed)
    function = partial(update, returns=returns, rounding=rounding)
    assert_the_cpus_bits(function, table, leaves)


@pytest.mark.parametrize("returns", ["params", "change"])
@pytest.mark.parametrize("master", [None, "remainder"])
@pytest.mark.parametrize("params", ["float32", "float64", "bfloat16"])
def test_averages(params: str, master: str | None, returns: str) -> None:
    if master is not None and params != "bfloat16":
        pytest.skip("these have no masters")
    rng = np.random.default_rng(4)
    wide = "float32" if params == "bfloat16" else params
    leaves = [
        {
            **leaf_of(rng, (length,), (params, params, wide, wide), master),
            "average": rng.normal(size=length).astype(wide),
        }
        for length in LENGTHS
    ]
    table = table_of(rng, (len(leaves),), wide)
    assert_the_cpus_bits(partial(update, returns=returns), table, leaves)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("returns", ["params", "change"])
@pytest.mark.parametrize("master", MASTERS)
def test_master_weights(master: str, returns: str, rounding: str) -> None:
    rng = np.random.default_rng(1)
    leaves = [
        leaf_of(rng, (length,), ("bfloat16", "bfloat16", moments, moments), master)
        for moments in (*NARROW, "float32")
        for length in LENGTHS
    ]
    table = table_of(rng, (len(leaves),))
    function = partial(update, returns=returns, rounding=rounding)
    assert_the_cpus_bits(function, table, leaves)


def test_the_masters_of_float16() -> None:
    rng = np.random.default_rng(2)
    leaves = [leaf_of(rng, (n,), ("float16",) * 4, "float32") for n in LENGTHS]
    assert_the_cpus_bits(update, table_of(rng, (len(leaves),)), leaves)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_batch_of_odd_lengths(batch: int, rounding: str) -> None:
    """All but the first of its entries begin off a boundary."""
    rng = np.random.default_rng(3)
    leaves = [leaf_of(rng, (batch, n), ("bfloat16",) * 4, "correction") for n in LENGTHS]
    function = jax.vmap(partial(update, rounding=rounding))
    assert_the_cpus_bits(function, table_of(rng, (batch, len(leaves))), leaves)


# Whole blocks of 256, parts of one, and rows that begin and end anywhere.
SHAPES_IN_CODES = [(1024,), (7, 100), (5, 300), (2, 3, 513), (40, 64), (0, 64), (3, 1285), (1, 1)]
SHAPES_IN_CODES += [(64, 1024), (33, 260), (1, 100_003), (70, 3)]
CODES = {"mu": encoded_signed, "nu": encoded_unsigned}


def leaf_in_codes(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    dtypes: tuple[str, ...],
    master: str | None = None,
    *,
    in_codes: tuple[str, ...] = ("mu", "nu"),
) -> dict[str, Any]:
    leaf: dict[str, Any] = leaf_of(rng, shape, dtypes, master)
    for name in in_codes:
        leaf[name] = Blockwise(*CODES[name](leaf[name].astype(np.float32)))
    return leaf


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("returns", ["params", "change"])
@pytest.mark.parametrize("in_codes", [("mu", "nu"), ("mu",), ("nu",)], ids=str)
def test_moments_in_codes(in_codes: tuple[str, ...], returns: str, rounding: str) -> None:
    rng = np.random.default_rng(6)
    dtypes = [*NARROW, "float32"]
    leaves = [
        leaf_in_codes(rng, shape, (params, *rng.choice(dtypes, 3)), in_codes=in_codes)
        for params in dtypes
        for shape in SHAPES_IN_CODES
    ]
    function = partial(update, returns=returns, rounding=rounding)
    assert_the_cpus_bits(function, table_of(rng, (len(leaves),)), leaves)


@pytest.mark.parametrize("returns", ["params", "change"])
@pytest.mark.parametrize("master", MASTERS)
def test_moments_in_codes_beside_masters_and_averages(master: str, returns: str) -> None:
    rng = np.random.default_rng(7)
    leaves = [
        leaf_in_codes(rng, shape, ("bfloat16",) * 4, master)
        | {"average": rng.normal(size=shape).astype(np.float32)}
        for shape in SHAPES_IN_CODES
    ]
    table = table_of(rng, (len(leaves),))
    table[:, oracle.SKIP] = rng.integers(0, 2, len(leaves))
    function = partial(update, returns=returns, rounding="stochastic")
    assert_the_cpus_bits(function, table, leaves)


def test_a_batch_of_moments_in_codes() -> None:
    rng = np.random.default_rng(8)
    leaves = [
        leaf_in_codes(rng, (3, *shape), ("bfloat16",) * 4)
        for shape in SHAPES_IN_CODES
        if len(shape) > 1
    ]
    assert_the_cpus_bits(jax.vmap(update), table_of(rng, (3, len(leaves))), leaves)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_a_gradient_that_is_not_finite_in_a_block_of_codes(bad: float) -> None:
    rng = np.random.default_rng(9)
    leaf = leaf_in_codes(rng, (3, 600), ("float32",) * 4)
    leaf["grads"][1, 300] = bad
    found, expected = of_gpu_and_cpu(update, table_of(rng, (1,)), [leaf])
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)  # a NaN's payload is the processor's


@pytest.mark.parametrize("returns", ["params", "change"])
def test_a_skipped_step_changes_nothing(returns: str) -> None:
    rng = np.random.default_rng(4)
    leaves = [leaf_of(rng, (n,), ("bfloat16",) * 4, "remainder") for n in LENGTHS]
    table = table_of(rng, (len(leaves),))
    table[:, oracle.SKIP] = rng.integers(0, 2, len(leaves))
    assert_the_cpus_bits(partial(update, returns=returns), table, leaves)


def test_what_is_stored_narrow_is_updated_where_it_is() -> None:
    rng = np.random.default_rng(5)
    leaves = [leaf_of(rng, (64, n), ("bfloat16",) * 4, "remainder") for n in range(1, 20)]
    names = (
        "params",
        "mu",
        "nu",
        "master",
        "grads",
    )
    *given, grads = ([jnp.asarray(leaf[name]) for leaf in leaves] for name in names)

    def step(table: Any, given: Any, grads: Any) -> Any:
        params, mu, nu, master = given
        return nadam_update(table, params, grads, mu, nu, master=master, rounding="stochastic")

    before = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(given)]
    table = table_of(rng, (len(leaves),))
    compiled = jax.jit(step, donate_argnums=1).lower(table, given, grads).compile()
    assert "convert(" not in compiled.as_text()
    results = compiled(table, given, grads)
    assert [x.unsafe_buffer_pointer() for x in jax.tree.leaves(results)] == before
