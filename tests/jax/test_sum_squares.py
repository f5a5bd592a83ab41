"""The sum of squares of each leaf: values, transformations, one pass."""

import re

import hypothesis.extra.numpy as npst
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax.test_util import check_grads
from x64 import enable_x64

from nadam_xla.jax import sum_squares

CALL = 'custom_call_target="nadam_xla_sum_squares_v1"'


def oracle(x: np.ndarray) -> float:
    return float(np.sum(np.square(np.asarray(x, np.float64))))


def leaves(*lead: int) -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    shapes = {"kernel": (37, 5), "bias": (33,), "scale": (), "empty": (0, 3)}
    return {k: jnp.asarray(rng.normal(size=(*lead, *s)), jnp.float32) for k, s in shapes.items()}


@settings(deadline=None, max_examples=30)
@given(npst.arrays(np.float32, npst.array_shapes(max_dims=3, max_side=70)))
def test_any_values_whatever_they_are(x: np.ndarray) -> None:
    with np.errstate(all="ignore"):
        expected = np.float32(oracle(x))
        np.testing.assert_allclose(sum_squares([x])[0], expected, rtol=1e-7, equal_nan=True)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
@pytest.mark.parametrize("size", [1, 31, 32, 33, 8191, 8193, 300_001])
def test_every_dtype_and_what_a_chunk_leaves_over(dtype: str, size: int) -> None:
    with enable_x64(True):
        x = jnp.asarray(np.random.default_rng(size).normal(size=size), dtype)
        total = sum_squares({"x": x})["x"]
        assert total.dtype == ("float64" if dtype == "float64" else "float32")
        rtol = 1e-14 if dtype == "float64" else 1e-7
        np.testing.assert_allclose(total, oracle(x), rtol=rtol)


def test_a_tree_is_one_call_that_copies_nothing() -> None:
    tree = leaves()
    sums = sum_squares(tree)
    for name, leaf in tree.items():
        assert sums[name].shape == ()
        np.testing.assert_allclose(sums[name], oracle(leaf), rtol=1e-6)
    text = jax.jit(sum_squares).lower(tree).compile().as_text()
    assert text.count(CALL) == 1
    assert not re.search(r"= f32\[\d.* copy\(", text)


def test_what_float32_cannot_hold_is_infinite_and_nan_is_nan() -> None:
    sums = sum_squares([jnp.array([1e30]), jnp.array([jnp.nan, 1.0]), jnp.array([-jnp.inf])])
    assert np.isposinf(sums[0])
    assert np.isnan(sums[1])
    assert np.isposinf(sums[2])


NARROW = ["bfloat16", "float16"]


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("shape", [(1,), (33,), (129,), (300_001,), (7, 129)], ids=str)
def test_a_narrow_leaf_has_the_bits_of_the_widened_one(dtype: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=shape) * 2.0 ** rng.integers(-20, 9, shape)
    narrow = jnp.asarray(drawn, dtype)
    function = jax.vmap(sum_squares) if len(shape) > 1 else sum_squares
    found, expected = function([narrow]), function([narrow.astype(jnp.float32)])
    np.testing.assert_array_equal(found[0], expected[0])


@pytest.mark.parametrize("dtype", NARROW)
def test_every_finite_number_of_a_narrow_dtype_has_its_square(dtype: str) -> None:
    with np.errstate(invalid="ignore"):
        every = np.arange(2**16, dtype=np.uint16).view(jnp.dtype(dtype))
    found = jax.vmap(sum_squares)([jnp.asarray(every)])[0]
    wide = every.astype(np.float32)
    # The CPU's threads flush what is too small to be normal.
    wide = np.where(np.abs(wide) < np.finfo(np.float32).tiny, np.float32(0), wide)
    with np.errstate(all="ignore"):
        expected = np.square(wide.astype(np.float64)).astype(np.float32)
    expected = np.where(expected < np.finfo(np.float32).tiny, np.float32(0), expected)
    np.testing.assert_array_equal(found, expected)


def test_narrow_leaves_are_read_as_they_are() -> None:
    tree = {d: jnp.ones((300, 7), d) for d in (*NARROW, "float32")}
    text = jax.jit(sum_squares).lower(tree).compile().as_text()
    assert text.count(CALL) == 1
    assert "convert(" not in text


@pytest.mark.parametrize("dtype", NARROW)
def test_the_gradient_of_a_narrow_leaf_is_as_narrow(dtype: str) -> None:
    x = jnp.arange(5, dtype=dtype)
    gradient = jax.grad(lambda x: sum_squares([x])[0])(x)
    assert gradient.dtype == dtype
    np.testing.assert_array_equal(gradient, 2 * x)


@pytest.mark.parametrize("lead", [(6,), (2, 3)])
def test_vmap_is_one_call(lead: tuple[int, ...]) -> None:
    tree, function = leaves(*lead), sum_squares
    for _ in lead:
        function = jax.vmap(function)
    assert jax.jit(function).lower(tree).compile().as_text().count(CALL) == 1
    for name, sums in function(tree).items():
        assert sums.shape == lead
        for index in np.ndindex(*lead):
            np.testing.assert_allclose(sums[index], oracle(tree[name][index]), rtol=1e-6)


def test_vmap_over_one_leaf_of_two() -> None:
    x, many = jnp.arange(3.0), jnp.arange(8.0).reshape(4, 2)
    sums = jax.vmap(lambda y: sum_squares([x, y]), in_axes=1)(many)
    np.testing.assert_allclose(sums[0], [5.0, 5.0])
    np.testing.assert_allclose(sums[1], [0 + 4 + 16 + 36, 1 + 9 + 25 + 49])


@pytest.mark.parametrize("modes", ["fwd", "rev"])
def test_gradients_to_second_order(modes: str) -> None:
    with enable_x64(True):
        tree = jax.tree.map(lambda x: x.astype(jnp.float64), leaves())
        check_grads(sum_squares, (tree,), order=2, modes=[modes])
        batched = jax.tree.map(lambda x: x.astype(jnp.float64), leaves(3))
        check_grads(jax.vmap(sum_squares), (batched,), order=2, modes=[modes])


def test_elsewhere_than_on_the_cpu_it_is_plain_stablehlo() -> None:
    exported = jax.export.export(jax.jit(sum_squares), platforms=["tpu"])(leaves())
    assert "custom_call" not in exported.mlir_module()


def test_an_integer_leaf_is_refused_by_its_path() -> None:
    with pytest.raises(TypeError, match=r"tree\['a'\] has the dtype int32"):
        sum_squares({"a": jnp.arange(3)})


def test_hundreds_of_leaves_each_keep_their_place() -> None:
    tree = [jnp.full(3, i, jnp.bfloat16 if i % 3 else jnp.float32) for i in range(100)]
    for function in (sum_squares, jax.jit(sum_squares)):
        np.testing.assert_array_equal(function(tree), [3 * i**2 for i in range(100)])
    batches = [jnp.stack([x, 2 * x]) for x in tree]
    sums = jax.jit(jax.vmap(sum_squares))(batches)
    np.testing.assert_array_equal(np.stack(sums)[:, 1], [12 * i**2 for i in range(100)])


def test_no_leaves_no_sums() -> None:
    assert sum_squares({}) == {}
