"""What only TensorFlow saves: training functions as SavedModels, checkpoints of any variables."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras_models import BACKEND, batches, dense
from processes import output_of

if BACKEND != "tensorflow":
    pytest.skip("for the TensorFlow backend", allow_module_level=True)

import tensorflow as tf

from nadam_xla.keras import Nadam

BATCH = [tf.TensorSpec((8, 8)), tf.TensorSpec((8, 3))]
STEPS = 4


class Training(tf.Module):
    """A model, its optimizer, and the step that trains it: compiled, and in a plain graph."""

    def __init__(self, optimizer: Any) -> None:
        super().__init__()
        self.model = dense()
        self.optimizer = optimizer
        optimizer.build(self.model.trainable_variables)

    @tf.function(input_signature=BATCH)
    def step(self, x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self.model(x, training=True) - y) ** 2)
        variables = self.model.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    @tf.function(input_signature=BATCH, jit_compile=True)
    def compiled_step(self, x: Any, y: Any) -> Any:
        return self.step(x, y)

    def losses(self, steps: range) -> list[float]:
        """Of steps that are compiled and those that are not, in turn."""
        ways = [self.step, self.compiled_step]
        return [float(ways[i % 2](*map(tf.constant, batches()[i]))) for i in steps]


def trained_and_saved(make: Callable[..., Any], folder: Path) -> list[float]:
    """The losses that come after it was saved."""
    training = Training(make(1e-2, global_clipnorm=0.5, weight_decay=0.1))
    training.losses(range(STEPS))
    tf.saved_model.save(training, folder)
    return training.losses(range(STEPS, 2 * STEPS))


LOADED = """
import sys
import numpy as np
import tensorflow as tf

folder, batches, steps = sys.argv[1], np.load(sys.argv[2]), int(sys.argv[3])

def step(i):
    x, y = batches["x"][i], batches["y"][i]
    return float([loaded.step, loaded.compiled_step][i % 2](x, y))

loaded = tf.saved_model.load(folder)
for i in (0, 1):
    try:
        step(i)
        raise SystemExit("a step ran without its kernels")
    except tf.errors.NotFoundError as error:
        print(repr(error.message))
import nadam_xla.tensorflow
loaded = tf.saved_model.load(folder)  # again: a step that fails may have counted itself
print(*map(step, range(steps, 2 * steps)))
print("nadam_xla.keras" in sys.modules)
"""


# In the words of newer versions of XLA, or of TensorFlow 2.18's.
NO_KERNEL = (
    "No (FFI handler registered for|registered implementation for FFI custom call to) nadam_xla_"
)


def test_a_saved_training_function_goes_on_in_a_fresh_process(tmp_path: Path) -> None:
    """Without the kernels it is an error; after ``import nadam_xla.tensorflow`` the same runs."""
    expected = trained_and_saved(Nadam, tmp_path / "saved")
    stock = trained_and_saved(keras.optimizers.Nadam, tmp_path / "stock")
    np.testing.assert_allclose(expected, stock, rtol=1e-5)
    x, y = (np.stack(part) for part in zip(*batches(), strict=True))
    np.savez(tmp_path / "batches.npz", x=x, y=y)
    output = output_of(LOADED, tmp_path / "saved", tmp_path / "batches.npz", STEPS)
    plain, compiled, losses, imported = output.strip().splitlines()
    for message in (plain, compiled):
        assert re.search(NO_KERNEL, message)
    np.testing.assert_allclose([float(x) for x in losses.split()], expected, rtol=1e-6)
    assert imported == "False"


def test_a_loaded_training_function_is_in_place(tmp_path: Path) -> None:
    trained_and_saved(Nadam, tmp_path)
    loaded = tf.saved_model.load(tmp_path)
    x, y = map(tf.constant, batches()[0])
    function = loaded.compiled_step.get_concrete_function(x, y)
    variables = [v for v in function.variables if v.shape.rank == 2]
    before = [address_of(v) for v in variables]
    assert len(before) == 6, "two kernels, their first and second moments"
    for step in (loaded.step, loaded.compiled_step):
        step(x, y)
        assert [address_of(v) for v in variables] == before


def address_of(variable: Any) -> int:
    return np.frombuffer(memoryview(variable.read_value()), np.uint8).ctypes.data


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("built", ["before", "after"])
def test_a_checkpoint_of_plain_variables_is_restored(
    tmp_path: Path, dtype: str, built: str
) -> None:
    grads = [tf.cast([1.0, -2.0, 3.0 + t], dtype) for t in range(8)]

    def started() -> tuple[tf.Variable, Nadam, tf.train.Checkpoint]:
        variable, optimizer = tf.Variable(tf.ones(3, dtype)), Nadam(0.1)
        return variable, optimizer, tf.train.Checkpoint(variable=variable, optimizer=optimizer)

    variable, optimizer, checkpoint = started()
    for grad in grads[:4]:
        optimizer.apply([grad], [variable])
    path = checkpoint.save(tmp_path / "checkpoint")
    other, restored, checkpoint = started()
    if built == "before":
        restored.build([other])
    status = checkpoint.restore(path)
    for grad in grads[4:]:
        optimizer.apply([grad], [variable])
        restored.apply([grad], [other])
    status.assert_consumed()
    np.testing.assert_array_equal(other.numpy(), variable.numpy())
    assert int(restored.iterations) == 8
