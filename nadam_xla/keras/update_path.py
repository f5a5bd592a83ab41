"""Which update an optimizer's steps run, and why."""

from collections.abc import Sequence
from typing import Any

from nadam_xla.keras import backend_step
from nadam_xla.keras.fallback import fused_hyperparameters, why_not_parents
from nadam_xla.keras.optimizer import METHODS, Nadam
from nadam_xla.keras.reason import Reason
from nadam_xla.update_path import UpdatePath


def update_path(optimizer: Any, trainable_variables: Sequence[Any] | None = None) -> UpdatePath:
    """Which update the optimizer's next step would run.

    ::

        assert update_path(model.optimizer).update == "kernel"

    Args:
        optimizer: a :class:`Nadam`, as it stands: its variables and their devices, its
            ``tf.distribute`` strategy, methods of its own, hyperparameters, ``fused``. Or a
            ``LossScaleOptimizer`` around one. As long as it is not built, nothing is known of its
            variables.
        trainable_variables: those that the step is to update; None: all that it was built for.

    Returns:
        ``"kernel"``; ``"stock"`` and the reason, for the parent's own update; ``"stablehlo"`` and
        the reason where Keras runs on JAX, and JAX on what can run no kernel; ``"none"`` and the
        reason, where only the parent's own update could run, and would not do what was chosen.

    Raises:
        TypeError: the optimizer is another; one of its hyperparameters is no number.
        ValueError: it was not built for these variables.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if not isinstance(optimizer, Nadam):
        raise TypeError(f"optimizer is a {type(optimizer).__name__}; it must be nadam_xla's Nadam")
    variables = _variables(optimizer, trainable_variables)
    found = fused_hyperparameters(optimizer, variables, METHODS)
    if isinstance(found, Reason):
        refused = why_not_parents(optimizer, variables)
        if refused is not None:
            return UpdatePath("none", f"{refused}; {found.text}")
        return UpdatePath("stock", found.text)
    return backend_step.path_of_fused_step()


def _variables(optimizer: Nadam, given: Sequence[Any] | None) -> list[Any]:
    """Those that the step would update, but for those that their gradients overwrite."""
    if not optimizer.built:
        return []
    variables = list(optimizer._trainable_variables if given is None else given)
    optimizer._check_variables_are_known(variables)
    return [v for v in variables if not optimizer._overwrite_variable_with_gradient(v)]
