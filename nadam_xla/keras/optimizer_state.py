"""The variables of a Keras optimizer that a step reads and writes.

It reads the attributes in which ``keras.optimizers.Nadam`` keeps them.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class State(NamedTuple):
    """What a step reads and writes: leaf by leaf, and the momentum product.

    Variables where the optimizer keeps them, their values where a step computes.
    """

    params: Sequence[Any]
    momentums: Sequence[Any]
    velocities: Sequence[Any]
    accumulated_gradients: Sequence[Any] | None
    u_product: Any

    def map(self, function: Callable[[Any], Any]) -> "State":
        """What the function makes of each."""
        sums = self.accumulated_gradients
        return State(
            params=[function(x) for x in self.params],
            momentums=[function(x) for x in self.momentums],
            velocities=[function(x) for x in self.velocities],
            accumulated_gradients=None if sums is None else [function(x) for x in sums],
            u_product=function(self.u_product),
        )

    def all(self) -> list[Any]:
        """All of them, in the order of the fields."""
        sums = self.accumulated_gradients or ()
        return [*self.params, *self.momentums, *self.velocities, *sums, self.u_product]


def state_of(optimizer: Any, trainable_variables: Sequence[Any]) -> State:
    """The optimizer's variables for these of the model's."""
    indices = [optimizer._get_variable_index(v) for v in trainable_variables]
    accumulates = optimizer.gradient_accumulation_steps
    return State(
        params=list(trainable_variables),
        momentums=[optimizer._momentums[i] for i in indices],
        velocities=[optimizer._velocities[i] for i in indices],
        accumulated_gradients=(
            [optimizer._accumulated_gradients[i] for i in indices] if accumulates else None
        ),
        u_product=optimizer._u_product,
    )


def decays_of(optimizer: Any, trainable_variables: Sequence[Any]) -> tuple[bool, ...]:
    """To which of them weight decay applies.

    Args:
        optimizer: a ``keras.optimizers.Nadam``.
        trainable_variables: as stock asks it of them, for it knows them by name.
    """
    if optimizer.weight_decay is None:
        return (False,) * len(trainable_variables)
    return tuple(bool(optimizer._use_weight_decay(v)) for v in trainable_variables)
