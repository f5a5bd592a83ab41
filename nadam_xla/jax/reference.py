"""The update rule in jax.numpy: the one place in Python that knows it.

It serves the platforms that have no kernel, and it is what gets differentiated.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from nadam_xla.coefficients import Coefficients


def update_reference(
    coefficients: jax.Array,
    params: Sequence[jax.Array],
    grads: Sequence[jax.Array],
    mu: Sequence[jax.Array],
    nu: Sequence[jax.Array],
    *,
    returns_change: bool,
) -> list[jax.Array]:
    """The primitive's meaning: its operands, and its results in the order that it returns them."""
    leaves = [
        _update_leaf(_row_of(coefficients, leaf, p), p, g, m, v, returns_change)
        for leaf, (p, g, m, v) in enumerate(zip(params, grads, mu, nu, strict=True))
    ]
    return [result for group in zip(*leaves, strict=True) for result in group]


def _row_of(coefficients: jax.Array, leaf: int, params: jax.Array) -> Coefficients:
    """The leaf's row, each coefficient shaped to broadcast along the leaf's batch axis."""
    batch, rows, _ = coefficients.shape
    row = coefficients[:, leaf if rows > 1 else 0]
    shape = (batch,) + (1,) * (params.ndim - 1) if batch != 1 else ()
    return Coefficients(*(row[:, i].reshape(shape) for i in range(len(Coefficients._fields))))


def _update_leaf(
    row: Coefficients,
    p: jax.Array,
    g: jax.Array,
    m: jax.Array,
    v: jax.Array,
    returns_change: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    scaled = row.grad_scale * g
    clamped = jnp.clip(scaled, -row.clip_value, row.clip_value)
    gradient = jnp.where(jnp.isinf(scaled), scaled, clamped) + row.l2 * p
    mu = m + row.one_minus_b1 * (gradient - m)
    nu = v + row.one_minus_b2 * (gradient * gradient - v)
    decayed = row.decay * p
    step = (row.c_m * mu + row.c_g * gradient) / (jnp.sqrt(row.c_v * nu + row.eps_root) + row.eps)
    if returns_change:
        updated, unchanged = -(decayed + step), jnp.zeros_like(p)
    else:
        updated, unchanged = p - decayed - step, p
    skip = row.skip != 0
    return (
        jnp.where(skip, unchanged, updated),
        jnp.where(skip, m, mu),
        jnp.where(skip, v, nu),
    )
