"""The variables of a Keras optimizer that a step reads and writes.

It reads the attributes in which ``keras.optimizers.Nadam`` keeps them, and ours scales and masters.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from keras.backend import standardize_dtype

from nadam_xla.calls import compute_dtype
from nadam_xla.kinds import ROUNDED, Kind, by_kind

STREAMS = {
    "params": "params",
    "momentums": "mu",
    "velocities": "nu",
    "averages": "average",
    "masters": "master",
    "momentum_scales": "mu_scales",
    "velocity_scales": "nu_scales",
}
"""Of the fields of a :class:`State` that a call has, the names under which they travel in it."""


class State(NamedTuple):
    """What a step reads and writes: leaf by leaf, and the momentum product.

    Variables where the optimizer keeps them, their values where a step computes.
    """

    params: Sequence[Any]
    momentums: Sequence[Any]
    velocities: Sequence[Any]
    averages: Sequence[Any | None]
    masters: Sequence[Any | None]
    momentum_scales: Sequence[Any | None]
    velocity_scales: Sequence[Any | None]
    accumulated_gradients: Sequence[Any] | None
    u_product: Any

    def map(self, function: Callable[[Any], Any]) -> "State":
        """What the function makes of each."""

        def of(group: Sequence[Any | None]) -> list[Any | None]:
            return [None if x is None else function(x) for x in group]

        sums = self.accumulated_gradients
        return State(
            **{name: of(group) for name, group in self.by_field().items()},
            accumulated_gradients=None if sums is None else of(sums),
            u_product=function(self.u_product),
        )

    def all(self) -> list[Any]:
        """All of them, in the order of the fields."""
        of_leaves = (x for group in self.by_field().values() for x in group if x is not None)
        return [*of_leaves, *(self.accumulated_gradients or ()), self.u_product]

    def by_field(self) -> dict[str, Sequence[Any]]:
        """What a call may have of each leaf, by the names of the fields."""
        return {name: getattr(self, name) for name in STREAMS}

    def by_stream(self) -> dict[str, Sequence[Any]]:
        """The same, by the names under which it travels in a call."""
        return {stream: getattr(self, name) for name, stream in STREAMS.items()}

    def kinds(self, rounding: str, chosen: Sequence[int]) -> dict[Kind, list[int]]:
        """The leaves, by their numbers, that a step updates together.

        Args:
            rounding: the optimizer's.
            chosen: of which leaves.
        """
        leaves = self.by_stream()
        dtypes = {
            name: [standardize_dtype(leaves[name][i].dtype) for i in chosen] for name in ROUNDED
        }
        kinds = by_kind(
            dtypes,
            [self.masters[i] is not None for i in chosen],
            rounding,
            [self.averages[i] is not None for i in chosen],
        )
        return {kind: [chosen[place] for place in places] for kind, places in kinds.items()}


def state_of(optimizer: Any, trainable_variables: Sequence[Any], has_rows: Sequence[bool]) -> State:
    """The optimizer's variables for these of the model's, as far as a step updates them.

    Args:
        optimizer: ours.
        trainable_variables: those that the step updates.
        has_rows: of which of them it updates some rows alone: not their averages, which move in
            every row.
    """
    indices = [optimizer._get_variable_index(v) for v in trainable_variables]
    accumulates = optimizer.gradient_accumulation_steps
    return State(
        params=list(trainable_variables),
        momentums=[optimizer._momentums[i] for i in indices],
        velocities=[optimizer._velocities[i] for i in indices],
        averages=[
            None if rows else average_of(optimizer, v)
            for v, rows in zip(trainable_variables, has_rows, strict=True)
        ],
        masters=[master_of(optimizer, v) for v in trainable_variables],
        momentum_scales=_those_of(optimizer._momentum_scales, indices),
        velocity_scales=_those_of(optimizer._velocity_scales, indices),
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


def _those_of(group: Sequence[Any | None] | None, indices: Sequence[int]) -> list[Any | None]:
    """Of what an optimizer keeps for some variables those of these; None where it keeps none."""
    return [None if group is None else group[i] for i in indices]


class LeafFacts(NamedTuple):
    """What a step is told of each leaf beside its values."""

    decays: tuple[bool, ...]
    """Whether weight decay applies to it."""

    numbers: tuple[int, ...]
    """Its number among the optimizer's, by which random numbers tell leaves apart. Where none are
    drawn, there are no numbers."""


def facts_of(optimizer: Any, trainable_variables: Sequence[Any], asked: Sequence[Any]) -> LeafFacts:
    """What a step of these variables is told of them.

    Args:
        optimizer: ours.
        trainable_variables: as the optimizer was built with them.
        asked: the same, as stock asks of them whether they decay.
    """
    chosen = trainable_variables if optimizer._storage.is_drawn else ()
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
