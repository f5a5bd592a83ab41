"""What only Keras on TensorFlow has: variables of TensorFlow's own, strategies, a hidden XLA."""

import re
import warnings
from typing import Any

import keras
import numpy as np
import pytest
from processes import output_of

if keras.backend.backend() != "tensorflow":
    pytest.skip("for the TensorFlow backend", allow_module_level=True)

import tensorflow as tf

from nadam_xla.keras import Nadam
from nadam_xla.tensorflow import runtime


def apply_once(optimizer: Any, caller: Any = lambda f: f) -> np.ndarray:
    variable = tf.Variable(tf.ones((4, 3)))
    optimizer.build([variable])
    step = caller(lambda grad: optimizer.apply([grad], [variable]))
    step(tf.fill((4, 3), 0.5))
    step(tf.fill((4, 3), -0.25))
    return variable.numpy()


@pytest.mark.parametrize(
    "caller",
    [lambda f: f, tf.function, lambda f: tf.function(f, jit_compile=True)],
    ids=["eager", "function", "compiled"],
)
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"weight_decay": 0.1, "global_clipnorm": 0.5, "loss_scale_factor": 3.0},
        {"use_ema": True, "ema_overwrite_frequency": 2},
        {"gradient_accumulation_steps": 2},
    ],
    ids=["defaults", "all in the row", "average", "accumulation"],
)
def test_plain_tf_variables(caller: Any, arguments: dict[str, Any]) -> None:
    ours = apply_once(Nadam(0.1, **arguments), caller)
    stock = apply_once(keras.optimizers.Nadam(0.1, **arguments), caller)
    np.testing.assert_allclose(ours, stock, rtol=1e-6)


@pytest.mark.parametrize("make", [tf.Variable, keras.Variable])
@pytest.mark.parametrize("clipping", ["clipnorm", "global_clipnorm"])
def test_all_scalars_of_float64_variables_are_those_of_stock(make: Any, clipping: str) -> None:
    """Float64 but for what stock itself casts: on TensorFlow, numbers go through float32 there."""
    start, grad = (np.random.default_rng(i).normal(size=5) for i in range(2))

    def train(optimizer_class: type) -> np.ndarray:
        variable = make(start, dtype="float64")
        optimizer = optimizer_class(0.1, epsilon=1e-3, **{clipping: 0.37})
        for _ in range(3):
            optimizer.apply([tf.constant(grad)], [variable])
        return variable.numpy()

    np.testing.assert_allclose(train(Nadam), train(keras.optimizers.Nadam), rtol=1e-13)


def test_repeated_rows_of_a_sparse_gradient_are_summed() -> None:
    """The true gradient. Stock squares each slice by itself, so its judge gets the dense one."""
    rng = np.random.default_rng(0)

    def train(optimizer: Any, *, dense: bool) -> np.ndarray:
        embeddings = keras.Variable(np.ones((11, 5), "f"))
        optimizer.build([embeddings])
        for _ in range(20):
            indices = tf.constant(rng.integers(0, 11, 8))
            values = tf.constant(rng.normal(size=(8, 5)), "float32")
            slices = tf.IndexedSlices(values, indices, dense_shape=tf.constant([11, 5]))
            grad = tf.convert_to_tensor(slices) if dense else slices
            optimizer.apply([grad], [embeddings])
        return embeddings.numpy()

    ours = train(Nadam(0.01), dense=False)
    rng = np.random.default_rng(0)
    np.testing.assert_allclose(ours, train(keras.optimizers.Nadam(0.01), dense=True), rtol=1e-5)


@pytest.mark.parametrize("dense_shape", [None, (11, 5), tf.constant([11, 5])], ids=str)
def test_slices_may_say_their_dense_shape_in_any_way(dense_shape: Any) -> None:
    def train(grad: Any) -> np.ndarray:
        embeddings = keras.Variable(np.ones((11, 5), "f"))
        Nadam(0.01).apply([grad], [embeddings])
        return embeddings.numpy()

    slices = tf.IndexedSlices(tf.ones((3, 5)), tf.constant([1, 1, 7]), dense_shape)
    dense = np.zeros((11, 5), "f")
    dense[1], dense[7] = 2, 1
    np.testing.assert_array_equal(train(slices), train(tf.constant(dense)))


def test_a_gradient_may_be_of_unknown_rank_in_a_graph() -> None:
    variable, optimizer = keras.Variable(np.ones(3, "f")), Nadam(0.01)
    optimizer.build([variable])

    @tf.function(input_signature=[tf.TensorSpec(None)])
    def step(grad: Any) -> None:
        optimizer.apply([grad], [variable])

    step(tf.ones(3))
    np.testing.assert_allclose(variable.numpy(), 0.99, rtol=1e-3)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[2\]"):
        step(tf.ones(2))
    np.testing.assert_allclose(variable.numpy(), 0.99, rtol=1e-3)


def test_a_subset_of_the_variables_may_have_gradients() -> None:
    def train(optimizer: Any) -> list[np.ndarray]:
        variables = [keras.Variable(np.ones(3, "f")) for _ in range(3)]
        optimizer.build(variables)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # Keras's own, about the missing ones
            for step in range(6):
                grads = [tf.ones(3) * (step + 1)] * 3
                grads[step % 3] = None
                optimizer.apply(grads, variables)
        return [v.numpy() for v in variables]

    for a, b in zip(train(Nadam(0.01)), train(keras.optimizers.Nadam(0.01)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.filterwarnings("error:.*Keras's own update")
def test_under_a_strategy_of_one_device_it_is_fused() -> None:
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")

    def train(make: Any) -> keras.Model:
        keras.utils.set_random_seed(0)
        with strategy.scope():
            model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
            model.compile(optimizer=make(0.01), loss="mse")
        x = np.random.default_rng(0).normal(size=(32, 4)).astype("f")
        model.fit(x, x[:, :2], epochs=2, batch_size=8, shuffle=False, verbose=0)
        return model

    ours, stock = train(Nadam), train(keras.optimizers.Nadam)
    for a, b in zip(ours.get_weights(), stock.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_where_xla_cannot_be_reached_it_warns_once_and_trains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtime, "unavailable", lambda: "no XLA here")
    with pytest.warns(UserWarning, match="no XLA here. Training goes on") as caught:
        ours = apply_once(Nadam(0.1))
    assert len(caught) == 1
    np.testing.assert_array_equal(ours, apply_once(keras.optimizers.Nadam(0.1)))


WITHOUT_XLA = """
import warnings

import keras
import numpy as np
import tensorflow as tf

tf.sysconfig.get_lib = lambda: "/nowhere"

from nadam_xla.keras import Nadam
from nadam_xla.tensorflow import raw_ops


def losses(kind, **how):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile(optimizer=kind(0.01, weight_decay=0.1), loss="mse", **how)
    x = np.random.default_rng(0).normal(size=(32, 4)).astype("f")
    return model.fit(x, x[:, :2], batch_size=8, shuffle=False, verbose=0).history["loss"]


with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for how in ({}, {"jit_compile": True}, {"run_eagerly": True}):
        assert losses(Nadam, **how) == losses(keras.optimizers.Nadam, **how)
print(*(w.message for w in caught if "nadam_xla" in str(w.message)), sep="\\n")
one = tf.Variable(1.0)
names = "momentum next_momentum momentum_product beta2_power lr beta1 beta2 epsilon".split()
try:
    raw_ops.ResourceApplyNadam(var=one, m=one, v=one, grad=one, **dict.fromkeys(names, 0.5))
except NotImplementedError as error:
    print(error)
"""


def test_in_a_tensorflow_without_a_known_xla_it_warns_once_and_the_raw_ops_raise() -> None:
    warning, error = output_of(WITHOUT_XLA).splitlines()
    reason = rf"cannot reach the XLA of TensorFlow {re.escape(tf.__version__)} \(OSError: /nowhere/"
    for message in (warning, error):
        assert re.search(reason, message)
        assert "it supports TensorFlow 2.18 to 2.21 for Linux" in message
    assert warning.endswith("Training goes on by Keras's own update.")
