"""What the user chose, and the row of coefficients that follows from it at each step."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike, DTypeLike

from nadam_xla import coefficients as conventions
from nadam_xla.coefficients import (
    Coefficients,
    check_decay_rate,
    check_not_nan,
    check_not_negative,
)
from nadam_xla.jax.blockwise_state import is_blockwise_dtype
from nadam_xla.jax.decay_mask import Mask
from nadam_xla.jax.dtypes import is_complex
from nadam_xla.jax.gradient_processing import Processing
from nadam_xla.storage import BLOCKWISE, Master, Rounding, check_master, check_rounding

ScalarOrSchedule: TypeAlias = ArrayLike | Callable[[jax.Array], ArrayLike]

# Not Python's 0, of which optax.inject_hyperparams would make an entry in every state.
DEFAULT_SEED = np.uint32(0)

_OF_ANY_SIGN = ("learning_rate", "weight_decay", "l2")
_LIMITS = ("max_norm", "max_leaf_norm", "clip_value")
_NOT_NEGATIVE = ("eps", "eps_root", "momentum_decay", *_LIMITS)
_DECAY_RATES = ("b1", "b2", "average_decay")


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """The arguments of the optimizers, checked; see :func:`nadam_xla.jax.nadam` for their meaning.

    Raises:
        ValueError: a number is out of its range, an array is not a scalar, or two arguments
            contradict each other.
        TypeError: ``mu_dtype`` is neither a floating or complex dtype nor ``"blockwise8"``,
            ``nu_dtype`` neither a floating one nor that, ``b2`` a bfloat16, ``seed`` no whole
            number, ``skip_nonfinite`` no boolean, or a number complex or none.
    """

    learning_rate: ScalarOrSchedule
    b1: ArrayLike
    b2: ArrayLike
    eps: ArrayLike
    eps_root: ArrayLike
    mu_dtype: DTypeLike | None
    nu_dtype: DTypeLike | None
    rounding: Rounding
    seed: ArrayLike
    nesterov: bool
    momentum_decay: ArrayLike | None
    weight_decay: ScalarOrSchedule = 0.0
    l2: ScalarOrSchedule | None = None
    mask: Mask = None
    master: Master | None = None
    max_norm: ScalarOrSchedule | None = None
    max_leaf_norm: ScalarOrSchedule | None = None
    clip_value: ScalarOrSchedule | None = None
    skip_nonfinite: bool = False
    average_decay: ArrayLike | None = None
    scales_alone: bool = False

    def __post_init__(self) -> None:  # noqa: D105
        if self.learning_rate is None:
            raise TypeError(
                "learning_rate is None; give a number (scale_by_nadam returns the bare direction)"
            )
        for name in (*_DECAY_RATES, *_NOT_NEGATIVE, *_OF_ANY_SIGN):
            object.__setattr__(self, name, _real(name, getattr(self, name)))
        for name in _DECAY_RATES:
            check_decay_rate(name, getattr(self, name))
        for name in _NOT_NEGATIVE:
            check_not_negative(name, getattr(self, name))
        for name in _OF_ANY_SIGN:
            check_not_nan(name, getattr(self, name))
        for name in (*_DECAY_RATES, *_NOT_NEGATIVE, *_OF_ANY_SIGN):
            _check_scalar(name, getattr(self, name))
        if getattr(self.b2, "dtype", None) == jnp.bfloat16:
            raise TypeError(
                "b2 is a bfloat16, in which 0.999 is 1; give it as a float32 (of"
                " optax.inject_hyperparams, with hyperparam_dtype=jnp.float32)"
            )
        _check_moment_dtype("mu_dtype", self.mu_dtype, jnp.inexact, "a floating or complex dtype")
        _check_moment_dtype("nu_dtype", self.nu_dtype, jnp.floating, "a floating dtype")
        check_rounding(self.rounding)
        check_master(self.master)
        _check_seed(self.seed)
        if not self.nesterov and self.momentum_decay is not None:
            raise ValueError("momentum_decay is given; with nesterov=False it must be None")
        if self.max_norm is not None and self.max_leaf_norm is not None:
            raise ValueError(
                "max_norm and max_leaf_norm are given; one limits all gradients together, the other"
                " each leaf by itself: choose one (nadam_xla.jax.chain puts another before it)"
            )
        if not isinstance(self.skip_nonfinite, bool):
            raise TypeError(f"skip_nonfinite is {self.skip_nonfinite!r}; it must be True or False")

    @property
    def carries_product(self) -> bool:
        """Whether the state carries the product of the momenta."""
        return self.momentum_decay is not None

    @property
    def is_drawn(self) -> bool:
        """Whether anything is rounded by random numbers."""
        in_codes = is_blockwise_dtype(self.mu_dtype) or is_blockwise_dtype(self.nu_dtype)
        return self.rounding == "stochastic" or in_codes

    @property
    def needs_params(self) -> bool:
        """Whether the change depends on the parameters."""
        return self.why_params is not None

    @property
    def why_params(self) -> str | None:
        """What needs the parameters to compute the change; None: nothing does."""
        if not (_is_zero(self.weight_decay) and (self.l2 is None or _is_zero(self.l2))):
            return "decay"
        if self.master is not None:
            return f"master={self.master!r}"
        if self.average_decay is not None:
            return "average_decay"
        if self.rounding == "stochastic" and not self.scales_alone:
            return 'rounding="stochastic"'
        return None

    def row(
        self, steps_before: jax.Array, product_before: jax.Array | None
    ) -> tuple[Coefficients, jax.Array | None]:
        """The row of the next step, and the product of the momenta after it.

        Args:
            steps_before: the number of the steps taken before.
            product_before: the product of their momenta; None where it is not carried.
        """
        count = optax.safe_increment(steps_before)
        b1, b2 = _wide(self.b1), _wide(self.b2)
        rate = _at("learning_rate", self.learning_rate, steps_before)
        if self.momentum_decay is None:
            momentum = conventions.constant_momentum(b1, count)
        else:
            # As a float: there is an int32 with none after it, and the schedule asks for the next.
            momentum = conventions.scheduled_momentum(
                b1, jnp.asarray(count, float), _wide(self.momentum_decay), product_before
            )
        row = conventions.nadam(
            learning_rate=rate,
            momentum=momentum,
            b1=b1,
            b2=b2,
            b2_power=b2**count,
            eps=self.eps,
            eps_root=self.eps_root,
            decay=self._decay(rate, steps_before),
            l2=0.0 if self.l2 is None else _at("l2", self.l2, steps_before),
        )
        if self.is_drawn:
            row = conventions.with_random_key(row, seed=_unsigned(self.seed), step=_unsigned(count))
        if self.average_decay is not None:
            decay = _wide(self.average_decay)
            row = conventions.with_unbiased_average(
                row, decay=decay, one_minus_power=_one_minus_power(decay, count)
            )
        if not self.nesterov:
            row = conventions.adam(row, b1_power=momentum.product)
        if product_before is None:
            return row, None
        return row, jnp.asarray(momentum.product, product_before.dtype)

    def _decay(self, rate: ArrayLike, steps_before: jax.Array) -> ArrayLike:
        """The part of a parameter that a step takes away: none, however large the rate, of none."""
        if _is_zero(self.weight_decay):
            return 0.0
        return rate * _at("weight_decay", self.weight_decay, steps_before)

    def processing(self, steps_before: jax.Array, grad_scale: ArrayLike) -> Processing:
        """What the next step does to its gradients.

        Args:
            steps_before: the number of the steps taken before.
            grad_scale: what the caller has them multiplied by.

        Raises:
            ValueError: ``grad_scale`` or the number of a schedule is not a scalar.
            TypeError: it is no number, or complex.
        """
        if grad_scale is None or callable(grad_scale):
            raise TypeError(f"grad_scale is {grad_scale!r}; it must be a number or a scalar array")
        scale = _real("grad_scale", grad_scale)
        _check_scalar("grad_scale", scale)
        limits = {name: getattr(self, name) for name in _LIMITS}
        return Processing(
            grad_scale=_wide(scale),
            skip_nonfinite=self.skip_nonfinite,
            **{
                name: None if limit is None else _at(name, limit, steps_before)
                for name, limit in limits.items()
            },
        )


def _check_moment_dtype(name: str, dtype: Any, kind: Any, wanted: str) -> None:
    if dtype is None or is_blockwise_dtype(dtype):
        return
    try:
        fits = jnp.issubdtype(dtype, kind)
    except TypeError:  # no dtype at all
        fits = False
    if not fits:
        raise TypeError(f'{name} is {dtype!r}; it must be {wanted}, "{BLOCKWISE}", or None')


def _real(name: str, value: Any) -> Any:
    """The real part of a complex array: ``optax.inject_hyperparams`` makes such of real numbers.

    It takes the dtype of the parameters for all of them.

    Raises:
        TypeError: the imaginary part is known, and not zero; or it is a complex number of Python's.
    """
    if value is None or callable(value) or not is_complex(value):
        return value
    imaginary = getattr(value, "imag", 0)
    if not isinstance(imaginary, jax.core.Tracer) and jnp.any(imaginary != 0):
        raise TypeError(f"{name} is {value}; it must be real")
    return value.real


def _check_seed(seed: Any) -> None:
    if isinstance(seed, Integral) and not 0 <= int(seed) < 1 << 32:
        raise ValueError(f"seed is {seed!r}; it must be a whole number from 0 to 2**32 - 1")
    dtype = getattr(seed, "dtype", None)
    is_whole = isinstance(seed, Integral) or (
        dtype is not None and jnp.issubdtype(dtype, jnp.integer)
    )
    if isinstance(seed, bool) or not is_whole:
        raise TypeError(f"seed is {seed!r}; it must be a whole number, or an integer scalar")
    _check_scalar("seed", seed)


def _unsigned(number: Any) -> Any:
    """Of 32 bits; a Python number stays what it is, and is below them."""
    return number if isinstance(number, int) else jnp.asarray(number).astype(jnp.uint32)


def _check_scalar(name: str, value: object) -> None:
    shape = getattr(value, "shape", ())
    if not callable(value) and shape != ():
        raise ValueError(
            f"{name} has the shape {shape}; it must be a scalar (jax.vmap runs a population; a rate"
            " for each element is optax.scale_by_learning_rate's, in a chain after scale_by_nadam)"
        )


def _is_zero(value: object) -> bool:
    return isinstance(value, (int, float)) and value == 0


def _at(name: str, value: ScalarOrSchedule, steps_before: jax.Array) -> ArrayLike:
    """The number at a step: a schedule's is checked as others are before."""
    if not callable(value):
        return _wide(value)
    number = _real(name, value(steps_before))
    _check_scalar(name, number)
    return _wide(number)


def _one_minus_power(rate: ArrayLike, count: jax.Array) -> jax.Array:
    """``1 - rate**count``, of which a rate near 1 would leave little in float32."""
    least = 1e-37  # whose powers are zero
    if isinstance(rate, (int, float)):
        return -jnp.expm1(count * math.log(max(rate, least)))
    return -jnp.expm1(count * jnp.log(jnp.maximum(rate, least)))


def _wide(value: ArrayLike) -> ArrayLike:
    """The value, in float32 where it is a narrower array: its powers would be lost there."""
    if getattr(value, "dtype", None) in (jnp.bfloat16, jnp.float16):
        return jnp.asarray(value, jnp.float32)
    return value
