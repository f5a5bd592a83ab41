"""For the backends that have no fused step."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from nadam_xla.keras.reason import Reason
from nadam_xla.keras.step_hyperparameters import StepHyperparameters
from nadam_xla.update_path import UpdatePath

to_tensor = ops.convert_to_tensor
either = ops.cond


def why_not(optimizer: Any, trainable_variables: Sequence[Any]) -> Reason:
    """Why there is none; nobody expects one."""
    del optimizer, trainable_variables
    backend = keras.backend.backend()
    return Reason(f"nadam_xla has no fused step for Keras's backend {backend}", is_expected=True)


def is_sparse(grad: Any) -> bool:
    """Whether a gradient has some rows of its variable alone, as those of torch may."""
    return bool(getattr(grad, "is_sparse", False))


def layout_of_scales(shape: tuple[int, ...], layout: Any) -> Any:
    """None: on this backend no variable has one."""
    del shape, layout
    return None


def path_of_fused_step() -> UpdatePath:
    """Never called, for ``why_not`` says that there is none."""
    raise NotImplementedError


def step(
    optimizer: Any,
    grads: Sequence[Any],
    trainable_variables: Sequence[Any],
    given: StepHyperparameters,
) -> None:
    """Never called, for ``why_not`` says that it cannot run."""
    raise NotImplementedError
