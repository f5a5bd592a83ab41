"""The variables of ``keras.optimizers.Nadam``, in the form of Keras's variable stores."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nadam_xla.jax.blockwise_state import decoded_moments
from nadam_xla.jax.checks import PyTree, describe
from nadam_xla.jax.conversion.foreign_arrays import (
    carried_product,
    moment_from,
    moment_to,
    state_like,
)
from nadam_xla.jax.state import NadamState, product_of_momenta

# What Keras 3 keeps: the number of steps; the learning rate, unless a schedule computes it; the
# momentum and the velocity of each variable of the model; the product of the momenta.


def state_from_keras(
    store: Mapping[str, Any],
    arrange: Callable[[list[Any]], PyTree] = list,
    *,
    like: NadamState | None = None,
) -> NadamState:
    """Our state for a run that ``keras.optimizers.Nadam`` (stock or ours) began.

    The run goes on with ``nadam(lr, eps=1e-7, momentum_decay=1.0)``, where Keras's ``weight_decay``
    is that of ``nadamw``. The moments are copied, those narrower than float32 into float32.

    Args:
        store: what ``optimizer.save_own_variables(store)`` filled, or the group ``optimizer/vars``
            of a ``.weights.h5`` file: the arrays under ``"0"``, ``"1"``, ...
        arrange: takes a list with an array for each trainable variable, in the order of
            ``model.trainable_variables``, and returns a pytree like the parameters.
        like: the state of ours, as ``tx.init(params)`` or ``jax.eval_shape(tx.init, params)`` give
            it: the moments are stored as its are, the nearest numbers to those given; None: as
            above.

    Raises:
        ValueError: the moments differ from those of ``like`` in structure or shape; or the
            variables are not those of a Nadam. It knows those alone: what ``use_ema``
            and ``gradient_accumulation_steps`` add must be left out, and moments in codes of eight
            bits are refused.
    """
    expected = [str(i) for i in range(len(store))]
    if len(store) < 2 or sorted(store) != sorted(expected):
        raise ValueError(
            f"store has the keys {list(store)}; they must be those that save_own_variables gives:"
            " '0', '1', ..."
        )
    iterations, *moments, product = (np.asarray(store[key]) for key in expected)
    _check_are_floats([*moments, product])
    if len(moments) % 2:
        moments = moments[1:]
    _check_layout(iterations, moments, product)
    nu = arrange([moment_from(x) for x in moments[1::2]])
    state = NadamState(
        count=jnp.asarray(iterations, jnp.int32),
        mu=arrange([moment_from(x) for x in moments[::2]]),
        nu=nu,
        momentum_product=product_of_momenta(float(product), nu),
    )
    return state_like(state, like)


def state_to_keras(
    state: NadamState,
    arrange: Callable[[PyTree], Sequence[Any]] = jax.tree.leaves,
    *,
    learning_rate: float | None,
) -> dict[str, np.ndarray]:
    """Keras's variables for a run that ours began: the inverse of :func:`state_from_keras`.

    Args:
        state: the state of our optimizer.
        arrange: takes a pytree like the parameters, and returns a list with an array for each
            trainable variable, in the order of ``model.trainable_variables``.
        learning_rate: Keras keeps it among the variables; None: a ``LearningRateSchedule`` computes
            it, and there is no such variable.

    Returns:
        What ``optimizer.load_own_variables`` takes, once the optimizer is built.

    Raises:
        TypeError: the state is not a ``NadamState``.
        ValueError: the state carries no product of momenta: it was made with
            ``momentum_decay=None``, and Keras's momentum follows a schedule; or it carries
            master weights or averages.
    """
    product = np.asarray(carried_product(state), np.float32)
    rate = [] if learning_rate is None else [np.asarray(learning_rate, np.float32)]
    mu, nu = decoded_moments(state.mu), decoded_moments(state.nu)
    pairs = zip(arrange(mu), arrange(nu), strict=True)
    moments = [moment_to(moment) for pair in pairs for moment in pair]
    variables = [np.asarray(state.count), *rate, *moments, product]
    return {str(i): variable for i, variable in enumerate(variables)}


def _check_are_floats(variables: list[np.ndarray]) -> None:
    for i, variable in enumerate(variables, start=1):
        if np.issubdtype(variable.dtype, np.integer):
            raise ValueError(
                f"variable {i} is {describe(variable)}; it must be floating: moments in codes of"
                " eight bits and the bits of master weights are not converted"
            )


def _check_layout(iterations: np.ndarray, moments: list[np.ndarray], product: np.ndarray) -> None:
    if iterations.shape or not np.issubdtype(iterations.dtype, np.integer):
        raise ValueError(f"variable 0 is {describe(iterations)}; it must be the number of steps")
    if product.shape:
        raise ValueError(f"the last variable is {describe(product)}; it must be a scalar")
    for i, (momentum, velocity) in enumerate(zip(moments[::2], moments[1::2], strict=True)):
        if momentum.shape != velocity.shape:
            raise ValueError(
                f"the momentum of variable {i} would be {describe(momentum)} and its velocity"
                f" {describe(velocity)}; these are not the variables of a Nadam alone"
            )
