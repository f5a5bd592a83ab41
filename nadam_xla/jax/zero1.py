"""ZeRO-1: the state of an optimizer, sharded over the devices that hold the parameters whole.

Source: Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter
Models", stage 1.
"""

from math import prod
from typing import Any, TypeAlias

import jax
import optax
from jax.sharding import Mesh, NamedSharding

from nadam_xla.blockwise import BLOCK
from nadam_xla.jax.blockwise import Blockwise, is_blockwise
from nadam_xla.jax.specs import Entry, axes_in, scales_entries, spec

PyTree: TypeAlias = Any


def zero1_shardings(
    tx: optax.GradientTransformation, params: PyTree, mesh: Mesh, axis: str | tuple[str, ...]
) -> PyTree:
    """The shardings of a state whose moments are sharded over a mesh axis, as in ZeRO-1.

    ::

        shardings = zero1_shardings(tx, params, mesh, "data")
        state = jax.jit(tx.init, out_shardings=shardings)(params)
        step = jax.jit(step, donate_argnums=(0, 1), out_shardings=(replicated, shardings))

    Each device then holds 1/N of the moments, updates the part of the parameters that belongs to
    them, and gets the rest of the new parameters by one all-gather for each. Give the parameters'
    shardings in ``out_shardings`` as well: left to itself XLA would leave them sharded.

    Every moment is sharded along its first dimension that no other axis shards and that ``axis``
    divides; where there is none, along the first of which it divides each part. One that it divides
    nowhere (a scalar, an odd bias) stays as its parameter is, and so does one that it shards
    already. All else in the state, such as the count of steps, is replicated.

    Codes of eight bits are sharded likewise, along their last dimension only where each part is of
    whole blocks, and their scales with them.

    Args:
        tx: any optax transformation, of this package or not.
        params: the parameters, or ``jax.ShapeDtypeStruct`` for them. Those with a ``NamedSharding``
            on the mesh hand it on to their moments; others count as replicated.
        mesh: the mesh of the training step.
        axis: the axis over which the moments are sharded, or a tuple of several.

    Returns:
        A ``NamedSharding`` for each array of ``tx.init(params)``, in its tree.

    Raises:
        ValueError: an axis is not one of the mesh; or a parameter is sharded over another mesh.
    """
    axes = (axis,) if isinstance(axis, str) else tuple(axis)
    unknown = [name for name in axes if name not in mesh.shape]
    if unknown or not axes:
        raise ValueError(f"axis is {axis!r}; it must name axes of the mesh, {tuple(mesh.shape)}")
    layouts = jax.tree_util.tree_map_with_path(
        lambda path, p: _sharding_on(mesh, p, f"params{jax.tree_util.keystr(path)}"), params
    )

    def entries_of(moment: Any, param: Any, layout: NamedSharding, unit: int = 1) -> list[Entry]:
        entries: list[Entry] = [None] * len(moment.shape)
        if moment.shape == param.shape:
            entries[: len(layout.spec)] = layout.spec
        return _with_axes(moment.shape, entries, mesh, axes, unit)

    def sharded(moment: Any, param: Any, layout: NamedSharding) -> Any:
        if isinstance(moment, optax.MaskedNode):
            return moment
        if not is_blockwise(moment):
            return NamedSharding(mesh, spec(*entries_of(moment, param, layout)))
        entries = entries_of(moment.codes, param, layout, BLOCK)
        of_scales = scales_entries(moment.codes.shape, entries, mesh)
        layouts: list[Any] = [NamedSharding(mesh, spec(*each)) for each in (entries, of_scales)]
        return Blockwise(*layouts)

    return optax.tree_utils.tree_map_params(
        tx,
        sharded,
        jax.eval_shape(tx.init, params),
        params,
        layouts,
        transform_non_params=lambda _: NamedSharding(mesh, spec()),
        is_leaf=lambda node: isinstance(node, optax.MaskedNode) or is_blockwise(node),
    )


def _sharding_on(mesh: Mesh, param: Any, name: str) -> NamedSharding:
    sharding = getattr(param, "sharding", None)
    if not isinstance(sharding, NamedSharding) or sharding.mesh.empty:
        return NamedSharding(mesh, spec())
    if sharding.mesh.shape_tuple != mesh.shape_tuple:
        raise ValueError(
            f"{name} is sharded over the mesh {dict(sharding.mesh.shape)}; it must be the mesh"
            f" given, {dict(mesh.shape)}"
        )
    return sharding


def _with_axes(
    shape: tuple[int, ...], entries: list[Entry], mesh: Mesh, axes: tuple[str, ...], unit: int
) -> list[Entry]:
    """The entries with the axes added to one of them, or as they are where none will do.

    Parts of the last dimension must be multiples of ``unit``.
    """
    if not set(axes).isdisjoint(name for entry in entries for name in axes_in(entry)):
        return entries
    parts = prod(mesh.shape[name] for name in axes)
    unsharded_first = sorted(range(len(shape)), key=lambda d: entries[d] is not None)
    for d in unsharded_first:
        there = axes_in(entries[d])
        size = shape[d] // prod(mesh.shape[name] for name in there)
        if size and size % (parts * (unit if d == len(shape) - 1 else 1)) == 0:
            together = (*there, *axes)
            entry = together if len(together) > 1 else together[0]
            return [*entries[:d], entry, *entries[d + 1 :]]
    return entries
