"""The update rule in jax.numpy: the one place in Python that knows it.

It serves the platforms that have no kernel, and it is what gets differentiated.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp

from nadam_xla.coefficients import Coefficients
from nadam_xla.jax.dtypes import is_complex
from nadam_xla.streams import STATES

Leaf: TypeAlias = Mapping[str, jax.Array]
"""Of each stream the leaf's array."""


def update_reference(
    coefficients: jax.Array | Coefficients,
    given: Mapping[str, Sequence[jax.Array]],
    *,
    returns_change: bool,
) -> list[jax.Array]:
    """The primitive's meaning: the results in the order in which it returns them.

    Args:
        coefficients: the table; or one row for all, of scalars or of Python's numbers: of these a
            term that is off is left out.
        given: the arrays of each stream, all of one dtype.
        returns_change: whether the first results are the change of the parameters.
    """
    leaves = [dict(zip(given, leaf, strict=True)) for leaf in zip(*given.values(), strict=True)]
    updated = [
        _update_leaf(row_of(coefficients, i, leaf["grads"]), leaf, returns_change)
        for i, leaf in enumerate(leaves)
    ]
    return [result for group in zip(*updated, strict=True) for result in group]


def row_of(coefficients: jax.Array | Coefficients, leaf: int, grad: jax.Array) -> Coefficients:
    """A leaf's row, each coefficient shaped to broadcast along the leaf's batch axis."""
    if isinstance(coefficients, Coefficients):
        return coefficients
    batch, rows, _ = coefficients.shape
    row = coefficients[:, leaf if rows > 1 else 0]
    shape = (batch,) + (1,) * (grad.ndim - 1) if batch != 1 else ()
    return Coefficients(*(row[:, i].reshape(shape) for i in range(len(Coefficients._fields))))


def _update_leaf(row: Coefficients, leaf: Leaf, returns_change: bool) -> list[jax.Array]:
    """The new parameter, or its change, and the new states."""
    if _is_off(row.skip):
        new_p, change, *states = _rule(row, leaf)
        return [change if returns_change else new_p, *states]
    skip = row.skip != 0
    # What is skipped is computed of ones: of an infinite gradient its derivative would be NaN.
    given = jax.tree.map(lambda x: jnp.where(skip, jnp.ones_like(x), x), (row, leaf))
    new_p, change, *states = _rule(*given)
    p = leaf["params"]
    first, unchanged = (change, jnp.full_like(p, -0.0)) if returns_change else (new_p, p)
    before = [leaf[name] for name in STATES if name in leaf]
    pairs = zip([unchanged, *before], [first, *states], strict=True)
    return [jnp.where(skip, *pair) for pair in pairs]


def _rule(row: Coefficients, leaf: Leaf) -> list[jax.Array]:
    """The new parameter, its change, and the new states."""
    p, g, m, v = (leaf[name] for name in ("params", "grads", "mu", "nu"))
    gradient = _clamped(row.grad_scale * g, row.clip_value)
    if not _is_off(row.l2):
        gradient += _product_if_on(row.l2, p)
    # In optax's order: XLA for TPUs schedules by it what it moves into the chip's own memory.
    mu = row.one_minus_b1 * gradient + row.b1 * m
    nu = row.one_minus_b2 * squared_magnitude(gradient) + row.b2 * v
    step = row.learning_rate * (
        (row.c_m * mu + row.c_g * gradient) / (square_root(row.c_v * nu + row.eps_root) + row.eps)
    )
    taken = step if _is_off(row.decay) else _product_if_on(row.decay, p) + step
    new_p = p - taken
    if "average" not in leaf:
        return [new_p, -taken, mu, nu]
    average = row.average_decay * leaf["average"] + row.one_minus_average_decay * new_p
    return [new_p, -taken, mu, nu, average]


def _is_off(coefficient: jax.Array | float) -> bool:
    """Whether it is zero and known to be: no array, of which nobody takes the derivative."""
    return isinstance(coefficient, float) and coefficient == 0


def _clamped(scaled: jax.Array, limit: jax.Array | float) -> jax.Array:
    if _is_off(limit):
        return scaled
    if is_complex(scaled):
        return jax.lax.complex(_clamped(scaled.real, limit), _clamped(scaled.imag, limit))
    return jnp.where(limit == 0, scaled, jnp.clip(scaled, -limit, limit))


def squared_magnitude(x: jax.Array) -> jax.Array:
    """The square of each real number, and of the magnitude of each complex one."""
    if is_complex(x):
        return x.real * x.real + x.imag * x.imag
    return x * x


def _product_if_on(coefficient: jax.Array | float, x: jax.Array) -> jax.Array:
    """Zero where the coefficient switches the term off, which 0 * infinity would not be.

    A finite factor stays, for the derivative with respect to a coefficient that is zero.
    """
    return coefficient * jnp.where((coefficient == 0) & ~jnp.isfinite(x), jnp.zeros_like(x), x)


@jax.custom_jvp
def square_root(x: jax.Array) -> jax.Array:
    """The root, whose derivative at zero is zero."""
    return jnp.sqrt(x)


@square_root.defjvp
def _square_root_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Zero at zero, where it has no derivative.

    The root is of a sum of squares: where all gradients so far are zero it does not change with any
    coefficient, and infinity times those zeros would be NaN.
    """
    root = square_root(*primals)
    is_zero, one = root == 0, jnp.ones_like(root)
    slope = jnp.where(is_zero, jnp.zeros_like(root), 0.5 / jnp.where(is_zero, one, root))
    return root, slope * tangents[0]
