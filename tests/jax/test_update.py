"""nadam_update: the rule on every shape and dtype, and the errors."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from any_float import any_float
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from x64 import enable_x64

from nadam_xla.coefficients import Coefficients
from nadam_xla.jax import nadam_update
from nadam_xla.jax.reference import update_reference
from nadam_xla.streams import Streams

SHAPES = st.lists(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=17), max_size=5)


def leaves_of(rng: np.random.Generator, shapes: list[tuple[int, ...]], dtype: str) -> list[list]:
    params, grads, mu = ([rng.normal(size=s).astype(dtype) for s in shapes] for _ in range(3))
    nu = [rng.uniform(size=s).astype(dtype) for s in shapes]
    return [params, grads, mu, nu]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@settings(max_examples=40, deadline=None)
@given(shapes=SHAPES, seed=st.integers(0, 2**32 - 1), rows_per_leaf=st.booleans())
def test_every_shape_gets_the_bits_of_the_rule(
    dtype: str, shapes: list[tuple[int, ...]], seed: int, rows_per_leaf: bool
) -> None:
    rng = np.random.default_rng(seed)
    groups = leaves_of(rng, shapes, dtype)
    rows = oracle.rows(rng, (len(shapes),) if rows_per_leaf else (), dtype)
    with enable_x64(True):
        new = nadam_update(rows, *groups)
        change, *_ = nadam_update(rows, *groups, returns="change")
    for i, leaf in enumerate(zip(*groups, strict=True)):
        row = rows[i] if rows_per_leaf else rows
        params, step, mu, nu = oracle.rule(row, *leaf)
        for result, expected in zip(
            (new[0][i], new[1][i], new[2][i], change[i]), (params, mu, nu, step), strict=True
        ):
            assert result.dtype == dtype
            np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_any_floats_get_the_bits_of_the_rule(dtype: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    row = oracle.with_parts_off(rng, oracle.rows(rng, (), dtype))
    leaf = [x.astype(dtype) for x in any_float(rng, (4, 1003))]
    leaf[3] = np.abs(leaf[3])
    with enable_x64(True):
        found = nadam_update(row, *leaf)
    params, _, mu, nu = oracle.rule(row, *leaf)
    for result, expected in zip(found, (params, mu, nu), strict=True):
        # XLA's threads flush subnormal numbers to zero.
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-29)


def test_more_leaves_than_one_call_holds_and_both_dtypes_mixed() -> None:
    rng = np.random.default_rng(0)
    shapes = [(3, n) for n in range(75)]
    groups = leaves_of(rng, shapes, "float64")
    for group in groups:
        group[::2] = [x.astype(np.float32) for x in group[::2]]
    row = oracle.rows(rng, (), "float64")
    with enable_x64(True):
        new = nadam_update(row, *groups)
    for i, leaf in enumerate(zip(*groups, strict=True)):
        dtype = leaf[0].dtype
        params, _, mu, nu = oracle.rule(row.astype(dtype), *leaf)
        for result, expected in zip(
            (new[0][i], new[1][i], new[2][i]), (params, mu, nu), strict=True
        ):
            assert result.dtype == dtype
            np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_floats_are_widened_and_rounded_back(dtype: str) -> None:
    rng = np.random.default_rng(0)
    wide = [jnp.asarray(x[0]) for x in leaves_of(rng, [(1000,)], "float32")]
    narrow = [x.astype(dtype) for x in wide[:2]]
    row = oracle.rows(rng, (), "float32")
    params, mu, nu = nadam_update(row, *narrow, *wide[2:])
    assert (params.dtype, mu.dtype, nu.dtype) == (dtype, "float32", "float32")
    expected, _, expected_mu, expected_nu = oracle.rule(
        row, *(np.asarray(x, np.float32) for x in (*narrow, *wide[2:]))
    )
    np.testing.assert_array_equal(params, jnp.asarray(expected).astype(dtype))
    np.testing.assert_array_equal(mu, expected_mu)
    np.testing.assert_array_equal(nu, expected_nu)


BAD = np.array([np.nan, np.inf, -np.inf, 1.0], np.float32)


@pytest.mark.parametrize("platform", ["kernel", "reference"])
def test_nan_passes_the_clamp_and_a_skipped_step_changes_nothing(platform: str) -> None:
    def update(row: Coefficients, *leaf: np.ndarray, change: bool = False) -> list[jax.Array]:
        if platform == "kernel":
            return list(nadam_update(row, *leaf, returns="change" if change else "params"))
        table = jnp.stack([jnp.float32(c) for c in row])[None, None]
        given = {name: [jnp.asarray(x)] for name, x in zip(Streams().operands, leaf, strict=True)}
        return update_reference(table, given, returns_change=change)

    leaf = (np.ones(4, np.float32), BAD, np.full(4, np.nan, np.float32), np.ones(4, np.float32))
    clamped = Coefficients(1.0, 1.0, 1.0, 0.9, 0.1, 0.999, 0.001, 1e-3, 1e-8, clip_value=0.5)
    _, mu, nu = update(clamped, leaf[0], BAD, np.zeros(4, np.float32), leaf[3])
    np.testing.assert_array_equal(mu, np.float32(0.1) * np.float32([np.nan, 0.5, -0.5, 0.5]))
    np.testing.assert_array_equal(np.isnan(nu), [True, False, False, False])
    _, mu, nu = update(clamped._replace(clip_value=0.0), leaf[0], BAD, 0 * leaf[0], leaf[3])
    np.testing.assert_array_equal(mu, np.float32(0.1) * BAD)

    skipped = clamped._replace(skip=1.0)
    for result, kept in zip(update(skipped, *leaf), (leaf[0], leaf[2], leaf[3]), strict=True):
        np.testing.assert_array_equal(result, kept)
    np.testing.assert_array_equal(update(skipped, *leaf, change=True)[0], np.zeros(4))


def test_the_reference_rule_equals_the_kernel_to_rounding() -> None:
    rng = np.random.default_rng(0)
    for batch, rows in ((1, 1), (1, 3), (4, 1), (4, 3)):
        lead = () if batch == 1 else (batch,)
        shapes = [(*lead, *s) for s in [(5, 7), (3,), ()]]
        groups = [[jnp.asarray(x) for x in g] for g in leaves_of(rng, shapes, "float32")]
        table = oracle.rows(rng, (batch, rows), "float32")
        for change in (False, True):
            given = dict(zip(Streams().operands, groups, strict=True))
            reference = update_reference(jnp.asarray(table), given, returns_change=change)
            results = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in reference]
            kernel = jax.ffi.ffi_call("nadam_xla_update_v2", results)(
                table,
                *(x for g in groups for x in g),
                returns_change=np.bool_(change),
                first_row=np.int64(0),
                streams=np.int64(15),
            )
            for a, b in zip(kernel, reference, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)


ROW = Coefficients(1.0, 1.0, 1.0, 0.9, 0.1, 0.999, 0.001, 1e-3, 1e-8)


@pytest.mark.parametrize(
    ("replaced", "error", "message"),
    [
        (
            {"params": {"w": jnp.ones(3, jnp.int32)}},
            TypeError,
            r"params\['w'\] has the dtype int32",
        ),
        ({"grads": {"w": jnp.ones(3, complex)}}, TypeError, r"grads\['w'\] is complex"),
        ({"grads": {"w": jnp.ones(4)}}, ValueError, r"grads\['w'\] has the shape \(4,\)"),
        ({"nu": {"w": jnp.ones((3, 1))}}, ValueError, r"nu\['w'\] has the shape \(3, 1\)"),
        ({"mu": {"b": jnp.ones(3)}}, ValueError, r"mu has no \['w'\], and params has one"),
        ({"grads": {"w": None}}, ValueError, r"grads\['w'\] is None, and params"),
        ({"coefficients": jnp.ones(5)}, ValueError, r"coefficients has the shape \(5,\)"),
        (
            {"coefficients": jnp.ones((2, len(Coefficients._fields)))},
            ValueError,
            r"must be \(\d+,\) or \(1, \d+\)",
        ),
        (
            {"returns": "updates"},
            ValueError,
            "returns is 'updates'; it must be 'params' or 'change'",
        ),
    ],
)
def test_bad_input_names_what_was_given_and_where(
    replaced: dict, error: type[Exception], message: str
) -> None:
    good = {name: {"w": jnp.ones(3)} for name in ("params", "grads", "mu", "nu")}
    arguments = {"coefficients": ROW, **good, **replaced}
    with pytest.raises(error, match=message):
        jax.jit(lambda: nadam_update(**arguments))()
