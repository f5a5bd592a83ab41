"""For the backends that have no fused step."""

from collections.abc import Sequence
from typing import Any

from keras import ops

from nadam_xla.keras.step_hyperparameters import StepHyperparameters

to_tensor = ops.convert_to_tensor


def why_not(optimizer: Any, trainable_variables: Sequence[Any]) -> str | None:
    """There is none, and nothing to warn of."""
    del optimizer, trainable_variables
    return ""


def step(
    optimizer: Any,
    grads: Sequence[Any],
    trainable_variables: Sequence[Any],
    given: StepHyperparameters,
) -> None:
    """Never called, for ``why_not`` says that it cannot run."""
    raise NotImplementedError
