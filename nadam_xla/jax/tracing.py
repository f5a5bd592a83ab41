"""A function as a program: arrays are traced, and all else stays what it is."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr


class Traced(NamedTuple):
    """The program of a call, its arguments, and what makes the function's result of its results."""

    program: ClosedJaxpr
    arrays: list[Any]
    returned: Callable[[Sequence[Any]], Any]
    loses_modules: bool  # whether an argument holds a module of Flax NNX, and no result does


def trace(fun: Callable[..., Any], args: Any, kwargs: Any) -> Traced:
    """Traces a function with its arguments, as ``jax.jit`` does; no array is left out."""
    leaves: list[Any]
    treedef: Any
    leaves, treedef = jax.tree.flatten((args, kwargs))
    places = [i for i, leaf in enumerate(leaves) if _is_array(leaf)]
    returned: Any = None
    modules = _holds_nnx_module((args, kwargs))

    def of_arrays(*arrays: Any) -> list[Any]:
        nonlocal returned, modules
        given = list(leaves)
        for i, array in zip(places, arrays, strict=True):
            given[i] = array
        args, kwargs = treedef.unflatten(given)
        results: list[Any]
        structure: Any
        result = fun(*args, **kwargs)
        modules = modules and not _holds_nnx_module(result)
        results, structure = jax.tree.flatten(result)
        of_program = [i for i, result in enumerate(results) if isinstance(result, jax.Array)]
        traced = [results[i] for i in of_program]
        for i in of_program:
            results[i] = None  # no tracer leaves its trace

        def returned(values: Sequence[Any]) -> Any:
            given = list(results)
            for i, value in zip(of_program, values, strict=True):
                given[i] = value
            return structure.unflatten(given)

        return traced

    arrays = [leaves[i] for i in places]
    program = jax.make_jaxpr(of_arrays)(*arrays)
    return Traced(program, arrays, returned, modules)


def _holds_nnx_module(tree: Any) -> bool:
    """Whether a node of the tree is a module of Flax NNX, which functions are wont to change."""
    found = jax.tree.leaves(tree, is_leaf=_is_nnx_module)
    return any(map(_is_nnx_module, found))


def _is_nnx_module(node: object) -> bool:
    bases = ((base.__module__, base.__name__) for base in type(node).__mro__)
    return any(module.startswith("flax.nnx") and name == "Module" for module, name in bases)


def _is_array(leaf: object) -> bool:
    """Whether a leaf is traced: an array, of whatever kind JAX knows, and no number of Python's."""
    if isinstance(leaf, bool | int | float | complex | np.generic):
        return False
    try:
        jax.typeof(leaf)
    except TypeError:
        return False
    return True


def as_array(value: Any, type_: Any) -> jax.Array:
    """The result: a constant of the program comes back as the number that stands in it."""
    if isinstance(value, jax.Array):
        return value
    number = np.asarray(value, type_.dtype)
    return jnp.asarray(number.item() if type_.weak_type else number)
