"""``fuse_updates``: optax's protocol at the speed of ``apply``."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import jax
from jax.extend.core import jaxpr_as_fun

from nadam_xla import native
from nadam_xla.jax.fusion.report import UpdateReport, reports
from nadam_xla.jax.fusion.rewriting import fused
from nadam_xla.jax.tracing import as_array, trace
from nadam_xla.platforms import CPU, NAMES

P = ParamSpec("P")
R = TypeVar("R")


def fuse_updates(fun: Callable[P, R], *, weave: bool = True) -> Callable[P, R]:
    """Makes one pass of each ``update`` of ours and the ``optax.apply_updates`` behind it.

    The function that comes back traces ``fun`` with its arguments, as ``jax.jit`` does. Where an
    ``update`` of :func:`nadam`, :func:`nadamw` or :func:`scale_by_nadam` makes a change that is
    added to its parameter and used for nothing else, the two become the call that returns the
    parameter, which ``apply`` makes: in place, to the same bits. All else stays as it is. That
    holds inside ``jit``, ``scan``, ``while``, ``cond``, ``remat``, ``shard_map`` and functions with
    derivatives of their own, for whatever calls the optimizer: ``optax.chain``, Flax, Equinox.

    An update whose gradients a ``scan`` over layers stacks up moves into that loop: each layer is
    updated as soon as its gradient is there, and no stack of gradients ever exists.

    It stands directly inside of ``jax.jit``, costs nothing when the compiled step runs, and goes
    with ``grad``, ``vmap``, meshes and export::

        step = jax.jit(fuse_updates(step), donate_argnums=(0, 1))

    :func:`explain_updates` tells what has become of each update, and why one is not fused.

    Args:
        fun: any function that JAX can trace. Its arguments and results are pytrees. Arrays are
            traced; all other leaves, Python's numbers among them, ``fun`` gets as they are given,
            and gives back as they are.
        weave: False leaves updates behind the scans that make their gradients, as it must be where
            the axis of the layers itself is sharded over a mesh.

    Returns:
        A function with the signature of ``fun``. It raises ``TypeError`` where an argument holds a
        ``flax.nnx`` module and no result does, for what becomes of the module would be lost.
    """

    @wraps(fun, updated=())
    def with_fused_updates(*args: P.args, **kwargs: P.kwargs) -> R:
        traced = trace(fun, args, kwargs)
        if traced.loses_modules and reports(traced.program):
            raise TypeError(
                "an argument holds a flax.nnx module, and no result does: what the function does to"
                " it would be lost; return it, or take the step with nadam_xla.flax.nnx.Optimizer"
            )
        program = fused(traced.program, weaves=weave and _can_weave())
        results = jaxpr_as_fun(program)(*traced.arrays)
        arrays = map(as_array, results, program.out_avals)
        return traced.returned(list(arrays))  # type: ignore[no-any-return]

    return with_fused_updates


def explain_updates(
    fun: Callable[..., Any], *, weave: bool = True
) -> Callable[..., list[UpdateReport]]:
    """Tells what :func:`fuse_updates` makes of each update in a function, and why.

    ::

        for report in explain_updates(step)(params, state, x, y):
            print(report)

    Args:
        fun: any function that JAX can trace; it may be one that is fused or compiled already.
        weave: False tells of updates that are left behind the scans which make their gradients.

    Returns:
        A function that takes the arguments of ``fun``, or ``jax.ShapeDtypeStruct`` in the place of
        arrays, and returns a report for each update, in the order of the program. It runs nothing.
    """

    @wraps(fun, updated=())
    def reported(*args: Any, **kwargs: Any) -> list[UpdateReport]:
        return reports(fused(trace(fun, args, kwargs).program, weaves=weave and _can_weave()))

    return reported


def _can_weave() -> bool:
    """Without the kernel XLA:CPU copies whole stacks in every turn of the loop."""
    return CPU in native.MODULES or jax.default_backend() != NAMES[CPU].jax_backend
