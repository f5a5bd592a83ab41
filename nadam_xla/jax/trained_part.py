"""Parameters some of which are not trained: a whole Equinox module, say, with its functions.

The moments are made of those that are, and have None in the place of all others; so have the
gradients. optax passes over these places, whatever the parameters have there.
"""

from typing import Any

import jax

from nadam_xla.jax.blockwise import as_numbers
from nadam_xla.jax.checks import PyTree


def trained_part(params: PyTree, state: Any) -> PyTree:
    """The parameters with None where the state's first moments have it.

    They come back as they are where nothing is to be left out, and where the two do not fit, which
    is for the checks to explain.
    """
    mu = as_numbers(getattr(state, "mu", None))
    structure: Any = jax.tree.structure(params)
    if mu is None or structure == jax.tree.structure(mu):
        return params
    try:
        return jax.tree.map(lambda m, p: None if m is None else p, mu, params, is_leaf=_is_none)
    except ValueError:
        return params


def with_trained_part(params: PyTree, trained: PyTree) -> PyTree:
    """The parameters with those of the trained part in their places."""
    return jax.tree.map(lambda t, p: p if t is None else t, trained, params, is_leaf=_is_none)


def _is_none(node: object) -> bool:
    return node is None
