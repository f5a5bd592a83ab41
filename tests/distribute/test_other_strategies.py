"""The strategies under which the update is stock Keras's own."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from processes import output_of
from two_cpus import DEVICES

from nadam_xla.keras import Nadam, update_path

PARAMETER_SERVER = """
import warnings

import keras
import numpy as np
import tensorflow as tf
from processes import free_port

from nadam_xla.keras import Nadam

jobs = ("worker", "ps")
cluster = tf.train.ClusterSpec({job: [f"127.0.0.1:{free_port()}"] for job in jobs})
servers = [tf.distribute.Server(cluster, job_name=job, task_index=0) for job in jobs]
resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(cluster, rpc_layer="grpc")
strategy = tf.distribute.ParameterServerStrategy(resolver)
coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)


def train(kind):
    with strategy.scope():
        variable, optimizer = keras.Variable(np.ones(3, "f")), kind(0.1, weight_decay=0.1)
        optimizer.build([variable])

    @tf.function
    def step():
        strategy.run(lambda: optimizer.apply([tf.constant([1.0, 2.0, -3.0])], [variable]))

    for _ in range(3):
        coordinator.schedule(step)
    coordinator.join()
    optimizer.apply([tf.constant([1.0, 2.0, -3.0])], [variable])
    return variable.numpy()


with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    ours = train(Nadam)
np.testing.assert_array_equal(ours, train(keras.optimizers.Nadam))
print(*(w.message for w in caught if "nadam_xla" in str(w.message)), sep="\\n")
"""


def test_under_parameter_servers_it_warns_once_and_trains_as_stock() -> None:
    printed = output_of(PARAMETER_SERVER, environment={"KERAS_BACKEND": "tensorflow"})
    (warning,) = printed.splitlines()
    assert "does not run under ParameterServerStrategyV2" in warning
    assert "it supports MirroredStrategy, MultiWorkerMirroredStrategy and OneDevice" in warning
    assert warning.endswith("Training goes on by Keras's own update.")


def test_under_a_tpu_strategy_it_would_be_the_parents_update() -> None:
    """There is no such strategy without a TPU; its type is all that is asked for."""
    optimizer = Nadam()
    optimizer._distribution_strategy = tf.distribute.TPUStrategy.__new__(tf.distribute.TPUStrategy)
    path = update_path(optimizer)
    assert path.update == "stock"
    assert "does not run under TPUStrategy" in str(path)


@pytest.mark.parametrize("kind", [Nadam, keras.optimizers.Nadam], ids=["ours", "stock"])
@pytest.mark.filterwarnings("ignore:nadam_xla's fused update does not run under CentralStorage")
def test_central_storage_is_beyond_stock(kind: Any) -> None:
    """Its momentum product has no aggregation, which this strategy asks for."""
    strategy = tf.distribute.experimental.CentralStorageStrategy(DEVICES, "CPU:0")
    with strategy.scope():
        variable, optimizer = keras.Variable(np.ones(3, "f")), kind(0.1)
        optimizer.build([variable])
    with pytest.raises(ValueError, match="must specify an aggregation method"):
        strategy.run(lambda: optimizer.apply([tf.ones(3)], [variable]))
