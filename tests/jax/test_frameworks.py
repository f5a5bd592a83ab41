"""Flax and Equinox train with ours as they train with optax's."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training import assert_close

from nadam_xla.jax import NadamState, nadam, nadamw

STEPS = 10
X = jnp.asarray(np.random.default_rng(0).normal(size=(16, 4)), jnp.float32)
Y = jnp.sin(X.sum(1, keepdims=True))
SCHEDULE = optax.linear_schedule(0.05, 0.0, STEPS)


def is_matrix(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.ndim > 1, tree)


OURS = [
    pytest.param(nadam(SCHEDULE), optax.nadam(SCHEDULE), id="nadam"),
    pytest.param(
        nadamw(1e-2, weight_decay=0.1, mask=is_matrix),
        optax.nadamw(1e-2, weight_decay=0.1, mask=is_matrix),
        id="nadamw",
    ),
    pytest.param(
        optax.chain(optax.clip_by_global_norm(1.0), optax.inject_hyperparams(nadam)(1e-2)),
        optax.chain(optax.clip_by_global_norm(1.0), optax.inject_hyperparams(optax.nadam)(1e-2)),
        id="chain",
    ),
]


@pytest.mark.parametrize(("ours", "theirs"), OURS)
class TestLinen:
    @pytest.mark.parametrize("frozen", [False, True], ids=["dict", "FrozenDict"])
    def test_train_state(self, ours: Any, theirs: Any, frozen: bool) -> None:
        flax = pytest.importorskip("flax", reason="flax is tested here")
        linen = pytest.importorskip("flax.linen", reason="as above")
        train_state = pytest.importorskip("flax.training.train_state", reason="as above")
        model = linen.Sequential([linen.Dense(8), linen.tanh, linen.Dense(1)])
        params = model.init(jax.random.key(0), X)["params"]
        traces = []
        params = flax.core.freeze(params) if frozen else params

        @jax.jit
        def step(state: Any) -> Any:
            traces.append(1)

            def loss(params: Any) -> jax.Array:
                return jnp.mean((state.apply_fn({"params": params}, X) - Y) ** 2)

            return state.apply_gradients(grads=jax.grad(loss)(state.params))

        def trained(tx: Any) -> Any:
            state = train_state.TrainState.create(apply_fn=model.apply, params=params, tx=tx)
            for _ in range(STEPS):
                state = step(state)
            return state

        state = trained(ours)
        assert type(state.params) is type(params)
        assert_close(state.params, trained(theirs).params)
        assert len(traces) == 2, "one for each optimizer"

    def test_state_dict(self, ours: Any, theirs: Any) -> None:
        del theirs
        serialization = pytest.importorskip("flax.serialization", reason="flax is tested here")
        params = {"w": X, "b": Y}
        _, state = ours.update(params, ours.init(params), params)
        as_bytes = serialization.to_bytes(state)
        restored = serialization.from_bytes(ours.init(params), as_bytes)
        assert jax.tree.structure(restored) == jax.tree.structure(state)
        jax.tree.map(np.testing.assert_array_equal, restored, state)


@pytest.mark.parametrize(("ours", "theirs"), OURS)
def test_nnx_optimizer(ours: Any, theirs: Any) -> None:
    nnx = pytest.importorskip("flax.nnx", reason="flax is tested here")

    class Model(nnx.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            # Its bias would have no gradient but rounding errors, which no two optimizers share.
            self.first = nnx.Linear(4, 8, use_bias=False, rngs=nnx.Rngs(0))
            self.norm = nnx.BatchNorm(8, rngs=nnx.Rngs(0))
            self.second = nnx.Linear(8, 1, rngs=nnx.Rngs(1))

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.second(jnp.tanh(self.norm(self.first(x))))

    traces = []

    @nnx.jit
    def step(model: Any, optimizer: Any) -> None:
        traces.append(1)
        grads = nnx.grad(lambda model: jnp.mean((model(X) - Y) ** 2))(model)
        optimizer.update(model, grads)

    def trained(tx: Any) -> Any:
        model = Model()
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        for _ in range(STEPS):
            step(model, optimizer)
        return nnx.to_pure_dict(nnx.state(model, nnx.Param))

    assert_close(trained(ours), trained(theirs))
    assert len(traces) == 2, "one for each optimizer"


@pytest.mark.parametrize("take", ["update", "apply"])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(nadam(SCHEDULE), optax.nadam(SCHEDULE)), (nadamw(1e-2), optax.nadamw(1e-2))],
)
def test_a_whole_equinox_module_in_the_place_of_its_arrays(
    ours: Any, theirs: Any, take: str
) -> None:
    """With its activation function, as optax takes it: all that has no gradient is passed over."""
    eqx = pytest.importorskip("equinox", reason="equinox is tested here")
    model = eqx.nn.MLP(4, 1, 8, 2, activation=jnp.tanh, key=jax.random.key(0))

    def trained(tx: Any, take: str) -> Any:
        @eqx.filter_jit
        def step(model: Any, state: Any) -> Any:
            grads = eqx.filter_grad(lambda model: jnp.mean((jax.vmap(model)(X) - Y) ** 2))(model)
            if take == "apply":
                return tx.apply(grads, state, model)
            updates, state = tx.update(grads, state, model)
            return eqx.apply_updates(model, updates), state

        result, state = model, tx.init(eqx.filter(model, eqx.is_inexact_array))
        for _ in range(STEPS):
            result, state = step(result, state)
        assert result.activation is jnp.tanh
        return eqx.filter(result, eqx.is_inexact_array)

    assert_close(trained(ours, take), trained(theirs, "update"), rtol=1e-4)


def test_parameters_that_are_not_needed_may_have_another_structure() -> None:
    """As with optax, whose nadam does not look at them: a FrozenDict against a dict, say."""
    frozen_dict = pytest.importorskip("flax.core", reason="flax is tested here").FrozenDict
    params = {"w": jnp.ones(3), "b": jnp.ones(2)}
    for other in (frozen_dict(params), list(params.values()), None, {"w": "a string"}):
        changes = [
            tx.update(params, tx.init(params), other)[0] for tx in (nadam(1e-2), optax.nadam(1e-2))
        ]
        assert_close(*changes)
    tx = nadamw(1e-2)
    with pytest.raises(ValueError, match="grads is a dict, and params is a flax FrozenDict"):
        tx.update(params, tx.init(params), frozen_dict(params))


@pytest.mark.parametrize(("ours", "theirs"), OURS)
def test_equinox_module(ours: Any, theirs: Any) -> None:
    eqx = pytest.importorskip("equinox", reason="equinox is tested here")
    # Its functions and sizes are leaves and static data that no optimizer may touch.
    model = eqx.nn.MLP(4, 1, 8, 2, activation=jnp.tanh, key=jax.random.key(0))
    traces = []

    def trained(tx: Any) -> Any:
        @eqx.filter_jit
        def step(model: Any, state: Any) -> Any:
            traces.append(1)
            grads = eqx.filter_grad(lambda model: jnp.mean((jax.vmap(model)(X) - Y) ** 2))(model)
            params = eqx.filter(model, eqx.is_inexact_array)
            updates, state = tx.update(grads, state, params)
            return eqx.apply_updates(model, updates), state

        trained, state = model, tx.init(eqx.filter(model, eqx.is_inexact_array))
        for _ in range(STEPS):
            trained, state = step(trained, state)
        assert jax.tree.structure(trained) == jax.tree.structure(model)
        return eqx.filter(trained, eqx.is_inexact_array)

    assert_close(trained(ours), trained(theirs))
    assert len(traces) == 2, "one for each optimizer"


class TestEquinox:
    def test_apply_on_the_filtered_module(self) -> None:
        eqx = pytest.importorskip("equinox", reason="equinox is tested here")
        model = eqx.nn.Linear(4, 3, key=jax.random.key(0))
        params, static = eqx.partition(model, eqx.is_inexact_array)
        tx = nadam(1e-2)
        new, state = tx.apply(params, tx.init(params), params)
        expected, _ = optax.nadam(1e-2).update(params, optax.nadam(1e-2).init(params), params)
        combined = eqx.combine(new, static)
        assert_close(combined.weight, model.weight + expected.weight)
        assert isinstance(state, NadamState)

    def test_a_mask_may_be_a_module_although_modules_are_callable(self) -> None:
        eqx = pytest.importorskip("equinox", reason="equinox is tested here")
        params = eqx.filter(eqx.nn.Linear(4, 3, key=jax.random.key(0)), eqx.is_inexact_array)
        mask = eqx.tree_at(lambda m: (m.weight, m.bias), params, (True, False))
        assert callable(mask)
        ours = nadamw(1e-2, weight_decay=0.1, mask=mask)
        theirs = optax.nadamw(1e-2, weight_decay=0.1, mask=mask)
        updates, _ = ours.update(params, ours.init(params), params)
        assert_close(updates, theirs.update(params, theirs.init(params), params)[0])

    def test_a_module_that_was_not_filtered_is_an_error_that_says_how(self) -> None:
        eqx = pytest.importorskip("equinox", reason="equinox is tested here")
        model = eqx.nn.MLP(4, 1, 8, 1, activation=jnp.tanh, key=jax.random.key(0))
        with pytest.raises(TypeError, match=r"params\.activation.*eqx.is_inexact_array"):
            nadam(1e-2).init(model)
