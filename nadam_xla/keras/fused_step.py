"""The whole Keras step as one fused update, in terms that hold on every backend.

Unscaling, clipping, weight decay and the momentum schedule become coefficients; of the gradients
nothing but their sums of squares is needed for them, so no gradient is ever rewritten.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from weakref import proxy

import numpy as np
from keras import ops
from keras.backend import is_float_dtype, standardize_dtype

from nadam_xla import coefficients as conventions
from nadam_xla.calls import by_compute_dtype, compute_dtype
from nadam_xla.coefficients import Coefficients, Momentum

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


class StepVariables(NamedTuple):
    """What a step reads and writes: variables, leaf by leaf, and the momentum product."""

    params: Sequence[Any]
    momentums: Sequence[Any]
    velocities: Sequence[Any]
    accumulated_gradients: Sequence[Any] | None
    u_product: Any
    decays: Sequence[bool]  # to which weight decay applies
    assign: Callable[[Any, Any], None]  # writes a variable


class Hyperparameters(NamedTuple):
    """What a step is told by the optimizer: scalars, and None for what is switched off."""

    iterations: Any  # the number of the updates made before
    learning_rate: Any
    beta_1: Any
    beta_2: Any
    epsilon: Any
    weight_decay: Any
    clipnorm: Any
    global_clipnorm: Any
    clipvalue: Any
    loss_scale: Any
    accumulation_steps: Any
    is_update_step: Any  # whether this step ends an accumulation

    @property
    def clips(self) -> bool:
        """Whether gradients are clipped, in whatever way."""
        limits = (self.clipnorm, self.global_clipnorm, self.clipvalue)
        return any(limit is not None for limit in limits)

    def after_clipping(self) -> "Hyperparameters":
        """What is left of them for a step on :func:`clipped_gradients`."""
        return self._replace(
            clipnorm=None,
            global_clipnorm=None,
            clipvalue=None,
            loss_scale=None,
            accumulation_steps=None,
        )


def variables_of(optimizer: Any, trainable_variables: Sequence[Any]) -> StepVariables:
    """The optimizer's variables for these of the model's.

    It reads the attributes that ``keras.optimizers.Nadam`` keeps them in.
    """
    indices = [optimizer._get_variable_index(v) for v in trainable_variables]
    accumulates = optimizer.gradient_accumulation_steps
    # Whoever keeps these variables, as a compiled step does, is not to keep the optimizer alive.
    owner = proxy(optimizer)

    def assign(variable: Any, value: Any) -> None:
        # What Keras asks of optimizers, so that a subclass may say how variables are written.
        owner.assign(variable, value)

    return StepVariables(
        params=list(trainable_variables),
        momentums=[optimizer._momentums[i] for i in indices],
        velocities=[optimizer._velocities[i] for i in indices],
        accumulated_gradients=(
            [optimizer._accumulated_gradients[i] for i in indices] if accumulates else None
        ),
        u_product=optimizer._u_product,
        decays=[bool(optimizer._use_weight_decay(v)) for v in trainable_variables],
        assign=assign,
    )


def hyperparameters_of(optimizer: Any, to_tensor: Callable[[Any], Any]) -> Hyperparameters:
    """The optimizer's hyperparameters as they stand for this step.

    Args:
        optimizer: a ``keras.optimizers.Nadam``.
        to_tensor: reads a variable; Keras's own leaves TensorFlow's variables as they are.
    """
    steps = optimizer.gradient_accumulation_steps
    return Hyperparameters(
        iterations=to_tensor(optimizer.iterations),
        learning_rate=to_tensor(optimizer.learning_rate),
        beta_1=optimizer.beta_1,
        beta_2=optimizer.beta_2,
        epsilon=optimizer.epsilon,
        weight_decay=optimizer.weight_decay,
        clipnorm=_limit(optimizer.clipnorm),
        global_clipnorm=_limit(optimizer.global_clipnorm),
        clipvalue=_limit(optimizer.clipvalue),
        loss_scale=optimizer.loss_scale_factor,
        accumulation_steps=steps,
        is_update_step=ops.equal((optimizer._iterations + 1) % steps, 0) if steps else None,
    )


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


def _limit(value: Any) -> Any:
    """The limit of a clipping, which a number that is not positive switches off, as in stock."""
    return value if value is not None and value > 0 else None


def check_leaves(trainable_variables: Sequence[Any], grads: Sequence[Any]) -> None:
    """Checks what a step is about to update; dimensions that a graph does not know yet pass.

    Raises:
        TypeError: a variable is not of a floating dtype.
        ValueError: a gradient has not its variable's shape.
        Each message names the variable.
    """
    for variable, grad in zip(trainable_variables, grads, strict=True):
        name = getattr(variable, "path", variable.name)
        dtype = standardize_dtype(variable.dtype)
        if not is_float_dtype(dtype):
            raise TypeError(f"the variable {name} has the dtype {dtype}; Nadam updates floats only")
        given, expected = tuple(grad.shape), tuple(variable.shape)
        pairs = zip(given, expected, strict=False)
        if len(given) != len(expected) or any(g not in (None, e) for g, e in pairs):
            raise ValueError(
                f"the gradient of the variable {name} has the shape {given}; it must be {expected}"
            )


def fused_step(
    update: Update, variables: StepVariables, grads: Sequence[Any], given: Hyperparameters
) -> None:
    """Assigns every variable its new value.

    Scalars are computed as stock Keras computes them, in the dtype of the variable that they update
    (float32 where that is narrower).

    Args:
        update: the backend's fused functions.
        variables: what to update.
        grads: the gradients, one for each parameter.
        given: the hyperparameters of this step.
    """
    if variables.accumulated_gradients is not None:
        grads = _accumulate(variables, grads, given)
    factors = _factors(update.sum_squares, grads, given)
    product_before = ops.convert_to_tensor(variables.u_product)
    product = momentum_product(product_before, given.beta_1, given.iterations)

    def row_in(dtype: str) -> Coefficients:
        b2 = ops.cast(given.beta_2, dtype)
        row = conventions.nadam(
            learning_rate=ops.cast(given.learning_rate, dtype),
            momentum=_momentum(product, given, dtype),
            b1=ops.cast(given.beta_1, dtype),
            b2=b2,
            b2_power=b2 ** ops.cast(given.iterations + 1, dtype),
            eps=given.epsilon,
        )
        return conventions.rate_before_division(row)

    leaves = (variables.params, variables.momentums, variables.velocities)
    dtypes = [standardize_dtype(p.dtype) for p in variables.params]
    for dtype, indices in by_compute_dtype(dtypes).items():
        row = row_in(dtype)._replace(
            decay=_decay([variables.decays[i] for i in indices], given, dtype),
            grad_scale=ops.convert_to_tensor(_chosen(factors, indices), dtype),
            **({} if given.clipvalue is None else {"clip_value": given.clipvalue}),
            **({} if given.is_update_step is None else {"skip": ~given.is_update_step}),
        )
        params, mu, nu = ([ops.convert_to_tensor(group[i]) for i in indices] for group in leaves)
        updated = update.nadam_update(row, params, [grads[i] for i in indices], mu, nu)
        for group, new_values in zip(leaves, updated, strict=True):
            for i, new in zip(indices, new_values, strict=True):
                variables.assign(group[i], new)
    if given.is_update_step is not None:
        product = ops.where(given.is_update_step, product, product_before)
    variables.assign(variables.u_product, product)


def _momentum(product: Any, given: Hyperparameters, dtype: str) -> Momentum:
    """This step's momentum and the next one's, to go with that product.

    Stock casts their constants where it does not cast those of the product: on TensorFlow, a cast
    takes a Python number through float32.
    """
    momentum = conventions.scheduled_momentum(
        ops.cast(given.beta_1, dtype),
        ops.cast(given.iterations + 1, dtype),
        _MOMENTUM_DECAY,
        1.0,
        base=ops.cast(conventions.MOMENTUM_BASE, dtype),
    )
    return momentum._replace(product=ops.cast(product, dtype))


def _accumulate(
    variables: StepVariables, grads: Sequence[Any], given: Hyperparameters
) -> list[Any]:
    """The sums so far; the variables keep them, or zero where this step uses them up."""
    sums = []
    for variable, grad in zip(variables.accumulated_gradients or (), grads, strict=True):
        before = ops.convert_to_tensor(variable)
        total = before + ops.cast(grad, before.dtype)
        variables.assign(variable, ops.where(given.is_update_step, ops.zeros_like(total), total))
        sums.append(total)
    return sums


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
    if given.clipnorm is not None:
        norms = ops.sqrt(squares) * scale
        return scale * given.clipnorm / ops.maximum(norms, given.clipnorm)
    norm = ops.sqrt(ops.sum(squares)) * scale
    factor = given.global_clipnorm * ops.minimum(1.0 / norm, 1.0 / given.global_clipnorm)
    return scale * (factor + (norm - norm))


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
            scaled = ops.clip(scaled, -given.clipvalue, given.clipvalue)
        clipped.append(scaled)
    return clipped


def _chosen(factors: Any, indices: Sequence[int]) -> Any:
    is_vector = len(getattr(factors, "shape", ())) == 1
    return ops.take(factors, indices) if is_vector else factors


def _decay(decays: Sequence[bool], given: Hyperparameters, dtype: str) -> Any:
    """The part of each parameter that the step takes away: a scalar, or a vector."""
    if given.weight_decay is None or not any(decays):
        return 0.0
    decay = ops.cast(given.weight_decay, dtype) * ops.cast(given.learning_rate, dtype)
    return decay if all(decays) else decay * ops.cast(decays, dtype)
