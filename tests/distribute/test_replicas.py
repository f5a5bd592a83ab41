"""The fused step on two replicas: ours against stock Keras under the same strategy, and one device.

Stock keeps the rules here: each replica accumulates, unscales and clips its own gradients before
they are summed, so with clipping a strategy does not give the losses of one device.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from two_cpus import DEVICES

from nadam_xla.keras import Nadam
from nadam_xla.keras.optimizer_state import LeafFacts, state_of
from nadam_xla.keras.step_hyperparameters import hyperparameters_of
from nadam_xla.keras.tensorflow_compiled import Leaves, update
from nadam_xla.keras.tensorflow_leaves import tensorflow_variable

Stock = keras.optimizers.Nadam


def network(dtype: str = "float32") -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8,), dtype=dtype),
            keras.layers.Dense(16, "tanh", name="a", dtype=dtype),
            keras.layers.Dense(3, name="b", dtype=dtype),
        ]
    )


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(48, 8)).astype("f"), rng.normal(size=(48, 3)).astype("f")


def fitted(
    strategy: tf.distribute.Strategy, make: Callable[[], Any], **how: Any
) -> tuple[keras.Model, list[float]]:
    with strategy.scope():
        model = network()
        model.compile(optimizer=make(), loss="mse", **how)
    x, y = data()
    history = model.fit(x, y, epochs=2, batch_size=8, shuffle=False, verbose=0)
    return model, history.history["loss"]


def components(variable: Any) -> tuple[Any, ...]:
    """What each replica holds of a variable."""
    held: tuple[Any, ...] = getattr(variable, "value", variable).values
    assert [tf.DeviceSpec.from_string(v.device).device_index for v in held] == [0, 1]
    return held


def assert_replicas_agree(variables: Sequence[Any]) -> None:
    for variable in variables:
        first, second = components(variable)
        np.testing.assert_array_equal(first, second, err_msg=variable.path)


pytestmark = pytest.mark.filterwarnings("error:.*Keras's own update")


# ---- the same losses -----------------------------------------------------------------------------

ARGUMENTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "weight decay": {"weight_decay": 0.05},
    "clipnorm": {"clipnorm": 0.05},
    "clipvalue": {"clipvalue": 0.03},
    "global clipnorm": {"global_clipnorm": 0.05},
    "moving average": {"use_ema": True, "ema_momentum": 0.9},
    "overwriting average": {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 7},
    "loss scale": {"loss_scale_factor": 8.0},
    "accumulation": {"gradient_accumulation_steps": 4},
    "all at once": {
        "weight_decay": 0.05,
        "global_clipnorm": 0.05,
        "loss_scale_factor": 8.0,
        "gradient_accumulation_steps": 3,
        "use_ema": True,
        "ema_overwrite_frequency": 2,
    },
}
# Stock reduces and overwrites in a branch of a replica, which a graph cannot.
STOCK_NEEDS_EAGERNESS = ("gradient_accumulation_steps", "ema_overwrite_frequency")


@pytest.mark.parametrize(
    "arguments", ["defaults", "clipnorm", "clipvalue", "moving average", "all at once"]
)
def test_fit_gives_the_losses_of_stock_and_of_one_device(
    arguments: str, mirrored: tf.distribute.Strategy
) -> None:
    given = ARGUMENTS[arguments]
    eager = any(name in given for name in STOCK_NEEDS_EAGERNESS)
    ours, losses = fitted(mirrored, lambda: Nadam(1e-2, **given))
    stock, expected = fitted(mirrored, lambda: Stock(1e-2, **given), run_eagerly=eager)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    for a, b in zip(ours.get_weights(), stock.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)
    if not any("clip" in name for name in given):
        one_device = fitted(tf.distribute.get_strategy(), lambda: Nadam(1e-2, **given))
        np.testing.assert_allclose(losses, one_device[1], rtol=1e-5)
    assert_replicas_agree([*ours.trainable_variables, *ours.optimizer.variables])


def test_fit_eagerly(mirrored: tf.distribute.Strategy) -> None:
    given = ARGUMENTS["all at once"]
    ours, losses = fitted(mirrored, lambda: Nadam(1e-2, **given), run_eagerly=True)
    _, expected = fitted(mirrored, lambda: Nadam(1e-2, **given))
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert_replicas_agree([*ours.trainable_variables, *ours.optimizer.variables])


@pytest.mark.parametrize("arguments", ["defaults", "all at once"])
def test_many_steps_an_execution(arguments: str) -> None:
    """TensorFlow's collective reductions fail in such a loop, under every optimizer."""
    reduction = tf.distribute.ReductionToOneDevice()
    strategy = tf.distribute.MirroredStrategy(DEVICES, cross_device_ops=reduction)
    given = ARGUMENTS[arguments]
    _, losses = fitted(strategy, lambda: Nadam(1e-2, **given), steps_per_execution=3)
    _, expected = fitted(strategy, lambda: Nadam(1e-2, **given))
    np.testing.assert_allclose(losses[-1], expected[-1], rtol=1e-5)


@pytest.mark.parametrize("kind", [Stock, Nadam], ids=["stock", "ours"])
def test_a_step_compiled_whole_over_two_cpus_is_beyond_tensorflow(
    kind: Any, mirrored: tf.distribute.Strategy
) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match="tfvariable_on_a_different_device"):
        fitted(mirrored, lambda: kind(1e-2), jit_compile=True)


@pytest.mark.parametrize("name", STOCK_NEEDS_EAGERNESS)
def test_what_only_ours_can_in_a_graph(name: str, mirrored: tf.distribute.Strategy) -> None:
    arguments = {name: 2, "use_ema": name == "ema_overwrite_frequency"}
    with pytest.raises(RuntimeError, match="merge_call"):
        fitted(mirrored, lambda: Stock(1e-2, **arguments))
    _, losses = fitted(mirrored, lambda: Nadam(1e-2, **arguments))
    _, expected = fitted(tf.distribute.get_strategy(), lambda: Stock(1e-2, **arguments))
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_a_loss_scale_optimizer_around_it(mirrored: tf.distribute.Strategy) -> None:
    def make(kind: Any) -> Any:
        return keras.optimizers.LossScaleOptimizer(kind(1e-2), initial_scale=1024.0)

    _, losses = fitted(mirrored, lambda: make(Nadam))
    _, expected = fitted(mirrored, lambda: make(Stock))
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


# ---- custom loops --------------------------------------------------------------------------------


def train_by_tape(strategy: tf.distribute.Strategy, make: Any, *, graph: bool) -> keras.Model:
    with strategy.scope():
        model = network()
        model.optimizer = make()
        model.optimizer.build(model.trainable_variables)

    def replica_step(x: Any, y: Any) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(model(x) - y)) / 8.0
        grads = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply_gradients(zip(grads, model.trainable_variables, strict=True))

    def step(x: Any, y: Any) -> None:
        strategy.run(replica_step, args=(x, y))

    run = tf.function(step) if graph else step
    batches = tf.data.Dataset.from_tensor_slices(data()).batch(8)
    for x, y in strategy.experimental_distribute_dataset(batches):
        run(x, y)
    assert not graph or run.experimental_get_tracing_count() == 1
    return model


LOOPS = {"defaults": {}, "accumulation": {"gradient_accumulation_steps": 3, "weight_decay": 0.1}}


@pytest.mark.parametrize("graph", [True, False], ids=["function", "eager"])
@pytest.mark.parametrize("arguments", LOOPS)
def test_a_custom_loop_gives_the_weights_of_one_device(
    arguments: str, graph: bool, mirrored: tf.distribute.Strategy
) -> None:
    model = train_by_tape(mirrored, lambda: Nadam(1e-2, **LOOPS[arguments]), graph=graph)
    default = tf.distribute.get_strategy()
    expected = train_by_tape(default, lambda: Stock(1e-2, **LOOPS[arguments]), graph=True)
    for a, b in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)
    assert_replicas_agree([*model.trainable_variables, *model.optimizer.variables])


def gradients_of_each_replica(strategy: tf.distribute.Strategy, shape: Sequence[int]) -> Any:
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.fill(shape, 1.0 + context.replica_id_in_sync_group)
    )


def test_the_gradients_of_the_replicas_are_summed(mirrored: tf.distribute.Strategy) -> None:
    with mirrored.scope():
        variable, optimizer = keras.Variable(np.ones((2, 3), "f")), Nadam(0.1)
        optimizer.build([variable])
    grads = gradients_of_each_replica(mirrored, (2, 3))
    mirrored.run(lambda grad: optimizer.apply([grad], [variable]), args=(grads,))
    for momentum in components(optimizer._momentums[0]):
        np.testing.assert_allclose(momentum, np.full((2, 3), 0.1 * (1 + 2)), rtol=1e-6)


def test_slices_of_all_replicas_are_summed(mirrored: tf.distribute.Strategy) -> None:
    indices = np.random.default_rng(0).integers(0, 11, (48, 4))

    def train(strategy: tf.distribute.Strategy) -> Any:
        keras.utils.set_random_seed(0)
        with strategy.scope():
            layers = [keras.Input((4,)), keras.layers.Embedding(11, 5), keras.layers.Dense(1)]
            model = keras.Sequential(layers)
            model.compile(optimizer=Nadam(0.01), loss="mse")
        model.fit(indices, indices[..., None] / 11, batch_size=8, shuffle=False, verbose=0)
        return model

    model, expected = train(mirrored), train(tf.distribute.get_strategy())
    for a, b in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)
    assert_replicas_agree(model.optimizer.variables)


def test_one_tensor_given_to_all_replicas_counts_for_each(mirrored: tf.distribute.Strategy) -> None:
    """In a graph, stock fails on it; eagerly, it takes it for the sum."""
    with mirrored.scope():
        variable, optimizer = keras.Variable(np.ones(3, "f")), Nadam(0.1)
        optimizer.build([variable])
    for run in (mirrored.run, tf.function(mirrored.run)):
        optimizer._momentums[0].assign(tf.zeros(3))
        run(lambda grad: optimizer.apply([grad], [variable]), args=(tf.ones(3),))
        np.testing.assert_allclose(optimizer._momentums[0].numpy(), [0.2, 0.2, 0.2], rtol=1e-6)


@pytest.mark.parametrize("arguments", [{}, {"gradient_accumulation_steps": 2}])
def test_bfloat16_variables_train(
    arguments: dict[str, Any], mirrored: tf.distribute.Strategy
) -> None:
    def train(strategy: tf.distribute.Strategy, share: float) -> list[np.ndarray]:
        with strategy.scope():
            variable = keras.Variable(np.ones(5), dtype="bfloat16")
            optimizer = Nadam(0.1, **arguments)
            optimizer.build([variable])
        grad = tf.constant([0.25, -0.5, 0.125, 1, 0], "bfloat16") * share
        for _ in range(4):
            strategy.run(lambda: optimizer.apply([grad], [variable]))
        state = optimizer._momentums[0], optimizer._velocities[0]
        return [np.asarray(v.numpy(), "f") for v in (variable, *state)]

    replicas, one_device = train(mirrored, 0.5), train(tf.distribute.get_strategy(), 1.0)
    for a, b in zip(replicas, one_device, strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.isfinite(a).all()


NARROW = {
    "stochastic": {"momentum_dtype": "bfloat16", "rounding": "stochastic", "seed": 7},
    "float32": {"master": "float32"},
    "remainder": {"master": "remainder"},
    "correction": {"master": "correction", "rounding": "stochastic"},
    "codes": {"momentum_dtype": "blockwise8", "velocity_dtype": "blockwise8"},
}


@pytest.mark.parametrize("graph", [True, False], ids=["function", "eager"])
@pytest.mark.parametrize(
    "arguments", [{}, {"use_ema": True, "ema_overwrite_frequency": 2}], ids=["plain", "averages"]
)
@pytest.mark.parametrize("choice", NARROW)
def test_replicas_are_stored_alike_and_as_on_one_device(
    choice: str, arguments: dict[str, Any], graph: bool, mirrored: tf.distribute.Strategy
) -> None:
    """Each rounds by the same random numbers, and keeps masters of its own."""

    def train(strategy: tf.distribute.Strategy, share: float) -> tuple[list[bytes], list[Any]]:
        with strategy.scope():
            shapes = [(5,), (64, 65)]  # the latter is large enough for codes
            variables = [keras.Variable(np.ones(shape), dtype="bfloat16") for shape in shapes]
            variables[0].constraint = keras.constraints.NonNeg()
            optimizer = Nadam(0.1, **NARROW[choice], **arguments)
            optimizer.build(variables)

        def step(grads: list[Any]) -> None:
            strategy.run(lambda: optimizer.apply(grads, variables))

        run = tf.function(step) if graph else step
        rng = np.random.default_rng(0)
        for _ in range(4):
            run([tf.cast(rng.normal(size=v.shape), "bfloat16") * share for v in variables])
        held = [*variables, *optimizer.variables]
        return [np.asarray(v.numpy()).tobytes() for v in held], held

    replicas, held = train(mirrored, 0.5)
    one_device, _ = train(tf.distribute.get_strategy(), 1.0)
    assert replicas == one_device
    for variable in held:
        first, second = (np.asarray(x.numpy()).tobytes() for x in components(variable))
        assert first == second, variable.path


# ---- one fused call for each replica, in place ---------------------------------------------------


def step_of(
    strategy: tf.distribute.Strategy, **arguments: Any
) -> tuple[Any, list[keras.Variable], Any]:
    """An optimizer, its variables, and the graph of a step with gradients of their shapes."""
    with strategy.scope():
        variables = [keras.Variable(np.ones((64, i + 1), "f")) for i in range(3)]
        optimizer = Nadam(0.1, **arguments)
        optimizer.build(variables)

    @tf.function
    def step(grads: list[Any]) -> None:
        strategy.run(lambda: optimizer.apply(grads, variables))

    return optimizer, variables, step.get_concrete_function([tf.ones(v.shape) for v in variables])


def compiled_calls(nodes: Any) -> dict[str, str]:
    """The compiled function that is called on each device."""
    calls = [(n.device[-5:], n.attr["f"].func.name) for n in nodes if n.attr["_XlaMustCompile"].b]
    assert len(calls) == len(dict(calls))
    return dict(calls)


def ops_in(nodes: Any) -> list[str]:
    return [node.op for node in nodes]


def test_each_device_makes_one_fused_call(mirrored: tf.distribute.Strategy) -> None:
    _, _, step = step_of(mirrored, weight_decay=0.1, loss_scale_factor=8.0)
    graph = step.graph.as_graph_def()
    calls = compiled_calls(graph.node)
    assert sorted(calls) == DEVICES
    functions = {f.signature.name: f.node_def for f in graph.library.function}
    for name in calls.values():
        assert ops_in(functions[name]).count("XlaCallModule") == 1


def test_a_replica_that_only_accumulates_sends_and_computes_nothing(
    mirrored: tf.distribute.Strategy,
) -> None:
    _, _, step = step_of(mirrored, gradient_accumulation_steps=4, clipnorm=1.0)
    graph = step.graph.as_graph_def()
    assert compiled_calls(graph.node) == {}
    assert not {op for op in ops_in(graph.node) if "Collective" in op or "AddN" in op}
    assert ops_in(graph.node).count("AssignAddVariableOp") == 2 * 3
    branches = {
        node.attr["then_branch"].func.name
        for node in graph.node
        if node.op in ("If", "StatelessIf")
    }
    calls = [
        compiled_calls(f.node_def) for f in graph.library.function if f.signature.name in branches
    ]
    assert sorted(device for call in calls for device in call) == sorted(2 * DEVICES)


@pytest.mark.filterwarnings("ignore:device_name is being deprecated")  # no platform has a number
def test_each_replica_is_updated_in_place(mirrored: tf.distribute.Strategy) -> None:
    optimizer, variables, _ = step_of(mirrored, weight_decay=0.1)
    state = state_of(optimizer, variables, [False] * len(variables)).map(tensorflow_variable)
    given = hyperparameters_of(optimizer, tf.convert_to_tensor)

    def step_on(leaves: Leaves) -> Any:
        facts = LeafFacts((True,) * len(variables), ())
        return tf.function(lambda grads: update(leaves, grads, facts, given), jit_compile=True)

    for device, own in zip(DEVICES, mirrored.experimental_local_results(state), strict=True):
        step = step_on(Leaves(own))
        with tf.device(device):
            ir = step.experimental_get_compiler_ir([tf.ones(v.shape) for v in variables])
            text = ir(stage="optimized_hlo", device_name=f"/device:{device}")
        assert text.count('custom_call_target="nadam_xla_update_v2"') == 1
        assert not re.findall(r"= \w+\[\d.* copy\(.*", text), "an array is copied"
        aliases = text.split("entry_computation_layout")[0]
        assert aliases.count("-alias)") >= 3 * len(variables)


# ---- called in other places ----------------------------------------------------------------------


@pytest.mark.parametrize("graph", [True, False], ids=["function", "eager"])
@pytest.mark.parametrize("arguments", ["defaults", "all at once"])
def test_outside_of_the_strategy_gradients_are_whole(
    graph: bool, arguments: str, mirrored: tf.distribute.Strategy
) -> None:
    def train(kind: Any) -> Any:
        with mirrored.scope():
            variable = keras.Variable(np.ones(3, "f"))
            optimizer = kind(0.1, **ARGUMENTS[arguments])
            optimizer.build([variable])

        def step(grads: list[Any]) -> None:
            optimizer.apply(grads, [variable])

        run = tf.function(step) if graph else step
        for _ in range(6):
            run([tf.constant([0.1, 0.2, -0.3])])
        assert_replicas_agree([variable, *optimizer.variables])
        return variable.numpy()

    np.testing.assert_allclose(train(Nadam), train(Stock), rtol=1e-5)


def test_in_the_scope_but_not_in_run_it_says_where_to_call_it(
    mirrored: tf.distribute.Strategy,
) -> None:
    with mirrored.scope():
        variable, optimizer = keras.Variable(np.ones(3, "f")), Nadam(0.1)
        with pytest.raises(RuntimeError, match=r"not in strategy\.run; call apply or"):
            optimizer.apply([tf.ones(3)], [variable])
    np.testing.assert_array_equal(variable.numpy(), np.ones(3))


@pytest.mark.parametrize("kind", [Nadam, Stock], ids=["ours", "stock"])
def test_an_optimizer_from_outside_the_scope_is_refused(
    kind: Any, mirrored: tf.distribute.Strategy
) -> None:
    with mirrored.scope():
        variable = keras.Variable(np.ones(3, "f"))
    optimizer = kind(0.1)
    with pytest.raises(RuntimeError, match=r"Mixing different tf\.distribute\.Strategy objects"):
        mirrored.run(lambda: optimizer.apply([tf.ones(3)], [variable]))


@pytest.mark.parametrize("kind", [Nadam, Stock], ids=["ours", "stock"])
def test_variables_from_outside_the_scope_are_refused(
    kind: Any, mirrored: tf.distribute.Strategy
) -> None:
    """Each replica would update the one variable by its own gradient."""
    variable, optimizer = keras.Variable(np.ones(3, "f")), kind(0.1)
    optimizer.build([variable])
    with pytest.raises(AssertionError):
        mirrored.run(lambda: optimizer.apply([tf.ones(3)], [variable]))
    np.testing.assert_array_equal(variable.numpy(), np.ones(3))


def test_a_wrong_shape_is_an_error_that_names_the_variable(
    mirrored: tf.distribute.Strategy,
) -> None:
    with mirrored.scope():
        variable, optimizer = keras.Variable(np.ones(3, "f"), name="w"), Nadam(0.1)
        optimizer.build([variable])
    with pytest.raises(ValueError, match=r"gradient of .*w has the shape \(4,\)"):
        mirrored.run(lambda: optimizer.apply([tf.ones(4)], [variable]))
