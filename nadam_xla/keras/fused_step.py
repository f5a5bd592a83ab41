"""The whole Keras step as one fused update, in terms that hold on every backend."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from keras import ops
from keras.backend import standardize_dtype

from nadam_xla.calls import by_compute_dtype
from nadam_xla.keras import convention
from nadam_xla.keras.gradient_factors import accumulated, chosen, factors_of
from nadam_xla.keras.optimizer_state import State
from nadam_xla.keras.step_hyperparameters import StepHyperparameters


class Update(NamedTuple):
    """The fused functions of the backend's tensors."""

    update_leaves: Callable[..., tuple[Sequence[Any], ...]]
    """Of a row, a compute dtype, and the parameters, gradients and moments of leaves with it."""

    sum_squares: Callable[[Sequence[Any]], list[Any]]


def fused_step(
    update: Update,
    state: State,
    grads: Sequence[Any],
    decays: Sequence[bool],
    given: StepHyperparameters,
) -> State:
    """The new values of all that a step writes.

    Args:
        update: the backend's fused functions.
        state: the values before.
        grads: the gradients, one for each parameter.
        decays: the parameters to which weight decay applies.
        given: the hyperparameters of this step.
    """
    new_sums = None
    if state.accumulated_gradients is not None:
        grads, new_sums = accumulated(state.accumulated_gradients, grads, given)
    factors = factors_of(update.sum_squares, grads, given)
    product = convention.momentum_product(state.u_product, given.beta_1, given.iterations)

    leaves = (state.params, state.momentums, state.velocities)
    new_leaves: list[list[Any]] = [[None] * len(state.params) for _ in leaves]
    dtypes = [standardize_dtype(p.dtype) for p in state.params]
    for dtype, indices in by_compute_dtype(dtypes).items():
        row = convention.row(product, given, dtype)._replace(
            decay=convention.decay([decays[i] for i in indices], given, dtype),
            grad_scale=ops.convert_to_tensor(chosen(factors, indices), dtype),
            **({} if given.clipvalue is None else {"clip_value": given.clipvalue}),
            **({} if given.is_update_step is None else {"skip": ~given.is_update_step}),
        )
        params, mu, nu = ([group[i] for i in indices] for group in leaves)
        own_grads = [grads[i] for i in indices]
        updated = update.update_leaves(row, dtype, params, own_grads, mu, nu)
        for new_group, new_values in zip(new_leaves, updated, strict=True):
            for i, new in zip(indices, new_values, strict=True):
                new_group[i] = new
    if given.is_update_step is not None:
        product = ops.where(given.is_update_step, product, state.u_product)
    params, momentums, velocities = new_leaves
    return State(params, momentums, velocities, new_sums, product)
