"""The methods of Keras's optimizers that the fused step takes the place of.

Who overrides one of them wants it called; so such an optimizer takes the parent's own update, which
calls it as stock does. Methods that the fused step calls as stock does are not here, for instance
``build``, ``_use_weight_decay``, ``_filter_empty_gradients`` and
``_update_model_variables_moving_average``.
"""

from collections.abc import Mapping
from typing import Any

REPLACED = (
    "update_step",
    "_backend_update_step",
    "_backend_apply_gradients",
    # Clipping and decay.
    "_clip_gradients",
    "_clip_by_norm",
    "_apply_weight_decay",
    # What is written.
    "assign",
    "assign_add",
    "assign_sub",
    # Accumulation and averages.
    "_backend_increment_gradient_accumulators",
    "_backend_reset_gradient_accumulators",
    "_overwrite_model_variables_with_average_value",
    # tf.distribute.
    "_all_reduce_sum_gradients",
    "_distributed_tf_update_step",
)


def replaced_methods(kind: type) -> dict[str, Any]:
    """The methods of the class that have these names; None for those that the backend has not."""
    return {name: getattr(kind, name, None) for name in REPLACED}


def overridden(optimizer: Any, methods: Mapping[str, Any]) -> str | None:
    """What this optimizer has that the fused step would go past, in words; None if nothing.

    Args:
        optimizer: of a subclass, perhaps, or with methods of its own.
        methods: the :func:`replaced_methods` of our class.
    """
    own = vars(optimizer)
    kind = type(optimizer)
    for name, method in methods.items():
        if name in own or getattr(kind, name, None) is not method:
            return f"{optimizer.name} ({kind.__name__}) has a method {name} of its own"
    return None
