"""The arguments of the raw ops, checked."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from nadam_xla import coefficients as conventions
from nadam_xla.coefficients import Coefficients, Momentum
from nadam_xla.kinds import ROUNDED
from nadam_xla.storage import Rounding, check_rounding, check_seed
from nadam_xla.tensorflow import runtime
from nadam_xla.tensorflow.masters import check_master
from nadam_xla.tensorflow.update import scalar


class Scalars(NamedTuple):
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
        """The row of coefficients in this dtype."""
        given = Scalars(*(_scalar(name, x, dtype) for name, x in self._asdict().items()))
        return conventions.nadam(
            learning_rate=given.lr,
            momentum=Momentum(given.momentum, given.next_momentum, given.momentum_product),
            b1=given.beta1,
            b2=given.beta2,
            b2_power=given.beta2_power,
            eps=given.epsilon,
        )


class Key(NamedTuple):
    """Of the random numbers of stochastic rounding."""

    rounding: Rounding
    seed: Any
    step: Any
    leaves: Sequence[Any]

    @classmethod
    def of(cls, rounding: Rounding, seed: Any, step: Any, leaves: Sequence[Any]) -> "Key":
        """Checked, of these leaves."""
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


def handle_of(variable: Any) -> Any:
    """The resource handle of a variable; a handle as it is."""
    return variable.handle if isinstance(variable, tf.Variable) else variable


def checked_dtypes(variables: dict[str, Any], grad: Any, grad_name: str) -> list[Any]:
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
        check_is_floating(name, variable)
        return variable.dtype
    if getattr(variable, "dtype", None) != tf.resource:
        raise TypeError(f"{name} is {variable!r}; it must be a tf.Variable or the handle of one")
    return grad.dtype


def check_is_floating(name: str, variable: Any) -> None:
    """Raises ``TypeError`` for a variable of another dtype."""
    if not variable.dtype.is_floating:
        raise TypeError(
            f"{name} has the dtype {variable.dtype.name}; it must be floating (moments in codes"
            " of eight bits are those of nadam_xla.keras and nadam_xla.jax)"
        )


def check_are_new(variables: dict[str, Any], seen: dict[Any, str]) -> None:
    """Checks that none was seen before, and has seen them then."""
    for name, variable in variables.items():
        key = handle_of(variable).ref()
        if key in seen:
            raise ValueError(
                f"{name} and {seen[key]} are the same variable; an op reads all before it writes"
                " any, so each may be there once: to apply several gradients to a variable, add"
                " them up, or call the op for each"
            )
        seen[key] = name


def checked_device(variables: dict[str, Any]) -> str | None:
    """The device of a leaf's variables; None where a handle in a graph does not tell it."""
    devices = {name: runtime.place(x.device) for name, x in variables.items()}
    if len(set(devices.values())) > 1:
        places = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise ValueError(f"the variables must be on one device; {places}")
    return next(iter(devices.values()))
