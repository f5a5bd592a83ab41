"""These tests see two CPUs, so they need a process in which TensorFlow has not started yet."""

import pytest
import tensorflow as tf

(cpu,) = tf.config.list_physical_devices("CPU")
try:
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
except RuntimeError as error:
    raise pytest.UsageError(
        "tests/distribute needs two logical CPUs, and TensorFlow has started with"
        f" {len(tf.config.list_logical_devices('CPU'))}: run it in a process of its own, as"
        " `make test` does"
    ) from error
