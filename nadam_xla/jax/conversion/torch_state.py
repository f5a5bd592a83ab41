"""The state of ``torch.optim.NAdam``, in the form of its ``state_dict()``."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nadam_xla.jax.blockwise_state import decoded_moments
from nadam_xla.jax.checks import PyTree
from nadam_xla.jax.conversion.foreign_arrays import (
    carried_product,
    moment_from,
    moment_to,
    state_like,
)
from nadam_xla.jax.state import NadamState, product_of_momenta

_NAMES = ("step", "exp_avg", "exp_avg_sq", "mu_product")


def state_from_torch(
    state_dict: Mapping[str, Any],
    arrange: Callable[[list[Any]], PyTree] = list,
    *,
    like: NadamState | None = None,
) -> NadamState:
    """Our state for a run that ``torch.optim.NAdam`` began.

    The run goes on with ``nadam(lr, momentum_decay=0.004)``, where PyTorch's ``weight_decay`` is
    ``l2`` (with ``decoupled_weight_decay``, that of ``nadamw``). The moments are copied, those
    narrower than float32 into float32.

    Args:
        state_dict: what the ``state_dict()`` of the optimizer returned, its tensors in memory that
            JAX can reach.
        arrange: takes a list with an array for each parameter, in the order in which PyTorch's
            optimizer got them, and returns a pytree like the parameters: the very function that
            makes the parameters of the model's tensors, with its transpositions, if it has some.
        like: the state of ours, as ``tx.init(params)`` or ``jax.eval_shape(tx.init, params)`` give
            it: the moments are stored as its are, the nearest numbers to those given; None: as
            above.

    Raises:
        ValueError: it is not the state of a NAdam, lacks that of a parameter, or has parameters
            that have made different numbers of steps; or the moments differ from those of ``like``
            in structure or shape.
    """
    groups = state_dict["param_groups"]
    indices = [index for group in groups for index in group["params"]]
    names = [name for group in groups for name in group.get("param_names", group["params"])]
    entries = [_entry(state_dict["state"], i, name) for i, name in zip(indices, names, strict=True)]
    for name, entry in zip(names, entries, strict=True):
        for scalar in ("step", "mu_product"):
            if float(entry[scalar]) != float(entries[0][scalar]):
                raise ValueError(
                    f"parameter {name} has the {scalar} {float(entry[scalar])}, and parameter"
                    f" {names[0]} {float(entries[0][scalar])}; one optimizer of ours counts the"
                    " steps of all together (optax.partition gives each part its own)"
                )
    mu = arrange([moment_from(entry["exp_avg"]) for entry in entries])
    nu = arrange([moment_from(entry["exp_avg_sq"]) for entry in entries])
    state = NadamState(
        count=jnp.asarray(int(entries[0]["step"]), jnp.int32),
        mu=mu,
        nu=nu,
        momentum_product=product_of_momenta(float(entries[0]["mu_product"]), nu),
    )
    return state_like(state, like)


def state_to_torch(
    state: NadamState,
    arrange: Callable[[PyTree], Sequence[Any]] = jax.tree.leaves,
    *,
    tensor: Callable[[np.ndarray], Any],
) -> dict[int, dict[str, Any]]:
    """PyTorch's state for a run that ours began: the inverse of :func:`state_from_torch`.

    It is the part ``"state"`` of a ``state_dict``, to be loaded like this::

        state_dict = optimizer.state_dict()  # its param_groups stay
        state_dict["state"] = state_to_torch(state, arrange, tensor=torch.tensor)
        optimizer.load_state_dict(state_dict)

    Args:
        state: the state of our optimizer.
        arrange: takes a pytree like the parameters, and returns a list with an array for each
            parameter of PyTorch's optimizer, in the order in which it got them.
        tensor: makes a tensor of a numpy array, as ``torch.tensor`` does.

    Raises:
        TypeError: the state is not a ``NadamState``.
        ValueError: the state carries no product of momenta: it was made with
            ``momentum_decay=None``, and PyTorch's momentum follows a schedule; or it carries
            master weights or averages.
    """
    product = np.asarray(carried_product(state), np.float32)
    steps = np.asarray(state.count, np.float32)
    moments = zip(
        arrange(decoded_moments(state.mu)), arrange(decoded_moments(state.nu)), strict=True
    )
    return {
        index: {
            "step": tensor(steps),
            "mu_product": tensor(product),
            "exp_avg": tensor(moment_to(mu)),
            "exp_avg_sq": tensor(moment_to(nu)),
        }
        for index, (mu, nu) in enumerate(moments)
    }


def _entry(state: Mapping[Any, Any], index: Any, name: Any) -> Mapping[str, Any]:
    """The state of one parameter."""
    if index not in state:
        raise ValueError(
            f"state_dict has no state of parameter {name}: it has not made a step, or never had a"
            " gradient"
        )
    entry: Mapping[str, Any] = state[index]
    missing = [key for key in _NAMES if key not in entry]
    if missing:
        raise ValueError(
            f"the state of parameter {name} has {sorted(entry)} and no {missing[0]}; it is not that"
            " of torch.optim.NAdam"
        )
    return entry
