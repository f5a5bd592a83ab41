"""Nadam on resource variables, in the manner of ``tf.raw_ops.ResourceApplyAdam``."""

from typing import Any

import tensorflow as tf

from nadam_xla import coefficients as conventions
from nadam_xla.calls import compute_dtype
from nadam_xla.coefficients import Momentum
from nadam_xla.tensorflow import runtime
from nadam_xla.tensorflow.update import nadam_update, scalar


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
) -> None:
    """Updates ``var``, ``m`` and ``v`` in place, in one pass, by the Nadam rule.

    ::

        m <- m + (1 - beta1) * (grad - m)
        v <- v + (1 - beta2) * (grad**2 - v)
        m_hat = next_momentum * m / (1 - momentum_product * next_momentum)
                + (1 - momentum) * grad / (1 - momentum_product)
        var <- var - lr * m_hat / (sqrt(v / (1 - beta2_power)) + epsilon)

    As with ``tf.raw_ops.ResourceApplyAdam``, what changes from step to step is the caller's: with a
    constant momentum, ``momentum = next_momentum = beta1`` and ``momentum_product = beta1**t``, t
    counted from 1. :func:`nadam_xla.coefficients.scheduled_momentum` has Keras's and PyTorch's.

    It runs eagerly, in ``tf.function`` and in ``tf.function(jit_compile=True)``, which orders it
    like any op with side effects.

    Args:
        var: the parameters: a ``tf.Variable``, or a resource handle of one that has the dtype and
            the shape of ``grad``. float32, float64, or narrower (widened, and rounded back).
        m: the first moment, likewise.
        v: the second moment, likewise.
        momentum: scalar, the momentum of this step.
        next_momentum: scalar, the momentum of the next step.
        momentum_product: scalar, the product of the momenta up to this step's.
        beta2_power: scalar, ``beta2**t``.
        lr: scalar, the learning rate.
        beta1: scalar, the decay rate of the first moment.
        beta2: scalar, the decay rate of the second moment.
        epsilon: scalar, added to the denominator.
        grad: the gradient, a tensor of static shape.
        name: a name for the op.

    Raises:
        NotImplementedError: this TensorFlow's XLA cannot be reached.
        TypeError: a tensor is not of a floating dtype, or ``var``, ``m`` or ``v`` no variable.
        ValueError: the shape of ``grad`` is not static, or not that of ``var``.
    """
    runtime.check_available()
    with tf.name_scope(name or "ResourceApplyNadam"):
        grad = tf.convert_to_tensor(grad)
        if not grad.dtype.is_floating:
            raise TypeError(f"grad has the dtype {grad.dtype.name}; it must be floating")
        variables = {"var": var, "m": m, "v": v}
        dtypes = [_checked_dtype(name, variable, grad) for name, variable in variables.items()]
        dtype = compute_dtype(dtypes[0].name)
        row = conventions.nadam(
            learning_rate=scalar(lr, dtype),
            momentum=Momentum(
                scalar(momentum, dtype),
                scalar(next_momentum, dtype),
                scalar(momentum_product, dtype),
            ),
            b1=scalar(beta1, dtype),
            b2=scalar(beta2, dtype),
            b2_power=scalar(beta2_power, dtype),
            eps=scalar(epsilon, dtype),
        )
        _apply([_handle(variable) for variable in variables.values()], dtypes, row, grad)


def _handle(variable: Any) -> Any:
    return variable.handle if isinstance(variable, tf.Variable) else variable


def _checked_dtype(name: str, variable: Any, grad: Any) -> Any:
    """The variable's dtype; a bare handle does not tell it, and is taken to have the gradient's."""
    if isinstance(variable, tf.Variable):
        if variable.shape != grad.shape:
            raise ValueError(
                f"grad has the shape {grad.shape}; it must be static and that of {name},"
                f" {variable.shape}"
            )
        return variable.dtype
    if getattr(variable, "dtype", None) != tf.resource:
        raise TypeError(f"{name} is {variable!r}; it must be a tf.Variable or the handle of one")
    return grad.dtype


# Compiled even where the caller is not, for only then it is in place.
@tf.function(jit_compile=True, autograph=False)  # type: ignore[untyped-decorator]
def _apply(handles: list[Any], dtypes: list[Any], row: Any, grad: Any) -> None:
    var, m, v = (
        tf.ensure_shape(tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype), grad.shape)
        for handle, dtype in zip(handles, dtypes, strict=True)
    )
    updated = nadam_update(row, [var], [grad], [m], [v])
    for handle, (new,) in zip(handles, updated, strict=True):
        tf.raw_ops.AssignVariableOp(resource=handle, value=new)
