"""How an update is split into calls that run while the gradients of the others are still made."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from nadam_xla.program_order import PlannedCall, ProgramOrder, plan
from nadam_xla.tensorflow import runtime
from nadam_xla.tensorflow.program_order import ARGUMENT, VIEWS, add_operations


def planned_calls(
    grads: Sequence[Any], overwritten: Sequence[Sequence[Any]], others: Sequence[Any] = ()
) -> tuple[PlannedCall, ...] | None:
    """The calls that follow from the order in which the graph makes the gradients.

    Args:
        grads: a gradient for each leaf, all of one compute dtype.
        overwritten: for each result of a leaf the tensors, or the handles of the variables, that
            the update overwrites, one for each leaf.
        others: what else may be awaited.

    Returns:
        None where there is no such order: eagerly, and where the gradients come from outside.
    """
    graph = tf.compat.v1.get_default_graph() if not tf.executing_eagerly() else None
    if graph is None or not any(_is_made_in(graph, grad) for grad in grads):
        return None
    watched = [_origin(x) for group in overwritten for x in group]
    order = ProgramOrder([_name_in(graph, x) for x in watched])
    add_operations(order, graph)
    sizes = [grad.shape.num_elements() * grad.dtype.size for grad in grads]
    names = [_name_in(graph, x) for x in (*grads, *others)]
    leaves = [*range(len(grads))] * len(overwritten)
    return tuple(plan(order, names, leaves, sizes, runtime.CALLS_ARE_FOR))


def _is_made_in(graph: Any, grad: Any) -> bool:
    return tf.is_symbolic_tensor(grad) and grad.graph is graph and grad.op.type != ARGUMENT


def _name_in(graph: Any, tensor: Any) -> str | None:
    """By which the graph knows the tensor; none of another graph's."""
    return tensor.name if tensor.graph is graph else None


def _origin(value: Any) -> Any:
    """What the graph reads or views to have this value, where it does no more than that."""
    tensor = tf.convert_to_tensor(value)
    while tensor.op.type in VIEWS:
        tensor = tensor.op.inputs[tensor.value_index]
    return tensor
