"""What becomes of the gradients before the rule: their scale, their limits, a step without them.

All of it is in the row. Of the gradients their norms are needed, which is one pass that reads them;
the update reads them once more, and nobody writes them.

Source: Pascanu et al. 2013, "On the difficulty of training recurrent neural networks" (the limit of
the norm).
"""

from collections.abc import Sequence
from numbers import Real
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import keystr
from jax.typing import ArrayLike

from nadam_xla.coefficients import Coefficients
from nadam_xla.jax.checks import PyTree, describe
from nadam_xla.jax.dtypes import is_complex
from nadam_xla.jax.sum_squares import norms_of

# In its place a limit of zero, which in a row is none. The smallest that no thread flushes to zero.
_SMALLEST_LIMIT = float(jnp.finfo(jnp.float32).tiny)  # type: ignore[no-untyped-call]


class Processing(NamedTuple):
    """What a step does to its gradients, in this order; None: nothing.

    Attributes:
        grad_scale: a scalar that they are multiplied by.
        skip_nonfinite: whether the step is left out where one of them then is no finite number.
        max_norm: the longest that they may be, taken together as one vector.
        max_leaf_norm: the longest that each leaf of them may be.
        clip_value: the largest magnitude of an element.
    """

    grad_scale: ArrayLike
    skip_nonfinite: bool
    max_norm: ArrayLike | None
    max_leaf_norm: ArrayLike | None
    clip_value: ArrayLike | None

    @property
    def measures(self) -> bool:
        """Whether it needs to know of the gradients themselves."""
        return self.skip_nonfinite or self.max_norm is not None or self.max_leaf_norm is not None


def with_processing(
    row: Coefficients, grads: Sequence[jax.Array], processing: Processing
) -> Coefficients:
    """The row of a step that does this to its gradients.

    Args:
        row: of the step.
        grads: the gradient of each leaf.
        processing: what is done to them.

    Returns:
        The row; where each leaf has a limit of its own, ``grad_scale`` is a vector.
    """
    scale = processing.grad_scale
    if processing.clip_value is not None:
        row = row._replace(clip_value=_as_limit(processing.clip_value))
    if not grads or not processing.measures:
        return row._replace(grad_scale=scale)
    norms = norms_of(grads)
    scaled = norms * jnp.asarray(scale, norms.dtype)
    # Those of finite gradients may overflow here, as optax's do.
    squares = scaled * scaled
    if processing.max_norm is not None:
        scale = scale * _shortening(jnp.sum(squares), processing.max_norm)
    if processing.max_leaf_norm is not None:
        scale = scale * _shortening(squares, processing.max_leaf_norm)
    if processing.skip_nonfinite:
        row = row._replace(skip=~jnp.isfinite(scaled).all())
    return row._replace(grad_scale=scale)


def check_elements(grads: PyTree) -> None:
    """Raises ``TypeError`` for the first leaf whose elements no ``clip_value`` can limit."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        if is_complex(leaf):
            raise TypeError(
                f"grads{keystr(path)} is {describe(leaf)}; clip_value limits real numbers only, as"
                " optax.clip does (max_norm and max_leaf_norm limit complex ones, too)"
            )


def _as_limit(clip_value: ArrayLike) -> ArrayLike:
    if isinstance(clip_value, Real):
        return clip_value or _SMALLEST_LIMIT
    return jnp.where(clip_value == 0, _SMALLEST_LIMIT, clip_value)


def _shortening(squares: jax.Array, limit: ArrayLike) -> jax.Array:
    """What makes a vector with this sum of squares no longer than the limit, as in optax.

    It is chosen between two numbers of which neither has an infinite derivative.
    """
    # XLA takes the root of a product with itself for its magnitude, which neither overflows nor
    # underflows, as the norm below does.
    underflows = (squares == 0) & (jnp.asarray(limit) > 0)
    fits = underflows | (jnp.sqrt(squares) < limit) & (squares < jnp.inf)
    norm = jnp.sqrt(jnp.where(fits, 1.0, squares))
    return jnp.where(fits, 1.0, limit / norm)
