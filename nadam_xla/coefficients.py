"""From schedules and conventions to the row of coefficients that drives the update rule.

The kernel knows no schedule and no framework's convention; it knows the row. These functions fold
the rest into it. They use arithmetic operators alone, so the arguments may be Python floats or the
scalars of any array library, and each framework's own scalar arithmetic is preserved: ``1 - b2``
with a Python float is optax's 0.001, with a float32 scalar it is Keras's 0.00099998713.

Sources: Dozat 2016, "Incorporating Nesterov Momentum into Adam" (the momentum schedule and its
product); Kingma & Ba 2015, "Adam" (the bias correction of the second moment).
"""

import math
from numbers import Real
from typing import Any, NamedTuple, TypeAlias

Scalar: TypeAlias = Any
"""A Python number, or a zero-dimensional array of any library."""

MOMENTUM_BASE = 0.96  # of Dozat's schedule


class Coefficients(NamedTuple):
    """One row of the table, in the kernel's order; the defaults switch the optional parts off.

    ::

        g' = clamp(grad_scale * g, -clip_value, +clip_value) + l2 * p
        m' = b1 * m + one_minus_b1 * g'
        v' = b2 * v + one_minus_b2 * g' * g'
        p' = p - (decay * p
                  + learning_rate * ((c_m * m' + c_g * g') / (sqrt(c_v * v' + eps_root) + eps)))
        average' = average_decay * average + one_minus_average_decay * p'

    The last line holds where there is an average. It takes ``p'`` as it is computed: of a parameter
    narrower than float32, before it is rounded to what is stored.

    Where ``skip`` is not zero, all of them stay as they are. A ``decay`` or ``l2`` of
    zero is no term at all: an infinite parameter then stays what it is. A ``clip_value`` of zero
    clamps nothing; NaN passes through the clamp.

    ``b1`` stands beside ``1 - b1`` as each framework rounds them: ``m + one_minus_b1 * (g' - m)``,
    which needs but one of them, is NaN where both are infinite, and loses ``g'`` where it is much
    smaller than ``m`` and ``b1`` is near 0.

    From ``seed_high`` on it is the key of the random numbers of stochastic rounding, which
    :func:`with_random_key` sets. Where all is rounded to the nearest nobody reads it.
    """

    c_m: Scalar
    c_g: Scalar
    c_v: Scalar
    b1: Scalar
    one_minus_b1: Scalar
    b2: Scalar
    one_minus_b2: Scalar
    learning_rate: Scalar
    eps: Scalar
    eps_root: Scalar = 0.0
    decay: Scalar = 0.0
    l2: Scalar = 0.0
    grad_scale: Scalar = 1.0
    clip_value: Scalar = 0.0
    skip: Scalar = 0.0
    seed_high: Scalar = 0.0
    seed_low: Scalar = 0.0
    step_high: Scalar = 0.0
    step_low: Scalar = 0.0
    leaf: Scalar = 0.0
    shard: Scalar = 0.0
    average_decay: Scalar = 0.0
    one_minus_average_decay: Scalar = 0.0


class Momentum(NamedTuple):
    """The momentum of step t, that of step t + 1, and the product of those of the steps 1 to t."""

    current: Scalar
    following: Scalar
    product: Scalar


def constant_momentum(b1: Scalar, count: Scalar) -> Momentum:
    """The convention of ``optax.nadam``: ``mu_t = b1``, whose product is ``b1**count``.

    Args:
        b1: the decay rate of the first moment.
        count: the number of this step, counted from 1.
    """
    return Momentum(b1, b1, b1**count)


def scheduled_momentum(
    b1: Scalar,
    count: Scalar,
    momentum_decay: Scalar,
    product_before: Scalar,
    *,
    base: Scalar = MOMENTUM_BASE,
) -> Momentum:
    """Dozat's schedule, ``mu_t = b1 * (1 - 0.5 * 0.96**(t * momentum_decay))``.

    Args:
        b1: the decay rate of the first moment.
        count: the number of this step, counted from 1.
        momentum_decay: 0.004 in ``torch.optim.NAdam``; 1 in ``keras.optimizers.Nadam``.
        product_before: the product of the momenta of all earlier steps; 1 before the first. It has
            no closed form, so the optimizer's state carries it.
        base: ``MOMENTUM_BASE``, as the framework rounds it.
    """
    current = b1 * (1.0 - 0.5 * base ** (count * momentum_decay))
    following = b1 * (1.0 - 0.5 * base ** ((count + 1) * momentum_decay))
    return Momentum(current, following, product_before * current)


def nadam(
    *,
    learning_rate: Scalar,
    momentum: Momentum,
    b1: Scalar,
    b2: Scalar,
    b2_power: Scalar,
    eps: Scalar,
    eps_root: Scalar = 0.0,
    decay: Scalar = 0.0,
    l2: Scalar = 0.0,
) -> Coefficients:
    """The row of a Nadam step.

    Args:
        learning_rate: of this step.
        momentum: of this step.
        b1: the decay rate of the first moment.
        b2: the decay rate of the second moment.
        b2_power: ``b2**t``, t the number of this step, counted from 1.
        eps: added to the denominator, outside the square root.
        eps_root: added inside the square root.
        decay: the fraction of the parameter that this step takes away (learning rate included).
        l2: the fraction of the parameter that is added to its gradient.
    """
    return Coefficients(
        c_m=momentum.following / (1.0 - momentum.product * momentum.following),
        c_g=(1.0 - momentum.current) / (1.0 - momentum.product),
        c_v=1.0 / (1.0 - b2_power),
        b1=b1,
        one_minus_b1=1.0 - b1,
        b2=b2,
        one_minus_b2=1.0 - b2,
        learning_rate=learning_rate,
        eps=eps,
        eps_root=eps_root,
        decay=decay,
        l2=l2,
    )


def with_random_key(
    row: Coefficients, *, seed: Scalar, step: Scalar, leaf: Scalar = 0, shard: Scalar = 0
) -> Coefficients:
    """The row with the key of the random numbers by which a leaf is rounded stochastically.

    The same key gives the same numbers, whatever the machine and the number of its threads.

    Args:
        row: of the step.
        seed: a whole number of at most 32 bits.
        step: the number of this step.
        leaf: the number of the leaf among those of the seed, below 2**24.
        shard: the number of the shard that is updated, below 2**24.
    """
    half = 1 << 16
    return row._replace(
        seed_high=seed // half % half,
        seed_low=seed % half,
        step_high=step // half % half,
        step_low=step % half,
        leaf=leaf,
        shard=shard,
    )


def with_unbiased_average(
    row: Coefficients, *, decay: Scalar, one_minus_power: Scalar
) -> Coefficients:
    """The row with the weights of an average in which the steps alone count, and no beginning.

    After step t the weights of the parameters of the steps 1 to t are as ``decay**(t - 1)`` to
    ``decay**0``, and their sum is 1: what ``optax.ema(decay)`` returns, without a pass that divides
    (the bias correction of Kingma & Ba 2015). After the first step it is that step's parameters.

    Args:
        row: of the step.
        decay: the decay rate of the average.
        one_minus_power: ``1 - decay**t``, t the number of this step, counted from 1.
    """
    weight = (1.0 - decay) / one_minus_power
    return row._replace(average_decay=1.0 - weight, one_minus_average_decay=weight)


def adam(row: Coefficients, *, b1_power: Scalar) -> Coefficients:
    """The row of the Adam step that differs from a Nadam step in the Nesterov momentum alone.

    Args:
        row: of the Nadam step.
        b1_power: ``b1**t``, t the number of this step, counted from 1.
    """
    return row._replace(c_m=1.0 / (1.0 - b1_power), c_g=0.0)


def rate_before_division(row: Coefficients) -> Coefficients:
    """The row of the same step in Keras's order: it multiplies by the rate, and then divides.

    Where a moment is huge and the other one zero, the quotient may overflow without the rate.
    """
    rate = row.learning_rate
    return row._replace(c_m=rate * row.c_m, c_g=rate * row.c_g, learning_rate=1.0)


def check_decay_rate(name: str, value: object) -> None:
    """Raises ``ValueError`` for a number outside [0, 1). Arrays and callables pass unseen."""
    if isinstance(value, Real) and not 0.0 <= float(value) < 1.0:
        raise ValueError(f"{name} is {value!r}; it must be at least 0 and less than 1")


def check_not_nan(name: str, value: object) -> None:
    """Raises ``ValueError`` for a number that is NaN. Arrays and callables pass unseen."""
    if isinstance(value, Real) and math.isnan(float(value)):
        raise ValueError(f"{name} is {value!r}; it must be a number")


def check_not_negative(name: str, value: object) -> None:
    """Raises ``ValueError`` for a negative number or NaN. Arrays and callables pass unseen."""
    if isinstance(value, Real) and not float(value) >= 0.0:
        raise ValueError(f"{name} is {value!r}; it must not be negative")
