"""Two logical CPUs for TensorFlow, in a process of their own."""

import pytest
import tensorflow as tf

DEVICES = ["CPU:0", "CPU:1"]


def start(tests: str) -> None:
    """Makes TensorFlow start with them; ``tests`` is what needs them.

    Raises:
        pytest.UsageError: TensorFlow has started already.
    """
    (cpu,) = tf.config.list_physical_devices("CPU")
    halves = [tf.config.LogicalDeviceConfiguration()] * 2
    try:
        tf.config.set_logical_device_configuration(cpu, halves)
    except RuntimeError as error:
        raise pytest.UsageError(
            f"{tests} needs two logical CPUs, and TensorFlow has started with"
            f" {len(tf.config.list_logical_devices('CPU'))}: run it in a process of its own, as"
            " `make test` does"
        ) from error
