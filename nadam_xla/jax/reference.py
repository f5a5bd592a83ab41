"""The update rule in jax.numpy: the one place in Python that knows it.

It serves the platforms that have no kernel, and it is what gets differentiated.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from nadam_xla.coefficients import Coefficients
from nadam_xla.jax.dtypes import is_complex


def update_reference(
    coefficients: jax.Array | Coefficients,
    params: Sequence[jax.Array],
    grads: Sequence[jax.Array],
    mu: Sequence[jax.Array],
    nu: Sequence[jax.Array],
    *,
    returns_change: bool,
) -> list[jax.Array]:
    """The primitive's meaning: its operands, and its results in the order that it returns them.

    In the place of the table there may be one row for all, of scalars or of Python's numbers: of
    these a term that is off is left out.
    """
    leaves = [
        _update_leaf(_row_of(coefficients, leaf, p), p, g, m, v, returns_change)
        for leaf, (p, g, m, v) in enumerate(zip(params, grads, mu, nu, strict=True))
    ]
    return [result for group in zip(*leaves, strict=True) for result in group]


def _row_of(coefficients: jax.Array | Coefficients, leaf: int, params: jax.Array) -> Coefficients:
    """The leaf's row, each coefficient shaped to broadcast along the leaf's batch axis."""
    if isinstance(coefficients, Coefficients):
        return coefficients
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
    if _is_off(row.skip):
        new_p, change, mu, nu = _rule(row, p, g, m, v)
        return change if returns_change else new_p, mu, nu
    skip = row.skip != 0
    # What is skipped is computed of ones: of an infinite gradient its derivative would be NaN.
    given = jax.tree.map(lambda x: jnp.where(skip, jnp.ones_like(x), x), (row, p, g, m, v))
    new_p, change, mu, nu = _rule(*given)
    updated, unchanged = (change, jnp.full_like(p, -0.0)) if returns_change else (new_p, p)
    return (
        jnp.where(skip, unchanged, updated),
        jnp.where(skip, m, mu),
        jnp.where(skip, v, nu),
    )


def _rule(
    row: Coefficients, p: jax.Array, g: jax.Array, m: jax.Array, v: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The new parameter, its change, and the new moments."""
    gradient = _clamped(row.grad_scale * g, row.clip_value)
    if not _is_off(row.l2):
        gradient += _product_if_on(row.l2, p)
    # In optax's order: XLA for TPUs schedules by it what it moves into the chip's own memory.
    mu = row.one_minus_b1 * gradient + row.b1 * m
    nu = row.one_minus_b2 * _squared_magnitude(gradient) + row.b2 * v
    step = row.learning_rate * (
        (row.c_m * mu + row.c_g * gradient) / (_square_root(row.c_v * nu + row.eps_root) + row.eps)
    )
    taken = step if _is_off(row.decay) else _product_if_on(row.decay, p) + step
    return p - taken, -taken, mu, nu


def _is_off(coefficient: jax.Array | float) -> bool:
    """Whether it is zero and known to be: no array, of which nobody takes the derivative."""
    return isinstance(coefficient, float) and coefficient == 0


def _clamped(scaled: jax.Array, limit: jax.Array | float) -> jax.Array:
    if _is_off(limit):
        return scaled
    if is_complex(scaled):
        return jax.lax.complex(_clamped(scaled.real, limit), _clamped(scaled.imag, limit))
    return jnp.where(limit == 0, scaled, jnp.clip(scaled, -limit, limit))


def _squared_magnitude(x: jax.Array) -> jax.Array:
    if is_complex(x):
        return x.real * x.real + x.imag * x.imag
    return x * x


def _product_if_on(coefficient: jax.Array | float, x: jax.Array) -> jax.Array:
    """Zero where the coefficient switches the term off, which 0 * infinity would not be.

    A finite factor stays, for the derivative with respect to a coefficient that is zero.
    """
    return coefficient * jnp.where((coefficient == 0) & ~jnp.isfinite(x), jnp.zeros_like(x), x)


@jax.custom_jvp
def _square_root(x: jax.Array) -> jax.Array:
    return jnp.sqrt(x)


@_square_root.defjvp
def _square_root_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Zero at zero, where it has no derivative.

    The root is of a sum of squares: where all gradients so far are zero it does not change with any
    coefficient, and infinity times those zeros would be NaN.
    """
    root = _square_root(*primals)
    is_zero, one = root == 0, jnp.ones_like(root)
    slope = jnp.where(is_zero, jnp.zeros_like(root), 0.5 / jnp.where(is_zero, one, root))
    return root, slope * tangents[0]
