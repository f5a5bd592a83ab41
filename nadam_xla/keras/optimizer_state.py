"""The variables of a Keras optimizer that a step reads and writes.

It reads the attributes in which ``keras.optimizers.Nadam`` keeps them, and ours the masters.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from keras.backend import standardize_dtype

from nadam_xla.calls import compute_dtype
from nadam_xla.kinds import ROUNDED, Kind, by_kind


class State(NamedTuple):
    """What a step reads and writes: leaf by leaf, and the momentum product.

    Variables where the optimizer keeps them, their values where a step computes.
    """

    params: Sequence[Any]
    momentums: Sequence[Any]
    velocities: Sequence[Any]
    averages: Sequence[Any | None]
    masters: Sequence[Any | None]
    accumulated_gradients: Sequence[Any] | None
    u_product: Any

    def map(self, function: Callable[[Any], Any]) -> "State":
        """What the function makes of each."""
        sums = self.accumulated_gradients
        return State(
            params=[function(x) for x in self.params],
            momentums=[function(x) for x in self.momentums],
            velocities=[function(x) for x in self.velocities],
            averages=[None if x is None else function(x) for x in self.averages],
            masters=[None if x is None else function(x) for x in self.masters],
            accumulated_gradients=None if sums is None else [function(x) for x in sums],
            u_product=function(self.u_product),
        )

    def all(self) -> list[Any]:
        """All of them, in the order of the fields."""
        optional = (x for x in (*self.averages, *self.masters) if x is not None)
        sums = self.accumulated_gradients or ()
        return [
            *self.params,
            *self.momentums,
            *self.velocities,
            *optional,
            *sums,
            self.u_product,
        ]

    def by_stream(self) -> dict[str, Sequence[Any]]:
        """What there is of each leaf, by the names under which it travels in a call."""
        return {
            "params": self.params,
            "mu": self.momentums,
            "nu": self.velocities,
            "average": self.averages,
            "master": self.masters,
        }

    def kinds(self, rounding: str) -> dict[Kind, list[int]]:
        """The leaves, by their numbers, that a step updates together.

        Args:
            rounding: the optimizer's.
        """
        leaves = self.by_stream()
        dtypes = {name: [standardize_dtype(x.dtype) for x in leaves[name]] for name in ROUNDED}
        return by_kind(
            dtypes,
            [master is not None for master in self.masters],
            rounding,
            [average is not None for average in self.averages],
        )


def state_of(optimizer: Any, trainable_variables: Sequence[Any]) -> State:
    """The optimizer's variables for these of the model's."""
    indices = [optimizer._get_variable_index(v) for v in trainable_variables]
    accumulates = optimizer.gradient_accumulation_steps
    return State(
        params=list(trainable_variables),
        momentums=[optimizer._momentums[i] for i in indices],
        velocities=[optimizer._velocities[i] for i in indices],
        averages=[average_of(optimizer, v) for v in trainable_variables],
        masters=[master_of(optimizer, v) for v in trainable_variables],
        accumulated_gradients=(
            [optimizer._accumulated_gradients[i] for i in indices] if accumulates else None
        ),
        u_product=optimizer._u_product,
    )


def average_of(optimizer: Any, variable: Any) -> Any | None:
    """The moving average that a step updates with a variable of the model.

    None where there is none, and of variables narrower than float32: stock averages them as they
    are stored, and the step knows what it rounds to that.
    """
    dtype = standardize_dtype(variable.dtype)
    if not optimizer._averages_in_step or compute_dtype(dtype) != dtype:
        return None
    return optimizer._model_variables_moving_average[optimizer._get_variable_index(variable)]


def master_of(optimizer: Any, variable: Any) -> Any | None:
    """The master weights of a variable of the model; None where it has none."""
    if optimizer._masters is None:
        return None
    return optimizer._masters[optimizer._get_variable_index(variable)]


class LeafFacts(NamedTuple):
    """What a step is told of each leaf beside its values."""

    decays: tuple[bool, ...]
    """Whether weight decay applies to it."""

    numbers: tuple[int, ...]
    """Its number among the optimizer's, by which stochastic rounding tells leaves apart. Where
    rounding is another, there are none."""


def facts_of(optimizer: Any, trainable_variables: Sequence[Any], asked: Sequence[Any]) -> LeafFacts:
    """What a step of these variables is told of them.

    Args:
        optimizer: ours.
        trainable_variables: as the optimizer was built with them.
        asked: the same, as stock asks of them whether they decay.
    """
    is_stochastic = optimizer.rounding == "stochastic"
    chosen = trainable_variables if is_stochastic else ()
    numbers = tuple(optimizer._get_variable_index(v) for v in chosen)
    return LeafFacts(decays_of(optimizer, asked), numbers)


def decays_of(optimizer: Any, trainable_variables: Sequence[Any]) -> tuple[bool, ...]:
    """To which of them weight decay applies.

    Args:
        optimizer: a ``keras.optimizers.Nadam``.
        trainable_variables: as stock asks it of them, for it knows them by name.
    """
    if optimizer.weight_decay is None:
        return (False,) * len(trainable_variables)
    return tuple(bool(optimizer._use_weight_decay(v)) for v in trainable_variables)
