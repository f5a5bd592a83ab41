"""Explicit mesh axes, which are part of an array's type: arrays that meet are cut alike.

Stock's arithmetic joins the cuts of what it combines, dimension by dimension: one that is whole
becomes cut as the other array has it, and two unlike cuts are an error. So does this module. Where
no axis of the mesh is explicit, types tell of no cut, and all comes back as it was.
"""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding

from nadam_xla.jax.specs import Entry, axes_in, spec

Cut: TypeAlias = tuple[Entry, ...]
"""How each dimension is cut over explicit axes."""


def cut_of(type_: Any) -> Cut:
    """The cut that is in the type of an array."""
    # JAX unpacks no specs that say more than how dimensions are cut.
    entries = getattr(type_.sharding.spec, "partitions", type_.sharding.spec)
    return (*entries, *[None] * type_.ndim)[: type_.ndim]


def unreduced_axes(type_: Any) -> frozenset[str]:
    """The explicit axes over which the parts of an array are yet to be summed."""
    return frozenset(getattr(type_.sharding.spec, "unreduced", ()))


def joined(cuts: Sequence[Cut]) -> Cut | None:
    """The cut in which arrays with these meet; None where they contradict each other."""
    entries = [{*dimension} - {None} for dimension in zip(*cuts, strict=True)]
    if any(len(unlike) > 1 for unlike in entries):
        return None
    cut = tuple(next(iter(entry), None) for entry in entries)
    axes = list(chain.from_iterable(map(axes_in, cut)))
    return cut if len(set(axes)) == len(axes) else None


def cut_alike(arrays: Sequence[jax.Array], *, leading: int | None = None) -> list[jax.Array]:
    """The arrays, their first dimensions cut alike.

    Args:
        arrays: arrays whose first dimensions are of the same sizes.
        leading: the number of those dimensions; None: all.

    Raises:
        TypeError: their cuts contradict each other.
    """
    cuts = [_cut(x) for x in arrays]
    first = joined([cut[:leading] for cut in cuts])
    wanted = [None if first is None else joined([(*first, *cut[len(first) :])]) for cut in cuts]
    if None in wanted:
        raise TypeError(
            f"the shardings {' and '.join(sorted({str(spec(*cut)) for cut in cuts}))} contradict"
            " each other; jax.sharding.reshard makes arrays alike"
        )
    return recut(arrays, [cut for cut in wanted if cut is not None])


def recut(arrays: Sequence[jax.Array], cuts: Sequence[Cut]) -> list[jax.Array]:
    """The arrays, each cut as is said."""
    mesh = _explicit_mesh(arrays)

    def one(x: jax.Array, cut: Cut) -> jax.Array:
        if cut == _cut(x):
            return x
        sharding = NamedSharding(mesh, spec(*cut))
        if isinstance(x, jax.core.Tracer):
            moved: jax.Array = jax.sharding.reshard(x, sharding)  # type: ignore[no-untyped-call]
        else:  # resharding knows no devices but those of a mesh that the caller has set
            moved = jax.device_put(x, sharding)
        return moved

    return [one(*pair) for pair in zip(arrays, cuts, strict=True)]


def whole(array: jax.Array) -> jax.Array:
    """The array, cut nowhere."""
    return recut([array], [(None,) * array.ndim])[0]


def stack(columns: Sequence[jax.Array]) -> jax.Array:
    """The columns side by side in a new last axis, each broadcast to the shape of all."""
    if _explicit_mesh(columns) is None:
        return jnp.stack(jnp.broadcast_arrays(*columns), axis=-1)
    # Under vmap a cut batch axis of some columns does not show in their types, and JAX stacks what
    # is cut alike alone. It combines all else element by element.
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
    alike = cut_alike(arrays, leading=2)
    outer, inner = _cut(alike[0])[:2]
    # Folding moves no data where the first of the two axes is the only one that is cut.
    swapped = outer is None and inner is not None
    if swapped:
        alike = [jnp.swapaxes(x, 0, 1) for x in alike]
    sizes = alike[0].shape[:2]
    kept = _cut(alike[0])[:2]
    alike = recut(alike, [(kept[0], None, *_cut(x)[2:]) for x in alike])

    def unfold(result: jax.Array) -> jax.Array:
        shape, rest = (*sizes, *result.shape[1:]), _cut(result)[1:]
        split = _reshaped(result, shape, (kept[0], None, *rest))
        (split,) = recut([split], [(*kept, *rest)])
        return jnp.swapaxes(split, 0, 1) if swapped else split

    def folded(x: jax.Array) -> jax.Array:
        return _reshaped(x, (sizes[0] * sizes[1], *x.shape[2:]), (kept[0], *_cut(x)[2:]))

    return [folded(x) for x in alike], unfold


def _reshaped(x: jax.Array, shape: tuple[int, ...], cut: Cut) -> jax.Array:
    mesh = _explicit_mesh([x])
    if mesh is None:
        return x.reshape(shape)
    # JAX 0.8 does not see by itself how the result is cut where the shape has ones.
    return jax.lax.reshape(x, shape, out_sharding=NamedSharding(mesh, spec(*cut)))


def _cut(array: jax.Array) -> Cut:
    return cut_of(jax.typeof(array))


def _explicit_mesh(arrays: Sequence[jax.Array]) -> Any:
    """The mesh whose explicit axes are in the types of these; None where there is none."""
    for x in arrays:
        sharding: Any = jax.typeof(x).sharding
        if AxisType.Explicit in sharding.mesh.axis_types:
            place: Any = sharding if isinstance(x, jax.core.Tracer) else x.sharding
            return place.mesh
    return None
