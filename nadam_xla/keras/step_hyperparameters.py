"""What a step is told by the optimizer, as it stands for this step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from keras import ops
from keras.backend import is_float_dtype, is_int_dtype, standardize_dtype

_OPTIONAL = ("weight_decay", "clipnorm", "global_clipnorm", "clipvalue", "loss_scale_factor")


class StepHyperparameters(NamedTuple):
    """Scalars: Python's and numpy's numbers, and tensors; None for what is switched off.

    But for ``rounding``, a word.
    """

    iterations: Any  # the number of the updates made before
    learning_rate: Any
    beta_1: Any
    beta_2: Any
    epsilon: Any
    weight_decay: Any
    clipnorm: Any
    global_clipnorm: Any
    clipvalue: Any
    loss_scale: Any
    accumulation_steps: int | None
    is_update_step: Any  # whether this step ends an accumulation
    rounding: str
    seed: Any  # of the random numbers by which is rounded
    ema_momentum: Any  # where the step updates moving averages
    from_python: frozenset[str] = frozenset()
    """The names of those that were Python's numbers, and are float64 tensors now."""

    @property
    def clips(self) -> bool:
        """Whether gradients are clipped, in whatever way."""
        limits = (self.clipnorm, self.global_clipnorm, self.clipvalue)
        return any(limit is not None for limit in limits)

    @property
    def clips_by_norm(self) -> bool:
        """Whether they are clipped by a norm, of each or of all."""
        return self.clipnorm is not None or self.global_clipnorm is not None

    def after_clipping(self) -> "StepHyperparameters":
        """What is left of them for a step on clipped gradients."""
        return self._replace(
            clipnorm=None,
            global_clipnorm=None,
            clipvalue=None,
            loss_scale=None,
            accumulation_steps=None,
        )

    def not_scalar(self) -> str | None:
        """Which of them is no scalar, in words; None where all are."""
        for name, value in zip(self._fields, self, strict=True):
            if not _is_scalar(value):
                return f"{name} has the shape {value.shape}"
        return None

    def cast(self, name: str, dtype: str) -> Any:
        """The one of this name, as ``ops.cast`` gives it to stock's update.

        On TensorFlow that takes a Python number through float32.
        """
        value = getattr(self, name)
        return ops.cast(ops.cast(value, "float32") if name in self.from_python else value, dtype)


def hyperparameters_of(optimizer: Any, to_tensor: Callable[[Any], Any]) -> StepHyperparameters:
    """The optimizer's hyperparameters.

    Args:
        optimizer: ours.
        to_tensor: reads a variable; Keras's own leaves TensorFlow's variables as they are.

    Raises:
        TypeError: one is no number.
    """

    def given(name: str) -> Any:
        return _given(name, getattr(optimizer, name), to_tensor)

    # Where several are set after all, stock takes the first of these.
    limits: dict[str, Any] = {}
    for name in ("clipnorm", "global_clipnorm", "clipvalue"):
        is_first = all(limit is None for limit in limits.values())
        limits[name] = _limit(given(name)) if is_first else None
    steps = optimizer.gradient_accumulation_steps
    steps = np.asarray(steps).item() if steps else None
    return StepHyperparameters(
        iterations=to_tensor(optimizer.iterations),
        learning_rate=to_tensor(given("learning_rate")),
        beta_1=given("beta_1"),
        beta_2=given("beta_2"),
        epsilon=given("epsilon"),
        weight_decay=given("weight_decay"),
        **limits,
        loss_scale=given("loss_scale_factor"),
        accumulation_steps=steps,
        is_update_step=ops.equal((optimizer._iterations + 1) % steps, 0) if steps else None,
        rounding=optimizer.rounding,
        seed=optimizer.seed if optimizer._storage.is_drawn else None,
        ema_momentum=given("ema_momentum") if optimizer._averages_in_step else None,
    )


def check_is_number(name: str, value: Any) -> None:
    """Raises ``TypeError`` for what no step could compute with, strings above all."""
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        dtype = np.asarray(value).dtype
    try:
        dtype = standardize_dtype(dtype)
    except (ValueError, TypeError):
        dtype = None
    if dtype is None or not (is_float_dtype(dtype) or is_int_dtype(dtype) or dtype == "bool"):
        raise TypeError(
            f"{name} is {value!r}; it must be a number, or a tensor or variable that holds one"
        )


def _given(name: str, value: Any, to_tensor: Callable[[Any], Any]) -> Any:
    """The value, a scalar where it has one element; variables are read."""
    if type(value) in (int, float, bool) or (value is None and name in _OPTIONAL):
        return value
    check_is_number(name, value)
    if isinstance(value, (np.generic, np.ndarray, list, tuple)):
        array = np.asarray(value)
        return array.reshape(())[()] if array.size == 1 else array
    tensor = to_tensor(value)
    has_one_element = _rank(tensor) is not None and all(size == 1 for size in tensor.shape)
    return ops.reshape(tensor, ()) if has_one_element and not _is_scalar(tensor) else tensor


def _is_scalar(value: Any) -> bool:
    return _rank(value) == 0


def _rank(value: Any) -> int | None:
    """The number of its dimensions; None where TensorFlow does not know it."""
    shape = getattr(value, "shape", ())
    return shape.rank if hasattr(shape, "rank") else len(shape)


def _limit(value: Any) -> Any:
    """The limit of a clipping, which a number that is not positive switches off, as in stock."""
    if value is None or not _is_scalar(value):
        return value
    return value if value > 0 else None
