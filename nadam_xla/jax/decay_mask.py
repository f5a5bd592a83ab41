"""Which leaves decay."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.tree_util import keystr

from nadam_xla.coefficients import Coefficients
from nadam_xla.jax.checks import PyTree, check_structure, describe
from nadam_xla.jax.explicit_axes import stack

Mask: TypeAlias = PyTree | Callable[[PyTree], PyTree] | None


def chosen_leaves(mask: Mask, params: PyTree) -> list[jax.Array]:
    """The mask's boolean for each leaf of the parameters.

    Args:
        mask: a tree of booleans with the structure of the parameters or a prefix of it, or a
            function that makes one from them.
        params: the parameters.

    Raises:
        ValueError: the mask's structure is not that of the parameters, nor a prefix of it.
        TypeError: a leaf of the mask is not a boolean.
    """
    # A module with a __call__ is a callable too, but it is a tree of booleans.
    is_function = jax.tree_util.all_leaves([mask])
    tree = mask(params) if callable(mask) and is_function else mask
    check_structure("mask", tree, "params", params, prefix=True)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not isinstance(leaf, bool) and getattr(leaf, "dtype", None) != jnp.bool_:
            raise TypeError(f"mask{keystr(path)} is {describe(leaf)}; it must be a boolean")
    return [jnp.asarray(leaf) for leaf in jax.tree.leaves(jax.tree.broadcast(tree, params))]


def masked(row: Coefficients, chosen: list[jax.Array]) -> Coefficients:
    """The row with a decay for each leaf: none for those that the mask did not choose."""
    if not chosen:
        return row
    decays = stack(chosen)
    return row._replace(decay=jnp.where(decays, row.decay, 0.0), l2=jnp.where(decays, row.l2, 0.0))
