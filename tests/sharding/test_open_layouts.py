"""A layout that the user leaves open, of the state or of results, becomes what stock's does."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import compiled as program
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from nadam_xla.jax import nadam

# eps is large, so that the rounding of a gradient near zero does not become a step of lr.
OURS, STOCK = nadam(1e-2, eps=1e-3), optax.nadam(1e-2, eps=1e-3)


def mesh() -> jax.sharding.Mesh:
    return jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)


class Layer(NamedTuple):
    """The shape of a kernel or a bias, and how it is cut."""

    shape: tuple[int, ...]
    spec: P


LAYERS = {
    "a bias over both axes of its kernel": (
        Layer((16, 8), P("data", "model")),
        Layer((8,), P(("data", "model"))),
    ),
    "two kernels over both axes": (
        Layer((16, 8), P("data", "model")),
        Layer((8, 8), P(("data", "model"))),
    ),
    "biases over axes that their kernels leave": (
        Layer((16, 8), P("data")),
        Layer((8,), P("model")),
        Layer((8, 16), P("model")),
        Layer((16,), P(("model", "data"))),
    ),
    "each over another axis": (
        Layer((16, 8), P("data")),
        Layer((8, 16), P("model")),
        Layer((16,), P("model")),
    ),
    "columns, then rows": (
        Layer((16, 8), P(None, "model")),
        Layer((8,), P("model")),
        Layer((8, 16), P("data", None)),
    ),
}


def of_host(tx: optax.GradientTransformation, params: Any) -> Any:
    return jax.tree.map(np.asarray, tx.init(params))


def of_jit(tx: optax.GradientTransformation, params: Any) -> Any:
    """Whole, on one device, and free to be placed."""
    return jax.jit(tx.init)(params)


def like_parameters(tx: optax.GradientTransformation, params: Any) -> Any:
    return tx.init(params)


def held_whole(tx: optax.GradientTransformation, params: Any) -> Any:
    return jax.device_put(tx.init(params), NamedSharding(mesh(), P()))


def stock_step(tx: optax.GradientTransformation) -> Callable[..., Any]:
    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


STEPS = {
    "apply": (OURS, lambda params, state, grads: OURS.apply(grads, state, params)),
    "update": (OURS, stock_step(OURS)),
    "stock": (STOCK, stock_step(STOCK)),
}


def loss_of(params: list[jax.Array], x: jax.Array) -> jax.Array:
    for p in params:
        x = jnp.tanh(x @ p) if p.ndim == 2 else x + p
    return jnp.mean(x**2)


class Trained(NamedTuple):
    collectives: dict[str, tuple[int, int]]
    arrays: Any  # the parameters, the first and the second moments after a step


@cache
def trained(layers: str, initial: Callable[..., Any], name: str) -> Trained:
    tx, step = STEPS[name]
    rng = np.random.default_rng(0)
    params = [
        jax.device_put(rng.normal(size=shape).astype(np.float32), NamedSharding(mesh(), spec))
        for shape, spec in LAYERS[layers]
    ]
    x = rng.normal(size=(32, 16)).astype(np.float32)

    def train(params: Any, state: Any, x: jax.Array) -> Any:
        return step(params, state, jax.grad(loss_of)(params, x))

    arguments = params, initial(tx, params), jax.device_put(x, NamedSharding(mesh(), P("data")))
    compiled = jax.jit(train).lower(*arguments).compile()
    new, state = compiled(*arguments)
    moments = [optax.tree_utils.tree_get(state, name) for name in ("mu", "nu")]
    return Trained(program.collectives(compiled.as_text()), [new, *moments])


FIRST, *OTHERS = LAYERS
CASES = [
    *((FIRST, initial) for initial in (of_host, of_jit, like_parameters, held_whole)),
    *((layers, initial) for layers in OTHERS for initial in (of_host, like_parameters)),
]


@pytest.mark.parametrize("step", ["apply", "update"])
@pytest.mark.parametrize(("layers", "initial"), CASES)
class TestOpenLayouts:
    def test_each_result_is_cut_as_stock_cuts_it(
        self, layers: str, initial: Callable[..., Any], step: str
    ) -> None:
        ours, stock = (trained(layers, initial, name).arrays for name in (step, "stock"))
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(stock), strict=True):
            assert a.sharding.is_equivalent_to(b.sharding, a.ndim)
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)

    def test_stock_communicates_no_less(
        self, layers: str, initial: Callable[..., Any], step: str
    ) -> None:
        ours, stock = (trained(layers, initial, name).collectives for name in (step, "stock"))
        for kind, (number, size) in ours.items():
            assert number <= stock[kind][0], kind
            assert size <= stock[kind][1], kind
