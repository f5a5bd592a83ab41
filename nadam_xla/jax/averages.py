"""The average of the parameters that the optimizer updates with them."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import keystr

from nadam_xla.jax.checks import PyTree, check_alike, describe
from nadam_xla.jax.dtypes import computed_dtype, is_complex


def initial_average(params: PyTree) -> PyTree:
    """The average of parameters that no step has changed yet: they themselves, as computed."""
    # Copies: parameters and state may be donated together.
    return jax.tree.map(lambda p: jnp.array(p, computed_dtype(p), copy=True), params)


def check_average(name: str, average: PyTree, params: PyTree) -> None:
    """Checks that it can be the average of these parameters.

    Args:
        name: of the average.
        average: a tree.
        params: the parameters.

    Raises:
        ValueError: the trees differ in structure or shapes, or in the memory that holds a leaf.
        TypeError: a leaf is not of a floating or complex dtype, or real where its parameter is
            complex; or the trees shard a leaf in ways that contradict each other.
    """
    check_alike({"params": params, name: average})
    paths: Any = jax.tree_util.tree_leaves_with_path(params)
    for (path, param), leaf in zip(paths, jax.tree.leaves(average), strict=True):
        if is_complex(param) and not is_complex(leaf):
            raise TypeError(
                f"{name}{keystr(path)} is {describe(leaf)}, and its parameter {describe(param)};"
                " averages of complex parameters are complex, too"
            )
