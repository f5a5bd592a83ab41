"""Some parameters, gradients for many steps, and a compiled step that must not compile twice."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

SHAPES = {"kernel": (7, 5), "bias": (5,), "scale": (), "empty": (0, 3), "deep": {"w": (2, 3, 4)}}


def tree(seed: int, scale: float = 1.0) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda s: jnp.asarray(scale * rng.normal(size=s), jnp.float32),
        SHAPES,
        is_leaf=lambda s: isinstance(s, tuple),
    )


PARAMS = tree(0)


def gradients(steps: int) -> list[Any]:
    return [tree(1 + t, scale=0.1 + t % 7) for t in range(steps)]


def train(
    tx: optax.GradientTransformation,
    grads: Sequence[Any],
    params: Any = PARAMS,
    state: Any = None,
    *,
    apply: bool = False,
) -> tuple[Any, Any]:
    """The parameters and the state after a step with each of the gradients."""

    @jax.jit
    def step(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        if apply:
            return tx.apply(grads, state, params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params) if state is None else state
    for g in grads:
        params, state = step(params, state, g)
    assert step._cache_size() == 1, "recompiled"
    return params, state


def counted_step(tx: optax.GradientTransformation) -> tuple[Any, list[int]]:
    """The compiled step ``(params, state, grads)``, and a list that grows whenever it is traced."""
    traces: list[int] = []

    @jax.jit
    def step(params: Any, state: Any, grads: Any) -> Any:
        traces.append(1)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step, traces


def assert_close(a: Any, b: Any, rtol: float = 2e-5, atol: float = 2e-6) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)
