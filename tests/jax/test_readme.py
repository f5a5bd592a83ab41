"""The lines of the README, as a reader would complete them."""

from typing import Any

import jax.numpy as jnp
from snippets import readme_snippet


def test_jax_in_ten_lines() -> None:
    def loss_fn(params: Any, x: Any, y: Any) -> Any:
        return jnp.mean((x @ params["w"] - y) ** 2)

    x, y = jnp.linspace(-1, 1, 32).reshape(8, 4), jnp.ones((8, 2))
    names: dict[str, Any] = {"loss_fn": loss_fn, "params": {"w": jnp.full((4, 2), 0.1)}}
    exec(readme_snippet("JAX, in ten lines"), names)
    params, state, losses = names["params"], names["state"], []
    for _ in range(5):
        params, state, loss = names["step"](params, state, x, y)
        losses.append(float(loss))
    assert losses == sorted(losses, reverse=True)
