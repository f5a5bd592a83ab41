"""Flax's states of ours, and Flax's and Equinox's own steps under `fuse_updates`: one pass each."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiled import CALL, aliased_results, copies_of_arrays, text_of
from training import assert_close

from nadam_xla.jax import chain, explain_updates, fuse_updates, nadam, nadamw

pytest.importorskip("flax", reason="flax and equinox are tested here")
eqx = pytest.importorskip("equinox", reason="flax and equinox are tested here")

from flax import core, linen, nnx, serialization  # noqa: E402
from flax.training import train_state  # noqa: E402

from nadam_xla.flax.nnx import Optimizer  # noqa: E402
from nadam_xla.flax.train_state import TrainState  # noqa: E402

STEPS = 10
X = jnp.asarray(np.random.default_rng(0).normal(size=(16, 4)), jnp.float32)
Y = jnp.sin(X.sum(1, keepdims=True))
OURS_AND_OPTAX_S = [
    pytest.param(nadam(1e-2), optax.nadam(1e-2), id="nadam"),
    pytest.param(
        chain(optax.clip_by_global_norm(1.0), nadamw(1e-2, weight_decay=0.1)),
        optax.chain(optax.clip_by_global_norm(1.0), optax.nadamw(1e-2, weight_decay=0.1)),
        id="chain",
    ),
]


def assert_in_place(text: str, results: int) -> None:
    assert text.count(CALL) == 1
    assert not re.search(r"= f32\[\d[\d,]*\]\S* add\(", text), "a sum of arrays"
    assert copies_of_arrays(text) == 0
    assert len(aliased_results(text)) == results


class Linear(linen.Module):
    """Whose gradient is a product and no sum, so that every sum in a program is an optimizer's."""

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return linen.Dense(32, use_bias=False)(x)


def linen_step(state: Any, x: jax.Array) -> Any:
    def loss(params: Any) -> jax.Array:
        return jnp.mean(state.apply_fn({"params": params}, x) ** 2)

    return state.apply_gradients(grads=jax.grad(loss)(state.params))


class TestLinen:
    def made(self, kind: Any, tx: Any, *, frozen: bool = False) -> Any:
        model = Linear()
        params = model.init(jax.random.key(0), X)["params"]
        params = core.freeze(params) if frozen else params
        return kind.create(apply_fn=model.apply, params=params, tx=tx)

    @pytest.mark.parametrize(("ours", "theirs"), OURS_AND_OPTAX_S)
    @pytest.mark.parametrize("frozen", [False, True], ids=["dict", "FrozenDict"])
    def test_our_state_trains_as_flax_s(self, ours: Any, theirs: Any, frozen: bool) -> None:
        step = jax.jit(linen_step)
        state = self.made(TrainState, ours, frozen=frozen)
        expected = self.made(train_state.TrainState, theirs, frozen=frozen)
        for _ in range(STEPS):
            state, expected = step(state, X), step(expected, X)
        assert type(state) is TrainState
        assert int(state.step) == STEPS
        assert_close(state.params, expected.params)

    @pytest.mark.parametrize(("ours", "theirs"), OURS_AND_OPTAX_S)
    def test_flax_s_state_is_fused_to_the_same_bits(self, ours: Any, theirs: Any) -> None:
        del theirs
        plain = fused = self.made(train_state.TrainState, ours)

        @jax.jit
        def epoch(state: Any) -> Any:
            step = fuse_updates(lambda state, x: (linen_step(state, x), None))
            return jax.lax.scan(step, state, jnp.stack([X] * STEPS))[0]

        for _ in range(STEPS):
            plain = jax.jit(linen_step)(plain, X)
        fused = epoch(fused)
        jax.tree.map(np.testing.assert_array_equal, fused, plain)

    @pytest.mark.parametrize("kind", ["ours", "fused"])
    def test_the_step_is_in_place(self, kind: str) -> None:
        state = self.made(TrainState if kind == "ours" else train_state.TrainState, nadam(1e-2))
        state = state.replace(step=jnp.int32(0))
        step = linen_step if kind == "ours" else fuse_updates(linen_step)
        assert_in_place(text_of(step, state, X, donate=(0,)), len(jax.tree.leaves(state)))

    @pytest.mark.parametrize("kind", [TrainState, train_state.TrainState])
    def test_scanned_layers_are_woven(self, kind: Any) -> None:
        class Layer(linen.Module):
            @linen.compact
            def __call__(self, x: jax.Array, _: None) -> Any:
                return jnp.tanh(linen.Dense(x.shape[-1])(x)), None

        class Layers(linen.Module):
            @linen.compact
            def __call__(self, x: jax.Array) -> jax.Array:
                scanned = linen.scan(Layer, {"params": 0}, split_rngs={"params": True}, length=6)
                x, _ = scanned()(linen.Dense(8)(x), None)
                return x

        model = Layers()
        params = model.init(jax.random.key(0), X)["params"]
        state = kind.create(apply_fn=model.apply, params=params, tx=nadam(1e-2))
        woven, left = explain_updates(linen_step)(state, X)
        assert woven.woven
        assert woven.leaves == ("float32[6,8]", "float32[6,8,8]")
        assert left.leaves == ("float32[8]", "float32[4,8]")
        fused = plain = state
        for _ in range(STEPS):
            plain = jax.jit(linen_step)(plain, X)
            fused = jax.jit(fuse_updates(linen_step))(fused, X)
        jax.tree.map(np.testing.assert_array_equal, fused, plain)

    def test_without_apply_it_is_flax_s_own(self) -> None:
        tx = optax.chain(optax.clip(0.1), nadam(1e-2))
        ours, flax_s = (self.made(kind, tx) for kind in (TrainState, train_state.TrainState))
        jax.tree.map(
            np.testing.assert_array_equal,
            jax.tree.leaves(jax.jit(linen_step)(ours, X)),
            jax.tree.leaves(jax.jit(linen_step)(flax_s, X)),
        )

    def test_collections_that_are_overwritten_with_their_gradients(self) -> None:
        """As of Flax's layers in float8."""
        name = train_state.OVERWRITE_WITH_GRADIENT
        params = {"params": {"w": jnp.ones(3)}, name: {"scale": jnp.ones(2)}}
        grads = {"params": {"w": jnp.ones(3)}, name: {"scale": jnp.full(2, 5.0)}}
        states = [
            kind.create(apply_fn=None, params=params, tx=tx).apply_gradients(grads=grads)
            for kind, tx in (
                (TrainState, nadam(1e-2)),
                (train_state.TrainState, optax.nadam(1e-2)),
            )
        ]
        assert_close(states[0].params, states[1].params)
        assert states[0].params[name]["scale"][0] == 5

    def test_it_saves_and_takes_other_attributes(self) -> None:
        class WithStatistics(TrainState):
            statistics: Any = None

        before = self.made(WithStatistics, nadam(1e-2)).replace(statistics=jnp.zeros(3))
        grads = jax.tree.map(jnp.ones_like, before.params)
        state = before.apply_gradients(grads=grads, statistics=jnp.ones(3))
        assert state.statistics.shape == (3,)
        restored = serialization.from_bytes(before, serialization.to_bytes(state))
        jax.tree.map(np.testing.assert_array_equal, restored, state)


class Model(nnx.Module):
    def __init__(self) -> None:
        self.linear = nnx.Linear(4, 32, use_bias=False, rngs=nnx.Rngs(0))
        self.calls = nnx.BatchStat(jnp.zeros(()))

    def __call__(self, x: jax.Array) -> jax.Array:
        self.calls[...] += 1
        return self.linear(x)


def nnx_step(model: Any, optimizer: Any, x: jax.Array) -> None:
    grads = nnx.grad(lambda model: jnp.mean(model(x) ** 2))(model)
    optimizer.update(model, grads)


class TestNnx:
    @pytest.mark.parametrize(("ours", "theirs"), OURS_AND_OPTAX_S)
    def test_our_optimizer_trains_as_flax_s(self, ours: Any, theirs: Any) -> None:
        step = nnx.jit(nnx_step)
        trained = []
        for kind, tx in ((Optimizer, ours), (nnx.Optimizer, theirs)):
            model = Model()
            optimizer = kind(model, tx, wrt=nnx.Param)
            for _ in range(STEPS):
                step(model, optimizer, X)
            assert int(optimizer.step[...]) == STEPS == int(model.calls[...])
            trained.append(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
        assert_close(*trained)

    def test_the_step_is_in_place(self) -> None:
        model = Model()
        pair = model, Optimizer(model, nadam(1e-2), wrt=nnx.Param)
        definition, state = nnx.split(pair)

        def step(state: Any, x: jax.Array) -> Any:
            model, optimizer = nnx.merge(definition, state)
            nnx_step(model, optimizer, x)
            return nnx.state((model, optimizer))

        assert_in_place(text_of(step, state, X, donate=(0,)), len(jax.tree.leaves(state)))

    def test_eagerly(self) -> None:
        model = Model()
        optimizer = Optimizer(model, nadam(1e-2), wrt=nnx.Param)
        before = model.linear.kernel[...]
        nnx_step(model, optimizer, X)
        assert not jnp.array_equal(model.linear.kernel[...], before)

    def test_a_module_that_fuse_updates_would_lose_is_refused(self) -> None:
        model = Model()
        optimizer = nnx.Optimizer(model, nadam(1e-2), wrt=nnx.Param)
        with pytest.raises(TypeError, match=r"holds a flax\.nnx module, and no result does"):
            fuse_updates(nnx_step)(model, optimizer, X)
        loss = fuse_updates(lambda model: jnp.mean(model(X) ** 2))(model)  # without an update
        assert loss.shape == ()

    @pytest.mark.parametrize(
        "tx", [optax.nadam(1e-2), optax.chain(nadam(1e-2))], ids=["optax", "chain"]
    )
    def test_an_optimizer_without_apply_is_refused(self, tx: Any) -> None:
        with pytest.raises(TypeError, match=r"tx is optax.*without apply; it must be nadam"):
            Optimizer(Model(), tx, wrt=nnx.Param)


class TestEquinox:
    def usual_step(self, tx: Any) -> Callable[..., Any]:
        def step(model: Any, state: Any, x: jax.Array) -> Any:
            grads = eqx.filter_grad(lambda model: jnp.mean((jax.vmap(model)(x) - Y) ** 2))(model)
            updates, state = tx.update(grads, state, eqx.filter(model, eqx.is_inexact_array))
            return eqx.apply_updates(model, updates), state

        return step

    @pytest.mark.parametrize(("ours", "theirs"), OURS_AND_OPTAX_S)
    def test_a_step_is_fused_to_the_same_bits(self, ours: Any, theirs: Any) -> None:
        """The module has leaves that are functions: they go through as they are."""
        model = eqx.nn.MLP(4, 1, 8, 2, activation=jnp.tanh, key=jax.random.key(0))

        def trained(tx: Any, around: Callable[..., Any]) -> Any:
            step = eqx.filter_jit(around(self.usual_step(tx)))
            result, state = model, tx.init(eqx.filter(model, eqx.is_inexact_array))
            for _ in range(STEPS):
                result, state = step(result, state, X)
            assert result.activation is jnp.tanh
            return eqx.filter(result, eqx.is_inexact_array)

        fused, plain = trained(ours, fuse_updates), trained(ours, lambda step: step)
        jax.tree.map(np.testing.assert_array_equal, fused, plain)
        assert_close(fused, trained(theirs, lambda step: step), rtol=1e-4)
