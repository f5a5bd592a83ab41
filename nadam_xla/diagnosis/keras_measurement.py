"""The measurement in Keras on TensorFlow: compiled steps, on the default device."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from nadam_xla.diagnosis.facts import Measurement
from nadam_xla.diagnosis.measurement import ELEMENTS_OF_LIMIT, LIMIT, OURS, PARAMETERS, measure
from nadam_xla.keras import Nadam, update_path


def find_out(found: Measurement) -> None:
    """Ours, Keras's, and a plain pass over as much memory."""
    optimizer = Nadam()
    turns = {
        OURS: _turn(_step_of(optimizer)),
        "keras.optimizers.Nadam": _turn(_step_of(keras.optimizers.Nadam())),
        LIMIT: _turn(_plain_pass()),
    }
    found["framework"] = "keras"
    found["device"] = optimizer.variables[-1].value.device
    found["update"] = update_path(optimizer).update
    measure(found, turns, steps=1)


def _step_of(optimizer: Any) -> Callable[[], None]:
    variable, grad = keras.Variable(tf.ones(PARAMETERS)), tf.ones(PARAMETERS)
    optimizer.build([variable])
    return lambda: optimizer.apply([grad], [variable])


def _plain_pass() -> Callable[[], None]:
    x = tf.Variable(tf.ones(ELEMENTS_OF_LIMIT))
    return lambda: x.assign(x * 0.5 + 1.0)


def _turn(step: Callable[[], None]) -> Callable[[], None]:
    compiled = tf.function(step, jit_compile=True)

    def run() -> None:
        compiled()
        tf.test.experimental.sync_devices()

    return run
