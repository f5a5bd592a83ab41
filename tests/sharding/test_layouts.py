"""A training step in each layout does, on eight devices, no more than stock optax's."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import compiled as program
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from nadam_xla.jax import nadam, zero1_shardings

# Of "head", "head_bias", "odd", "scale" and "empty" no mesh below divides every dimension.
SHAPES = {
    "layer": (48, 64),
    "bias": (64,),
    "head": (64, 10),
    "head_bias": (10,),
    "odd": (7, 5),
    "scale": (),
    "empty": (0, 3),
}
COLUMNS = {"layer": P(None, "model"), "bias": P("model"), "head": P("model")}


@dataclass(frozen=True, eq=False)
class Layout:
    """A mesh, the specs of the parameters that are cut, and the axis of ZeRO-1's moments."""

    axes: dict[str, int]
    specs: dict[str, P] = field(default_factory=dict)
    zero1: str | tuple[str, ...] | None = None

    @property
    def mesh(self) -> Mesh:
        types = (AxisType.Auto,) * len(self.axes)
        return jax.make_mesh(tuple(self.axes.values()), tuple(self.axes), axis_types=types)

    def params(self) -> dict[str, NamedSharding]:
        return {name: NamedSharding(self.mesh, self.specs.get(name, P())) for name in SHAPES}

    def state(self, tx: optax.GradientTransformation) -> Any:
        structs = {
            name: jax.ShapeDtypeStruct(SHAPES[name], jnp.float32, sharding=sharding)
            for name, sharding in self.params().items()
        }
        if self.zero1:
            return zero1_shardings(tx, structs, self.mesh, self.zero1)
        return optax.tree_utils.tree_map_params(
            tx,
            lambda _, sharding: sharding,
            jax.eval_shape(tx.init, structs),
            self.params(),
            transform_non_params=lambda _: NamedSharding(self.mesh, P()),
        )

    def batch(self) -> NamedSharding:
        return NamedSharding(self.mesh, P("data" if "data" in self.axes else None))


LAYOUTS = {
    "data-parallel": Layout({"data": 8}),
    "fsdp": Layout({"data": 8}, {name: P("data") for name in ("layer", "bias", "head")}),
    "tensor-parallel": Layout({"model": 8}, COLUMNS),
    "2-d": Layout(
        {"data": 4, "model": 2},
        {"layer": P("data", "model"), "bias": P("model"), "head": P(("model", "data"))},
    ),
    "2-d, the axes swapped": Layout(
        {"data": 4, "model": 2}, {"layer": P("model", "data"), "head": P("data", "model")}
    ),
    "zero-1": Layout({"data": 8}, zero1="data"),
    "zero-1 over tensor-parallel": Layout({"data": 4, "model": 2}, COLUMNS, zero1="data"),
    "zero-1 over two axes": Layout({"data": 4, "model": 2}, zero1=("data", "model")),
}


def stock_apply(tx: optax.GradientTransformation) -> Callable[..., Any]:
    def apply(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return apply


# eps is large, so that the rounding of a gradient near zero does not become a step of lr.
OURS, STOCK = nadam(1e-2, eps=1e-3), optax.nadam(1e-2, eps=1e-3)
OPTIMIZERS = {
    "apply": (OURS, OURS.apply),
    "update": (OURS, stock_apply(OURS)),
    "stock": (STOCK, stock_apply(STOCK)),
}


def arrays(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def batch(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(32, 48)).astype(np.float32)


def loss_of(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    hidden = jax.nn.silu(x @ params["layer"] + params["bias"])
    logits = params["scale"] * (hidden @ params["head"] + params["head_bias"])
    odd = x[:, :7] @ params["odd"]
    return jnp.mean(logits**2) + jnp.mean(odd**2) + jnp.sum(params["empty"])


def update_alone(apply: Callable[..., Any]) -> Callable[..., Any]:
    return lambda params, state, grads: apply(grads, state, params)


def training_step(apply: Callable[..., Any]) -> Callable[..., Any]:
    def step(params: Any, state: Any, x: jax.Array) -> tuple[Any, Any, jax.Array]:
        loss, grads = jax.value_and_grad(loss_of)(params, x)
        params, state = apply(grads, state, params)
        return params, state, loss

    return step


class Compiled:
    """A step on a layout's mesh."""

    def __init__(self, layout: Layout, optimizer: str, *, with_loss: bool) -> None:
        self._layout, self._tx = layout, OPTIMIZERS[optimizer][0]
        self.shardings = layout.params(), layout.state(self._tx)
        step = (training_step if with_loss else update_alone)(OPTIMIZERS[optimizer][1])
        wanted = (*self.shardings, None) if with_loss else self.shardings
        jitted = jax.jit(step, donate_argnums=(0, 1), out_shardings=wanted)
        last = self.batch() if with_loss else self.grads()
        self.run = jitted.lower(*self.start(), last).compile()
        self.text = self.run.as_text()

    def start(self) -> tuple[Any, Any]:
        """Parameters and a state, to be donated."""
        params = jax.device_put(arrays(0), self.shardings[0])
        return params, jax.jit(self._tx.init, out_shardings=self.shardings[1])(params)

    def grads(self) -> Any:
        return jax.device_put(arrays(1), self.shardings[0])

    def batch(self, seed: int = 0) -> jax.Array:
        return jax.device_put(batch(seed), self._layout.batch())


@cache
def compiled_step(layout: Layout, optimizer: str, *, with_loss: bool) -> Compiled:
    return Compiled(layout, optimizer, with_loss=with_loss)


@cache
def on_one_device(optimizer: str, *, with_loss: bool) -> Callable[..., Any]:
    return jax.jit((training_step if with_loss else update_alone)(OPTIMIZERS[optimizer][1]))


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> Layout:
    return LAYOUTS[request.param]


def gathered(layout: Layout) -> list[int]:
    """The bytes on a device of each of the parameters that are less cut than their moments."""
    moments, params = layout.state(OURS).mu, layout.params()
    return [
        4 * math.prod(params[name].shard_shape(shape))
        for name, shape in SHAPES.items()
        if moments[name].shard_shape(shape) != params[name].shard_shape(shape)
    ]


@pytest.mark.parametrize("optimizer", ["apply", "update"])
class TestOptimizerAlone:
    """The gradients are given, in the layout of the parameters."""

    def test_only_zero1_communicates_and_gathers_each_parameter_once(
        self, layout: Layout, optimizer: str
    ) -> None:
        compiled = compiled_step(layout, optimizer, with_loss=False)
        found = program.collectives(compiled.text)
        if layout.zero1:
            number, size = found.pop("all-gather")
            assert size == sum(gathered(layout))
            assert number <= len(gathered(layout)), "XLA may join some"
        assert not found
        assert compiled.text.count('custom_call_target="nadam_xla_update_v2"') == 1

    def test_nothing_is_copied_and_all_is_in_place(self, layout: Layout, optimizer: str) -> None:
        compiled = compiled_step(layout, optimizer, with_loss=False)
        stock = compiled_step(layout, "stock", with_loss=False)
        assert program.copied_bytes(compiled.text) == 0
        results = len(jax.tree.leaves(compiled.shardings))
        assert program.aliased_results(compiled.text) == set(range(results))
        assert program.aliased_results(stock.text) == set(range(results))

    def test_each_device_computes_the_bits_of_one_device(
        self, layout: Layout, optimizer: str
    ) -> None:
        compiled = compiled_step(layout, optimizer, with_loss=False)
        params = {name: jnp.array(x) for name, x in arrays(0).items()}
        state = OPTIMIZERS[optimizer][0].init(params)
        expected = on_one_device(optimizer, with_loss=False)(params, state, arrays(1))
        results = compiled.run(*compiled.start(), compiled.grads())
        jax.tree.map(np.testing.assert_array_equal, results, expected)


@pytest.mark.parametrize("optimizer", ["apply", "update"])
class TestTrainingStep:
    def test_stock_communicates_and_copies_no_less(self, layout: Layout, optimizer: str) -> None:
        ours = compiled_step(layout, optimizer, with_loss=True).text
        stock = compiled_step(layout, "stock", with_loss=True).text
        assert program.collectives(stock), "gradients or activations are reduced in every layout"
        allowed = program.collectives(stock)
        for kind, (number, size) in program.collectives(ours).items():
            assert number <= allowed[kind][0], kind
            assert size <= allowed[kind][1], kind
        assert program.copied_bytes(ours) <= program.copied_bytes(stock)
        assert program.aliased_results(ours) == program.aliased_results(stock)

    def test_it_trains_as_on_one_device_and_keeps_the_layout(
        self, layout: Layout, optimizer: str
    ) -> None:
        compiled = compiled_step(layout, optimizer, with_loss=True)
        params = {name: jnp.array(x) for name, x in arrays(0).items()}
        state = OPTIMIZERS[optimizer][0].init(params)
        cut_params, cut_state = compiled.start()
        one_device = on_one_device(optimizer, with_loss=True)
        for seed in range(10):
            x = compiled.batch(seed)
            cut_params, cut_state, cut_loss = compiled.run(cut_params, cut_state, x)
            params, state, loss = one_device(params, state, batch(seed))
            np.testing.assert_allclose(cut_loss, loss, rtol=1e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
            (cut_params, cut_state),
            (params, state),
        )
        for result, sharding in zip(
            jax.tree.leaves((cut_params, cut_state)),
            jax.tree.leaves(compiled.shardings),
            strict=True,
        ):
            assert result.sharding.is_equivalent_to(sharding, result.ndim)


@pytest.mark.parametrize("spec", [P("data", "model"), P(None, "model")], ids=str)
def test_a_leaf_that_is_cut_leaves_others_of_its_call_whole(spec: P) -> None:
    mesh = LAYOUTS["2-d"].mesh
    shapes = {"cut": (8, 16), "alike": (8, 16), "of three dimensions": (8, 16, 2)}
    specs = {"cut": spec}
    params = {
        name: jax.device_put(np.ones(shape), NamedSharding(mesh, specs.get(name, P())))
        for name, shape in shapes.items()
    }
    tx = nadam(0.1)
    compiled = jax.jit(lambda p: tx.apply(p, tx.init(p), p)).lower(params).compile()
    assert compiled.as_text().count(program.CALL) == 1
    new, state = compiled(params)
    for moved in (new, state.mu, state.nu):
        assert {name: x.sharding.is_fully_replicated for name, x in moved.items()} == {
            name: name not in specs for name in shapes
        }


LAYERS = 2  # of attention


def test_a_call_that_waits_for_a_gradient_gathers_it_not() -> None:
    """Of attention's three readers none waits for a neighbour's gradient, so its calls do."""
    mesh = LAYOUTS["tensor-parallel"].mesh
    width = 512  # a leaf has 1 MiB, enough for a call of its own

    def loss(params: list[jax.Array], x: jax.Array) -> jax.Array:
        for layer in range(LAYERS):
            q, k, v = params[3 * layer : 3 * layer + 3]
            x += jax.nn.softmax((x @ q) @ (x @ k).T) @ (x @ v)
        return jnp.sum(x**2)

    def found(optimizer: str) -> dict[str, tuple[int, int]]:
        tx, apply = OPTIMIZERS[optimizer]

        def step(params: Any, state: Any, x: jax.Array) -> Any:
            return apply(jax.grad(loss)(params, x), state, params)

        cuts = [NamedSharding(mesh, spec) for spec in (P(None, "model"), P("model"))]
        params = [
            jax.device_put(np.ones((width, width), np.float32), cuts[i % 2])
            for i in range(3 * LAYERS)
        ]
        state = jax.jit(tx.init)(params)
        x = jax.device_put(np.ones((4, width), np.float32), NamedSharding(mesh, P()))
        text = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, x).compile().as_text()
        if optimizer != "stock":
            assert text.count(program.CALL) == len(params)
        return program.collectives(text)

    assert found("apply") == found("stock")
