"""What is known of the variables of a step, kept as long as the optimizer is built for them."""

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import keras

from nadam_xla.keras.optimizer_state import State, state_of
from nadam_xla.keras.tensorflow_compiled import Leaves


class Known:
    """The variables that an optimizer was built with, and those of the steps that it has made."""

    def __init__(self, built: Sequence[Any]) -> None:
        self.built = built
        self.steps: dict[tuple[tuple[int, ...], tuple[bool, ...]], Step] = {}


class Step:
    """The variables of a step."""

    def __init__(
        self, optimizer: Any, trainable_variables: Sequence[Any], has_rows: Sequence[bool]
    ) -> None:
        self.given = list(trainable_variables)  # alive, so that no other has the same id
        variables = state_of(optimizer, trainable_variables, has_rows)
        self.repeats = len(set(map(id, variables.momentums))) < len(variables.momentums)
        self.variables = variables.map(tensorflow_variable)
        self.devices = _devices(optimizer._distribution_strategy, self.variables)
        self._leaves: Leaves | None = None

    @property
    def leaves(self) -> Leaves:
        """For a step that no strategy divides."""
        if self._leaves is None:
            self._leaves = Leaves(self.variables)
        return self._leaves


# Not attributes of the optimizer, for these would be tracked, copied and saved with it.
_known: WeakKeyDictionary[Any, Known] = WeakKeyDictionary()


def step_of(optimizer: Any, trainable_variables: Sequence[Any], has_rows: tuple[bool, ...]) -> Step:
    """The step that this optimizer makes of these variables, with the variables that it has now.

    Args:
        optimizer: ours.
        trainable_variables: those that the step updates.
        has_rows: of which of them it updates some rows alone.
    """
    built = _built(optimizer)
    known = _known.get(optimizer)
    if known is None or any(a is not b for a, b in zip(known.built, built, strict=True)):
        known = _known[optimizer] = Known(built)
    key = tuple(map(id, trainable_variables)), has_rows
    if key not in known.steps:
        known.steps[key] = Step(optimizer, trainable_variables, has_rows)
    return known.steps[key]


def tensorflow_variable(variable: Any) -> Any:
    """The TensorFlow variable of a Keras variable; anything else as it is."""
    return variable.value if isinstance(variable, keras.Variable) else variable


def _devices(strategy: Any, variables: State) -> set[str]:
    """Where they are, but for the momentum product, which goes with no parameter."""
    *leaves, _ = variables.all()
    return {x.device for v in leaves for x in strategy.experimental_local_results(v)}


def _built(optimizer: Any) -> tuple[Any, ...]:
    """What ``build`` makes anew each time."""
    accumulates = optimizer.gradient_accumulation_steps
    return (
        optimizer._momentums,
        optimizer._velocities,
        optimizer._masters,
        optimizer._momentum_scales,
        optimizer._velocity_scales,
        optimizer._averages_in_step,
        optimizer._u_product,
        optimizer._accumulated_gradients if accumulates else None,
    )
