"""These tests see two CPUs, so they need a process in which TensorFlow has not started yet."""

import pytest
import tensorflow as tf
import two_cpus

two_cpus.start("tests/distribute")


@pytest.fixture(scope="session")
def mirrored() -> tf.distribute.Strategy:
    """The process's one strategy that reduces by collectives.

    TensorFlow numbers the collectives of each strategy from 100 on, and two strategies of one
    process share the numbers: where one sums gradients, and the other gathers rows, it ends in
    "Collective instance 100 expected type 0 and data_type 1 but got type 2 and data_type 3".
    """
    return tf.distribute.MirroredStrategy(two_cpus.DEVICES)
