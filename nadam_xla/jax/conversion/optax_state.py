"""Optax's states and ours, inside whatever wrappers both stand in."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import GetAttrKey, keystr

from nadam_xla.jax.checks import PyTree, check_structure, describe
from nadam_xla.jax.conversion.foreign_arrays import check_has_only_moments, stored_like
from nadam_xla.jax.state import NadamState


def state_from_optax(optax_state: PyTree, like: PyTree) -> PyTree:
    """Our state for a run that ``optax.nadam``, ``nadamw``, ``adam`` or ``adamw`` began.

    It may be the state of a chain or of wrappers (``inject_hyperparams``, ``MultiSteps``,
    ``masked``, ...): what surrounds the optimizer is kept, so ours must stand in the same ones.

    Args:
        optax_state: the state of optax's optimizer.
        like: the state of ours, as ``tx.init(params)`` or ``jax.eval_shape(tx.init, params)`` give
            it. Its structure and dtypes count, not its values.

    Returns:
        A state with the structure and dtypes of ``like``. Moments whose dtype does not change share
        their memory with those given. Those that are codes of eight bits there are the nearest.

    Raises:
        ValueError: the two do not stand in the same wrappers, or differ in a moment's structure or
            shape; or ``like`` carries a product of momenta, which optax's convention has not, or
            master weights or averages, which are made of the parameters.
        TypeError: there is no ``NadamState`` in ``like``, or not one ``ScaleByAdamState`` in its
            place.
    """
    places = _places("like", like)
    check_structure("like", places, "optax_state", optax_state, prefix=True)
    # The places are a prefix of both.
    return jax.tree.map(
        lambda _, ours, theirs: (
            _from_adam(theirs, ours) if isinstance(ours, NadamState) else theirs
        ),
        places,
        like,
        optax_state,
    )


def state_to_optax(state: PyTree, like: PyTree) -> PyTree:
    """Optax's state for a run that ours began: the inverse of :func:`state_from_optax`.

    Args:
        state: the state of our optimizer, or of wrappers around it.
        like: the state of optax's, as its ``init(params)`` or ``jax.eval_shape`` of that give it.
            Its structure and dtypes count, not its values.

    Returns:
        A state with the structure and dtypes of ``like``, of codes of eight bits the numbers that
        they stand for.

    Raises:
        ValueError: the two do not stand in the same wrappers, or differ in a moment's structure or
            shape; or the state carries a product of momenta, which optax's convention has not, or
            master weights or averages.
        TypeError: there is no ``NadamState`` in ``state``, or not one ``ScaleByAdamState`` in its
            place.
    """
    places = _places("state", state)
    check_structure("state", places, "like", like, prefix=True)
    return jax.tree.map(
        lambda _, ours, theirs: _to_adam(ours, theirs) if isinstance(ours, NadamState) else ours,
        places,
        state,
        like,
    )


def _places(name: str, state: PyTree) -> PyTree:
    """The state with a leaf in the place of each ``NadamState``."""
    places = jax.tree.map(lambda x: isinstance(x, NadamState), state, is_leaf=_is_ours)
    if not any(jax.tree.leaves(places)):
        raise TypeError(f"{name} is {describe(state)} without a NadamState in it")
    return places


def _is_ours(x: Any) -> bool:
    return isinstance(x, NadamState)


def _is_adam(x: Any) -> bool:
    return isinstance(x, optax.ScaleByAdamState)


def _from_adam(theirs: PyTree, like: NadamState) -> NadamState:
    if like.momentum_product is not None:
        raise ValueError(
            "like carries a momentum_product; optax's momentum is constant, so a run of it goes on"
            " with momentum_decay=None"
        )
    if like.master is not None:
        raise ValueError(
            "like.master is given, and optax's states hold nothing to make it of: convert to the"
            " state of an optimizer with master=None, and take state._replace(master=init(params)"
            ".master)"
        )
    if like.average is not None:
        raise ValueError(
            "like.average is given, and optax's states hold nothing to make it of: convert to the"
            " state of an optimizer without average_decay, and take state._replace(average=...) of"
            " an average that you have, or of the parameters"
        )
    adam = _adam_in(theirs)
    mu, nu = _cast_like(adam, like)
    return NadamState(jnp.asarray(adam.count, jnp.int32), mu, nu, None)


def _to_adam(ours: NadamState, like: PyTree) -> PyTree:
    check_has_only_moments(ours)
    if ours.momentum_product is not None:
        raise ValueError(
            "state carries a momentum_product, so its momentum followed a schedule"
            " (momentum_decay); optax's is constant and cannot go on with it"
        )
    mu, nu = _cast_like(ours, _adam_in(like))

    def fill(path: tuple[Any, ...], x: Any) -> Any:
        if _is_adam(x):
            return x._replace(count=ours.count, mu=mu, nu=nu)
        if path[-1] == GetAttrKey("count"):  # of a schedule
            return ours.count
        raise TypeError(f"like{keystr(path)} is {describe(x)}; ours has nothing that belongs there")

    return jax.tree_util.tree_map_with_path(fill, like, is_leaf=_is_adam)


def _adam_in(theirs: PyTree) -> Any:
    found = [x for x in jax.tree.leaves(theirs, is_leaf=_is_adam) if _is_adam(x)]
    if len(found) != 1:
        raise TypeError(
            f"{describe(theirs)} with {len(found)} ScaleByAdamStates stands where a NadamState"
            " is converted; there must be one"
        )
    return found[0]


def _cast_like(given: Any, like: Any) -> tuple[PyTree, PyTree]:
    """The first and second moments in the dtypes of those that they must be like."""
    return stored_like(given, like, "mu"), stored_like(given, like, "nu")
