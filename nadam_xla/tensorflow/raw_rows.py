"""Nadam of some rows of a variable, in the manner of ``ResourceSparseApplyAdagradV2``."""

from typing import Any

import tensorflow as tf

from nadam_xla.coefficients import Coefficients
from nadam_xla.kinds import Kind
from nadam_xla.storage import Rounding
from nadam_xla.tensorflow import runtime
from nadam_xla.tensorflow.masters import check_master
from nadam_xla.tensorflow.raw_arguments import (
    Key,
    Scalars,
    check_are_new,
    check_is_floating,
    checked_device,
)
from nadam_xla.tensorflow.rows import checked_rows, padded, update_rows
from nadam_xla.tensorflow.update import kinds_of


def ResourceSparseApplyNadam(  # noqa: N802 - named like the ops of tf.raw_ops
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
    indices: Any,
    name: str | None = None,
    master: Any = None,
    rounding: Rounding = "nearest",
    seed: Any = 0,
    step: Any = None,
    leaf: Any = 0,
) -> Any:
    """:func:`ResourceApplyNadam` of some rows of ``var``, ``m`` and ``v``; all others stay.

    They are neither read nor written: the op costs what its rows cost, however many there are
    beside them. Rows that occur several times in ``indices`` are summed first.

    Args:
        var: the parameters, a ``tf.Variable`` of the shape ``[height, *columns]``. float32,
            float64, bfloat16 and float16 are read and written as they are, here and below. What is
            narrower still is widened and rounded back as a whole.
        m: the first moment, a ``tf.Variable`` of the same shape.
        v: the second moment, a ``tf.Variable`` of the same shape.
        momentum: scalar, the momentum of this step.
        next_momentum: scalar, the momentum of the next step.
        momentum_product: scalar, the product of the momenta up to this step's.
        beta2_power: scalar, ``beta2**t``, t the number of this step, counted from 1.
        lr: scalar, the learning rate.
        beta1: scalar, the decay rate of the first moment, in [0, 1).
        beta2: scalar, the decay rate of the second moment, in [0, 1).
        epsilon: scalar, added to the denominator; not negative.
        grad: the gradient of the rows, ``[touched, *columns]``. In a graph their number need not be
            known.
        indices: ``[touched]``, int32 or int64: of which rows. What is outside of ``var`` is left
            out, as XLA's scatter does it.
        name: a name for the op.
        master: the master weights, a ``tf.Variable`` of the shape of ``var``: float32, of bfloat16
            and float16 parameters; or uint16 or uint8, of bfloat16 ones, the bits that complete a
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
        TypeError: ``var``, ``m`` or ``v`` is no variable (a bare handle does not tell the height)
            or not of a floating dtype, as ``grad`` must be; ``indices`` are not int32 or int64; or
            ``master`` is no variable that can be a master of ``var``.
        ValueError: a shape does not fit; one of the scalars has more elements than one; two of the
            variables are one, or they are on several devices; the rounding is unknown, or
            stochastic without a ``step``; the seed has more than 32 bits.
    """
    runtime.check_available()
    with tf.name_scope(name or "ResourceSparseApplyNadam"):
        variables = {"var": var, "m": m, "v": v}
        if master is not None:
            variables["master"] = master
        _check_variables(variables)
        rows = padded(*checked_rows("indices", indices, "grad", grad, "var", var.shape))
        scalars = Scalars(
            momentum, next_momentum, momentum_product, beta2_power, lr, beta1, beta2, epsilon
        )
        key = Key.of(rounding, seed, step, [leaf])
        streams = {"params": [var], "mu": [m], "nu": [v]}
        (kind,) = kinds_of(streams, [master], rounding)
        handles = [x.handle for x in variables.values()]
        dtypes = [x.dtype for x in variables.values()]
        with tf.device(checked_device(variables)), runtime.not_instrumented():
            row = key.added_to(scalars.row(kind.dtype), [0])
            done = _assign(row, kind, handles, dtypes, tuple(var.shape), *rows)
    return None if tf.executing_eagerly() else done.op


def _check_variables(variables: dict[str, Any]) -> None:
    var = variables["var"]
    for name, variable in variables.items():
        if not isinstance(variable, tf.Variable):
            raise TypeError(f"{name} is {variable!r}; it must be a tf.Variable")
        if name == "master":
            check_master(name, variable, "var", var.dtype, var.shape)
            continue
        check_is_floating(name, variable)
        if variable.shape != var.shape:
            raise ValueError(
                f"{name} has the shape {variable.shape}; it must be that of var, {var.shape}"
            )
        if not variable.shape.is_fully_defined():
            raise ValueError(f"{name} has the shape {variable.shape}; it must be static")
    check_are_new(variables, {})


# Compiled even where the caller is not, for only then it is in place.
@tf.function(jit_compile=True, autograph=False, reduce_retracing=True)
def _assign(
    row: Coefficients,
    kind: Kind,
    handles: list[Any],
    dtypes: list[Any],
    shape: tuple[int, ...],
    indices: Any,
    grads: Any,
) -> Any:
    """Updates the variables behind the handles.

    Returns:
        Something to wait for, as a function without results would not be.
    """
    streams = kind.streams
    leaf = {
        name: tf.ensure_shape(tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype), shape)
        for name, handle, dtype in zip(streams.overwritten, handles, dtypes, strict=True)
    }
    leaf["indices"] = indices
    leaf["grads"] = tf.ensure_shape(grads, [None, *shape[1:]])
    for handle, new in zip(handles, update_rows(row, kind, leaf), strict=True):
        tf.raw_ops.AssignVariableOp(resource=handle, value=new)
    return tf.constant(True)
