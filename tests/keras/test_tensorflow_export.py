"""Training steps that are to run where nadam_xla is not: TFLite, and SavedModels."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from processes import output_of

if keras.backend.backend() != "tensorflow":
    pytest.skip("for the TensorFlow backend", allow_module_level=True)

import tensorflow as tf

from nadam_xla.keras import Nadam

X = np.random.default_rng(0).normal(size=(8, 4)).astype("f")
Y = np.ones((8, 2), "f")


class Training(tf.Module):
    def __init__(self, optimizer: Any) -> None:
        super().__init__()
        keras.utils.set_random_seed(0)
        self.model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        self.optimizer = optimizer
        optimizer.build(self.model.trainable_variables)
        self.state = [v.value for v in [*self.model.trainable_variables, *optimizer.variables]]

    @tf.function(input_signature=[tf.TensorSpec((8, 4)), tf.TensorSpec((8, 2))])
    def train(self, x: Any, y: Any) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self.model(x) - y) ** 2)
        variables = self.model.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}

    def start(self) -> Any:
        """A signature that gives the variables, of which TFLite keeps no values, those of now."""
        values = [v.numpy() for v in self.state]

        @tf.function(input_signature=[])
        def start() -> dict[str, Any]:
            for variable, value in zip(self.state, values, strict=True):
                variable.assign(value)
            return {"done": tf.constant(True)}

        return start

    def save(self, folder: Path) -> None:
        self.starting = self.start()
        signatures = {"train": self.train, "start": self.starting}
        tf.saved_model.save(self, str(folder), signatures=signatures)


def converted(folder: Path) -> bytes:
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder))
    converter.target_spec.supported_ops = [
        tf.lite.OpsSet.TFLITE_BUILTINS,
        tf.lite.OpsSet.SELECT_TF_OPS,
    ]
    converter.experimental_enable_resource_variables = True
    return bytes(converter.convert())


def not_fused(**arguments: Any) -> Nadam:
    optimizer = Nadam(**arguments)
    optimizer.fused = False
    return optimizer


@pytest.mark.filterwarnings("error:.*Keras's own update", "ignore:    Warning. tf.lite")
def test_a_step_that_is_not_fused_trains_in_tflite(tmp_path: Path) -> None:
    arguments = {"learning_rate": 0.05, "weight_decay": 0.01}
    Training(not_fused(**arguments)).save(tmp_path)
    interpreter = tf.lite.Interpreter(model_content=converted(tmp_path))
    interpreter.get_signature_runner("start")()
    train = interpreter.get_signature_runner("train")
    losses = [float(train(x=X, y=Y)["loss"]) for _ in range(5)]
    stock = Training(keras.optimizers.Nadam(**arguments))
    expected = [float(stock.train(X, Y)["loss"]) for _ in range(5)]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert losses[-1] < losses[0]


def test_a_fused_step_is_not_for_tflite(tmp_path: Path) -> None:
    """What docs/keras/saving.md says of it. Its kernels are XLA's, which TFLite has not."""
    Training(Nadam(0.05)).save(tmp_path)
    with pytest.raises(Exception, match=r"XlaCallModule|custom_call"):
        converted(tmp_path)


ELSEWHERE = """
import sys
import numpy as np
import tensorflow as tf

loaded = tf.saved_model.load(sys.argv[1])
x, y = np.load(sys.argv[2]), np.ones((8, 2), "f")
try:
    print([float(loaded.train(x, y)["loss"]) for _ in range(3)])
except tf.errors.OpError as error:
    print("nadam_xla_update_v" in str(error) or repr(str(error)))
print("nadam_xla" in sys.modules)
"""


@pytest.mark.parametrize("fused", [True, False])
def test_a_saved_step_elsewhere(fused: bool, tmp_path: Path) -> None:
    training = Training(Nadam(0.05) if fused else not_fused(learning_rate=0.05))
    training.save(tmp_path)
    np.save(tmp_path / "x.npy", X)
    result, imported = output_of(ELSEWHERE, tmp_path, tmp_path / "x.npy").splitlines()
    assert imported == "False"
    if fused:
        assert result == "True"
        return
    expected = [float(training.train(X, Y)["loss"]) for _ in range(3)]
    np.testing.assert_allclose(eval(result), expected, rtol=1e-5)


def test_fused_and_not_they_go_on_from_one_another() -> None:
    trainings = [Training(Nadam(0.05)), Training(keras.optimizers.Nadam(0.05))]
    losses: list[list[float]] = [[], []]
    for t in range(6):
        trainings[0].optimizer.fused = t % 2 == 0
        for training, seen in zip(trainings, losses, strict=True):
            variables = training.model.trainable_variables
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((training.model(X) - Y) ** 2)
            training.optimizer.apply(tape.gradient(loss, variables), variables)
            seen.append(float(loss))
    np.testing.assert_allclose(*losses, rtol=1e-5)
