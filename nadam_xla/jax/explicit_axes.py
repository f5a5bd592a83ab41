"""Explicit mesh axes, which are part of an array's type: arrays that meet are sharded alike.

Stock's arithmetic joins the shardings of what it combines, dimension by dimension: one that is
whole becomes sharded as the other array has it, and two unlike ones are an error. So does this
module. Where no axis of the mesh is explicit, types tell of no sharding, and all comes back as it
was.
"""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding

from nadam_xla.jax.specs import Entry, axes_in, spec

Entries: TypeAlias = tuple[Entry, ...]
"""For each dimension, the explicit axes over which it is sharded."""


def entries_of(type_: Any) -> Entries:
    """The entries that are in the type of an array."""
    # JAX unpacks no specs that say more than these.
    entries = getattr(type_.sharding.spec, "partitions", type_.sharding.spec)
    return (*entries, *[None] * type_.ndim)[: type_.ndim]


def unreduced_axes(type_: Any) -> frozenset[str]:
    """The explicit axes over which the parts of an array are yet to be summed."""
    return frozenset(getattr(type_.sharding.spec, "unreduced", ()))


def joined(of_arrays: Sequence[Entries]) -> Entries | None:
    """The entries with which arrays meet; None where they contradict each other."""
    unlike = [{*dimension} - {None} for dimension in zip(*of_arrays, strict=True)]
    if any(len(entries) > 1 for entries in unlike):
        return None
    together = tuple(next(iter(entries), None) for entries in unlike)
    axes = list(chain.from_iterable(map(axes_in, together)))
    return together if len(set(axes)) == len(axes) else None


def shard_alike(arrays: Sequence[jax.Array], *, leading: int | None = None) -> list[jax.Array]:
    """The arrays, their first dimensions sharded alike.

    Args:
        arrays: arrays whose first dimensions are of the same sizes.
        leading: the number of those dimensions; None: all.

    Raises:
        TypeError: their shardings contradict each other.
    """
    given = [_entries(x) for x in arrays]
    first = joined([entries[:leading] for entries in given])
    wanted = [first and joined([(*first, *entries[len(first) :])]) for entries in given]
    if None in wanted:
        raise TypeError(
            f"the shardings {' and '.join(sorted({str(spec(*entries)) for entries in given}))}"
            " contradict each other; jax.sharding.reshard makes arrays alike"
        )
    return reshard(arrays, [entries for entries in wanted if entries is not None])


def reshard(arrays: Sequence[jax.Array], wanted: Sequence[Entries]) -> list[jax.Array]:
    """The arrays, each with its entries."""
    mesh = _explicit_mesh(arrays)

    def one(x: jax.Array, entries: Entries) -> jax.Array:
        if entries == _entries(x):
            return x
        sharding = NamedSharding(mesh, spec(*entries))
        if isinstance(x, jax.core.Tracer):
            moved: jax.Array = jax.sharding.reshard(x, sharding)
        else:  # resharding knows no devices but those of a mesh that the caller has set
            moved = jax.device_put(x, sharding)
        return moved

    return [one(*pair) for pair in zip(arrays, wanted, strict=True)]


def unsharded(array: jax.Array) -> jax.Array:
    """The array, sharded over no explicit axis."""
    return reshard([array], [(None,) * array.ndim])[0]


def stack(columns: Sequence[jax.Array]) -> jax.Array:
    """The columns side by side in a new last axis, each broadcast to the shape of all."""
    if _explicit_mesh(columns) is None:
        return jnp.stack(jnp.broadcast_arrays(*columns), axis=-1)
    # Under vmap a sharded batch axis of some columns does not show in their types, and JAX stacks
    # only what is sharded alike. It combines all else element by element.
    number = np.arange(len(columns))
    table = jnp.zeros([], columns[0].dtype)
    for i, column in enumerate(columns):
        table = jnp.where(number == i, column[..., None], table)
    return table


def fold_batches(
    arrays: Sequence[jax.Array],
) -> tuple[list[jax.Array], Callable[[jax.Array], jax.Array]]:
    """Makes one of the two leading axes that all arrays have.

    Returns:
        The arrays, and the function that makes two axes again of the one of a result.
    """
    alike = shard_alike(arrays, leading=2)
    outer, inner = _entries(alike[0])[:2]
    # Folding moves no data where the first of the two axes is the only one that is sharded.
    swapped = outer is None and inner is not None
    if swapped:
        alike = [jnp.swapaxes(x, 0, 1) for x in alike]
    sizes = alike[0].shape[:2]
    kept = _entries(alike[0])[:2]
    alike = reshard(alike, [(kept[0], None, *_entries(x)[2:]) for x in alike])

    def unfold(result: jax.Array) -> jax.Array:
        shape, rest = (*sizes, *result.shape[1:]), _entries(result)[1:]
        split = _reshaped(result, shape, (kept[0], None, *rest))
        (split,) = reshard([split], [(*kept, *rest)])
        return jnp.swapaxes(split, 0, 1) if swapped else split

    def folded(x: jax.Array) -> jax.Array:
        return _reshaped(x, (sizes[0] * sizes[1], *x.shape[2:]), (kept[0], *_entries(x)[2:]))

    return [folded(x) for x in alike], unfold


def by_partitioner(
    function: Callable[..., Sequence[jax.Array]],
    arrays: Sequence[jax.Array],
    wanted: Sequence[Entries],
) -> list[jax.Array]:
    """The results of a function in which the partitioner shards all arrays as it likes.

    JAX has no rule of its own for explicit axes in what takes rows out of arrays and puts them in.

    Args:
        function: of the arrays.
        arrays: its arguments.
        wanted: the entries of its results.
    """
    mesh = _explicit_mesh(arrays)
    if mesh is None:
        return list(function(*arrays))
    shardings = [NamedSharding(mesh, spec(*entries)) for entries in wanted]
    return list(jax.sharding.auto_axes(function, out_sharding=shardings)(*arrays))


def _reshaped(x: jax.Array, shape: tuple[int, ...], entries: Entries) -> jax.Array:
    mesh = _explicit_mesh([x])
    if mesh is None:
        return x.reshape(shape)
    # JAX 0.8 does not see by itself how the result is sharded where the shape has ones.
    return jax.lax.reshape(x, shape, out_sharding=NamedSharding(mesh, spec(*entries)))


def _entries(array: jax.Array) -> Entries:
    return entries_of(jax.typeof(array))


def _explicit_mesh(arrays: Sequence[jax.Array]) -> Any:
    """The mesh whose explicit axes are in the types of these; None where there is none."""
    for x in arrays:
        sharding: Any = jax.typeof(x).sharding
        if AxisType.Explicit in sharding.mesh.axis_types:
            place: Any = sharding if isinstance(x, jax.core.Tracer) else x.sharding
            return place.mesh
    return None


def has_explicit_axes(leaf: Any) -> bool:
    """Whether an abstract array is on a mesh of which an axis is explicit."""
    return jax.sharding.AxisType.Explicit in (leaf.sharding.mesh.axis_types or ())
