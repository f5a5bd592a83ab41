"""Each way in which Keras trains a model, with ours against stock, on the backend of this process.

What only one backend has is in test_tensorflow_training.py and test_jax_training.py.
"""

import re
import warnings
from collections.abc import Callable
from typing import Any

import compiled as program
import keras
import numpy as np
import pytest
from keras import layers, ops
from keras_models import (
    BACKEND,
    assert_all_close,
    batches,
    batches_of_words,
    compiled,
    dense,
    embedding,
    fit,
    numpy_of,
)

from nadam_xla.keras import Nadam
from nadam_xla.keras.convention import momentum_product_after

if BACKEND == "torch":
    pytest.skip("trains by the parent's update", allow_module_level=True)

Stock = keras.optimizers.Nadam
Make = Callable[..., Any]  # an optimizer: Nadam or Stock


def assert_same_training(
    train: Callable[[Make], tuple[list[float], keras.Model]], rtol: float = 1e-5
) -> keras.Model:
    """Trains with each of the two; gives the model that ours trained."""
    (ours, model), (stock, stock_model) = train(Nadam), train(Stock)
    assert np.isfinite(stock).all()
    np.testing.assert_allclose(ours, stock, rtol=rtol)
    assert_all_close(model.get_weights(), stock_model.get_weights(), rtol=10 * rtol)
    return model


def assert_same_error(
    train: Callable[[Make], Any], error: type[Exception] | tuple[type[Exception], ...], match: str
) -> None:
    for make in (Stock, Nadam):
        with pytest.raises(error, match=match):
            train(make)


# ---- fit, and one batch at a time ----------------------------------------------------------------


@pytest.mark.parametrize(
    "how",
    [
        {"jit_compile": "auto"},
        {"jit_compile": True},
        {"jit_compile": False},
        {"run_eagerly": True},
        {"steps_per_execution": 5},
    ],
    ids=str,
)
def test_fit_gives_the_losses_of_stock(how: dict[str, Any]) -> None:
    def train(make: Make) -> tuple[list[float], keras.Model]:
        model = compiled(dense(), make(1e-2), **how)
        return fit(model), model

    model = assert_same_training(train)
    assert int(model.optimizer.iterations) == 36


@pytest.mark.parametrize("how", [{"jit_compile": True}, {"run_eagerly": True}], ids=str)
def test_train_on_batch_gives_the_losses_of_stock(how: dict[str, Any]) -> None:
    def train(make: Make) -> tuple[list[float], keras.Model]:
        model = compiled(dense(), make(1e-2), **how)
        return [float(model.train_on_batch(x, y)) for x, y in batches()], model

    assert_same_training(train)


@pytest.mark.parametrize("wrapped", [False, True], ids=["alone", "in a LossScaleOptimizer"])
def test_the_compiled_training_step_updates_in_place(wrapped: bool) -> None:
    """Vectors aside: XLA may copy a bias that the loss's own value reads again, for stock too."""
    optimizer = Nadam(1e-2)
    model = compiled(
        dense(), keras.optimizers.LossScaleOptimizer(optimizer) if scaled else optimizer
    )
    model.optimizer.build(model.trainable_variables)
    text = text_of_train_step(model)
    assert text.count(program.CALL) == 1
    # TensorFlow's XLA copies what an overflow leaves as it is, in that branch alone.
    text = re.sub(r"\n%cond_false.*?\n}", "", text, flags=re.DOTALL)
    copied = re.findall(r"= f32\[(\d+,\d+)\]\S* copy\(|= \(f32\[(\d+,\d+).* copy-start\(", text)
    assert not copied, "a kernel or one of its moments is copied"
    assert len(program.aliased_results(text)) >= 3 * len(model.trainable_variables)


def text_of_train_step(model: keras.Model) -> str:
    """The optimized HLO of what ``fit`` compiles."""
    batch = batches()[0]
    model.evaluate(*batch, verbose=0)  # makes the variables of the metrics
    if BACKEND == "tensorflow":
        import tensorflow as tf  # noqa: PLC0415

        step = tf.function(model.train_step, jit_compile=True)
        return step.experimental_get_compiler_ir(batch)(stage="optimized_hlo")
    import jax  # noqa: PLC0415

    state = [
        [v.value for v in variables]
        for variables in (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        )
    ]
    return jax.jit(model.train_step, donate_argnums=0).lower(state, batch).compile().as_text()


# ---- scaled losses and narrow numbers ------------------------------------------------------------


def scaled(make: Make, model: keras.Model, **arguments: Any) -> Any:
    """A LossScaleOptimizer around it that works with stock, too: see the test of its product."""
    optimizer = keras.optimizers.LossScaleOptimizer(make(1e-2), **arguments)
    if make is Stock:
        optimizer.inner_optimizer.build(model.trainable_variables)
    return optimizer


def test_a_loss_scale_optimizer_changes_nothing_but_the_scale() -> None:
    """It scales by powers of two. Around stock it does more: the momentum product is not kept."""
    wrap = keras.optimizers.LossScaleOptimizer
    expected = fit(compiled(dense(), Stock(1e-2)))
    wrapped = compiled(dense(), wrap(Nadam(1e-2), initial_scale=8.0))
    np.testing.assert_allclose(fit(wrapped), expected, rtol=1e-5)
    stock = compiled(dense(), wrap(Stock(1e-2), initial_scale=8.0))
    losses = fit(stock)
    product = stock.optimizer.inner_optimizer._u_product
    assert not any(v is product for v in stock.optimizer.variables)
    if BACKEND == "jax":
        assert not np.allclose(losses, expected, rtol=1e-2)


@pytest.mark.parametrize("iterations", [0, 1, 2, 50, 3000])
def test_the_momentum_product_of_the_updates_so_far(iterations: int) -> None:
    """What stands in for it where the state does not hold it."""
    steps = np.arange(1, iterations + 1)
    expected = np.prod(0.999 * (1 - 0.5 * 0.96**steps))
    product = momentum_product_after(ops.convert_to_tensor(iterations), 0.999, "float32")
    np.testing.assert_allclose(ops.convert_to_numpy(product), expected, rtol=1e-3)


def test_a_loss_scale_optimizer_leaves_out_a_step_that_overflows() -> None:
    """As if the batch had not been there, which is how stock is trained here."""
    overflows = 3
    optimizer = keras.optimizers.LossScaleOptimizer(
        Nadam(1e-2), initial_scale=8.0, dynamic_growth_steps=2
    )
    model, judge = compiled(dense(), optimizer), compiled(dense(), Stock(1e-2))
    scales = []
    for step, (x, y) in enumerate(batches()[:6]):
        model.train_on_batch(x * np.float32(np.inf) if step == overflows else x, y)
        if step != overflows:
            judge.train_on_batch(x, y)
        scales.append(float(optimizer.dynamic_scale))
    assert scales == [8, 16, 16, 8, 8, 16]
    assert int(optimizer.iterations) == 5
    assert_all_close(model.get_weights(), judge.get_weights())


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_gives_the_losses_of_stock(policy: str) -> None:
    def train(make: Make) -> tuple[list[float], keras.Model]:
        model = compiled(with_policy(policy, dense), make(1e-3))
        if policy == "mixed_float16":
            assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
            if make is Stock:
                model.optimizer.inner_optimizer.build(model.trainable_variables)
        return fit(model), model

    model = assert_same_training(train, rtol=1e-3)
    assert {v.dtype for v in model.trainable_variables} == {"float32"}


BFLOAT16_ARGUMENTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "all": {
        "weight_decay": 1e-3,
        "global_clipnorm": 1.0,
        "loss_scale_factor": 8.0,
        "use_ema": True,
        "ema_momentum": 0.5,
        "ema_overwrite_frequency": 2,
        "gradient_accumulation_steps": 2,
    },
}


@pytest.mark.parametrize("arguments", BFLOAT16_ARGUMENTS)
def test_a_model_in_bfloat16_trains(arguments: str) -> None:
    """Where stock gives NaN; the judge is stock on the same model in float32."""
    model, wide = (
        compiled(make_model(), make(1e-2, **BFLOAT16_ARGUMENTS[arguments]))
        for make_model, make in ((lambda: with_policy("bfloat16", dense), Nadam), (dense, Stock))
    )
    wide.set_weights([w.astype("float32") for w in model.get_weights()])
    np.testing.assert_allclose(fit(model), fit(wide), rtol=0.02)
    assert {v.dtype for v in model.trainable_variables} == {"bfloat16"}
    assert {str(v.dtype) for v in model.optimizer.variables} <= {"float32", "int32", "int64"}


def test_stock_makes_a_model_in_bfloat16_nan() -> None:
    assert np.isnan(fit(compiled(with_policy("bfloat16", dense), Stock(1e-2)))).all()


def test_the_moving_average_of_bfloat16_variables_moves() -> None:
    """0.999 is 1 in bfloat16: computed in it, the average would stay where it began."""
    variable = keras.Variable(np.zeros(4), dtype="bfloat16")
    optimizer = Nadam(1.0, use_ema=True, ema_momentum=0.999)
    expected = 0.0
    for step in range(20):
        optimizer.apply([ops.ones(4, "bfloat16")], [variable])
        (value,) = set(numpy_of([ops.cast(variable, "float32")])[0].tolist())
        expected = value if step == 0 else 0.999 * expected + 0.001 * value
    (average,) = optimizer._model_variables_moving_average
    np.testing.assert_allclose(numpy_of([average])[0], expected, rtol=1e-5)
    optimizer.finalize_variable_values([variable])
    np.testing.assert_allclose(numpy_of([ops.cast(variable, "float32")])[0], expected, rtol=4e-3)


def with_policy(policy: str, make_model: Callable[[], keras.Model]) -> keras.Model:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        return make_model()
    finally:
        keras.config.set_dtype_policy(before)


# ---- variables that do not train, and that change ------------------------------------------------


def test_a_layer_that_is_frozen_before_training_stays() -> None:
    def train(make: Make) -> tuple[list[float], keras.Model]:
        model = dense()
        model.layers[0].trainable = False
        compiled(model, make(1e-2))
        return fit(model), model

    model = assert_same_training(train)
    assert len(model.optimizer._momentums) == 2, "only for what trains"
    np.testing.assert_array_equal(model.get_weights()[0], dense().get_weights()[0])


def test_a_layer_that_is_frozen_between_fits_stays_from_then_on() -> None:
    def train(make: Make) -> tuple[list[float], keras.Model]:
        model = compiled(dense(), make(1e-2))
        before = fit(model)
        model.layers[0].trainable = False
        kernel = model.layers[0].get_weights()[0]
        compiled(model, make(1e-2))
        losses = before + fit(model)
        np.testing.assert_array_equal(model.layers[0].get_weights()[0], kernel)
        return losses, model

    assert_same_training(train)


def test_a_model_that_is_frozen_whole_makes_no_step() -> None:
    def train(make: Make) -> tuple[list[float], keras.Model]:
        model = dense()
        model.trainable = False
        compiled(model, make(1e-2))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # Keras's own, about what it is asked
            return fit(model), model

    model = assert_same_training(train)
    assert int(model.optimizer.iterations) == 0
    assert_all_close(model.get_weights(), dense().get_weights())


def test_no_gradients_are_no_step() -> None:
    for make in (Stock, Nadam):
        optimizer = make()
        optimizer.apply([], [])
        assert not optimizer.built
        assert int(optimizer.iterations) == 0


def test_variables_without_a_gradient_are_named_and_stay() -> None:
    def train(make: Make) -> list[np.ndarray]:
        variables = [keras.Variable(np.ones(3, "f"), name=f"w{i}") for i in range(3)]
        optimizer = make(1e-2)
        with pytest.warns(UserWarning, match=r"Gradients do not exist for variables \['w1'\]"):
            optimizer.apply([ops.ones(3), None, ops.ones(3)], variables)
        assert int(optimizer.iterations) == 1
        return numpy_of([*variables, *optimizer.variables])

    ours = train(Nadam)
    assert_all_close(ours, train(Stock))
    np.testing.assert_array_equal(ours[1], np.ones(3))


def test_a_branch_that_the_loss_does_not_see_stays() -> None:
    def train(make: Make) -> tuple[list[float], keras.Model]:
        keras.utils.set_random_seed(0)
        x = keras.Input((8,))
        seen, unseen = layers.Dense(3, name="seen")(x), layers.Dense(3, name="unseen")(x)
        model = compiled(keras.Model(x, seen + 0 * ops.stop_gradient(unseen)), make(1e-2))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # on TensorFlow: no gradient
            return fit(model), model

    assert_same_training(train)


def test_no_gradient_at_all_is_the_error_of_stock() -> None:
    assert_same_error(
        lambda make: make().apply([None, None], [keras.Variable(np.ones(3, "f"))] * 2),
        ValueError,
        "No gradients provided for any variable",
    )


def changed_after_training(make: Make, *, new_optimizer: bool) -> tuple[list[float], keras.Model]:
    model = compiled(dense(), make(1e-2))
    before = fit(model)
    model.layers[0].enable_lora(2)
    compiled(model, make(1e-2) if new_optimizer else model.optimizer)
    return before + fit(model), model


def test_a_model_with_averages_may_be_fitted_again() -> None:
    """On JAX stock cannot: after the first time, variables and averages are the same memory."""
    model = compiled(dense(), Nadam(1e-2, use_ema=True, ema_momentum=0.9))
    losses = fit(model, epochs=1) + fit(model, epochs=1)
    assert losses[1] < losses[0]
    if BACKEND == "jax":
        stock = compiled(dense(), Stock(1e-2, use_ema=True, ema_momentum=0.9))
        fit(stock, epochs=1)
        with pytest.raises((RuntimeError, TypeError)):  # as Keras hands on XLA's "donate ... twice"
            fit(stock, epochs=1)


def test_new_variables_between_fits_need_a_new_optimizer() -> None:
    assert_same_error(
        lambda make: changed_after_training(make, new_optimizer=False),
        # Keras 3.10 fails as it puts that message together, in a graph.
        (ValueError, NotImplementedError),
        "recreate a new optimizer|was built with 4 variables|numpy.. is only available",
    )
    assert_same_training(lambda make: changed_after_training(make, new_optimizer=True))


def test_constraints_of_layers_hold() -> None:
    def train(make: Make) -> tuple[list[float], keras.Model]:
        keras.utils.set_random_seed(0)
        limits = {
            "kernel_constraint": keras.constraints.MaxNorm(0.3),
            "bias_constraint": keras.constraints.NonNeg(),
        }
        model = keras.Sequential([keras.Input((8,)), layers.Dense(3, **limits)])
        return fit(compiled(model, make(5e-2))), model

    kernel, bias = assert_same_training(train).get_weights()
    assert (np.linalg.norm(kernel, axis=0) < 0.3 + 1e-5).all()
    assert (bias >= 0).all()


# ---- layers with variables of their own kind -----------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [{}, {"weight_decay": 0.1, "global_clipnorm": 0.5, "gradient_accumulation_steps": 2}],
    ids=str,
)
def test_gradients_overwrite_the_scales_of_float8_layers(arguments: dict[str, Any]) -> None:
    def train(make: Make) -> tuple[list[float], keras.Model]:
        model = dense()
        model.quantize("float8")
        return fit(compiled(model, make(1e-2, **arguments)), epochs=1), model

    model = assert_same_training(train)
    scale = model.layers[0].inputs_scale
    assert scale.overwrite_with_gradient
    assert numpy_of([scale]) != [1.0], "it is set"


def test_a_loss_scale_optimizer_leaves_the_scales_of_float8_layers_alone() -> None:
    def train(make: Make) -> tuple[list[float], keras.Model]:
        model = dense()
        model.quantize("float8")
        compiled(model, scaled(make, model, initial_scale=64.0))
        return fit(model, epochs=1), model

    assert_same_training(train)


def test_the_scales_of_float8_layers_have_no_moving_average() -> None:
    """Stock fails on it, on both backends."""

    def train(make: Make) -> list[float]:
        model = dense()
        model.quantize("float8")
        averaging = make(1e-2, use_ema=True, ema_overwrite_frequency=3)
        return fit(compiled(model, averaging), epochs=2)

    losses = train(Nadam)
    assert losses[1] < losses[0]
    with pytest.raises((TypeError, ValueError), match="None"):
        train(Stock)


@pytest.mark.parametrize("quantized", [False, True], ids=["float32", "int8"])
def test_only_the_adapters_of_lora_layers_train(quantized: bool) -> None:
    def train(make: Make) -> tuple[list[float], keras.Model]:
        model = embedding()
        if quantized:
            model.quantize("int8")
        adapted = [layer for layer in model.layers if layer.weights]
        for layer in adapted:
            layer.enable_lora(2)
        frozen = [v for v in model.variables if not v.trainable]
        before = numpy_of(frozen)
        losses = fit(compiled(model, make(1e-2)), data=batches_of_words)
        for value, kept in zip(numpy_of(frozen), before, strict=True):
            np.testing.assert_array_equal(value, kept)
        assert len(frozen) == len(adapted) * (2 if quantized else 1), "kernels, and their scales"
        return losses, model

    model = assert_same_training(train)
    trained = {v.name for v in model.trainable_variables}
    assert {name for name in trained if "lora" in name} == trained - {"bias"}


def test_an_embedding_trains_as_the_product_with_one_hot_words() -> None:
    """The gradient of that is dense. Stock squares the slices of a repeated word one by one."""
    rng = np.random.default_rng(0)
    words = [(rng.integers(0, 11, (8, 4)), y) for _, y in batches()]

    def one_hot() -> list[tuple[np.ndarray, np.ndarray]]:
        return [(np.eye(11, dtype="f")[x], y) for x, y in words]

    def model_of(first: layers.Layer, shape: tuple[int, ...], make: Make) -> keras.Model:
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input(shape), first, layers.Flatten(), layers.Dense(3)])
        model.layers[0].set_weights([np.random.default_rng(1).normal(size=(11, 5))])
        model.layers[2].set_weights([np.full((20, 3), 0.1), np.zeros(3)])
        return compiled(model, make(1e-2, clipnorm=0.1))

    ours = model_of(layers.Embedding(11, 5), (4,), Nadam)
    judge = model_of(layers.Dense(5, use_bias=False), (4, 11), Stock)
    losses = fit(ours, data=lambda: words)
    np.testing.assert_allclose(losses, fit(judge, data=one_hot), rtol=1e-5)
    assert_all_close(ours.get_weights(), judge.get_weights())
    if BACKEND == "tensorflow":
        stock = model_of(layers.Embedding(11, 5), (4,), Stock)
        assert not np.allclose(fit(stock, data=lambda: words), losses, rtol=1e-5)
