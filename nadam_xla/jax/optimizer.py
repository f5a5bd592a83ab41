"""The optax-shaped optimizer."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.export
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from nadam_xla import coefficients as conventions
from nadam_xla.calls import compute_dtype
from nadam_xla.coefficients import Coefficients, check_decay_rate, check_not_negative
from nadam_xla.jax.update import PyTree, check_floating, nadam_update

ScalarOrSchedule: TypeAlias = ArrayLike | Callable[[jax.Array], ArrayLike]
Mask: TypeAlias = PyTree | Callable[[PyTree], PyTree] | None


class NadamState(NamedTuple):
    """The state of :func:`nadam` and :func:`nadamw`.

    Attributes:
        count: int32 scalar, the number of steps taken.
        mu: the first moments, shaped like the parameters.
        nu: the second moments, likewise.
        momentum_product: float32 scalar, the product of the momenta of all steps taken; None where
            ``momentum_decay`` is None, for then it is ``b1**count``.
    """

    count: jax.Array  # type: ignore[assignment]  # the name that optax gives it
    mu: PyTree
    nu: PyTree
    momentum_product: jax.Array | None


# So that an exported program that takes the state can be serialized. The name and the order of the
# fields are written into it: they stay.
jax.export.register_namedtuple_serialization(NadamState, serialized_name="nadam_xla.jax.NadamState")


class NadamTransformation(optax.GradientTransformationExtraArgs):  # type: ignore[misc]
    """An optax gradient transformation that can also take the whole step in one pass."""

    apply: Callable[..., tuple[PyTree, NadamState]]
    """``apply(grads, state, params) -> (params, state)``: the new parameters themselves.

    It equals ``update`` followed by ``optax.apply_updates`` to rounding, and saves that pass. It is
    in place where the ``jax.jit`` around it donates ``params`` and ``state``. Let that function
    take them in the order in which it returns them: JAX pairs donated arguments with results of the
    same shape one after the other, and where it pairs moments with parameters, XLA must copy.
    """

    def __new__(  # noqa: D102 - a named tuple's constructor
        cls,
        init: optax.TransformInitFn,
        update: optax.TransformUpdateExtraArgsFn,
        apply: Callable[..., tuple[PyTree, NadamState]],
    ) -> "NadamTransformation":
        self: NadamTransformation = super().__new__(cls, init, update)
        self.apply = apply
        return self


def nadam(
    learning_rate: ScalarOrSchedule,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    momentum_decay: ArrayLike | None = None,
) -> NadamTransformation:
    """Nadam: Adam with Nesterov momentum (Dozat 2016), each step one fused pass.

    It takes the place of ``optax.nadam`` and equals it to rounding. The moments of parameters
    narrower than float32 are kept in float32, for in bfloat16 the second moment would never grow
    (``1 - b2`` is below its resolution).

    Args:
        learning_rate: a number, a scalar array, or an optax schedule, called with the number of the
            steps taken before.
        b1: the decay rate of the first moment, in [0, 1).
        b2: the decay rate of the second moment, in [0, 1).
        eps: added to the denominator, outside the square root; not negative.
        eps_root: added inside the square root; not negative. Differentiating through the update
            where a second moment is zero needs it to be positive.
        momentum_decay: None: the momentum is ``b1``, optax's convention. Otherwise the momentum of
            step t is ``b1 * (1 - 0.5 * 0.96**(t * momentum_decay))``: 0.004 is the convention of
            ``torch.optim.NAdam``, 1 that of ``keras.optimizers.Nadam``.

    Raises:
        ValueError: a number is out of its range.
    """
    return _transformation(learning_rate, b1, b2, eps, eps_root, momentum_decay, 0.0, None)


def nadamw(
    learning_rate: ScalarOrSchedule,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    weight_decay: ArrayLike = 1e-4,
    mask: Mask = None,
    momentum_decay: ArrayLike | None = None,
) -> NadamTransformation:
    """:func:`nadam` with decoupled weight decay (Loshchilov & Hutter 2019).

    It takes the place of ``optax.nadamw``: each step also takes ``learning_rate * weight_decay``
    times the parameter away from it.

    Args:
        learning_rate: as in :func:`nadam`.
        b1: as in :func:`nadam`.
        b2: as in :func:`nadam`.
        eps: as in :func:`nadam`.
        eps_root: as in :func:`nadam`.
        weight_decay: not negative.
        mask: which leaves decay: a tree of booleans with the structure of the parameters or a
            prefix of it, or a function that makes one from the parameters; None: all.
        momentum_decay: as in :func:`nadam`.

    Raises:
        ValueError: a number is out of its range.
    """
    check_not_negative("weight_decay", weight_decay)
    return _transformation(learning_rate, b1, b2, eps, eps_root, momentum_decay, weight_decay, mask)


def _transformation(
    learning_rate: ScalarOrSchedule,
    b1: ArrayLike,
    b2: ArrayLike,
    eps: ArrayLike,
    eps_root: ArrayLike,
    momentum_decay: ArrayLike | None,
    weight_decay: ArrayLike,
    mask: Mask,
) -> NadamTransformation:
    check_decay_rate("b1", b1)
    check_decay_rate("b2", b2)
    for name, value in {
        "learning_rate": learning_rate,
        "eps": eps,
        "eps_root": eps_root,
        "momentum_decay": momentum_decay,
    }.items():
        check_not_negative(name, value)

    def init(params: PyTree) -> NadamState:
        check_floating("params", params)
        return NadamState(
            count=jnp.zeros([], jnp.int32),
            mu=_zero_moments(params),
            nu=_zero_moments(params),
            momentum_product=None if momentum_decay is None else jnp.ones([], jnp.float32),
        )

    def advance(state: NadamState) -> tuple[jax.Array, jax.Array | None, Coefficients]:
        """The count and the momentum product after this step, and its row."""
        count = optax.safe_increment(state.count)
        if momentum_decay is None:
            momentum = conventions.constant_momentum(b1, count)
            product = None
        else:
            momentum = conventions.scheduled_momentum(
                b1, count, momentum_decay, state.momentum_product
            )
            product = momentum.product
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        row = conventions.nadam(
            learning_rate=rate,
            momentum=momentum,
            b1=b1,
            b2=b2,
            b2_power=b2**count,
            eps=eps,
            eps_root=eps_root,
            decay=rate * weight_decay,
        )
        return count, product, row

    def step(
        grads: PyTree, state: NadamState, params: PyTree, returns: Any
    ) -> tuple[PyTree, NadamState]:
        count, product, row = advance(state)
        rows = row if mask is None else _masked_rows(row, mask, params)
        first, mu, nu = nadam_update(rows, params, grads, state.mu, state.nu, returns=returns)
        return first, NadamState(count, mu, nu, product)

    def update(
        updates: PyTree, state: NadamState, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, NadamState]:
        del extra_args
        if params is None:
            if not _is_zero(weight_decay):
                raise ValueError("nadamw needs the parameters: call update(grads, state, params)")
            params = updates  # read by the rule for its decay alone, and there is none
        return step(updates, state, params, "change")

    def apply(
        grads: PyTree, state: NadamState, params: PyTree, **extra_args: Any
    ) -> tuple[PyTree, NadamState]:
        del extra_args
        return step(grads, state, params, "params")

    return NadamTransformation(init, update, apply)


def _zero_moments(params: PyTree) -> PyTree:
    def zeros(p: ArrayLike) -> jax.Array:
        return jnp.zeros_like(p, dtype=compute_dtype(str(jnp.result_type(p))))

    return jax.tree.map(zeros, params)


def _masked_rows(row: Coefficients, mask: Mask, params: PyTree) -> jax.Array:
    """A row for each leaf: the decay stands in those that the mask chooses."""
    chosen = jax.tree.broadcast(mask(params) if callable(mask) else mask, params)
    decays = jnp.stack([jnp.asarray(leaf) for leaf in jax.tree.leaves(chosen)])
    rows = jnp.stack([jnp.asarray(c) for c in row])
    is_decay = jnp.arange(len(row)) == row._fields.index("decay")
    return jnp.where(is_decay & ~decays[:, None], 0.0, rows)


def _is_zero(value: ArrayLike) -> bool:
    return isinstance(value, (int, float)) and value == 0
