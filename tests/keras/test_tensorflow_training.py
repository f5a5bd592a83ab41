"""The ways to train that only Keras on TensorFlow has: tapes, graphs, sparse gradients."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras_models import BACKEND, assert_all_close, batches, compiled, dense, fit

if BACKEND != "tensorflow":
    pytest.skip("for the TensorFlow backend", allow_module_level=True)

import tensorflow as tf

from nadam_xla.keras import Nadam

Stock = keras.optimizers.Nadam
Make = Callable[..., Any]  # an optimizer: Nadam or Stock

callers = pytest.mark.parametrize(
    "caller",
    [lambda f: f, tf.function, tf.function(jit_compile=True)],
    ids=["eager", "function", "compiled"],
)


def tape_step(model: keras.Model, optimizer: Any) -> Callable[[Any, Any], Any]:
    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
            scaled = optimizer.scale_loss(loss)
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(scaled, variables), variables, strict=True))
        return loss

    return step


@callers
@pytest.mark.parametrize("built", ["before", "by the first step"])
def test_a_loop_with_a_tape_gives_the_losses_of_stock(
    caller: Callable[..., Any], built: str
) -> None:
    def train(make: Make) -> tuple[list[float], list[np.ndarray]]:
        model, optimizer = dense(), make(1e-2)
        if built == "before":
            optimizer.build(model.trainable_variables)
        step = caller(tape_step(model, optimizer))
        losses = [float(step(x, y)) for x, y in batches()]
        assert int(optimizer.iterations) == len(losses)
        return losses, model.get_weights()

    (losses, weights), (stock_losses, stock_weights) = train(Nadam), train(Stock)
    np.testing.assert_allclose(losses, stock_losses, rtol=1e-5)
    assert_all_close(weights, stock_weights)


@callers
def test_a_tape_under_a_loss_scale_optimizer(caller: Callable[..., Any]) -> None:
    def train(make: Make) -> list[np.ndarray]:
        model = dense()
        optimizer = keras.optimizers.LossScaleOptimizer(
            make(1e-2), initial_scale=4.0, dynamic_growth_steps=3
        )
        optimizer.build(model.trainable_variables)
        step = caller(tape_step(model, optimizer))
        for number, (x, y) in enumerate(batches()):
            step(x * np.float32(np.inf if number == 4 else 1), y)
        return [*model.get_weights(), *(v.numpy() for v in optimizer.variables)]

    assert_all_close(train(Nadam), train(Stock))


@pytest.mark.parametrize("jit", [False, True], ids=["function", "compiled"])
def test_many_steps_in_one_graph(jit: bool) -> None:
    x, y = (tf.constant(np.stack(part)) for part in zip(*batches(), strict=True))

    def train(make: Make) -> list[np.ndarray]:
        model, optimizer = dense(), make(1e-2)
        optimizer.build(model.trainable_variables)
        step = tape_step(model, optimizer)

        @tf.function(jit_compile=jit)
        def steps() -> None:
            for i in tf.range(len(batches())):
                step(x[i], y[i])

        steps()
        return model.get_weights()

    assert_all_close(train(Nadam), train(Stock))


@callers
@pytest.mark.parametrize(
    "arguments",
    [
        {"clipnorm": 0.5},
        {"clipvalue": 0.5, "weight_decay": 0.1},
        {"global_clipnorm": 0.5, "loss_scale_factor": 4.0},
        {"gradient_accumulation_steps": 2},
    ],
    ids=str,
)
def test_repeated_rows_of_a_sparse_gradient_are_summed_first(
    caller: Callable[..., Any], arguments: dict[str, Any]
) -> None:
    """Its judge is stock on the dense gradient; the second variable's is dense for both."""

    def train(optimizer: Any, *, dense: bool) -> list[np.ndarray]:
        rng = np.random.default_rng(0)
        variables = [keras.Variable(np.ones((11, 5), "f")), keras.Variable(np.ones(5, "f"))]
        optimizer.build(variables)

        def step(indices: Any, values: Any, bias: Any) -> None:
            slices = tf.IndexedSlices(values, indices, dense_shape=tf.constant([11, 5]))
            optimizer.apply([tf.convert_to_tensor(slices) if dense else slices, bias], variables)

        step = caller(step)
        for _ in range(8):
            values = [rng.normal(size=shape).astype("f") for shape in ((8, 5), (5,))]
            step(tf.constant(rng.integers(0, 11, 8)), *map(tf.constant, values))
        return [v.numpy() for v in variables]

    ours = train(Nadam(0.01, **arguments), dense=False)
    assert_all_close(ours, train(Stock(0.01, **arguments), dense=True))


@pytest.mark.parametrize(
    "how", [{"jit_compile": True}, {"jit_compile": False}, {"run_eagerly": True}], ids=str
)
def test_fit_leaves_kernels_and_moments_where_they_are_in_memory(how: dict[str, bool]) -> None:
    model = compiled(dense(), Nadam(1e-2), **how)
    fit(model, epochs=1)
    variables = [v for v in model.variables + model.optimizer.variables if len(v.shape) == 2]
    before = [address_of(v) for v in variables]
    fit(model, epochs=1)
    assert [address_of(v) for v in variables] == before


def address_of(variable: keras.Variable) -> int:
    return np.frombuffer(memoryview(variable.value.read_value()), np.uint8).ctypes.data


@pytest.mark.parametrize("arguments", [{}, {"use_ema": True}], ids=str)
def test_a_layer_may_freeze_under_the_same_optimizer(arguments: dict[str, Any]) -> None:
    def train(make: Make) -> list[np.ndarray]:
        model = compiled(dense(), make(1e-2, **arguments))
        fit(model, epochs=1)
        model.layers[0].trainable = False
        frozen = model.layers[0].get_weights()
        fit(compiled(model, model.optimizer), epochs=1)
        assert_all_close(model.layers[0].get_weights(), frozen)
        return model.get_weights()

    if arguments:  # stock takes the averages of the wrong variables
        train(Nadam)
        with pytest.raises(ValueError, match=r"(?i)shape"):
            train(Stock)
    else:
        assert_all_close(train(Nadam), train(Stock))


def test_steps_whose_batch_is_missing_are_not_counted() -> None:
    """The end of data whose length Keras does not know breaks off an execution of several steps.

    Stock has by then counted as many of them as TensorFlow happened to get to.
    """

    def trained(steps_per_execution: int) -> keras.Model:
        model = compiled(
            dense(), Nadam(1e-2), steps_per_execution=steps_per_execution, jit_compile=False
        )
        x, y = (np.concatenate(part) for part in zip(*batches(), strict=True))
        dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(8).filter(lambda x, y: True)
        model.fit(dataset, epochs=2, verbose=0)
        return model

    one, several = trained(1), trained(5)
    assert one.optimizer.iterations == several.optimizer.iterations == 2 * len(batches())
    assert_all_close(several.get_weights(), one.get_weights())
