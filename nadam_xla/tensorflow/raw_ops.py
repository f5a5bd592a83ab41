"""Nadam as raw ops, in the manner of ``tf.raw_ops.ResourceApplyAdam``."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from nadam_xla import coefficients as conventions
from nadam_xla.calls import compute_dtype
from nadam_xla.coefficients import Coefficients, Momentum
from nadam_xla.kinds import ROUNDED, Kind, by_kind
from nadam_xla.program_order import PlannedCall
from nadam_xla.storage import Rounding, check_rounding, check_seed
from nadam_xla.tensorflow import runtime
from nadam_xla.tensorflow.early_calls import planned_calls
from nadam_xla.tensorflow.masters import check_master
from nadam_xla.tensorflow.update import check_leaves, nadam_update, scalar, update_leaves


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
        scalars = _Scalars(
            momentum, next_momentum, momentum_product, beta2_power, lr, beta1, beta2, epsilon
        )
        lists = {"var": [var], "m": [m], "v": [v], "master": [master]}
        return _apply(lists, [grad], scalars, _Key.of(rounding, seed, step, [leaf]), "{argument}")


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
        scalars = _Scalars(
            momentum, next_momentum, momentum_product, beta2_power, lr, beta1, beta2, epsilon
        )
        key = _Key.of(rounding, seed, step, range(len(var)))
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
        scalars = _Scalars(
            momentum, next_momentum, momentum_product, beta2_power, lr, beta1, beta2, epsilon
        )
        row = scalars.row(compute_dtype(var.dtype.name))
        key = _Key.of(rounding, seed, step, [leaf])
        masters = None if master is None else [master]
        updated = nadam_update(
            key.added_to(row, [0]), [var], [grad], [m], [v], master=masters, rounding=rounding
        )
        new = [group[0] for group in updated]
        return ApplyNadamOutput(*new) if master is None else ApplyNadamWithMasterOutput(*new)


class _Scalars(NamedTuple):
    """What all the ops take beside their tensors."""

    momentum: Any
    next_momentum: Any
    momentum_product: Any
    beta2_power: Any
    lr: Any
    beta1: Any
    beta2: Any
    epsilon: Any

    def row(self, dtype: str) -> Coefficients:
        given = _Scalars(*(_scalar(name, x, dtype) for name, x in self._asdict().items()))
        return conventions.nadam(
            learning_rate=given.lr,
            momentum=Momentum(given.momentum, given.next_momentum, given.momentum_product),
            b1=given.beta1,
            b2=given.beta2,
            b2_power=given.beta2_power,
            eps=given.epsilon,
        )


class _Key(NamedTuple):
    """Of the random numbers of stochastic rounding."""

    rounding: Rounding
    seed: Any
    step: Any
    leaves: Sequence[Any]

    @classmethod
    def of(cls, rounding: Rounding, seed: Any, step: Any, leaves: Sequence[Any]) -> "_Key":
        check_rounding(rounding)
        if rounding == "nearest":
            return cls(rounding, 0, 0, leaves)
        if step is None:
            raise ValueError(
                "step is None; where rounding is stochastic it must be the number of this step"
            )
        check_seed(seed)
        seed, step = _whole("seed", seed), _whole("step", step)
        return cls(rounding, seed, step, [_whole("leaf", leaf) for leaf in leaves])

    def added_to(self, row: Coefficients, chosen: Sequence[int]) -> Coefficients:
        """The row with the key of these of the leaves."""
        if self.rounding == "nearest":
            return row
        leaves = tf.stack([self.leaves[i] for i in chosen])
        return conventions.with_random_key(row, seed=self.seed, step=self.step, leaf=leaves)


def _whole(name: str, value: Any) -> Any:
    """The value, an integer scalar of 64 bits."""
    x = tf.convert_to_tensor(value, dtype_hint=tf.int64)
    if not x.dtype.is_integer:
        raise TypeError(f"{name} is {value!r}; it must be a whole number")
    return _scalar(name, x, "int64")


def _scalar(name: str, value: Any, dtype: str) -> Any:
    """The value in this dtype. A vector would be taken for a value for each tensor."""
    x = scalar(value, dtype)
    if x.shape.rank != 0 and x.shape.num_elements() != 1:
        raise ValueError(f"{name} has the shape {x.shape}; it must be a scalar")
    return tf.reshape(x, ())


def _apply(
    lists: Mapping[str, Sequence[Any]],
    grads: Sequence[Any],
    scalars: _Scalars,
    key: _Key,
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
        dtypes = _checked_dtypes(named, grad, name.format(argument="grad", number=number))
        _check_are_new(named, seen)
        leaves.append(_Leaf([_handle(x) for x in named.values()], dtypes, _checked_device(named)))
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


def _handle(variable: Any) -> Any:
    return variable.handle if isinstance(variable, tf.Variable) else variable


def _checked_dtypes(variables: dict[str, Any], grad: Any, grad_name: str) -> list[Any]:
    """The dtypes of a leaf's variables, by the names that an error would have to say."""
    if not grad.dtype.is_floating:
        raise TypeError(f"{grad_name} has the dtype {grad.dtype.name}; it must be floating")
    named = list(variables.items())
    dtypes = [_checked_dtype(name, x, grad, grad_name) for name, x in named[: len(ROUNDED)]]
    (of_name, _), *_ = named
    for name, master in named[len(ROUNDED) :]:
        if not isinstance(master, tf.Variable):
            raise TypeError(f"{name} is {master!r}; it must be a tf.Variable")
        check_master(name, master, of_name, dtypes[0], grad.shape)
        dtypes.append(master.dtype)
    return dtypes


def _checked_dtype(name: str, variable: Any, grad: Any, grad_name: str) -> Any:
    """The variable's dtype; a bare handle does not tell it, and is taken to have the gradient's."""
    if isinstance(variable, tf.Variable):
        if variable.shape != grad.shape:
            raise ValueError(
                f"{grad_name} has the shape {grad.shape}; it must be static and that of {name},"
                f" {variable.shape}"
            )
        if not variable.dtype.is_floating:
            raise TypeError(
                f"{name} has the dtype {variable.dtype.name}; it must be floating (moments in codes"
                " of eight bits are those of nadam_xla.keras and nadam_xla.jax)"
            )
        return variable.dtype
    if getattr(variable, "dtype", None) != tf.resource:
        raise TypeError(f"{name} is {variable!r}; it must be a tf.Variable or the handle of one")
    return grad.dtype


def _check_are_new(variables: dict[str, Any], seen: dict[Any, str]) -> None:
    """Checks that none was seen before, and has seen them then."""
    for name, variable in variables.items():
        key = _handle(variable).ref()
        if key in seen:
            raise ValueError(
                f"{name} and {seen[key]} are the same variable; an op reads all before it writes"
                " any, so each may be there once: to apply several gradients to a variable, add"
                " them up, or call the op for each"
            )
        seen[key] = name


def _checked_device(variables: dict[str, Any]) -> str | None:
    """The device of a leaf's variables; None where a handle in a graph does not tell it."""
    devices = {name: runtime.place(x.device) for name, x in variables.items()}
    if len(set(devices.values())) > 1:
        places = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise ValueError(f"the variables must be on one device; {places}")
    return next(iter(devices.values()))


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
