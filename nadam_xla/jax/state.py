"""The optimizer's state."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import optax
from jax.tree_util import keystr
from jax.typing import DTypeLike

from nadam_xla.calls import compute_dtype
from nadam_xla.jax.averages import initial_average
from nadam_xla.jax.blockwise import Moment
from nadam_xla.jax.blockwise_state import check_choice, is_blockwise_dtype, zeros_of
from nadam_xla.jax.checks import PyTree, check_inexact, describe
from nadam_xla.jax.dtypes import computed_dtype, is_complex
from nadam_xla.jax.masters import initial_masters
from nadam_xla.storage import Master


class NadamState(NamedTuple):
    """The state of :func:`nadam`, :func:`nadamw` and :func:`scale_by_nadam`.

    Attributes:
        count: int32 scalar, the number of steps taken.
        mu: the first moments, a tree like the parameters, leaf by leaf of their shapes: float64 for
            float64 parameters, else float32, and complex for complex ones, unless ``mu_dtype`` was
            given. With ``mu_dtype="blockwise8"`` a :class:`Blockwise` stands in the place of each
            that is in codes.
        nu: the second moments, a tree like the parameters, leaf by leaf of their shapes: float64
            for float64 and complex128 parameters, else float32, unless ``nu_dtype`` was given; in
            codes likewise.
        momentum_product: float32 scalar (float64 where a parameter is), the product of the momenta
            of all steps taken; None where ``momentum_decay`` is None, for then it is ``b1**count``.
        master: the master weights, a tree like the parameters, leaf by leaf of their shapes, with
            None in the place of those that are not narrower than float32: float32, uint16 or uint8,
            as ``master`` was chosen; None where it was not.
        average: the average of the parameters, a tree like them, leaf by leaf of their shapes:
            float64 for float64 parameters, else float32, and complex for complex ones; before the
            first step the parameters themselves. None where ``average_decay`` is.
    """

    count: jax.Array  # type: ignore[assignment]  # the name that optax gives it
    mu: PyTree
    nu: PyTree
    momentum_product: jax.Array | None
    master: PyTree | None = None
    average: PyTree | None = None


# So that an exported program that takes the state can be serialized. The name and the order of the
# fields are written into it: they stay.
jax.export.register_namedtuple_serialization(NadamState, serialized_name="nadam_xla.jax.NadamState")


def initial_state(
    params: PyTree,
    mu_dtype: DTypeLike | None,
    nu_dtype: DTypeLike | None,
    *,
    product: bool,
    master: Master | None = None,
    averages: bool = False,
) -> NadamState:
    """The state before the first step.

    Args:
        params: the parameters.
        mu_dtype: of the first moments; None: float64 for float64 parameters, else float32, and the
            complex dtypes of these for complex ones; ``"blockwise8"``: the same, but codes of eight
            bits where they are worth while.
        nu_dtype: of the second moments; None: float64 for float64 and complex128 parameters, else
            float32; ``"blockwise8"`` likewise.
        product: whether the state carries the product of the momenta.
        master: the kind of master weights; None: there are none.
        averages: whether the state carries an average of the parameters.

    Raises:
        TypeError: a parameter is not a floating-point or complex array, or cannot have such a
            master; or ``mu_dtype`` is real where one is complex.
    """
    check_inexact("params", params)
    if not (
        mu_dtype is None
        or is_blockwise_dtype(mu_dtype)
        or jnp.issubdtype(mu_dtype, jnp.complexfloating)
    ):
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            if is_complex(leaf):
                raise TypeError(
                    f"params{keystr(path)} is {describe(leaf)}, and mu_dtype is {mu_dtype!r}; first"
                    " moments of complex parameters are complex, too"
                )
    return NadamState(
        count=jnp.zeros([], jnp.int32),
        mu=_zeros(params, "mu", mu_dtype, computed_dtype),
        nu=_zeros(params, "nu", nu_dtype, lambda p: compute_dtype(str(jnp.result_type(p)))),
        momentum_product=product_of_momenta(1.0, params) if product else None,
        master=None if master is None else initial_masters(params, master),
        average=initial_average(params) if averages else None,
    )


def _zeros(
    params: PyTree, moment: Moment, dtype: DTypeLike | None, computed: Callable[[Any], Any]
) -> PyTree:
    """Moments before the first step; ``computed`` gives the dtype where none was chosen."""
    if is_blockwise_dtype(dtype):
        return jax.tree.map(lambda p: zeros_of(p, moment, computed(p)), params)
    return jax.tree.map(lambda p: jnp.zeros_like(p, dtype=dtype or computed(p)), params)


def product_of_momenta(value: float, leaves: PyTree) -> jax.Array:
    """The product as a scalar of the dtype in which the widest of these leaves is updated."""
    dtypes = {compute_dtype(str(jnp.result_type(x))) for x in jax.tree.leaves(leaves)}
    return jnp.asarray(value, "float64" if "float64" in dtypes else "float32")


def check_state(
    state: Any,
    *,
    product: bool,
    mu_dtype: DTypeLike | None = None,
    nu_dtype: DTypeLike | None = None,
    master: Master | None = None,
    averages: bool = False,
) -> None:
    """Checks that the state is one that this optimizer can go on with.

    Whether its masters and averages fit the parameters is left to be checked.

    Raises:
        TypeError: the state is another optimizer's, or its count is not an integer scalar.
        ValueError: it carries a product of the momenta, master weights or averages, and this
            optimizer has none, or vice versa; or its second moments have not the ``nu_dtype`` that
            was given; or moments are in codes of eight bits that the optimizer does not have so, or
            vice versa.
    """
    if not isinstance(state, NadamState):
        raise TypeError(f"state is {_describe_other(state)}")
    if jnp.shape(state.count) or not jnp.issubdtype(jnp.result_type(state.count), jnp.integer):
        raise TypeError(
            f"state.count is {describe(state.count)}; it must be an integer scalar (for a"
            " population of optimizers use jax.vmap around init and update)"
        )
    if product and state.momentum_product is None:
        raise ValueError(
            "state.momentum_product is None: the state was made with momentum_decay=None, and this"
            " optimizer has one"
        )
    if not product and state.momentum_product is not None:
        raise ValueError(
            "state.momentum_product is given: the state was made with a momentum_decay, and this"
            " optimizer has none"
        )
    if (state.master is None) != (master is None):
        given = "None" if state.master is None else "given"
        raise ValueError(
            f"state.master is {given}, and this optimizer has master={master!r}: the state was made"
            " with another choice"
        )
    if (state.average is not None) != averages:
        given, chosen = ("None", "an") if averages else ("given", "no")
        raise ValueError(
            f"state.average is {given}, and this optimizer has {chosen} average_decay: the state"
            " was made with another choice"
        )
    check_choice("mu", state.mu, mu_dtype)
    check_choice("nu", state.nu, nu_dtype)
    if nu_dtype is not None and not is_blockwise_dtype(nu_dtype):
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.nu):
            if jnp.result_type(leaf) != nu_dtype:
                raise ValueError(
                    f"state.nu{keystr(path)} is {describe(leaf)}, and nu_dtype is"
                    f" {jnp.dtype(nu_dtype)}: the state was made with another choice"
                )


def _describe_other(state: Any) -> str:
    """What was given in place of a NadamState, and what would help."""
    hint = ""
    if _holds(state, NadamState):
        hint = (
            ". It holds one: a chain's or wrapper's state goes to the chain's or wrapper's update"
        )
    elif _holds(state, optax.ScaleByAdamState):
        hint = ". It is optax's: nadam_xla.jax.state_from_optax converts it"
    return f"{describe(state)}; it must be the NadamState that init returned{hint}"


def _holds(state: Any, kind: type) -> bool:
    found = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, kind))
    return any(isinstance(x, kind) for x in found)
