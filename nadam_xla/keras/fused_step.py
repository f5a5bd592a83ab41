"""The whole Keras step as one fused update, in terms that hold on every backend.

Unscaling, clipping, weight decay and the momentum schedule become coefficients; of the gradients
nothing but their sums of squares is needed for them, so no gradient is ever rewritten.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops
from keras.backend import is_float_dtype, standardize_dtype

from nadam_xla import coefficients as conventions
from nadam_xla.calls import by_compute_dtype, compute_dtype
from nadam_xla.coefficients import Coefficients, Momentum
from nadam_xla.keras.hyperparameters import Hyperparameters

# What Keras's schedule calls 0.96**t is Dozat's 0.96**(t * momentum_decay) with this one.
_MOMENTUM_DECAY = 1.0

# The momentum product after t = 0, 1, ... updates, without its factor beta_1**t. It converges.
_PRODUCTS = np.cumprod(
    [1.0, *conventions.scheduled_momentum(1.0, np.arange(1, 1024), _MOMENTUM_DECAY, 1.0).current]
)


class Update(NamedTuple):
    """The fused functions of the backend's tensors."""

    nadam_update: Callable[..., tuple[list[Any], list[Any], list[Any]]]
    sum_squares: Callable[[Sequence[Any]], list[Any]]


class State(NamedTuple):
    """What a step reads and writes: leaf by leaf, and the momentum product.

    Variables where the optimizer keeps them, their values where a step computes.
    """

    params: Sequence[Any]
    momentums: Sequence[Any]
    velocities: Sequence[Any]
    accumulated_gradients: Sequence[Any] | None
    u_product: Any

    def map(self, function: Callable[[Any], Any]) -> "State":
        """What the function makes of each."""
        sums = self.accumulated_gradients
        return State(
            params=[function(x) for x in self.params],
            momentums=[function(x) for x in self.momentums],
            velocities=[function(x) for x in self.velocities],
            accumulated_gradients=None if sums is None else [function(x) for x in sums],
            u_product=function(self.u_product),
        )

    def all(self) -> list[Any]:
        """All of them, in the order of the fields."""
        sums = self.accumulated_gradients or ()
        return [*self.params, *self.momentums, *self.velocities, *sums, self.u_product]


def state_of(optimizer: Any, trainable_variables: Sequence[Any]) -> State:
    """The optimizer's variables for these of the model's.

    It reads the attributes that ``keras.optimizers.Nadam`` keeps them in.
    """
    indices = [optimizer._get_variable_index(v) for v in trainable_variables]
    accumulates = optimizer.gradient_accumulation_steps
    return State(
        params=list(trainable_variables),
        momentums=[optimizer._momentums[i] for i in indices],
        velocities=[optimizer._velocities[i] for i in indices],
        accumulated_gradients=(
            [optimizer._accumulated_gradients[i] for i in indices] if accumulates else None
        ),
        u_product=optimizer._u_product,
    )


def decays_of(optimizer: Any, trainable_variables: Sequence[Any]) -> tuple[bool, ...]:
    """To which of them weight decay applies.

    Args:
        optimizer: a ``keras.optimizers.Nadam``.
        trainable_variables: as stock asks it of them, for it knows them by name.
    """
    if optimizer.weight_decay is None:
        return (False,) * len(trainable_variables)
    return tuple(bool(optimizer._use_weight_decay(v)) for v in trainable_variables)


def momentum_product(before: Any, beta_1: Any, iterations: Any) -> Any:
    """The product up to this step's momentum, in the dtype of the one before (float32 if narrower).

    Args:
        before: the product up to the last step's.
        beta_1: the decay rate of the first moment.
        iterations: the number of the updates made before.
    """
    dtype = compute_dtype(standardize_dtype(before.dtype))
    return conventions.scheduled_momentum(
        ops.convert_to_tensor(beta_1, dtype),
        ops.cast(iterations + 1, dtype),
        _MOMENTUM_DECAY,
        ops.cast(before, dtype),
    ).product


def momentum_product_after(iterations: Any, beta_1: Any, dtype: str) -> Any:
    """The product of the momenta of so many updates, all with this ``beta_1``."""
    products = ops.convert_to_tensor(_PRODUCTS, dtype)
    product = ops.take(products, ops.minimum(iterations, len(_PRODUCTS) - 1))
    return product * ops.cast(beta_1, dtype) ** ops.cast(iterations, dtype)


def check_leaves(trainable_variables: Sequence[Any], grads: Sequence[Any]) -> None:
    """Checks what a step is about to update; dimensions that a graph does not know yet pass.

    Raises:
        TypeError: a variable or a gradient is not of a floating dtype.
        ValueError: a gradient has not its variable's shape.
        Each message names the variable.
    """
    for variable, grad in zip(trainable_variables, grads, strict=True):
        name = getattr(variable, "path", variable.name)
        dtype = standardize_dtype(variable.dtype)
        if not is_float_dtype(dtype):
            raise TypeError(f"the variable {name} has the dtype {dtype}; Nadam updates floats only")
        grad_dtype = getattr(grad.dtype, "name", str(grad.dtype))
        if not grad_dtype.startswith(("float", "bfloat")):
            raise TypeError(
                f"the gradient of the variable {name} has the dtype {grad_dtype}; it must be"
                f' floating, as keras.ops.cast(gradient, "{dtype}") is'
            )
        given, expected = tuple(grad.shape), tuple(variable.shape)
        pairs = zip(given, expected, strict=False)
        if len(given) != len(expected) or any(g not in (None, e) for g, e in pairs):
            raise ValueError(
                f"the gradient of the variable {name} has the shape {given}; it must be {expected}"
            )


def fused_step(
    update: Update,
    state: State,
    grads: Sequence[Any],
    decays: Sequence[bool],
    given: Hyperparameters,
) -> State:
    """The new values of all that a step writes.

    Scalars are computed as stock Keras computes them, in the dtype of the variable that they update
    (float32 where that is narrower).

    Args:
        update: the backend's fused functions.
        state: the values before.
        grads: the gradients, one for each parameter.
        decays: the parameters to which weight decay applies.
        given: the hyperparameters of this step.
    """
    new_sums = None
    if state.accumulated_gradients is not None:
        grads, new_sums = _accumulate(state.accumulated_gradients, grads, given)
    factors = _factors(update.sum_squares, grads, given)
    product = momentum_product(state.u_product, given.beta_1, given.iterations)

    def row_in(dtype: str) -> Coefficients:
        b2 = given.cast("beta_2", dtype)
        row = conventions.nadam(
            learning_rate=given.cast("learning_rate", dtype),
            momentum=_momentum(product, given, dtype),
            b1=given.cast("beta_1", dtype),
            b2=b2,
            b2_power=b2 ** ops.cast(given.iterations + 1, dtype),
            eps=given.epsilon,
        )
        return conventions.rate_before_division(row)

    leaves = (state.params, state.momentums, state.velocities)
    new_leaves: list[list[Any]] = [[None] * len(state.params) for _ in leaves]
    dtypes = [standardize_dtype(p.dtype) for p in state.params]
    for dtype, indices in by_compute_dtype(dtypes).items():
        row = row_in(dtype)._replace(
            decay=_decay([decays[i] for i in indices], given, dtype),
            grad_scale=ops.convert_to_tensor(_chosen(factors, indices), dtype),
            **({} if given.clipvalue is None else {"clip_value": given.clipvalue}),
            **({} if given.is_update_step is None else {"skip": ~given.is_update_step}),
        )
        params, mu, nu = ([group[i] for i in indices] for group in leaves)
        updated = update.nadam_update(row, params, [grads[i] for i in indices], mu, nu)
        for new_group, new_values in zip(new_leaves, updated, strict=True):
            for i, new in zip(indices, new_values, strict=True):
                new_group[i] = new
    if given.is_update_step is not None:
        product = ops.where(given.is_update_step, product, state.u_product)
    params, momentums, velocities = new_leaves
    return State(params, momentums, velocities, new_sums, product)


def _momentum(product: Any, given: Hyperparameters, dtype: str) -> Momentum:
    """This step's momentum and the next one's, to go with that product.

    Stock casts their constants where it does not cast those of the product: on TensorFlow, a cast
    takes a Python number through float32.
    """
    momentum = conventions.scheduled_momentum(
        given.cast("beta_1", dtype),
        ops.cast(given.iterations + 1, dtype),
        _MOMENTUM_DECAY,
        1.0,
        base=ops.cast(conventions.MOMENTUM_BASE, dtype),
    )
    return momentum._replace(product=ops.cast(product, dtype))


def _accumulate(
    sums: Sequence[Any], grads: Sequence[Any], given: Hyperparameters
) -> tuple[list[Any], list[Any]]:
    """The sums with these gradients, and what is kept: they, or zero where this step uses them."""
    totals = [
        before + ops.cast(grad, before.dtype) for before, grad in zip(sums, grads, strict=True)
    ]
    kept = [ops.where(given.is_update_step, ops.zeros_like(total), total) for total in totals]
    return totals, kept


def _factors(
    sum_squares: Callable[[Sequence[Any]], list[Any]], grads: Sequence[Any], given: Hyperparameters
) -> Any:
    """What the gradients are to be multiplied by: a scalar, or a vector with one for each.

    The mean over an accumulation, unscaling, and clipping by norm or by global norm, the latter as
    ``keras.optimizers`` computes them: a norm that is not finite makes every parameter NaN.
    """
    loss_scale = 1.0 if given.loss_scale is None else given.loss_scale
    scale = 1.0 / (loss_scale * (given.accumulation_steps or 1))
    if given.clipnorm is None and given.global_clipnorm is None:
        return scale
    sums = sum_squares(grads)
    wide = "float64" if any(standardize_dtype(s.dtype) == "float64" for s in sums) else "float32"
    squares = ops.stack([ops.cast(s, wide) for s in sums])

    def scalar(value: Any) -> Any:
        return ops.convert_to_tensor(value, wide)

    if given.clipnorm is not None:
        norms = ops.sqrt(squares) * scalar(scale)
        return scalar(scale * given.clipnorm) / ops.maximum(norms, scalar(given.clipnorm))
    norm = ops.sqrt(ops.sum(squares)) * scalar(scale)
    bound = ops.minimum(1.0 / norm, scalar(1.0 / given.global_clipnorm))
    return scalar(scale) * (scalar(given.global_clipnorm) * bound + (norm - norm))


def clipped_gradients(
    sum_squares: Callable[[Sequence[Any]], list[Any]], grads: Sequence[Any], given: Hyperparameters
) -> list[Any]:
    """The gradients as a step with these hyperparameters would take them.

    Unscaled, the mean over an accumulation, and clipped: for replicas, which clip before they sum.
    """
    factors = _factors(sum_squares, grads, given)
    clipped = []
    for i, grad in enumerate(grads):
        dtype = compute_dtype(standardize_dtype(grad.dtype))
        factor = factors if given.clipnorm is None else factors[i]
        scaled = ops.cast(grad, dtype) * ops.cast(factor, dtype)
        if given.clipvalue is not None:
            limit = ops.convert_to_tensor(given.clipvalue, dtype)
            scaled = ops.clip(scaled, -limit, limit)
        clipped.append(scaled)
    return clipped


def _chosen(factors: Any, indices: Sequence[int]) -> Any:
    is_vector = len(getattr(factors, "shape", ())) == 1
    return ops.take(factors, indices) if is_vector else factors


def _decay(decays: Sequence[bool], given: Hyperparameters, dtype: str) -> Any:
    """The part of each parameter that the step takes away: a scalar, or a vector."""
    if given.weight_decay is None or not any(decays):
        return 0.0
    decay = given.cast("weight_decay", dtype) * given.cast("learning_rate", dtype)
    return decay if all(decays) else decay * ops.cast(decays, dtype)
