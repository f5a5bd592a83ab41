"""The steps of ``benchmarks.protocol_jax``: one code, whatever the optimizer and the way."""

import re
import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from flax.training.train_state import TrainState

import nadam_xla.flax.nnx
import nadam_xla.flax.train_state
import nadam_xla.jax
from benchmarks.jax_steps import Leaves, Step, loop_of_steps
from benchmarks.networks import Network
from nadam_xla.jax import fuse_updates, nadam

# Optax's optimizer; ours in the same code; ours in the same code, rewritten; ours in one pass.
STOCK, UPDATE, FUSED, APPLY = "optax", "update", "fuse_updates", "apply"


# What the fused calls of a compiled step return: changes that are added later, or parameters.
RETURNS_CHANGE = {STOCK: set(), UPDATE: {"true"}, FUSED: {"false"}, APPLY: {"false"}}


class Contender:
    """A compiled step that is given back what it returns.

    Attributes:
        memory: XLA's analysis of it.
        returns_change: of its fused calls, in the words of its text.
    """

    def __init__(self, step: Any, carry: tuple[Any, ...], batch: tuple[Any, ...]) -> None:
        self._step, self._batch = step, batch
        self._carry = jax.tree.map(jnp.array, carry)  # which it may take as donated
        with warnings.catch_warnings():
            # Equinox donates the batch too, and says nothing of it when the step is called.
            warnings.filterwarnings("ignore", message="Some donated buffers were not usable")
            lowered = step.lower(*self._carry, *batch)
        self.returns_change = set(re.findall("returns_change = (true|false)", lowered.as_text()))
        compiled = lowered.compile()
        # Equinox hides what JAX compiled.
        self.memory = getattr(compiled, "compiled", compiled).memory_analysis()

    def run(self, calls: int) -> None:
        """Calls the step so often, and waits."""
        for _ in range(calls):
            self._carry = self._step(*self._carry, *self._batch)
        jax.block_until_ready(self._carry)

    def trained(self) -> list[jax.Array]:
        """The parameters and both moments of each, in an order that all contenders share."""
        arrays = jax.tree.leaves(self._carry)
        return [x for x in arrays if jnp.issubdtype(x.dtype, jnp.floating)]


def loop_of_updates(leaves: Leaves, steps: int, norm: float | None, way: str) -> Contender:
    """One call takes so many steps with the same gradients."""
    tx = transformation(way, norm)
    run = rewritten(loop_of_steps(step_of(tx, way), steps), way)
    compiled = jax.jit(run, donate_argnums=(0, 1))
    return Contender(compiled, (leaves.params, tx.init(leaves.params)), (leaves.grads,))


def clipped_chain(network: Network, way: str) -> Contender:
    """A step in plain JAX."""
    tx = transformation(way, norm=1.0)
    take = step_of(tx, way)

    def step(params: Any, state: Any, x: jax.Array, y: jax.Array) -> tuple[Any, Any]:
        return take(jax.grad(network.loss)(params, x, y), state, params)

    compiled = jax.jit(rewritten(step, way), donate_argnums=(0, 1))
    carry = (network.params, tx.init(network.params))
    return Contender(compiled, carry, (network.inputs, network.targets))


def flax_linen(network: Network, way: str) -> Contender:
    """A step of a ``TrainState``, our own where it is ``APPLY``."""
    kind = nadam_xla.flax.train_state.TrainState if way == APPLY else TrainState

    def loss(variables: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return network.loss(variables["params"], x, y)

    def step(state: Any, x: jax.Array, y: jax.Array) -> tuple[Any]:
        grads = jax.grad(state.apply_fn)(state.params, x, y)
        return (state.apply_gradients(grads=grads),)

    state = kind.create(
        apply_fn=loss, params={"params": network.params}, tx=transformation(way, norm=None)
    )
    compiled = jax.jit(rewritten(step, way), donate_argnums=0)
    return Contender(compiled, (state,), (network.inputs, network.targets))


def flax_nnx(network: Network, way: str) -> Contender:
    """A step of an ``Optimizer``, our own where it is ``APPLY``, for a dense network."""
    kind = nadam_xla.flax.nnx.Optimizer if way == APPLY else nnx.Optimizer

    def loss(model: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.mean((model(x) - y) ** 2)

    def step(model: Any, optimizer: Any, x: jax.Array, y: jax.Array) -> None:
        optimizer.update(model, nnx.grad(loss)(model, x, y))

    model = FlaxDense(len(network.params), len(network.params[0]))
    carry = (model, kind(model, transformation(way, norm=None), wrt=nnx.Param))
    compiled = ChangingStep(nnx.jit(step, donate_argnums=(0, 1)))
    return Contender(compiled, carry, (network.inputs, network.targets))


def equinox(network: Network, way: str) -> Contender:
    """A step of a module, for a dense network."""
    tx = transformation(way, norm=None)

    def loss(model: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.mean((jax.vmap(model)(x) - y) ** 2)

    def step(model: Any, state: Any, x: jax.Array, y: jax.Array) -> tuple[Any, Any]:
        grads = eqx.filter_grad(loss)(model, x, y)
        if way == APPLY:
            return tx.apply(grads, state, model)
        updates, state = tx.update(grads, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state

    model = EquinoxDense(len(network.params), len(network.params[0]))
    carry = (model, tx.init(eqx.filter(model, eqx.is_inexact_array)))
    compiled = eqx.filter_jit(rewritten(step, way), donate="all")
    return Contender(compiled, carry, (network.inputs, network.targets))


def transformation(way: str, norm: float | None) -> Any:
    """The optimizer, in a chain behind clipping where a norm is given."""
    tx = optax.nadam(1e-3) if way == STOCK else nadam(1e-3)
    chain = nadam_xla.jax.chain if way == APPLY else optax.chain
    return tx if norm is None else chain(optax.clip_by_global_norm(norm), tx)


def step_of(tx: Any, way: str) -> Step:
    """The step from gradients."""

    def in_two(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return tx.apply if way == APPLY else in_two


def rewritten(step: Callable[..., Any], way: str) -> Callable[..., Any]:
    return fuse_updates(step) if way == FUSED else step


class ChangingStep:
    """A step that changes its first two arguments and returns nothing, as one that returns them."""

    def __init__(self, step: Any) -> None:
        self._step = step
        self.lower = step.lower

    def __call__(self, model: Any, optimizer: Any, *batch: Any) -> tuple[Any, Any]:
        self._step(model, optimizer, *batch)
        return model, optimizer


class FlaxDense(nnx.Module):
    """The layers of a dense network."""

    def __init__(self, depth: int, width: int) -> None:
        rngs = nnx.Rngs(0)
        layers = [nnx.Linear(width, width, use_bias=False, rngs=rngs) for _ in range(depth)]
        self.layers = nnx.List(layers)

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        return x


class EquinoxDense(eqx.Module):
    """The layers of a dense network."""

    layers: list[eqx.nn.Linear]

    def __init__(self, depth: int, width: int) -> None:
        keys = jax.random.split(jax.random.key(0), depth)
        self.layers = [eqx.nn.Linear(width, width, use_bias=False, key=key) for key in keys]

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        return x
