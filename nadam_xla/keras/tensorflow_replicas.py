"""The fused step under the ``tf.distribute`` strategies that keep a whole model on each device.

As in stock Keras, each replica accumulates, unscales and clips its own gradients, and their sum
over all replicas updates the variables: here by a fused step of each replica on its own.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from nadam_xla.keras.optimizer_state import LeafFacts, State, facts_of
from nadam_xla.keras.row_gradients import Gradient
from nadam_xla.keras.step_hyperparameters import StepHyperparameters
from nadam_xla.keras.tensorflow_compiled import Leaves, clipped, update
from nadam_xla.keras.tensorflow_gradients import dense, slices, with_rows

STRATEGIES = (tf.distribute.MirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy)
"""Those whose variables have a component for each replica."""


Taken = Callable[[Sequence[Any], Sequence[Any]], list[Gradient]]
"""What a step takes of gradients of these variables."""


def step(
    optimizer: Any,
    trainable_variables: Sequence[Any],
    variables: State,
    grads: Sequence[Any],
    given: StepHyperparameters,
) -> None:
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
    # Stock asks this of a replica's own variables, and remembers the first one's answer.
    strategy = optimizer._distribution_strategy
    first = [strategy.experimental_local_results(v)[0] for v in variables.params]
    facts = facts_of(optimizer, trainable_variables, first)
    in_run = tf.distribute.has_strategy()
    taken = with_rows if optimizer.sparse == "lazy" else dense

    def update_all(strategy: Any, grads: Sequence[Any], given: StepHyperparameters) -> None:
        if in_run:
            pairs = list(zip(grads, variables.params, strict=True))
            grads = strategy.extended.batch_reduce_to(tf.distribute.ReduceOp.SUM, pairs)
        _update_replicas(strategy, variables, grads, facts, given, taken)

    def update_if_due(strategy: Any, grads: Sequence[Any], given: StepHyperparameters) -> None:
        if given.is_update_step is None:
            update_all(strategy, grads, given)
            return
        # In the branch of a replica there could be no reduction.
        is_due, *_ = strategy.experimental_local_results(given.is_update_step)
        tf.cond(is_due, lambda: update_all(strategy, grads, given), lambda: None)

    arguments = _own_gradients(variables, grads, given, taken)
    if in_run:
        context.merge_call(update_if_due, args=arguments)
        return
    with strategy.scope():
        update_if_due(strategy, *arguments)


def _own_gradients(
    variables: State, grads: Sequence[Any], given: StepHyperparameters, taken: Taken
) -> tuple[list[Any], StepHyperparameters]:
    """What the replica hands to the reduction, and the hyperparameters of the step on the sums."""
    accumulators = variables.accumulated_gradients
    if accumulators is None and not given.clips:
        # Slices of a sparse gradient stay slices. The identity makes a tensor of its own for each
        # replica: where all give the same tensor, TensorFlow takes it once and makes no sum.
        return [tf.identity(grad) for grad in grads], given
    own = taken(grads, variables.params)
    if accumulators is not None:
        for accumulator, grad in zip(accumulators, own, strict=True):
            accumulator.assign_add(tf.cast(grad, accumulator.dtype))
        own = [tf.convert_to_tensor(accumulator) for accumulator in accumulators]
    if not given.clips:
        return own, given
    if accumulators is None:
        own = clipped(own, variables.params, given)
    else:
        own = tf.cond(
            given.is_update_step, lambda: clipped(own, variables.params, given), lambda: own
        )
    own = [slices(grad, v) for grad, v in zip(own, variables.params, strict=True)]
    return own, given.after_clipping()


def _update_replicas(
    strategy: Any,
    variables: State,
    sums: Sequence[Any],
    facts: LeafFacts,
    given: StepHyperparameters,
    taken: Taken,
) -> None:
    for own, own_sums, own_given in strategy.experimental_local_results((variables, sums, given)):
        leaves = Leaves(own._replace(accumulated_gradients=None))
        update(
            leaves,
            taken(own_sums, own.params),
            facts,
            own_given._replace(is_update_step=None),
        )
        with tf.device(leaves.device):
            for accumulator in own.accumulated_gradients or ():
                accumulator.assign(tf.zeros_like(accumulator))
