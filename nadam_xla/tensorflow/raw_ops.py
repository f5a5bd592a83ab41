"""Nadam as raw ops, in the manner of ``tf.raw_ops.ResourceApplyAdam``."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from nadam_xla.calls import compute_dtype
from nadam_xla.coefficients import Coefficients
from nadam_xla.kinds import ROUNDED, Kind, by_kind
from nadam_xla.program_order import PlannedCall
from nadam_xla.storage import Rounding
from nadam_xla.tensorflow import runtime
from nadam_xla.tensorflow.early_calls import planned_calls
from nadam_xla.tensorflow.raw_arguments import (
    Key,
    Scalars,
    check_are_new,
    checked_device,
    checked_dtypes,
    handle_of,
)
from nadam_xla.tensorflow.raw_rows import ResourceSparseApplyNadam
from nadam_xla.tensorflow.update import check_leaves, nadam_update, update_leaves

__all__ = [
    "ApplyNadam",
    "ApplyNadamOutput",
    "ApplyNadamWithMasterOutput",
    "ResourceApplyNadam",
    "ResourceMultiApplyNadam",
    "ResourceSparseApplyNadam",
]


def ResourceApplyNadam(  # noqa: N802 - named like the ops of tf.raw_ops
    *,
    var: Any,
    m: Any,
    v: Any,
    momentum: Any,
    next_momentum: Any,
    momentum_product: Any,
    beta2_power: Any,
    lr: Any,
    beta1: Any,
    beta2: Any,
    epsilon: Any,
    grad: Any,
    name: str | None = None,
    master: Any = None,
    rounding: Rounding = "nearest",
    seed: Any = 0,
    step: Any = None,
    leaf: Any = 0,
) -> Any:
    """Updates ``var``, ``m`` and ``v`` in place, in one pass, by the Nadam rule.

    ::

        m <- beta1 * m + (1 - beta1) * grad
        v <- beta2 * v + (1 - beta2) * grad**2
        m_hat = next_momentum * m / (1 - momentum_product * next_momentum)
                + (1 - momentum) * grad / (1 - momentum_product)
        var <- var - lr * m_hat / (sqrt(v / (1 - beta2_power)) + epsilon)

    As with ``tf.raw_ops.ResourceApplyAdam``, what changes from step to step is the caller's: with a
    constant momentum, ``momentum = next_momentum = beta1`` and ``momentum_product = beta1**t``, t
    counted from 1. :func:`nadam_xla.coefficients.scheduled_momentum` has Keras's and PyTorch's.

    It runs eagerly, in ``tf.function`` and in ``tf.function(jit_compile=True)``, which orders it
    like any op with side effects. It runs on the device of its variables.

    Args:
        var: the parameters: a ``tf.Variable``, or a resource handle of one that has the dtype and
            the shape of ``grad``. float32, float64, bfloat16 and float16 are read and written as
            they are, here and below; what is narrower still is widened, and rounded back.
        m: the first moment: a ``tf.Variable`` or a handle, of the same shape.
        v: the second moment: a ``tf.Variable`` or a handle, of the same shape.
        momentum: scalar, the momentum of this step.
        next_momentum: scalar, the momentum of the next step.
        momentum_product: scalar, the product of the momenta up to this step's.
        beta2_power: scalar, ``beta2**t``, t the number of this step, counted from 1.
        lr: scalar, the learning rate.
        beta1: scalar, the decay rate of the first moment, in [0, 1).
        beta2: scalar, the decay rate of the second moment, in [0, 1).
        epsilon: scalar, added to the denominator; not negative.
        grad: the gradient, a tensor of static shape.
        name: a name for the op.
        master: the master weights, a ``tf.Variable`` of the same shape: float32, of bfloat16 and
            float16 parameters; or uint16 or uint8, of bfloat16 ones, the bits that complete a
            float32 or the first eight of them. None: there are none.
        rounding: how what is narrower than float32 is rounded: ``"nearest"`` or ``"stochastic"``.
        seed: scalar, of the random numbers of stochastic rounding, a whole number of 32 bits.
        step: scalar, the number of this step, a whole number; must be given where rounding is
            stochastic, for each step has random numbers of its own.
        leaf: scalar, the number of these parameters among those of the seed, below 2**24.

    Returns:
        In a graph, the operation; None eagerly.

    Raises:
        NotImplementedError: this TensorFlow's XLA cannot be reached.
        TypeError: a tensor is not of a floating dtype, or ``var``, ``m`` or ``v`` no variable; or
            ``master`` is no variable that can be a master of ``var``.
        ValueError: the shape of ``grad`` is not static, or not that of ``var``; one of the scalars
            has more elements than one; two of the variables are one, or they are on several
            devices; the rounding is unknown, or stochastic without a ``step``; the seed has more
            than 32 bits.
    """
    runtime.check_available()
    with tf.name_scope(name or "ResourceApplyNadam"):
        scalars = Scalars(
            momentum, next_momentum, momentum_product, beta2_power, lr, beta1, beta2, epsilon
        )
        lists = {"var": [var], "m": [m], "v": [v], "master": [master]}
        return _apply(lists, [grad], scalars, Key.of(rounding, seed, step, [leaf]), "{argument}")


def ResourceMultiApplyNadam(  # noqa: N802
    *,
    var: Sequence[Any],
    m: Sequence[Any],
    v: Sequence[Any],
    momentum: Any,
    next_momentum: Any,
    momentum_product: Any,
    beta2_power: Any,
    lr: Any,
    beta1: Any,
    beta2: Any,
    epsilon: Any,
    grad: Sequence[Any],
    name: str | None = None,
    master: Sequence[Any] | None = None,
    rounding: Rounding = "nearest",
    seed: Any = 0,
    step: Any = None,
) -> Any:
    """:func:`ResourceApplyNadam` for many variables at once, some tens of them in a call.

    Args:
        var: the parameters: each a ``tf.Variable``, or a resource handle of one that has the dtype
            and the shape of its gradient. float32, float64, bfloat16 and float16 are read and
            written as they are, here and below; their dtypes may differ.
        m: the first moments: a ``tf.Variable`` or a handle for each, of its shape.
        v: the second moments: a ``tf.Variable`` or a handle for each, of its shape.
        momentum: scalar, the momentum of this step.
        next_momentum: scalar, the momentum of the next step.
        momentum_product: scalar, the product of the momenta up to this step's.
        beta2_power: scalar, ``beta2**t``, t the number of this step, counted from 1.
        lr: scalar, the learning rate.
        beta1: scalar, the decay rate of the first moment, in [0, 1).
        beta2: scalar, the decay rate of the second moment, in [0, 1).
        epsilon: scalar, added to the denominator; not negative.
        grad: the gradients: a tensor of static shape for each.
        name: a name for the op.
        master: the master weights, a ``tf.Variable`` for each, of its shape, or None: float32, of
            bfloat16 and float16 parameters; or uint16 or uint8, of bfloat16 ones, the bits that
            complete a float32 or the first eight of them. None: there are none.
        rounding: how what is narrower than float32 is rounded: ``"nearest"`` or ``"stochastic"``.
        seed: scalar, of the random numbers of stochastic rounding, a whole number of 32 bits.
        step: scalar, the number of this step, a whole number; must be given where rounding is
            stochastic, for each step and each variable has random numbers of its own.

    Returns:
        In a graph, an operation that is done when all variables are updated; None eagerly.

    Raises:
        NotImplementedError: this TensorFlow's XLA cannot be reached.
        TypeError: a tensor is not of a floating dtype, or an entry of ``var``, ``m`` or ``v`` is no
            variable, or one of ``master`` none that can be a master of its parameters; the message
            has its number.
        ValueError: a gradient's shape is not static, or not that of its variable; one of the
            scalars has more elements than one; the lists differ in length; a variable is in them
            twice; a variable and its moments are on several devices; the rounding is unknown, or
            stochastic without a ``step``; the seed has more than 32 bits.
    """
    runtime.check_available()
    masters = [None] * len(var) if master is None else master
    lists = {"var": var, "m": m, "v": v, "master": masters}
    for argument, values in {**lists, "grad": grad}.items():
        if len(values) != len(var):
            raise ValueError(
                f"{argument} has {len(values)} entries; it must have {len(var)}, like var"
            )
    with tf.name_scope(name or "ResourceMultiApplyNadam"):
        scalars = Scalars(
            momentum, next_momentum, momentum_product, beta2_power, lr, beta1, beta2, epsilon
        )
        key = Key.of(rounding, seed, step, range(len(var)))
        return _apply(lists, grad, scalars, key, "{argument}[{number}]")


class ApplyNadamOutput(NamedTuple):
    """What :func:`ApplyNadam` returns: three tensors."""

    var: Any
    m: Any
    v: Any


class ApplyNadamWithMasterOutput(NamedTuple):
    """What :func:`ApplyNadam` returns where there are master weights: four tensors."""

    var: Any
    m: Any
    v: Any
    master: Any


def ApplyNadam(  # noqa: N802
    *,
    var: Any,
    m: Any,
    v: Any,
    momentum: Any,
    next_momentum: Any,
    momentum_product: Any,
    beta2_power: Any,
    lr: Any,
    beta1: Any,
    beta2: Any,
    epsilon: Any,
    grad: Any,
    name: str | None = None,
    master: Any = None,
    rounding: Rounding = "nearest",
    seed: Any = 0,
    step: Any = None,
    leaf: Any = 0,
) -> ApplyNadamOutput | ApplyNadamWithMasterOutput:
    """The new values that :func:`ResourceApplyNadam` would assign; nothing is written.

    Args:
        var: the parameters, a tensor of static shape and a floating dtype.
        m: the first moment, of the same shape.
        v: the second moment, of the same shape.
        momentum: scalar, the momentum of this step.
        next_momentum: scalar, the momentum of the next step.
        momentum_product: scalar, the product of the momenta up to this step's.
        beta2_power: scalar, ``beta2**t``, t the number of this step, counted from 1.
        lr: scalar, the learning rate.
        beta1: scalar, the decay rate of the first moment, in [0, 1).
        beta2: scalar, the decay rate of the second moment, in [0, 1).
        epsilon: scalar, added to the denominator; not negative.
        grad: the gradient, of the same shape.
        name: a name for the op.
        master: the master weights, a tensor of the same shape: float32, of bfloat16 and
            float16 parameters; or uint16 or uint8, of bfloat16 ones, the bits that complete a
            float32 or the first eight of them. None: there are none.
        rounding: how what is narrower than float32 is rounded: ``"nearest"`` or ``"stochastic"``.
        seed: scalar, of the random numbers of stochastic rounding, a whole number of 32 bits.
        step: scalar, the number of this step, a whole number; must be given where rounding is
            stochastic, for each step has random numbers of its own.
        leaf: scalar, the number of these parameters among those of the seed, below 2**24.

    Returns:
        ``(var, m, v)``, and ``master`` behind them where it is given, each of the dtype that was
        given. A ``tf.GradientTape`` that is asked for their gradients raises
        ``NotImplementedError``.

    Raises:
        NotImplementedError: this TensorFlow's XLA cannot be reached.
        TypeError: a tensor is not of a floating dtype, or ``master`` not one of ``var``.
        ValueError: a shape is not static, or not that of ``var``; one of the scalars has more
            elements than one; the rounding is unknown, or stochastic without a ``step``; the seed
            has more than 32 bits.
    """
    runtime.check_available()
    with tf.name_scope(name or "ApplyNadam"):
        var, m, v, grad = (tf.convert_to_tensor(x) for x in (var, m, v, grad))
        scalars = Scalars(
            momentum, next_momentum, momentum_product, beta2_power, lr, beta1, beta2, epsilon
        )
        row = scalars.row(compute_dtype(var.dtype.name))
        key = Key.of(rounding, seed, step, [leaf])
        masters = None if master is None else [master]
        updated = nadam_update(
            key.added_to(row, [0]), [var], [grad], [m], [v], master=masters, rounding=rounding
        )
        new = [group[0] for group in updated]
        return ApplyNadamOutput(*new) if master is None else ApplyNadamWithMasterOutput(*new)


def _apply(
    lists: Mapping[str, Sequence[Any]],
    grads: Sequence[Any],
    scalars: Scalars,
    key: Key,
    name: str,
) -> Any:
    """Updates the variables of the lists ``var``, ``m``, ``v`` and ``master`` by their gradients.

    Args:
        lists: these four, in this order; None in the place of a master that is not there.
        grads: the gradients.
        scalars: what all variables share.
        key: likewise.
        name: the format of what an error calls an entry.

    Returns:
        In a graph, the operation that does it; None eagerly.
    """
    grads = [tf.convert_to_tensor(grad) for grad in grads]
    leaves = []
    seen: dict[Any, str] = {}
    for number, (*values, grad) in enumerate(zip(*lists.values(), grads, strict=True)):
        names = [name.format(argument=argument, number=number) for argument in lists]
        named = dict(zip(names, values, strict=True))
        if named[names[-1]] is None:
            del named[names[-1]]
        dtypes = checked_dtypes(named, grad, name.format(argument="grad", number=number))
        check_are_new(named, seen)
        leaves.append(_Leaf([handle_of(x) for x in named.values()], dtypes, checked_device(named)))
    check_leaves("grad", grads)
    done = []
    for kind, of_kind in _kinds_of(leaves, key.rounding).items():
        for device in dict.fromkeys(leaves[i].device for i in of_kind):
            indices = [i for i in of_kind if leaves[i].device == device]
            handles = [leaves[i].handles for i in indices]
            dtypes = [leaves[i].dtypes for i in indices]
            chosen = [grads[i] for i in indices]
            planned = planned_calls(chosen, list(zip(*handles, strict=True)))
            with tf.device(device), runtime.not_instrumented():
                row = key.added_to(scalars.row(kind.dtype), indices)
                done.append(_assign(row, kind, handles, dtypes, chosen, planned))
    if tf.executing_eagerly():
        return None
    return done[0].op if len(done) == 1 else tf.group(*done)


class _Leaf(NamedTuple):
    """The variables of a leaf: parameters, moments, and a master where there is one."""

    handles: list[Any]
    dtypes: list[Any]
    device: str | None


def _kinds_of(leaves: Sequence[_Leaf], rounding: str) -> dict[Kind, list[int]]:
    dtypes = {name: [leaf.dtypes[i].name for leaf in leaves] for i, name in enumerate(ROUNDED)}
    return by_kind(dtypes, [len(leaf.handles) > len(ROUNDED) for leaf in leaves], rounding)


# Compiled even where the caller is not, for only then it is in place.
@tf.function(jit_compile=True, autograph=False)
def _assign(
    row: Coefficients,
    kind: Kind,
    handles: list[list[Any]],
    dtypes: list[list[Any]],
    grads: list[Any],
    planned: tuple[PlannedCall, ...] | None,
) -> Any:
    """Updates the variables behind the handles, those of one leaf for each gradient.

    Returns:
        Something to wait for, as a function without results would not be.
    """
    values = [
        [
            tf.ensure_shape(tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype), grad.shape)
            for handle, dtype in zip(*leaf, strict=True)
        ]
        for *leaf, grad in zip(handles, dtypes, grads, strict=True)
    ]
    groups = zip(kind.streams.overwritten, zip(*values, strict=True), strict=True)
    leaves = {"grads": grads, **{name: list(group) for name, group in groups}}
    updated = update_leaves(row, kind, leaves, planned=planned)
    for leaf_handles, new_values in zip(handles, zip(*updated, strict=True), strict=True):
        for handle, new in zip(leaf_handles, new_values, strict=True):
            tf.raw_ops.AssignVariableOp(resource=handle, value=new)
    return tf.constant(True)
