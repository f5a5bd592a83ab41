"""How the primitive reaches XLA: a custom call where there is a kernel, else plain StableHLO."""

import re
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.interpreters import mlir
from jax.interpreters.mlir import ShardingContext, SPMDAxisContext

from nadam_xla import _native, native
from nadam_xla.calls import in_order_of_birth
from nadam_xla.jax.early_calls import lower_in_calls
from nadam_xla.jax.partitioning import update_partitioned
from nadam_xla.jax.primitive import (
    Call,
    dtypes_of_results,
    nadam_update_p,
    reference,
    reference_of_row,
    update_in_place_p,
)
from nadam_xla.jax.table_columns import columns_of, constant_of
from nadam_xla.streams import Streams, of_leaves

OLDEST_JAX = (0, 8, 2)

UPDATE_TARGET = "nadam_xla_update_v2"
_NAMES_IN_XLA = {"cpu": "cpu", "cuda": "CUDA"}
PLATFORMS_WITH_KERNEL = tuple(_NAMES_IN_XLA)

# Groups are numbered per program; this is beyond those that jax.experimental.shard_alike gives out.
_FIRST_SHARDING_GROUP = 1 << 40

# What JAX writes on a donated argument: the result that takes its memory, or that XLA may choose.
_MARKS_OF_DONATION = ("tf.aliasing_output", "jax.buffer_donor")


def install() -> None:
    """Registers the handlers with JAX's XLA, and the primitive's lowerings.

    Raises:
        ImportError: this JAX is too old, or its jaxlib's FFI is older than the one that the kernels
            were built for.
    """
    _check_jax_version()
    _check_ffi_version()
    for platform, module in native.MODULES.items():
        for target, stages in module.registrations().items():
            jax.ffi.register_ffi_target(target, stages, platform=_NAMES_IN_XLA[platform])
    devices_during_lowering().add(nadam_update_p)
    # Not cached: JAX would lower it into a function of its own, in which no operand tells whether
    # the caller donated it. One rule for all platforms: JAX 0.10 to 0.12 fails on a program for
    # several platforms where a primitive has several rules that are not cached.
    mlir.register_lowering(nadam_update_p, _lower, cacheable=False)
    for platform in PLATFORMS_WITH_KERNEL:
        mlir.register_lowering(update_in_place_p, lower_in_place, platform=platform)


def devices_during_lowering() -> set[Any]:
    """JAX's registry of the primitives whose lowering must know the devices of the mesh.

    ``custom_partitioning`` needs them. JAX enters its own primitive here and offers no public way
    for one that becomes it only when it is lowered.

    Raises:
        ImportError: this JAX keeps no such registry.
    """
    try:
        from jax._src.dispatch import prim_requires_devices_during_lowering as registry  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(
            f"nadam_xla cannot be partitioned by JAX {jax.__version__}: it is tested with 0.8.2 to"
            " 0.12, which list in jax._src.dispatch the primitives that need devices when lowered"
        ) from error
    return registry


def _check_jax_version() -> None:
    """JAX 0.7.2 to 0.8.1 keep a product's right-hand side, as XNNPACK packed it, by its address.

    Where they use XNNPACK, the loss after a step in place is silently that of the old parameters.
    """
    if jax.__version_info__ < OLDEST_JAX:
        raise ImportError(
            f"nadam_xla needs JAX {'.'.join(map(str, OLDEST_JAX))} or later, and this is"
            f" {jax.__version__}: on some CPUs it goes on multiplying by the parameters that a step"
            " has overwritten in place"
        )


def _check_ffi_version() -> None:
    """Without this, a handler that the runtime refuses surfaces as 'No FFI handler' much later."""
    header = Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h").read_text()
    found = re.findall(r"#define XLA_FFI_API_(?:MAJOR|MINOR) (\d+)", header)
    runtime = tuple(int(number) for number in found)
    built = _native.FFI_API_VERSION
    if runtime[0] != built[0] or runtime < built:
        raise ImportError(
            f"nadam_xla was built for version {built[0]}.{built[1]} of XLA's FFI, and jaxlib"
            f" {version('jaxlib')} has {'.'.join(map(str, runtime))}; it needs a jaxlib of the"
            " same major and at least that minor version"
        )


def _by_platform(*operands: jax.Array, streams: Streams) -> Any:
    """Both ways, in an exported program that chooses where it is run."""
    calls = {
        platform: partial(_in_full_calls, platform, streams=streams)
        for platform in PLATFORMS_WITH_KERNEL
    }
    default = partial(reference, streams=streams)
    return jax.lax.platform_dependent(*operands, default=default, **calls)


def _in_full_calls(
    platform: str, table: jax.Array, *leaves: jax.Array, streams: Streams
) -> list[jax.Array]:
    """The update in calls of leaves whose gradients are all there."""
    n = streams.leaves(len(leaves))
    dtypes = dtypes_of_results(leaves, streams)
    results: list[Any] = [None] * len(dtypes)
    unknown = [-1] * n
    for call in in_order_of_birth(unknown, unknown, platform):
        own = of_leaves(len(streams.operands), call, n)
        operands = [leaves[i].astype(table.dtype) for i in own]
        aliases = _aliases(streams, len(call))
        types = [jax.typeof(operands[i - 1]) for i in aliases]
        update = jax.ffi.ffi_call(UPDATE_TARGET, types, input_output_aliases=aliases)
        attributes = _attributes(streams, 0 if table.shape[1] == 1 else call[0])
        made = of_leaves(len(streams.overwritten), call, n)
        for i, result in zip(made, update(table, *operands, **attributes), strict=True):
            results[i] = result.astype(dtypes[i])
    return results


_lower_to_choice = mlir.lower_fun(_by_platform, multiple_results=True)
_lower_to_stablehlo = mlir.lower_fun(reference, multiple_results=True)


def _lower_row_to_stablehlo(ctx: Any, table: Any, *leaves: Any, streams: Streams) -> Any:
    """As few operations as the coefficients that are known leave over."""
    columns = columns_of(table)
    if columns is None:
        return _lower_to_stablehlo(ctx, table, *leaves, streams=streams)
    table_aval, *avals = ctx.avals_in
    known = [constant_of(column) for column in columns]
    given = [column for column, number in zip(columns, known, strict=True) if number is None]
    scalars = [table_aval.update(shape=(), sharding=None)] * len(given)
    function = partial(reference_of_row, known=known, dtype=table_aval.dtype, streams=streams)
    lower = mlir.lower_fun(function, multiple_results=True)
    return lower(ctx.replace(avals_in=[*scalars, *avals]), *given, *leaves)


def has_kernel(platform: str, ctx: Any) -> bool:
    """Whether a program for this platform can call the kernels.

    One that runs in this process needs those of this installation, and GPUs that can run them; an
    exported one will find its own where it is run.
    """
    if ctx.module_context.lowering_parameters.for_export:
        return platform in PLATFORMS_WITH_KERNEL and platform not in native.DISABLED
    return platform in native.MODULES and (platform != "cuda" or _gpus_can_run_kernels())


@cache
def _gpus_can_run_kernels() -> bool:
    try:
        gpus: Any = jax.local_devices(backend="cuda")
    except RuntimeError:
        return True  # lowered for others
    versions = (gpu.compute_capability.split(".") for gpu in gpus)
    found = [(int(major), int(minor)) for major, minor in versions]
    return native.has_code_for(native.MODULES["cuda"], found)


def _lower(ctx: Any, *operands: Any, streams: Streams) -> Any:
    """The primitive as users bind it: one call, or one on each device of a mesh."""
    platforms = ctx.platforms or ctx.module_context.platforms
    with_kernel = [has_kernel(platform, ctx) for platform in platforms]
    partitioned = is_partitioned(ctx.module_context.axis_context)
    if any(with_kernel) and not all(with_kernel) and not partitioned:
        return _lower_to_choice(ctx, *operands, streams=streams)
    if not all(with_kernel) or (
        partitioned and not can_partition_call(ctx, batch=ctx.avals_in[0].shape[0])
    ):
        return _lower_row_to_stablehlo(ctx, *operands, streams=streams)
    lower = lower_partitioned if partitioned else lower_in_place
    platform = "cpu" if "cpu" in platforms else "gpu"
    whole = Call(streams, _aliased(ctx, operands, streams), first_row=0)
    return lower_in_calls(lower, ctx, *operands, whole=whole, platform=platform)


def _aliased(ctx: Any, operands: tuple[Any, ...], streams: Streams) -> tuple[int, ...]:
    """The operands whose memory the results may take, by their numbers.

    Those that are converted for the call are always among them: it is the conversion's memory.
    """
    dtype = ctx.avals_in[0].dtype
    grads = set(streams.by_name(range(1, len(operands)))["grads"])
    return tuple(
        operand
        for operand in _aliases(streams, streams.leaves(len(operands) - 1))
        if ctx.avals_in[operand].dtype != dtype
        or not (
            _belongs_to_caller(operands[operand])
            or (operand in grads and _stays_outside(operands[operand]))
        )
    )


def lower_in_place(ctx: Any, *operands: Any, call: Call) -> Any:
    """One call, on this device."""
    _, *leaves = operands
    aliases = {
        operand: result
        for operand, result in _aliases(call.streams, call.streams.leaves(len(leaves))).items()
        if operand in call.aliased
    }
    lower = jax.ffi.ffi_lowering(UPDATE_TARGET, operand_output_aliases=aliases)
    return lower(ctx, *operands, **_attributes(call.streams, call.first_row))


def _aliases(streams: Streams, leaves: int) -> dict[int, int]:
    """The operand whose memory each result takes, counted with the table: operand -> result."""
    return {1 + operand: result for operand, result in streams.aliases(leaves).items()}


def _attributes(streams: Streams, first_row: int) -> dict[str, Any]:
    """Those of the call, in the types of numpy by which JAX tells how it encodes them."""
    return {
        name: np.bool_(value) if isinstance(value, bool) else np.int64(value)
        for name, value in streams.attributes(first_row).items()
    }


def is_partitioned(axes: Any) -> bool:
    """Whether the partitioner spreads what is lowered in this axis context over several devices."""
    if isinstance(axes, SPMDAxisContext):
        return set(axes.manual_axes) != set(axes.mesh.axis_names)
    return isinstance(axes, ShardingContext) and axes.num_devices > 1


def lower_partitioned(ctx: Any, table: Any, *leaves: Any, call: Call) -> Any:
    """One call on each device, each leaf cut as stock's arithmetic would be.

    There the partitioner carries the layout of any of a leaf's arrays to all others, operation by
    operation, before it looks at matrix products. A call comes after those, and where its leaves
    are cut over the same mesh axes in unlike ways, the partitioner carries nothing through it. So
    it is told for each leaf that all are cut alike: for the call, that is, since behind a barrier
    an array may be held otherwise, as the whole parameters of ZeRO-1 are.
    """
    n = call.streams.leaves(len(leaves))
    module = ctx.module_context
    groups = [_FIRST_SHARDING_GROUP + module.new_channel() for _ in range(n)]
    alike = list(leaves)
    places = call.streams.by_name(range(len(leaves)))
    # Where the moments and the parameters contradict each other, the first one here has its way.
    order = [name for name in ("mu", "nu", "params", "grads") if name in places]
    for i in (i for name in order for i in places[name]):
        barrier = mlir.ir.Operation.create(
            "stablehlo.optimization_barrier", results=[leaves[i].type], operands=[leaves[i]]
        )
        alike[i] = barrier.results[0]
        _join_sharding_group(alike[i], groups[i % n])
    update = partial(update_partitioned, call=call)
    first = len(module.keepalives)
    results = mlir.lower_fun(update, multiple_results=True)(ctx, table, *alike)
    module.keepalives[first:] = [_NeededToCompile(*module.keepalives[first:])]
    for i, result in enumerate(results):
        _join_sharding_group(result, groups[i % n])
    return results


class _NeededToCompile:
    """Keeps alive what the partitioner asks, and is empty once pickled.

    JAX hangs it on the executable for good, and ``jax.experimental.serialize_executable`` pickles
    all that hangs there: local functions, which it cannot.
    """

    def __init__(self, *objects: object) -> None:
        self._objects = objects

    def __reduce__(self) -> tuple[type["_NeededToCompile"], tuple[()]]:
        return _NeededToCompile, ()


def _join_sharding_group(value: Any, group: int) -> None:
    """All values of a group are cut alike."""
    number = mlir.i64_attr(group)  # type: ignore[no-untyped-call]
    mlir.ir.Operation.create(
        "sdy.sharding_group", operands=[value], attributes={"group_id": number}
    )


def can_partition_call(ctx: Any, *, batch: int) -> bool:
    """Whether ``update_partitioned`` will do; XLA can always partition plain StableHLO.

    It speaks to Shardy alone, not to the partitioner that JAX had before 0.7. Shardy asks Python
    functions of this process, which an exported program leaves behind. And a batch of rows is
    matched to the leaves by the names of mesh axes, which are lost where ``shard_map`` is manual
    over some axes only, and where there is no mesh.
    """
    module = ctx.module_context
    has_mesh = getattr(module.axis_context, "abstract_mesh", None) is not None
    return (
        jax.config.jax_use_shardy_partitioner  # type: ignore[attr-defined]
        and not module.lowering_parameters.for_export
        and (has_mesh or batch == 1)
    )


def _belongs_to_caller(value: Any) -> bool:
    """Whether this is an argument of the whole program that was not donated.

    XLA would have to copy it before it could be overwritten; without the alias the kernel reads the
    one and writes the other, which is a pass less. Donation shows as an attribute that JAX gives to
    the program's arguments; where it cannot be seen, as inside a loop, a nested function or
    ``shard_map``, the alias stands, and XLA decides.
    """
    if not isinstance(value, mlir.ir.BlockArgument):
        return False
    owner = value.owner.owner.operation.attributes
    is_program = "sym_visibility" in owner and str(owner["sym_visibility"]) == '"public"'
    if not is_program or "arg_attrs" not in owner:
        return False
    marks = mlir.ir.DictAttr(mlir.ir.ArrayAttr(owner["arg_attrs"])[value.arg_number])
    return not any(mark in marks for mark in _MARKS_OF_DONATION)


def _stays_outside(value: Any) -> bool:
    """Whether this gradient comes from outside of the branch that the call stands in, and stays.

    So it is in ``optax.apply_if_finite``. XLA would copy it before the branch, and the change in
    its memory once more, to where the branch returns it; without the alias the kernel writes the
    change there. A gradient that the other branch returns as it is has its memory there already.
    """
    block = mlir.ir.InsertionPoint.current.block
    owner = value.owner
    if block == (owner if isinstance(value, mlir.ir.BlockArgument) else owner.operation.block):
        return False
    branches = (list(region.blocks) for region in block.owner.regions)
    finished = (list(blocks[0].operations) for blocks in branches if blocks and blocks[0] != block)
    return not any(value in operations[-1].operands for operations in finished if operations)
