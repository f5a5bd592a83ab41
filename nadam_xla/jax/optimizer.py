"""The optax-shaped optimizers."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike, DTypeLike

from nadam_xla.coefficients import Coefficients
from nadam_xla.jax.averages import check_average
from nadam_xla.jax.blockwise import as_numbers, check_blockwise
from nadam_xla.jax.checks import PyTree, check_alike, check_complex, check_one_memory
from nadam_xla.jax.decay_mask import Mask, chosen_leaves, masked
from nadam_xla.jax.dtypes import cast
from nadam_xla.jax.gradient_processing import check_elements, with_processing
from nadam_xla.jax.hyperparameters import DEFAULT_SEED, Hyperparameters, ScalarOrSchedule
from nadam_xla.jax.masters import check_masters
from nadam_xla.jax.rows import RowGradient, is_rows, structure_of, with_summed_rows, with_tables
from nadam_xla.jax.rows_checks import check_rows, with_row_gradients
from nadam_xla.jax.state import NadamState, check_state, initial_state
from nadam_xla.jax.trained_part import trained_part, with_trained_part
from nadam_xla.jax.update import update_trees
from nadam_xla.storage import Master, Rounding


class NadamTransformation(optax.GradientTransformationExtraArgs):  # type: ignore[misc]
    """An optax gradient transformation that can also take the whole step in one pass."""

    @property
    def apply(self) -> Callable[..., tuple[PyTree, NadamState]]:
        """``apply(grads, state, params) -> (params, state)``: the new parameters themselves.

        ``apply`` and ``update`` also take ``grad_scale``, a number or a scalar that may be traced,
        by name. The gradients are multiplied by it before they are limited, and before it is judged
        whether they are finite: where the loss was multiplied by ``loss_scale``, give
        ``grad_scale=1 / loss_scale``.

        It equals ``update`` followed by ``optax.apply_updates`` to rounding, and saves that pass.
        It is in place where the ``jax.jit`` around it donates ``params`` and ``state``. Let that
        function take them in the order in which it returns them: JAX pairs donated arguments with
        results of the same shape one after the other, and where it pairs moments with parameters,
        XLA must copy.

        Optax's wrappers (``chain``, ``inject_hyperparams``, ...) know ``update`` alone: what they
        return has no ``apply``. :func:`nadam_xla.jax.chain` has one, and
        :func:`nadam_xla.jax.fuse_updates` makes one pass of what the others do. A learning rate
        that changes needs no wrapper: the optimizer may be made of traced values inside the
        compiled step, as in ``nadam(learning_rate).apply(...)``.
        """
        # Not a field: JAX takes a named tuple for a pytree, and makes it again from its two fields.
        return self.update.apply  # type: ignore[no-any-return]


def nadam(
    learning_rate: ScalarOrSchedule,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    mu_dtype: DTypeLike | None = None,
    *,
    nesterov: bool = True,
    momentum_decay: ArrayLike | None = None,
    l2: ScalarOrSchedule | None = None,
    mask: Mask = None,
    nu_dtype: DTypeLike | None = None,
    rounding: Rounding = "nearest",
    seed: ArrayLike = DEFAULT_SEED,
    master: Master | None = None,
    max_norm: ScalarOrSchedule | None = None,
    max_leaf_norm: ScalarOrSchedule | None = None,
    clip_value: ScalarOrSchedule | None = None,
    skip_nonfinite: bool = False,
    average_decay: ArrayLike | None = None,
) -> NadamTransformation:
    """Nadam: Adam with Nesterov momentum (Dozat 2016), each step one fused pass.

    It takes the place of ``optax.nadam`` and equals it to rounding. The moments of parameters
    narrower than float32 are kept in float32, for in bfloat16 the second moment would never grow
    (``1 - b2`` is below its resolution).

    Every number may also be a traced scalar: another value of it never recompiles the step.

    Args:
        learning_rate: a number, a scalar array, or an optax schedule, called with the number of the
            steps taken before. One below zero ascends.
        b1: the decay rate of the first moment, in [0, 1).
        b2: the decay rate of the second moment, in [0, 1).
        eps: added to the denominator, outside the square root; not negative.
        eps_root: added inside the square root; not negative. Where it and a second moment are zero,
            the derivative of their root is taken to be zero.
        mu_dtype: the dtype in which the first moments are kept; None: float64 for float64
            parameters, float32 for all other real ones, and for complex ones the complex dtypes of
            these. ``"blockwise8"``: a code of 8 bits for each number, and a float32 for each 256
            neighbours along the last axis, as :class:`Blockwise` in the state; for leaves of at
            least 4096 elements and 64 along the last axis, and others as with None.
        nesterov: False makes it Adam (Kingma & Ba 2015).
        momentum_decay: None: the momentum is ``b1``, optax's convention. Otherwise it is not
            negative, and the momentum of step t, counted from 1, is
            ``b1 * (1 - 0.5 * 0.96**(t * momentum_decay))``: 0.004 is the convention of
            ``torch.optim.NAdam``, 1 that of ``keras.optimizers.Nadam``.
        l2: this times the parameter is added to its gradient, which is what PyTorch calls
            ``weight_decay``; a number, a scalar array or a schedule. None: nothing.
        mask: which leaves ``l2`` acts on: a tree of booleans with the structure of the parameters
            or a prefix of it, or a function that makes one from the parameters; None: all.
        nu_dtype: the dtype in which the second moments are kept; None: float64 for float64 and
            complex128 parameters, float32 for all others; ``"blockwise8"`` likewise. Rounded to the
            nearest, a bfloat16 one stops moving, for it changes by less than half its last place:
            round stochastically.
        rounding: how what is stored narrower than float32 is rounded: ``"nearest"``; or
            ``"stochastic"``, up or down by chance, so that on the average nothing is lost. Codes of
            8 bits always are rounded by chance.
        seed: of those chances, a whole number from 0 (the default) to 2**32 - 1, or an integer
            scalar, which may be traced. On a mesh each shard of a leaf has chances of its own, and
            replicas round alike; inside ``shard_map`` with ``check_vma=False``, where nothing tells
            them apart, add ``jax.lax.axis_index`` of the axes over which parameters are sharded.
        master: what is kept beside parameters narrower than float32, and updated with them, so that
            changes add up that they are too coarse for; None: nothing. ``"float32"``: a copy of
            full precision; ``"remainder"``: of bfloat16 parameters the 16 bits that they lack, with
            which they are just that copy; ``"correction"``: the first 8 of those bits.
        max_norm: the longest that the gradients may be, all of them as one vector, a number, a
            scalar array or a schedule; not negative. Longer ones are multiplied by ``max_norm`` by
            their norm, as ``optax.clip_by_global_norm`` does. None: as long as they are.
        max_leaf_norm: the same for each leaf by itself: one whose norm is longer is multiplied by
            ``max_leaf_norm`` by that norm. Not together with ``max_norm``.
        clip_value: the largest magnitude of an element of the gradients; after the norms, and as in
            ``optax.clip``; a number, a scalar array or a schedule; not negative. None: any.
        skip_nonfinite: whether a step in which a gradient is NaN or infinite is left out, as by
            ``optax.apply_if_finite`` without its limit: parameters and state stay what they are to
            the bit, and so does the count of steps.
        average_decay: None; or the decay rate, in [0, 1), of an exponential moving average of the
            parameters, which ``state.average`` holds. After each step it is what
            ``optax.ema(average_decay)`` makes of the parameters up to this step's: their weights
            add up to 1, and what they began with has none. It is updated in the same pass. A leaf
            that ``update`` gives a change of is taken to become its parameter plus that change.

    Raises:
        ValueError: a number is out of its range or an array not a scalar; ``momentum_decay``
            without ``nesterov``; ``max_norm`` with ``max_leaf_norm``; ``mask`` without ``l2``; from
            ``init`` and the steps also where the mask does not fit the parameters.
        TypeError: ``mu_dtype`` is not a floating or complex dtype, nor ``"blockwise8"``, a number
            complex, ``skip_nonfinite`` no boolean, or ``b2`` a bfloat16, in which 0.999 is 1.

    Its ``init``, ``update`` and ``apply`` raise ``ValueError`` where trees differ in structure or
    shapes and ``TypeError`` for leaves that are not floating-point or complex arrays or for a state
    that is not a :class:`NadamState`; the message names the leaf by its path.

    Complex leaves are updated by XLA's own operations, not by the kernel. As in optax, the second
    moment is that of the gradient's magnitude; here it is real.
    """
    if mask is not None and l2 is None:
        raise ValueError("mask is given and l2 is not; it says which leaves l2 acts on")
    hyperparameters = Hyperparameters(
        learning_rate=learning_rate,
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
        mu_dtype=mu_dtype,
        nu_dtype=nu_dtype,
        rounding=rounding,
        seed=seed,
        nesterov=nesterov,
        momentum_decay=momentum_decay,
        l2=l2,
        mask=mask,
        master=master,
        max_norm=max_norm,
        max_leaf_norm=max_leaf_norm,
        clip_value=clip_value,
        skip_nonfinite=skip_nonfinite,
        average_decay=average_decay,
    )
    return _transformation(hyperparameters)


def nadamw(
    learning_rate: ScalarOrSchedule,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    mu_dtype: DTypeLike | None = None,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: Mask = None,
    *,
    nesterov: bool = True,
    momentum_decay: ArrayLike | None = None,
    nu_dtype: DTypeLike | None = None,
    rounding: Rounding = "nearest",
    seed: ArrayLike = DEFAULT_SEED,
    master: Master | None = None,
    max_norm: ScalarOrSchedule | None = None,
    max_leaf_norm: ScalarOrSchedule | None = None,
    clip_value: ScalarOrSchedule | None = None,
    skip_nonfinite: bool = False,
    average_decay: ArrayLike | None = None,
) -> NadamTransformation:
    """:func:`nadam` with decoupled weight decay (Loshchilov & Hutter 2019).

    It takes the place of ``optax.nadamw`` and equals it to rounding: each step also takes
    ``learning_rate * weight_decay`` times the parameter away from it, in the same pass. The moments
    of parameters narrower than float32 are kept in float32.

    Every number may also be a traced scalar: another value of it never recompiles the step.

    Args:
        learning_rate: a number, a scalar array, or an optax schedule, called with the number of the
            steps taken before. One below zero ascends.
        b1: the decay rate of the first moment, in [0, 1).
        b2: the decay rate of the second moment, in [0, 1).
        eps: added to the denominator, outside the square root; not negative.
        eps_root: added inside the square root; not negative. Where it and a second moment are zero,
            the derivative of their root is taken to be zero.
        mu_dtype: the dtype in which the first moments are kept; None: float64 for float64
            parameters, float32 for all other real ones, and for complex ones the complex dtypes of
            these. ``"blockwise8"``: a code of 8 bits for each number, and a float32 for each 256
            neighbours along the last axis, as :class:`Blockwise` in the state; for leaves of at
            least 4096 elements and 64 along the last axis, and others as with None.
        weight_decay: a number, a scalar array, or an optax schedule, called with the number of the
            steps taken before. One below zero makes parameters grow.
        mask: which leaves decay: a tree of booleans with the structure of the parameters or a
            prefix of it, or a function that makes one from the parameters; None: all.
        nesterov: False makes it AdamW.
        momentum_decay: None: the momentum is ``b1``, optax's convention. Otherwise it is not
            negative, and the momentum of step t, counted from 1, is
            ``b1 * (1 - 0.5 * 0.96**(t * momentum_decay))``: 0.004 is the convention of
            ``torch.optim.NAdam``, 1 that of ``keras.optimizers.Nadam``.
        nu_dtype: the dtype in which the second moments are kept; None: float64 for float64 and
            complex128 parameters, float32 for all others; ``"blockwise8"`` likewise. Rounded to the
            nearest, a bfloat16 one stops moving, for it changes by less than half its last place:
            round stochastically.
        rounding: how what is stored narrower than float32 is rounded: ``"nearest"``; or
            ``"stochastic"``, up or down by chance, so that on the average nothing is lost. Codes of
            8 bits always are rounded by chance.
        seed: of those chances, a whole number from 0 (the default) to 2**32 - 1, or an integer
            scalar, which may be traced. On a mesh each shard of a leaf has chances of its own, and
            replicas round alike; inside ``shard_map`` with ``check_vma=False``, where nothing tells
            them apart, add ``jax.lax.axis_index`` of the axes over which parameters are sharded.
        master: what is kept beside parameters narrower than float32, and updated with them, so that
            changes add up that they are too coarse for; None: nothing. ``"float32"``: a copy of
            full precision; ``"remainder"``: of bfloat16 parameters the 16 bits that they lack, with
            which they are just that copy; ``"correction"``: the first 8 of those bits.
        max_norm: the longest that the gradients may be, all of them as one vector, a number, a
            scalar array or a schedule; not negative. Longer ones are multiplied by ``max_norm`` by
            their norm, as ``optax.clip_by_global_norm`` does. None: as long as they are.
        max_leaf_norm: the same for each leaf by itself: one whose norm is longer is multiplied by
            ``max_leaf_norm`` by that norm. Not together with ``max_norm``.
        clip_value: the largest magnitude of an element of the gradients; after the norms, and as in
            ``optax.clip``; a number, a scalar array or a schedule; not negative. None: any.
        skip_nonfinite: whether a step in which a gradient is NaN or infinite is left out, as by
            ``optax.apply_if_finite`` without its limit: parameters and state stay what they are to
            the bit, and so does the count of steps.
        average_decay: None; or the decay rate, in [0, 1), of an exponential moving average of the
            parameters, which ``state.average`` holds. After each step it is what
            ``optax.ema(average_decay)`` makes of the parameters up to this step's: their weights
            add up to 1, and what they began with has none. It is updated in the same pass. A leaf
            that ``update`` gives a change of is taken to become its parameter plus that change.

    Raises:
        ValueError: a number is out of its range or an array not a scalar; ``momentum_decay``
            without ``nesterov``; ``max_norm`` with ``max_leaf_norm``; from ``init`` and the steps
            also where the mask does not fit the parameters.
        TypeError: ``mu_dtype`` is not a floating or complex dtype, nor ``"blockwise8"``, a number
            complex, ``skip_nonfinite`` no boolean, or ``b2`` a bfloat16, in which 0.999 is 1; from
            ``init`` and the steps also where a leaf of the mask is not a boolean.

    Its ``init``, ``update`` and ``apply`` raise ``ValueError`` where trees differ in structure or
    shapes and ``TypeError`` for leaves that are not floating-point or complex arrays or for a state
    that is not a :class:`NadamState`; the message names the leaf by its path. ``update`` without
    parameters raises ``ValueError``, for the decay needs them.

    Complex leaves are updated by XLA's own operations, not by the kernel. As in optax, the second
    moment is that of the gradient's magnitude; here it is real.
    """
    hyperparameters = Hyperparameters(
        learning_rate=learning_rate,
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
        mu_dtype=mu_dtype,
        nu_dtype=nu_dtype,
        rounding=rounding,
        seed=seed,
        nesterov=nesterov,
        momentum_decay=momentum_decay,
        weight_decay=weight_decay,
        mask=mask,
        master=master,
        max_norm=max_norm,
        max_leaf_norm=max_leaf_norm,
        clip_value=clip_value,
        skip_nonfinite=skip_nonfinite,
        average_decay=average_decay,
    )
    return _transformation(hyperparameters)


def scale_by_nadam(
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    mu_dtype: DTypeLike | None = None,
    *,
    nesterov: bool = True,
    momentum_decay: ArrayLike | None = None,
    nu_dtype: DTypeLike | None = None,
    rounding: Rounding = "nearest",
    seed: ArrayLike = DEFAULT_SEED,
    max_norm: ScalarOrSchedule | None = None,
    max_leaf_norm: ScalarOrSchedule | None = None,
    clip_value: ScalarOrSchedule | None = None,
    skip_nonfinite: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """The direction of :func:`nadam`, neither scaled by a learning rate nor negated.

    It takes the place of ``optax.scale_by_adam(nesterov=True)`` in a chain. Where nothing stands
    between it and the learning rate, :func:`nadam` saves the passes that scale and add. The moments
    of parameters narrower than float32 are kept in float32.

    Every number may also be a traced scalar: another value of it never recompiles the step.

    Args:
        b1: the decay rate of the first moment, in [0, 1).
        b2: the decay rate of the second moment, in [0, 1).
        eps: added to the denominator, outside the square root; not negative.
        eps_root: added inside the square root; not negative. Where it and a second moment are zero,
            the derivative of their root is taken to be zero.
        mu_dtype: the dtype in which the first moments are kept; None: float64 for float64
            parameters, float32 for all other real ones, and for complex ones the complex dtypes of
            these. ``"blockwise8"``: a code of 8 bits for each number, and a float32 for each 256
            neighbours along the last axis, as :class:`Blockwise` in the state; for leaves of at
            least 4096 elements and 64 along the last axis, and others as with None.
        nesterov: False makes it Adam (Kingma & Ba 2015).
        momentum_decay: None: the momentum is ``b1``, optax's convention. Otherwise it is not
            negative, and the momentum of step t, counted from 1, is
            ``b1 * (1 - 0.5 * 0.96**(t * momentum_decay))``: 0.004 is the convention of
            ``torch.optim.NAdam``, 1 that of ``keras.optimizers.Nadam``.
        nu_dtype: the dtype in which the second moments are kept; None: float64 for float64 and
            complex128 parameters, float32 for all others; ``"blockwise8"`` likewise. Rounded to the
            nearest, a bfloat16 one stops moving, for it changes by less than half its last place:
            round stochastically.
        rounding: how what is stored narrower than float32 is rounded: ``"nearest"``; or
            ``"stochastic"``, up or down by chance, so that on the average nothing is lost. Codes of
            8 bits always are rounded by chance.
        seed: of those chances, a whole number from 0 (the default) to 2**32 - 1, or an integer
            scalar, which may be traced. On a mesh each shard of a leaf has chances of its own, and
            replicas round alike; inside ``shard_map`` with ``check_vma=False``, where nothing tells
            them apart, add ``jax.lax.axis_index`` of the axes over which parameters are sharded.
        max_norm: the longest that the gradients may be, all of them as one vector, a number, a
            scalar array or a schedule; not negative. Longer ones are multiplied by ``max_norm`` by
            their norm, as ``optax.clip_by_global_norm`` does. None: as long as they are.
        max_leaf_norm: the same for each leaf by itself: one whose norm is longer is multiplied by
            ``max_leaf_norm`` by that norm. Not together with ``max_norm``.
        clip_value: the largest magnitude of an element of the gradients; after the norms, and as in
            ``optax.clip``; a number, a scalar array or a schedule; not negative. None: any.
        skip_nonfinite: whether a step in which a gradient is NaN or infinite is left out, as by
            ``optax.apply_if_finite`` without its limit: parameters and state stay what they are to
            the bit, and so does the count of steps.

    Raises:
        ValueError: a number is out of its range or an array not a scalar; ``momentum_decay``
            without ``nesterov``; ``max_norm`` with ``max_leaf_norm``.
        TypeError: ``mu_dtype`` is not a floating or complex dtype, nor ``"blockwise8"``, a number
            complex, ``skip_nonfinite`` no boolean, or ``b2`` a bfloat16, in which 0.999 is 1.

    Its ``init`` and ``update`` raise ``ValueError`` where trees differ in structure or shapes and
    ``TypeError`` for leaves that are not floating-point or complex arrays or for a state that is
    not a :class:`NadamState`; the message names the leaf by its path.
    """
    hyperparameters = Hyperparameters(
        learning_rate=-1.0,  # the rule descends
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
        mu_dtype=mu_dtype,
        nu_dtype=nu_dtype,
        rounding=rounding,
        seed=seed,
        nesterov=nesterov,
        momentum_decay=momentum_decay,
        max_norm=max_norm,
        max_leaf_norm=max_leaf_norm,
        clip_value=clip_value,
        skip_nonfinite=skip_nonfinite,
        scales_alone=True,
    )
    transformation = _transformation(hyperparameters)
    return optax.GradientTransformationExtraArgs(transformation.init, transformation.update)


def _transformation(hyperparameters: Hyperparameters) -> NadamTransformation:
    mask, carries_product = hyperparameters.mask, hyperparameters.carries_product
    mu_dtype, nu_dtype = hyperparameters.mu_dtype, hyperparameters.nu_dtype
    master = hyperparameters.master
    averages = hyperparameters.average_decay is not None

    def init(params: PyTree) -> NadamState:
        state = initial_state(
            params,
            mu_dtype,
            nu_dtype,
            product=carries_product,
            master=master,
            averages=averages,
        )
        # What stands in for the parameters in optax.tree_utils.tree_map_params has no leaves.
        if mask is not None and jax.tree.leaves(params):
            chosen_leaves(mask, params)
        return state

    def processed(
        row: Coefficients,
        grads: PyTree,
        mu: PyTree,
        steps_before: jax.Array,
        grad_scale: ArrayLike,
    ) -> Coefficients:
        processing = hyperparameters.processing(steps_before, grad_scale)
        if processing.clip_value is not None:
            check_elements(grads)
        if processing.measures:
            check_one_memory("grads", grads)
            grads = with_summed_rows(grads, mu)
        return with_processing(row, [jnp.asarray(x) for x in jax.tree.leaves(grads)], processing)

    def step(
        given: Mapping[str, PyTree],
        state: NadamState,
        grad_scale: ArrayLike,
        returns: Literal["params", "change"],
    ) -> tuple[PyTree, NadamState]:
        grads = with_row_gradients(given["grads"])
        mu = as_numbers(getattr(state, "mu", None))
        _check(hyperparameters, {**given, "grads": with_tables(grads, mu)}, state)
        params = given.get("params")
        of_params = {} if params is None else {"params": params}
        check_rows(grads, {**of_params, "state.mu": state.mu, "state.nu": state.nu})
        row, product = hyperparameters.row(state.count, state.momentum_product)
        row = processed(row, grads, mu, state.count, grad_scale)
        if hyperparameters.is_drawn:
            row = row._replace(leaf=np.arange(len(jax.tree.leaves(mu)), dtype=np.float32))
        if mask is not None:
            row = masked(row, chosen_leaves(mask, params))
        read = params if returns == "params" or hyperparameters.needs_params else None
        first, mu, nu, average, masters = update_trees(
            row,
            read,
            grads,
            state.mu,
            state.nu,
            average=state.average,
            master=state.master,
            rounding=hyperparameters.rounding,
            returns=returns,
        )
        if params is not None and read is None:
            first = jax.tree.map(_in_dtype_of, first, params, is_leaf=is_rows)
        count = optax.safe_increment(state.count)
        if hyperparameters.skip_nonfinite:
            count, product = jax.tree.map(
                partial(jnp.where, row.skip),
                (state.count, state.momentum_product),
                (count, product),
            )
        return first, NadamState(count, mu, nu, product, masters, average)

    def update(
        updates: PyTree,
        state: NadamState,
        params: PyTree | None = None,
        *,
        grad_scale: ArrayLike = 1.0,
        **extra_args: Any,
    ) -> tuple[PyTree, NadamState]:
        del extra_args
        why = hyperparameters.why_params
        if params is None and why is not None:
            raise ValueError(f"{why} needs the parameters: call update(grads, state, params)")
        trained = trained_part(params, state)
        if params is None or (
            # As in optax, they may be anything where they are not needed.
            not hyperparameters.needs_params and _differs_alone(trained, updates, state)
        ):
            return step({"grads": updates}, state, grad_scale, "change")
        return step({"params": trained, "grads": updates}, state, grad_scale, "change")

    def apply(
        grads: PyTree,
        state: NadamState,
        params: PyTree,
        *,
        grad_scale: ArrayLike = 1.0,
        **extra_args: Any,
    ) -> tuple[PyTree, NadamState]:
        del extra_args
        trained = trained_part(params, state)
        updated, state = step({"params": trained, "grads": grads}, state, grad_scale, "params")
        return (updated if trained is params else with_trained_part(params, updated)), state

    return with_apply(init, update, apply)


def with_apply(
    init: Callable[..., Any], update: Callable[..., Any], apply: Callable[..., Any]
) -> NadamTransformation:
    """The transformation of these three functions; ``update`` is nobody else's."""
    update.apply = apply  # type: ignore[attr-defined]  # where NadamTransformation looks for it
    return NadamTransformation(init, update)


def _check(hyperparameters: Hyperparameters, given: Mapping[str, PyTree], state: Any) -> None:
    """Checks that the optimizer can go on with this state, these gradients and parameters.

    Args:
        hyperparameters: of the optimizer.
        given: the gradients, and the parameters where they are needed, as trees of arrays.
        state: what is given as its state.
    """
    master, averages = hyperparameters.master, hyperparameters.average_decay is not None
    check_state(
        state,
        product=hyperparameters.carries_product,
        mu_dtype=hyperparameters.mu_dtype,
        nu_dtype=hyperparameters.nu_dtype,
        master=master,
        averages=averages,
    )
    mu, nu = as_numbers(state.mu), as_numbers(state.nu)
    check_alike({**given, "state.mu": mu, "state.nu": nu})
    check_complex(mu, nu, given)
    params = given.get("params")
    like = given["grads"] if params is None else params
    check_blockwise("mu", state.mu, like)
    check_blockwise("nu", state.nu, like)
    if master is not None:
        check_masters("state.master", state.master, params, master)
    if averages:
        check_average("state.average", state.average, params)


def _in_dtype_of(change: jax.Array | RowGradient, param: Any) -> jax.Array | RowGradient:
    dtype = jnp.result_type(param)
    if isinstance(change, RowGradient):
        return RowGradient(change.indices, cast(change.values, dtype))
    return cast(change, dtype)


def _differs_alone(params: PyTree, grads: PyTree, state: Any) -> bool:
    """Whether the gradients and the moments have one structure, and the parameters another."""
    structure = structure_of(grads)
    fits: bool = structure == jax.tree.structure(as_numbers(getattr(state, "mu", None)))
    return fits and structure != jax.tree.structure(params)
