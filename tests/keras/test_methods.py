"""Each method and attribute of tf.keras.optimizers.Nadam's documentation, ours against stock.

On the backend of this process, as in test_nadam.py. What stock refuses, ours refuses in the same
words; where stock fails at what is documented, a test here shows it.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import oracle
import pytest
from keras import ops

from nadam_xla.keras import Nadam

BACKEND = keras.backend.backend()
Stock = keras.optimizers.Nadam
RATE = 0.1

if BACKEND == "torch":
    pytest.skip(
        "on torch it is the parent's update, whose methods are stock's own",
        allow_module_level=True,
    )

on_jax = pytest.mark.skipif(BACKEND != "jax", reason="only JAX's optimizers have it")
on_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow refuses it")


def variable(value: float = 1.0, name: str = "w", size: int = 3) -> Any:
    return keras.Variable(np.full(size, value, "f"), name=name)


def value_of(x: Any) -> np.ndarray:
    return np.array(ops.convert_to_numpy(ops.convert_to_tensor(x)))


def grad(step: int = 0, size: int = 3) -> Any:
    return ops.convert_to_tensor(np.random.default_rng(step).normal(size=size).astype("f"))


def assert_same(use: Callable[[type], Any], rtol: float = 1e-6) -> Any:
    """What the use of our class gives, which must be what the use of stock's gives."""
    ours, stock = use(Nadam), use(Stock)
    assert len(ours) == len(stock)
    for a, b in zip(ours, stock, strict=True):
        np.testing.assert_allclose(value_of(a), value_of(b), rtol=rtol, atol=1e-7)
    return [value_of(x) for x in ours]


def assert_same_error(use: Callable[[type], Any], error: type[Exception], message: str) -> None:
    for kind in (Nadam, Stock):
        with pytest.raises(error, match=message):
            use(kind)


def trained(optimizer: Any, steps: int = 3) -> list[Any]:
    w = variable()
    for step in range(steps):
        optimizer.apply([grad(step)], [w])
    return [w, *optimizer.variables]


# ---- variables -----------------------------------------------------------------------------------


def test_add_variable() -> None:
    def use(kind: type) -> list[Any]:
        optimizer = kind(name="mine")
        added = optimizer.add_variable((2, 3), "ones", "float32", name="extra")
        assert added.path == "mine/extra"
        assert not added.trainable
        assert optimizer.variables[-1] is added
        return [added]

    assert_same(use)


def test_add_variable_keeps_narrow_floats_in_float32() -> None:
    assert Nadam().add_variable((2,), dtype="bfloat16").dtype == "float32"
    assert Stock().add_variable((2,), dtype="bfloat16").dtype == "bfloat16"


def test_add_variable_from_reference() -> None:
    def use(kind: type) -> list[Any]:
        optimizer = kind(name="mine")
        added = optimizer.add_variable_from_reference(variable(size=4), "extra", initializer="ones")
        assert (added.path, added.shape, added.dtype) == ("mine/w_extra", (4,), "float32")
        assert optimizer.variables[-1] is added
        return [added]

    assert_same(use)


@pytest.mark.parametrize("method", ["assign", "assign_add", "assign_sub"])
def test_assignments(method: str) -> None:
    def use(kind: type) -> list[Any]:
        w = variable(5.0)
        getattr(kind(), method)(w, ops.convert_to_tensor([1.0, 2.0, 3.0]))
        return [w]

    assert_same(use)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow alone has slices")
@pytest.mark.parametrize("method", ["assign", "assign_add", "assign_sub"])
def test_assignments_of_slices_to_variables_of_tensorflow(method: str) -> None:
    import tensorflow as tf  # noqa: PLC0415

    def use(kind: type) -> list[Any]:
        w = tf.Variable(tf.ones((4, 2)))
        slices = tf.IndexedSlices(tf.fill((2, 2), 3.0), tf.constant([1, 3]), tf.constant([4, 2]))
        getattr(kind(), method)(w, slices)
        return [w]

    assert_same(use)


def test_build_makes_the_variables_of_stock_once() -> None:
    def use(kind: type) -> list[Any]:
        optimizer = kind(use_ema=True, gradient_accumulation_steps=2)
        variables = [variable(name="a"), variable(name="b")]
        optimizer.build(variables)
        assert optimizer.built
        made = optimizer.variables
        optimizer.build(variables)
        assert optimizer.variables == made
        return made

    assert_same(use)


def test_variables_is_a_list_of_the_callers_own() -> None:
    optimizer = Nadam()
    optimizer.variables.clear()
    assert len(optimizer.variables) == 2, "the count of iterations and the learning rate"


def test_set_weights() -> None:
    weights = [value_of(v) for v in trained(Nadam(RATE))[1:]]

    def use(kind: type) -> list[Any]:
        optimizer = kind()
        w = variable()
        optimizer.build([w])
        optimizer.set_weights(weights)
        optimizer.apply([grad(7)], [w])
        return [w, *optimizer.variables]

    assert_same(use)


def test_set_weights_refuses_what_stock_refuses() -> None:
    def of_another_shape(kind: type) -> None:
        optimizer = kind()
        optimizer.build([variable()])
        optimizer.set_weights([np.zeros(5) for _ in optimizer.variables])

    assert_same_error(lambda kind: kind().set_weights([]), ValueError, "not\n? ?yet been built")
    assert_same_error(of_another_shape, ValueError, "not compatible with provided weight shape")


@pytest.mark.parametrize("kind", [Nadam, Stock])
def test_a_store_of_another_model_is_skipped_with_a_warning(kind: type) -> None:
    optimizer = kind()
    optimizer.build([variable()])
    before = [value_of(v) for v in optimizer.variables]
    with pytest.warns(UserWarning, match="Skipping variable loading for optimizer"):
        optimizer.load_own_variables({"0": np.zeros(())})
    for a, b in zip(before, optimizer.variables, strict=True):
        np.testing.assert_array_equal(a, value_of(b))


def test_a_store_goes_on_mid_training() -> None:
    def use(kind: type) -> list[Any]:
        w, *_ = trained(first := kind(RATE))
        store: dict[str, Any] = {}
        first.save_own_variables(store)
        assert sorted(store) == sorted(str(i) for i in range(len(first.variables)))
        second = kind()
        second.build([w])
        second.load_own_variables(store)
        second.apply([grad(3)], [w])
        return [w, *second.variables]

    ours = assert_same(use)
    np.testing.assert_allclose(ours[0], value_of(trained(Nadam(RATE), steps=4)[0]), rtol=1e-6)


# ---- steps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("given_as", [list, tuple, zip], ids=str)
def test_apply_gradients_returns_the_iterations(given_as: Any) -> None:
    def use(kind: type) -> list[Any]:
        optimizer, variables = kind(RATE), [variable(), variable(2.0)]
        for step in range(2):
            pairs = zip([grad(step), grad(step + 1)], variables, strict=True)
            iterations = optimizer.apply_gradients(pairs if given_as is zip else given_as(pairs))
        assert iterations is optimizer.iterations
        return [*variables, *optimizer.variables]

    assert_same(use)


def test_apply_without_variables_takes_those_it_was_built_for() -> None:
    def use(kind: type) -> list[Any]:
        optimizer, variables = kind(RATE), [variable(), variable(2.0)]
        optimizer.build(variables)
        assert optimizer.apply([grad(0), grad(1)]) is None
        return [*variables, *optimizer.variables]

    assert_same(use)


@pytest.mark.parametrize("arguments", [([],), ([], [])], ids=str)
@pytest.mark.parametrize("built", [False, True])
def test_apply_of_no_gradients_does_nothing(arguments: Any, built: bool) -> None:
    def use(kind: type) -> list[Any]:
        optimizer = kind()
        if built:
            optimizer.build([variable()])
        optimizer.apply(*arguments)
        assert optimizer.built == built
        return optimizer.variables

    assert_same(use)


def test_apply_refuses_what_stock_refuses() -> None:
    def built(kind: type, count: int) -> Any:
        optimizer = kind()
        optimizer.build([variable() for _ in range(count)])
        return optimizer

    assert_same_error(lambda kind: kind().apply([grad()]), ValueError, "must already be built")
    assert_same_error(lambda kind: built(kind, 2).apply([grad()]), ValueError, "list of 1 gradien")
    assert_same_error(
        lambda kind: built(kind, 1).apply([grad()], [variable()]), ValueError, "Unknown variable"
    )
    assert_same_error(
        lambda kind: kind().apply([None], [variable()]), ValueError, "No gradients provided for any"
    )


def test_exclude_from_weight_decay_after_the_first_step() -> None:
    """Stock's documentation asks for it before; eagerly, stock heeds it at any time."""

    def use(kind: type) -> list[Any]:
        optimizer = kind(RATE, weight_decay=0.5)
        w = variable()
        optimizer.apply([grad()], [w])
        optimizer.exclude_from_weight_decay(var_names=["w"])
        optimizer.apply([grad(1)], [w])
        return [w]

    (ours,) = assert_same(use)
    decayed = trained(Nadam(RATE, weight_decay=0.5), steps=2)[0]
    assert not np.allclose(ours, value_of(decayed))


def test_update_step_is_the_step_of_one_variable() -> None:
    """Stock divides by zero: its update_step alone finds a momentum product without this step."""
    w, other = variable(2.0), variable()
    optimizer = Nadam()
    optimizer.build([other, w])
    optimizer.update_step(grad(), w, ops.convert_to_tensor(RATE))
    expected = oracle.nadam(
        np.full(3, 2.0), [value_of(grad())], learning_rate=RATE, eps=1e-7, momentum_decay=1.0
    )
    np.testing.assert_allclose(value_of(w), expected, rtol=1e-6)
    np.testing.assert_array_equal(value_of(other), np.ones(3))
    assert int(value_of(optimizer.iterations)) == 0, "which it leaves to apply"

    stock = Stock()
    stock.build([w])
    stock.update_step(grad(), w, ops.convert_to_tensor(RATE))
    assert not np.isfinite(value_of(w)).any()


def test_update_step_is_a_part_of_apply() -> None:
    w = variable()
    optimizer = Nadam(RATE)
    for step in range(3):
        optimizer.apply([grad(step)], [w])
    optimizer.update_step(grad(3), w, ops.convert_to_tensor(RATE))
    np.testing.assert_allclose(
        value_of(w), value_of(trained(Nadam(RATE), steps=4)[0]), rtol=1e-6, atol=1e-7
    )


def test_update_step_of_a_subclass_may_be_called_in_its_own() -> None:
    class Half(Nadam):
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            super().update_step(gradient, variable, learning_rate / 2)

    w, half = variable(), variable()
    for optimizer, x, rate in ((Nadam(), w, RATE), (Half(), half, 2 * RATE)):
        optimizer.build([x])
        optimizer.update_step(grad(), x, ops.convert_to_tensor(rate))
    np.testing.assert_allclose(value_of(w), value_of(half), rtol=1e-6)


def test_update_step_refuses_bfloat16() -> None:
    w = keras.Variable(np.ones(3), dtype="bfloat16")
    optimizer = Nadam()
    optimizer.build([w])
    with pytest.raises(TypeError, match="is bfloat16; only the fused update can train it"):
        optimizer.update_step(grad(), w, ops.convert_to_tensor(RATE))


@pytest.mark.parametrize("factor", [None, 8.0])
def test_scale_loss(factor: float | None) -> None:
    (scaled,) = assert_same(
        lambda kind: [kind(loss_scale_factor=factor).scale_loss(ops.convert_to_tensor(0.5))]
    )
    assert scaled == (0.5 if factor is None else 4.0)


def test_finalize_variable_values_gives_the_averages() -> None:
    def use(kind: type) -> list[Any]:
        optimizer, w = kind(RATE, use_ema=True, ema_momentum=0.5), variable()
        for step in range(3):
            optimizer.apply([grad(step)], [w])
        last = value_of(w)
        optimizer.finalize_variable_values([w])
        return [last, w]

    last, averaged = assert_same(use)
    assert not np.allclose(last, averaged)


def test_finalize_variable_values_leaves_others_alone() -> None:
    w = variable(3.0)
    optimizer = Nadam()
    optimizer.build([w])
    optimizer.finalize_variable_values([w])
    np.testing.assert_array_equal(value_of(w), np.full(3, 3.0))


def fit_twice(kind: type) -> list[np.ndarray]:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile(optimizer=kind(RATE, use_ema=True, ema_momentum=0.9), loss="mse")
    x = np.random.default_rng(0).normal(size=(32, 4)).astype("f")
    for _ in range(2):
        model.fit(x, x[:, :2], batch_size=8, shuffle=False, verbose=0)
    return model.get_weights()


def test_averaged_models_may_be_trained_again() -> None:
    """Each fit ends with finalize_variable_values."""
    ours = fit_twice(Nadam)
    assert np.isfinite(ours[0]).all()
    if BACKEND == "tensorflow":
        for a, b in zip(ours, fit_twice(Stock), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.skipif(BACKEND != "jax", reason="on the others stock can")
def test_stock_on_jax_cannot_train_averaged_models_again() -> None:
    """Its model and its averages then share their memory, which a step cannot donate twice."""
    with pytest.raises((ValueError, TypeError)):
        fit_twice(Stock)


# ---- stateless_apply -----------------------------------------------------------------------------


@on_jax
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"weight_decay": 0.1, "clipnorm": 0.5},
        {"use_ema": True, "ema_overwrite_frequency": 2, "gradient_accumulation_steps": 2},
    ],
    ids=str,
)
def test_stateless_apply_returns_new_values_and_keeps_the_old(arguments: dict[str, Any]) -> None:
    import jax  # noqa: PLC0415

    def use(kind: type) -> list[Any]:
        optimizer, variables = kind(RATE, **arguments), [variable(), variable(2.0)]
        optimizer.build(variables)
        trainable = [v.value for v in variables]
        state = [v.value for v in optimizer.variables]
        step = jax.jit(optimizer.stateless_apply)
        for t in range(5):
            trainable, state = step(state, [grad(t), grad(t + 1)], trainable)
        np.testing.assert_array_equal(value_of(variables[0]), np.ones(3))
        assert int(value_of(optimizer.iterations)) == 0
        return [*trainable, *state]

    assert_same(use)


@on_jax
def test_stateless_apply_refuses_what_stock_refuses() -> None:
    def with_too_little(kind: type, keep: int) -> None:
        optimizer, variables = kind(), [variable(), variable()]
        optimizer.build(variables)
        state = [v.value for v in optimizer.variables]
        optimizer.stateless_apply(state[:keep], [grad(), grad()], [variables[0].value])

    assert_same_error(
        lambda kind: kind().stateless_apply([], [], []), ValueError, "Nadam must be built"
    )
    assert_same_error(lambda kind: with_too_little(kind, 3), ValueError, "list with length 3")
    assert_same_error(
        lambda kind: with_too_little(kind, 100), ValueError, r"len\(trainable_variables\) == 1"
    )


@on_tensorflow
def test_stateless_apply_is_refused_as_by_stock() -> None:
    def use(kind: type) -> None:
        optimizer = kind()
        optimizer.build([variable()])
        optimizer.stateless_apply([], [], [])

    assert_same_error(use, ValueError, "stateless_apply is not supported with the TensorFlow")


# ---- attributes ----------------------------------------------------------------------------------


def test_the_learning_rate_may_be_set_to_whatever_it_may_be() -> None:
    def use(kind: type) -> list[Any]:
        optimizer, w = kind(RATE), variable()
        rates: list[Any] = []
        for step, rate in enumerate(
            [0.3, lambda: 0.2, keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)]
        ):
            optimizer.learning_rate = rate
            optimizer.apply([grad(step)], [w])
            rates.append(optimizer.learning_rate)
        return [w, *rates, *optimizer.variables]

    ours = assert_same(use)
    np.testing.assert_allclose(ours[1:4], [0.3, 0.2, 0.1 * 0.5**3], rtol=1e-6)


def test_the_learning_rate_may_be_set_within_fit() -> None:
    def use(kind: type) -> list[Any]:
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        model.compile(optimizer=kind(RATE), loss="mse")
        seen = []

        class Halve(keras.callbacks.Callback):
            def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
                seen.append(float(value_of(model.optimizer.learning_rate)))

        x = np.random.default_rng(0).normal(size=(32, 4)).astype("f")
        halved = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
        model.fit(
            x, x[:, :2], batch_size=8, epochs=3, shuffle=False, verbose=0,
            callbacks=[halved, Halve()],
        )  # fmt: skip
        return [*model.get_weights(), *seen]

    ours = assert_same(use, rtol=1e-5)
    np.testing.assert_allclose(ours[-3:], [RATE / 2, RATE / 4, RATE / 8], rtol=1e-6)


def test_a_schedule_cannot_be_set_to_a_number() -> None:
    def use(kind: type) -> None:
        kind(keras.optimizers.schedules.ExponentialDecay(RATE, 1, 0.5)).learning_rate = 0.1

    assert_same_error(use, TypeError, "its learning rate is not settable")


def test_a_learning_rate_that_is_no_float_is_refused() -> None:
    assert_same_error(
        lambda kind: kind(learning_rate=1), ValueError, "`learning_rate` should be float"
    )


def test_iterations_count_updates() -> None:
    def use(kind: type) -> list[Any]:
        counts = []
        for steps in (None, 2):
            optimizer, w = kind(gradient_accumulation_steps=steps), variable()
            for step in range(5):
                optimizer.apply([grad(step)], [w])
            counts.append(optimizer.iterations)
        return counts

    assert [int(count) for count in assert_same(use)] == [5, 2]


def changing_beta(optimizer: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: 0.9 - 0.1 * ops.cast(optimizer().iterations, "float32")


def test_callable_betas_are_called_at_each_step() -> None:
    """Stock fails on them. Its judge gets the same values, set before each step."""
    ours = Nadam(RATE, beta_1=changing_beta(lambda: ours))
    stock, w = Stock(RATE), variable()
    for step in range(4):
        stock.beta_1 = 0.9 - 0.1 * step
        stock.apply([grad(step)], [w])
    np.testing.assert_allclose(value_of(trained(ours, steps=4)[0]), value_of(w), rtol=1e-5)


@pytest.mark.parametrize("beta", ["beta_1", "beta_2"])
def test_stock_fails_on_callable_betas(beta: str) -> None:
    with pytest.raises((TypeError, ValueError)):
        trained(Stock(**{beta: lambda: 0.5}))


# ---- configuration -------------------------------------------------------------------------------

ALL_ARGUMENTS = {
    "learning_rate": 0.25,
    "beta_1": 0.75,
    "beta_2": 0.5,
    "epsilon": 1e-3,
    "weight_decay": 0.125,
    "clipnorm": None,
    "clipvalue": 2.0,
    "global_clipnorm": None,
    "use_ema": True,
    "ema_momentum": 0.875,
    "ema_overwrite_frequency": 3,
    "loss_scale_factor": 4.0,
    "gradient_accumulation_steps": 2,
    "name": "mine",
}


def test_get_config_has_every_argument_and_from_config_takes_it() -> None:
    for kind in (Nadam, Stock):
        config = kind(**ALL_ARGUMENTS).get_config()
        assert config == ALL_ARGUMENTS
        made = kind.from_config(config)
        assert type(made) is kind
        assert made.get_config() == ALL_ARGUMENTS


@keras.saving.register_keras_serializable(package="tests")
def constant_rate() -> float:
    return 0.5


@pytest.mark.parametrize(
    "rate",
    [keras.optimizers.schedules.ExponentialDecay(0.25, 10, 0.5), constant_rate],
    ids=["schedule", "callable"],
)
def test_learning_rates_of_every_kind_are_in_the_config(rate: Any) -> None:
    def use(kind: type) -> list[Any]:
        config = kind(rate).get_config()
        made = kind.from_config(dict(config))
        assert made.get_config() == config
        return [made.learning_rate]

    assert_same(use)
    assert Nadam(rate, name="n").get_config() == Stock(rate, name="n").get_config()


def test_unknown_arguments_are_refused() -> None:
    assert_same_error(
        lambda kind: kind(amsgrad=True), ValueError, "not recognized: {'amsgrad': True}"
    )


@pytest.mark.parametrize("kind", [Nadam, Stock])
def test_the_old_argument_decay_is_ignored_with_a_warning(kind: type) -> None:
    with pytest.warns(UserWarning, match="`decay` is no longer supported and will be ignored"):
        kind(decay=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clipnorm": 1.0, "clipvalue": 1.0}, "Only one of `clipnorm`, `clipvalue`"),
        ({"gradient_accumulation_steps": 1}, "must be an integer >= 2"),
        ({"use_ema": True, "ema_momentum": 1.5}, r"must be in the range \[0, 1\]"),
        ({"use_ema": True, "ema_overwrite_frequency": 0.5}, "must be an integer >= 1"),
    ],
)
def test_what_stock_refuses_is_refused(arguments: dict[str, Any], message: str) -> None:
    assert_same_error(lambda kind: kind(**arguments), ValueError, message)


@pytest.mark.parametrize("clipping", ["clipnorm", "clipvalue", "global_clipnorm"])
@pytest.mark.parametrize("limit", [-0.5, 0.0])
def test_a_limit_that_is_not_positive_does_not_clip(clipping: str, limit: float) -> None:
    (ours, *_) = assert_same(lambda kind: trained(kind(RATE, **{clipping: limit})))
    np.testing.assert_array_equal(ours, value_of(trained(Nadam(RATE))[0]))


@pytest.mark.parametrize(
    "argument",
    ["epsilon", "weight_decay", "clipnorm", "clipvalue", "global_clipnorm", "loss_scale_factor"],
)
def test_numbers_may_be_constant_tensors(argument: str) -> None:
    assert_same(lambda kind: trained(kind(RATE, **{argument: ops.convert_to_tensor(0.5)})))


def test_a_loss_scale_of_zero_is_refused() -> None:
    """Stock makes every parameter NaN."""
    with pytest.raises(ValueError, match=r"loss_scale_factor is 0.0; it must not be zero"):
        Nadam(loss_scale_factor=0.0)
    assert np.isnan(value_of(trained(Stock(loss_scale_factor=0.0))[0])).all()
