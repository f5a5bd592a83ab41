"""The sum of squares of each leaf, in one pass over them: a JAX primitive and its public function.

What clipping by a norm and checking for finite gradients need; as a factor in the coefficients they
then cost no further pass. Operands: n leaves, either float64 or each float32 or narrower. Result:
``[n]``, float64 or float32; or, ``batched``, ``[batch, n]`` of leaves that all lead with an axis of
that size. With ``norms`` they are the roots of the sums, and the largest finite number where a root
is larger: a norm is finite where, and only where, all numbers are, though the squares may overflow.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import mlir

from nadam_xla import targets
from nadam_xla.calls import by_compute_dtype, leaves_in_call
from nadam_xla.jax.availability import has_kernel
from nadam_xla.jax.checks import PyTree, check_inexact, check_one_memory, check_real
from nadam_xla.jax.defining import define
from nadam_xla.jax.dtypes import as_stored, computed_dtype, is_complex
from nadam_xla.jax.explicit_axes import entries_of, fold_batches, shard_alike, stack
from nadam_xla.jax.manual_axes import vary_alike
from nadam_xla.jax.partitioned_lowering import is_partitioned
from nadam_xla.jax.primitive import batched_at
from nadam_xla.jax.reference import square_root, squared_magnitude
from nadam_xla.jax.specs import spec
from nadam_xla.platforms import CUDA, NAMES
from nadam_xla.workspace import workspace_bytes


def sum_squares(tree: PyTree) -> PyTree:
    """The sum of squares of each leaf: a tree of scalars, in one pass over memory.

    They are summed in float64 before they are rounded, in the same order every time: on the CPU
    they do not depend on the number of threads. The square root of their sum is the global norm.

    Args:
        tree: a pytree of floating-point arrays of any shape. bfloat16 and float16 are read as they
            are; what is narrower is widened before.

    Returns:
        A tree of the same structure; float64 scalars for float64 leaves, float32 for all others.

    Raises:
        TypeError: a leaf is not of a floating dtype.
        ValueError: a leaf lies in host memory, and another on the device.

    Each message names the leaf by its path.
    """
    check_inexact("tree", tree)
    check_real("tree", tree)
    check_one_memory("tree", tree)
    leaves, treedef = jax.tree.flatten(tree)
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    results: list[Any] = [None] * len(leaves)
    for indices in by_compute_dtype([str(leaf.dtype) for leaf in leaves]).values():
        sums = bind(*(as_stored(leaves[i]) for i in indices), batched=False)
        for place, i in enumerate(indices):
            results[i] = sums[place]
    return jax.tree.unflatten(treedef, results)


def norms_of(leaves: Sequence[jax.Array]) -> jax.Array:
    """The norm of each leaf, as one vector; finite if and only if all numbers of the leaf are.

    It is at most the largest finite number. (The squares of float64 leaves may overflow.)

    Args:
        leaves: one or more that the caller has checked.

    Returns:
        ``[n]``, float64 where a leaf is computed in it, else float32.
    """
    real = [i for i, leaf in enumerate(leaves) if not is_complex(leaf)]
    norms = {i: _norm_of(leaf) for i, leaf in enumerate(leaves) if is_complex(leaf)}
    for places in by_compute_dtype([str(leaves[i].dtype) for i in real]).values():
        given = (as_stored(leaves[real[place]]) for place in places)
        own = bind(*given, batched=False, norms=True)
        if len(places) == len(leaves):
            return own
        norms |= {real[place]: own[k] for k, place in enumerate(places)}
    dtype = jnp.result_type(*norms.values())
    return stack([norms[i].astype(dtype) for i in range(len(leaves))])


def bind(*leaves: jax.Array, batched: bool, norms: bool = False) -> jax.Array:
    """The primitive, applied.

    Inside ``shard_map`` the sums are of the leaves' shards, and vary over the mesh axes over which
    any of them does.
    """
    alike = vary_alike(leaves, leaves[0])
    (sums,) = sum_squares_p.bind(*alike, batched=batched, norms=norms)
    return sums  # type: ignore[no-any-return]


def _reference(*leaves: jax.Array, batched: bool, norms: bool) -> list[jax.Array]:
    dtype = computed_dtype(leaves[0])

    def of_leaf(leaf: jax.Array) -> jax.Array:
        axes = tuple(range(1 if batched else 0, leaf.ndim))
        if norms:
            return _norm_of(leaf.astype(dtype), axes)
        return jnp.sum(jnp.square(leaf.astype(dtype)), axis=axes)

    return [jnp.stack([of_leaf(leaf) for leaf in leaves], axis=-1)]


def _norm_of(leaf: jax.Array, axes: tuple[int, ...] | None = None) -> jax.Array:
    """The norm by JAX's own operations, over all axes or some; the leaf is in its compute dtype."""
    limits: Any = jnp.finfo(leaf.dtype)  # type: ignore[no-untyped-call]
    # A power of two, by which squares of numbers so large that others overflow do not.
    shrink = 2.0 ** -(limits.maxexp * 3 // 4)
    total = jnp.sum(squared_magnitude(leaf), axis=axes)
    of_shrunk = square_root(jnp.sum(squared_magnitude(leaf * shrink), axis=axes))
    beyond = jnp.where(
        jnp.isfinite(of_shrunk), jnp.minimum(of_shrunk / shrink, limits.max), of_shrunk
    )
    return jnp.where(jnp.isfinite(total), square_root(total), beyond)


def _abstract_eval(*leaves: Any, batched: bool, norms: bool) -> list[Any]:
    del norms
    batch = 1 if batched else 0
    entries = (*entries_of(leaves[0])[:batch], None)
    return [
        leaves[0].update(
            shape=(*leaves[0].shape[:batch], len(leaves)),
            dtype=computed_dtype(leaves[0].dtype),
            sharding=leaves[0].sharding.update(spec=spec(*entries)),
            weak_type=False,
        )
    ]


def _batch(
    leaves: Sequence[Any], axes: Sequence[int | None], *, batched: bool, norms: bool
) -> tuple[list[jax.Array], list[int]]:
    size = next(x.shape[axis] for x, axis in zip(leaves, axes, strict=True) if axis is not None)
    moved = [batched_at(0, x, axis, size) for x, axis in zip(leaves, axes, strict=True)]
    if batched:
        folded, unfold = fold_batches(moved)
        sums = unfold(bind(*folded, batched=True, norms=norms))
    else:
        sums = bind(*shard_alike(moved, leading=1), batched=True, norms=norms)
    return [sums], [0]


sum_squares_p = define(
    "nadam_xla_sum_squares", abstract_eval=_abstract_eval, reference=_reference, batch=_batch
)


def _in_calls(platform: str, *leaves: jax.Array, batched: bool, norms: bool) -> list[jax.Array]:
    """The results, in calls that are as full as the platform's may be.

    Not as the gradients are made, though they are in the cache then: such a step is 3 % slower.
    """
    size = leaves_in_call(platform)
    starts = range(0, len(leaves), size)
    made = [_call(platform, *leaves[i : i + size], batched=batched, norms=norms) for i in starts]
    return [jnp.concatenate(made, axis=-1) if len(made) > 1 else made[0]]


def _call(platform: str, *leaves: jax.Array, batched: bool, norms: bool) -> jax.Array:
    shape = (leaves[0].shape[0], len(leaves)) if batched else (len(leaves),)
    results: list[tuple[Any, Any]] = [(shape, computed_dtype(leaves[0]))]
    if platform == CUDA:
        results.append(((workspace_bytes(math.prod(shape)),), jnp.uint8))
    types = [jax.ShapeDtypeStruct(*result) for result in results]
    attributes = {"norms": np.bool_(True)} if norms else {}
    made, *_ = jax.ffi.ffi_call(targets.SUM_SQUARES, types)(*leaves, **attributes)
    return made


def _lower(ctx: Any, *leaves: Any, **parameters: bool) -> Any:
    platforms = ctx.platforms or ctx.module_context.platforms
    with_kernel = [has_kernel(platform, ctx) for platform in platforms]
    # XLA's own reduction is what its partitioner knows how to split and to add up again.
    partitioned = is_partitioned(ctx.module_context.axis_context)
    if partitioned or not any(with_kernel):
        return _lower_reference(ctx, *leaves, **parameters)
    if len(platforms) > 1:
        return _lower_to_choice(ctx, *leaves, **parameters)
    (platform,) = platforms
    lower = mlir.lower_fun(partial(_in_calls, platform), multiple_results=True)
    return lower(ctx, *leaves, **parameters)


def _by_platform(*leaves: jax.Array, **parameters: bool) -> Any:
    """Both ways, in an exported program that chooses where it is run."""
    calls = {platform: partial(_in_calls, platform, **parameters) for platform in NAMES}
    default = partial(_reference, **parameters)
    return jax.lax.platform_dependent(*leaves, default=default, **calls)


_lower_reference = mlir.lower_fun(_reference, multiple_results=True)
_lower_to_choice = mlir.lower_fun(_by_platform, multiple_results=True)
mlir.register_lowering(sum_squares_p, _lower)
