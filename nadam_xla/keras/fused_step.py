"""The whole Keras step as one fused update, in terms that hold on every backend."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from keras import ops
from keras.backend import is_float_dtype, standardize_dtype

from nadam_xla import coefficients as conventions
from nadam_xla.calls import by_compute_dtype, compute_dtype
from nadam_xla.coefficients import Coefficients, Momentum

# What Keras's schedule calls 0.96**t is Dozat's 0.96**(t * momentum_decay) with this one.
_MOMENTUM_DECAY = 1.0


class StepVariables(NamedTuple):
    """The variables that a step reads and writes, leaf by leaf, and the momentum product."""

    params: Sequence[Any]
    momentums: Sequence[Any]
    velocities: Sequence[Any]
    u_product: Any


def variables_of(optimizer: Any, trainable_variables: Sequence[Any]) -> StepVariables:
    """The optimizer's variables for these of the model's.

    It reads the attributes that ``keras.optimizers.Nadam`` keeps them in.
    """
    indices = [optimizer._get_variable_index(v) for v in trainable_variables]
    return StepVariables(
        params=list(trainable_variables),
        momentums=[optimizer._momentums[i] for i in indices],
        velocities=[optimizer._velocities[i] for i in indices],
        u_product=optimizer._u_product,
    )


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
    nadam_update: Callable[..., tuple[list[Any], list[Any], list[Any]]],
    variables: StepVariables,
    grads: Sequence[Any],
    *,
    iterations: Any,
    learning_rate: Any,
    beta_1: Any,
    beta_2: Any,
    epsilon: Any,
) -> None:
    """Assigns every variable its new value.

    Scalars are computed as stock Keras computes them, in the dtype of the variable that they update
    (float32 where that is narrower).

    Args:
        nadam_update: the fused update of the backend's tensors.
        variables: what to update.
        grads: the gradients, one for each parameter.
        iterations: the number of the steps taken before.
        learning_rate: of this step.
        beta_1: the decay rate of the first moment.
        beta_2: the decay rate of the second moment.
        epsilon: added to the denominator.
    """
    product_before = ops.convert_to_tensor(variables.u_product)

    def momentum_in(dtype: str) -> Momentum:
        return conventions.scheduled_momentum(
            ops.cast(beta_1, dtype),
            ops.cast(iterations + 1, dtype),
            _MOMENTUM_DECAY,
            ops.cast(product_before, dtype),
        )

    def row_in(dtype: str) -> Coefficients:
        b2 = ops.cast(beta_2, dtype)
        return conventions.nadam(
            learning_rate=ops.cast(learning_rate, dtype),
            momentum=momentum_in(dtype),
            b1=ops.cast(beta_1, dtype),
            b2=b2,
            b2_power=b2 ** ops.cast(iterations + 1, dtype),
            eps=epsilon,
        )

    leaves = (variables.params, variables.momentums, variables.velocities)
    for dtype, indices in by_compute_dtype([str(p.dtype) for p in variables.params]).items():
        params, mu, nu = ([ops.convert_to_tensor(group[i]) for i in indices] for group in leaves)
        updated = nadam_update(row_in(dtype), params, [grads[i] for i in indices], mu, nu)
        for group, new_values in zip(leaves, updated, strict=True):
            for i, new in zip(indices, new_values, strict=True):
                group[i].assign(new)
    product_dtype = compute_dtype(str(variables.u_product.dtype))
    variables.u_product.assign(momentum_in(product_dtype).product)
