"""The fused step under the ``tf.distribute`` strategies that keep a whole model on each device.

As in stock Keras, each replica accumulates, unscales and clips its own gradients, and their sum
over all replicas updates the variables: here by a fused step of each replica on its own.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from nadam_xla.keras.fused_step import (
    Hyperparameters,
    StepVariables,
    hyperparameters_of,
    variables_of,
)
from nadam_xla.keras.tensorflow_compiled import (
    Key,
    compiled_clipping,
    compiled_step,
    dense,
    key_of,
)

STRATEGIES = (tf.distribute.MirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy)
"""Those whose variables have a component for each replica."""


def step(optimizer: Any, grads: Sequence[Any], trainable_variables: Sequence[Any]) -> None:
    """Updates the variables of all replicas, in place.

    Each replica calls it in ``strategy.run``, with its own gradients. Without a strategy it is
    called once, with gradients that are the sums already.

    Raises:
        RuntimeError: it is called in the strategy's scope, but not in ``strategy.run``.
    """
    context = tf.distribute.get_replica_context()
    if context is None:
        raise RuntimeError(
            "the optimizer was called in the scope of a tf.distribute strategy, but not in"
            " strategy.run; call apply or apply_gradients in the function that strategy.run runs"
        )
    key = key_of(optimizer, trainable_variables)
    variables = tf.nest.map_structure(native, variables_of(optimizer, trainable_variables))
    given = hyperparameters_of(optimizer, tf.convert_to_tensor)
    in_run = tf.distribute.has_strategy()

    def update(strategy: Any, grads: Sequence[Any], given: Hyperparameters) -> None:
        if in_run:
            pairs = list(zip(grads, variables.params, strict=True))
            grads = strategy.extended.batch_reduce_to(tf.distribute.ReduceOp.SUM, pairs)
        _update_replicas(optimizer, key, strategy, variables, grads, given)

    def update_if_due(strategy: Any, grads: Sequence[Any], given: Hyperparameters) -> None:
        if given.is_update_step is None:
            update(strategy, grads, given)
            return
        # In the branch of a replica there could be no reduction.
        is_due, *_ = strategy.experimental_local_results(given.is_update_step)
        tf.cond(is_due, lambda: update(strategy, grads, given), lambda: None)

    arguments = _own_gradients(optimizer, key, variables, grads, given)
    if in_run:
        context.merge_call(update_if_due, args=arguments)
        return
    with optimizer._distribution_strategy.scope():
        update_if_due(optimizer._distribution_strategy, *arguments)


def native(variable: Any) -> Any:
    """The TensorFlow variable of a Keras variable; anything else as it is."""
    return variable.value if isinstance(variable, keras.Variable) else variable


def _own_gradients(
    optimizer: Any,
    key: Key,
    variables: StepVariables,
    grads: Sequence[Any],
    given: Hyperparameters,
) -> tuple[list[Any], Hyperparameters]:
    """What the replica hands to the reduction, and the hyperparameters of the step on the sums."""
    accumulators = variables.accumulated_gradients
    if accumulators is None and not given.clips:
        # Slices of a sparse gradient stay slices. Of one tensor, that all replicas are given,
        # TensorFlow would make no sum.
        return [tf.identity(grad) for grad in grads], given
    own = dense(grads, variables.params)
    if accumulators is not None:
        for accumulator, grad in zip(accumulators, own, strict=True):
            accumulator.assign_add(tf.cast(grad, accumulator.dtype))
        own = [tf.convert_to_tensor(accumulator) for accumulator in accumulators]
    if not given.clips:
        return own, given
    clipping = compiled_clipping(optimizer, key)
    if accumulators is None:
        clipped = clipping(own, given)
    else:
        clipped = tf.cond(given.is_update_step, lambda: clipping(own, given), lambda: own)
    return clipped, given.after_clipping()


def _update_replicas(
    optimizer: Any,
    key: Key,
    strategy: Any,
    variables: StepVariables,
    sums: Sequence[Any],
    given: Hyperparameters,
) -> None:
    replicas = strategy.experimental_local_results((variables, sums, given))
    for number, (own, own_sums, own_given) in enumerate(replicas):
        kept = partial(own._replace, accumulated_gradients=None)
        with tf.device(own.params[0].device):
            compiled = compiled_step(optimizer, number, key, kept)
            compiled(dense(own_sums, own.params), own_given._replace(is_update_step=None))
            for accumulator in own.accumulated_gradients or ():
                accumulator.assign(tf.zeros_like(accumulator))
