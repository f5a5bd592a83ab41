"""What does not fit is refused while JAX traces: one exception that names the leaf by its path."""

from collections.abc import Mapping
from itertools import combinations
from numbers import Number
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.tree_util import keystr

from nadam_xla.jax.dtypes import is_complex
from nadam_xla.jax.explicit_axes import entries_of, joined, unreduced_axes

PyTree: TypeAlias = Any
_Path: TypeAlias = tuple[Any, ...]


def check_alike(trees: Mapping[str, PyTree]) -> None:
    """Checks that all trees have leaves to be updated, and structure and shapes of the first.

    Args:
        trees: the trees by the names under which the caller knows them.

    Raises:
        ValueError: a tree differs from the first in its structure or in a leaf's shape, or two
            trees in the memory that holds a leaf.
        TypeError: a leaf is not a floating-point or complex array, or is unreduced; or two trees
            shard a leaf over explicit axes of the mesh in ways that contradict each other.
    """
    (like_name, like), *others = trees.items()
    for name, tree in others:
        check_structure(name, tree, like_name, like)
    for name, tree in trees.items():
        check_inexact(name, tree)
    for name, tree in others:
        _check_shapes(name, tree, like_name, like)
    for (name, tree), (other_name, other) in combinations(trees.items(), 2):
        _check_places(other_name, other, name, tree)


def check_structure(
    name: str, tree: PyTree, like_name: str, like: PyTree, *, prefix: bool = False
) -> None:
    """Raises ``ValueError`` at the first place where the trees' structures differ.

    With ``prefix``, a leaf of ``tree`` may stand for a whole subtree of ``like``.
    """
    given: Any = jax.tree.structure(tree)
    if given == jax.tree.structure(like):
        return
    difference = _difference(name, tree, like_name, like, (), prefix)
    if difference is not None:
        raise ValueError(difference)


def check_inexact(name: str, tree: PyTree) -> None:
    """Raises ``TypeError`` for the first leaf that is not a floating-point or complex array."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not hasattr(leaf, "dtype") and not isinstance(leaf, Number):
            raise TypeError(
                f"{name}{keystr(path)} is {describe(leaf)}; Nadam updates arrays only (of an"
                " equinox module take eqx.filter(module, eqx.is_inexact_array))"
            )
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(
                f"{name}{keystr(path)} has the dtype {dtype}; Nadam updates floating-point leaves"
                " only (freeze others, for instance with optax.masked)"
            )


def check_complex(mu: PyTree, nu: PyTree, others: Mapping[str, PyTree]) -> None:
    """Checks that complex numbers meet first moments that can hold them, and that squares are real.

    Args:
        mu: the first moments.
        nu: the second moments, of their structure.
        others: the parameters and gradients, by their names, likewise.

    Raises:
        TypeError: a leaf is complex where its first moment is real, or a second moment is complex.
    """
    paths = jax.tree_util.tree_leaves_with_path(mu)
    for name, tree in others.items():
        for (path, moment), leaf in zip(paths, jax.tree.leaves(tree), strict=True):
            if is_complex(leaf) and not is_complex(moment):
                raise TypeError(
                    f"{name}{keystr(path)} is {describe(leaf)}, and its first moment"
                    f" {describe(moment)}; complex gradients need complex parameters"
                )
    for path, moment in jax.tree_util.tree_leaves_with_path(nu):
        if is_complex(moment):
            raise TypeError(
                f"nu{keystr(path)} is {describe(moment)}; second moments are real, of the squared"
                " magnitude of the gradients"
            )


def check_real(name: str, tree: PyTree) -> None:
    """Raises ``TypeError`` for the first leaf that is complex."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if is_complex(leaf):
            raise TypeError(f"{name}{keystr(path)} is {describe(leaf)}; it must be real")


def describe(tree: PyTree) -> str:
    """A few words on a node or leaf of a pytree: ``float32[3,4]``, ``a dict``, ``None``."""
    if tree is None:
        return "None"
    shape, dtype = getattr(tree, "shape", None), getattr(tree, "dtype", None)
    if shape is not None and dtype is not None:
        return f"{dtype}[{','.join(map(str, shape))}]"
    kind = type(tree)
    library = "" if kind.__module__ == "builtins" else kind.__module__.split(".")[0] + " "
    words = library + kind.__name__
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _check_shapes(name: str, tree: PyTree, like_name: str, like: PyTree) -> None:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    for (path, leaf), like_leaf in zip(leaves, jax.tree.leaves(like), strict=True):
        if jnp.shape(leaf) != jnp.shape(like_leaf):
            at = keystr(path)
            raise ValueError(
                f"{name}{at} has the shape {jnp.shape(leaf)}; it must be {jnp.shape(like_leaf)},"
                f" like {like_name}{at}"
            )


def _check_places(name: str, tree: PyTree, like_name: str, like: PyTree) -> None:
    """Arrays that meet lie in one memory, and are not sharded over explicit axes in unlike ways.

    So JAX has it for all arithmetic. It makes an exception of scalars in another memory.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    for (path, leaf), like_leaf in zip(leaves, jax.tree.leaves(like), strict=True):
        if not (isinstance(leaf, jax.Array) and isinstance(like_leaf, jax.Array)):
            continue  # numpy's are placed by JAX
        _check_memory(f"{name}{keystr(path)}", leaf, f"{like_name}{keystr(path)}", like_leaf)
        type_, like_type = jax.typeof(leaf), jax.typeof(like_leaf)
        if axes := unreduced_axes(type_):
            raise TypeError(
                f"{name}{keystr(path)} is unreduced over the mesh axes {sorted(axes)}: its parts"
                " are yet to be summed, as jax.sharding.reshard does"
            )
        if joined([entries_of(type_), entries_of(like_type)]) is None:
            raise TypeError(
                f"{name}{keystr(path)} has the sharding {type_.sharding.spec}, and"
                f" {like_name}{keystr(path)} {like_type.sharding.spec}, over explicit mesh axes;"
                " jax.sharding.reshard makes them alike"
            )


def check_one_memory(name: str, tree: PyTree) -> None:
    """Raises ``ValueError`` for the first leaf that lies in another memory than those before it."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    arrays = [
        (f"{name}{keystr(path)}", leaf)
        for path, leaf in leaves
        if isinstance(leaf, jax.Array) and leaf.ndim
    ]
    for array, like in zip(arrays[1:], arrays, strict=False):
        _check_memory(*array, *like)


def _check_memory(name: str, leaf: jax.Array, like_name: str, like: jax.Array) -> None:
    space, like_space = (jax.typeof(x).memory_space for x in (leaf, like))
    if space != like_space and leaf.ndim:
        raise ValueError(
            f"{name} is in {space.name.lower()} memory, and {like_name} in"
            f" {like_space.name.lower()} memory; jax.device_put(tree, jax.memory.Space.Device)"
            " brings a tree to the device"
        )


def _difference(
    name: str, tree: PyTree, like_name: str, like: PyTree, path: _Path, prefix: bool
) -> str | None:
    """The first difference below this path, in words, or None."""
    if jax.tree_util.all_leaves([tree]) and (prefix or jax.tree_util.all_leaves([like])):
        return None
    children, node = _one_level(tree)
    like_children, like_node = _one_level(like)
    if node != like_node:
        return _in_words(f"{name}{keystr(path)}", tree, f"{like_name}{keystr(path)}", like)
    below = (
        _difference(name, child, like_name, like_children[key], (*path, key), prefix)
        for key, child in children.items()
    )
    return next((found for found in below if found is not None), None)


def _in_words(here: str, tree: PyTree, there: str, like: PyTree) -> str:
    """How two nodes differ."""
    if tree is None:
        return (
            f"{here} is None, and {there} is {describe(like)}; give zeros, or leave it out of both"
            " (for instance with optax.masked)"
        )
    if type(tree) is not type(like):
        return f"{here} is {describe(tree)}, and {there} is {describe(like)}"
    (children, node), (like_children, like_node) = _one_level(tree), _one_level(like)
    for key in like_children:
        if key not in children:
            return f"{here} has no {keystr((key,))}, and {there} has one"
    for key in children:
        if key not in like_children:
            return f"{here} has {keystr((key,))}, and {there} has none"
    return f"{here} is {node}, and {there} is {like_node}"


def _one_level(tree: PyTree) -> tuple[dict[Any, PyTree], Any]:
    """The children of a node by their keys, and the node without them."""
    children, node = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is not tree)
    return {path[0]: child for path, child in children if path}, node
