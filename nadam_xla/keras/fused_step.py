"""The whole Keras step as one fused update, in terms that hold on every backend."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from keras import ops

from nadam_xla.coefficients import Coefficients
from nadam_xla.keras import convention
from nadam_xla.keras.gradient_factors import accumulated, chosen, factors_of
from nadam_xla.keras.optimizer_state import STREAMS, LeafFacts, State
from nadam_xla.keras.row_gradients import Gradient, Rows, has_rows, with_each_row_once
from nadam_xla.keras.step_hyperparameters import StepHyperparameters
from nadam_xla.kinds import Kind


class Update(NamedTuple):
    """The fused functions of the backend's tensors."""

    update_leaves: Callable[[Coefficients, Kind, Mapping[str, Sequence[Any]]], list[list[Any]]]
    """Of a row, a kind, and for each of its streams the tensors of leaves of this kind."""

    update_rows: Callable[[Coefficients, Kind, Mapping[str, Any]], list[Any]]
    """Of a row, a kind, and for each of its streams the tensor of a table, ``"grads"`` being
    :class:`~nadam_xla.keras.row_gradients.Rows`."""

    sum_squares: Callable[[Sequence[Any]], list[Any]]

    summed: Callable[[Rows, int, str], Rows]
    """Each row once, and none that is outside of a table of this height, summed in this dtype."""


def fused_step(
    update: Update,
    state: State,
    grads: Sequence[Gradient],
    facts: LeafFacts,
    given: StepHyperparameters,
) -> State:
    """The new values of all that a step writes.

    Args:
        update: the backend's fused functions.
        state: the values before.
        grads: the gradients, one for each parameter.
        facts: what the step is told of each parameter.
        given: the hyperparameters of this step.
    """
    new_sums = None
    if state.accumulated_gradients is not None:
        grads, new_sums = accumulated(state.accumulated_gradients, grads, given)
    if given.clips_by_norm:
        grads = with_each_row_once(update.summed, grads, state.params)
    factors = factors_of(update.sum_squares, grads, given)
    product = convention.momentum_product(state.u_product, given.beta_1, given.iterations)

    leaves = {"grads": grads, **state.by_stream()}
    new: dict[str, list[Any]] = {name: [None] * len(grads) for name in state.by_stream()}
    for kind, indices in together(state, has_rows(grads), given.rounding):
        dtype, streams = kind
        row = convention.row(product, given, dtype)._replace(
            decay=convention.decay([facts.decays[i] for i in indices], given, dtype),
            grad_scale=ops.convert_to_tensor(chosen(factors, indices), dtype),
            **({} if given.clipvalue is None else {"clip_value": given.clipvalue}),
            **({} if given.is_update_step is None else {"skip": ~given.is_update_step}),
        )
        if streams.has_average:
            row = convention.with_average(row, given, dtype)
        if streams.is_drawn:
            row = convention.with_random_key(row, [facts.numbers[i] for i in indices], given)
        own = {name: [leaves[name][i] for i in indices] for name in streams.operands}
        if isinstance(grads[indices[0]], Rows):
            table = {name: group[0] for name, group in own.items()}
            updated = [[x] for x in update.update_rows(row, kind, table)]
        else:
            updated = update.update_leaves(row, kind, own)
        for name, new_values in zip(streams.overwritten, updated, strict=True):
            for i, value in zip(indices, new_values, strict=True):
                new[name][i] = value
    if given.is_update_step is not None:
        product = ops.where(given.is_update_step, product, state.u_product)
    return State(
        **{name: new[stream] for name, stream in STREAMS.items()},
        accumulated_gradients=new_sums,
        u_product=product,
    )


def together(state: State, has_rows: Sequence[bool], rounding: str) -> list[tuple[Kind, list[int]]]:
    """The leaves, by their numbers, that are updated together; a table of some rows is alone.

    Args:
        state: their variables or values.
        has_rows: of which leaves some rows alone are updated.
        rounding: the optimizer's.
    """
    dense = [i for i, rows in enumerate(has_rows) if not rows]
    # First, so that the calls behind may wait for their gradients.
    tables = ([i] for i, rows in enumerate(has_rows) if rows)
    return [pair for own in (*tables, dense) for pair in state.kinds(rounding, own).items()]
