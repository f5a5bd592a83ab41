"""Variables on another device than where TensorFlow runs what has no place of its own."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from nadam_xla.keras import Nadam, update_path
from nadam_xla.tensorflow import raw_ops

Stock = keras.optimizers.Nadam
CALLERS: dict[str, Callable[[Any], Any]] = {"eager": lambda f: f, "function": tf.function}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "all in the row": {"weight_decay": 0.1, "global_clipnorm": 0.5, "loss_scale_factor": 2.0},
    "accumulation and averages": {"gradient_accumulation_steps": 2, "use_ema": True},
}


def variable_on(device: str, value: float = 1.0) -> tf.Variable:
    with tf.device(device):
        return tf.Variable(tf.fill(3, value))


def trained(optimizer: Any, variables: list[tf.Variable], caller: Callable[[Any], Any]) -> Any:
    optimizer.build(variables)
    step = caller(lambda grads: optimizer.apply(grads, variables))
    for t in range(4):
        step([tf.constant([0.5, -1.0, t]) for _ in variables])
    return [v.numpy() for v in variables]


@pytest.mark.filterwarnings("error:.*Keras's own update")
@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_the_step_runs_where_all_variables_are(arguments: str, caller: str) -> None:
    def train(kind: type) -> Any:
        variables = [variable_on("CPU:1"), variable_on("CPU:1", 2.0)]
        return trained(kind(0.1, **ARGUMENTS[arguments]), variables, CALLERS[caller])

    np.testing.assert_allclose(train(Nadam), train(Stock), rtol=1e-6)


@pytest.mark.filterwarnings("error:.*Keras's own update")
def test_two_optimizers_of_the_same_shapes_on_two_devices() -> None:
    for device in ("CPU:0", "CPU:1", "CPU:0"):
        ours = trained(Nadam(0.1), [variable_on(device)], CALLERS["eager"])
        stock = trained(Stock(0.1), [variable_on(device)], CALLERS["eager"])
        np.testing.assert_allclose(ours, stock, rtol=1e-6)


@pytest.mark.parametrize("caller", CALLERS)
def test_a_step_over_two_devices_is_the_parents_and_says_so_once(caller: str) -> None:
    def train(kind: type) -> Any:
        variables = [variable_on("CPU:0"), variable_on("CPU:1")]
        return trained(kind(0.1, weight_decay=0.1), variables, CALLERS[caller])

    with pytest.warns(UserWarning, match=r"are on 2 devices, .*CPU:0, .*CPU:1.*own update") as said:
        ours = train(Nadam)
    assert len(said) == 1
    np.testing.assert_allclose(ours, train(Stock), rtol=1e-6)


def test_a_step_of_those_on_one_of_them_is_fused() -> None:
    def train(optimizer: Any) -> Any:
        variables = [variable_on("CPU:0"), variable_on("CPU:1")]
        optimizer.build(variables)
        for v in variables:
            optimizer.apply([tf.ones(3)], [v])
        return [v.numpy() for v in variables]

    ours = Nadam(0.1)
    np.testing.assert_allclose(train(ours), train(Stock(0.1)), rtol=1e-6)
    assert update_path(ours).update == "stock"
    for v in ours._trainable_variables:
        assert update_path(ours, [v]).update == "kernel"


@pytest.mark.filterwarnings("error:.*own update", "ignore:Gradients do not exist")
def test_those_without_a_gradient_may_be_anywhere() -> None:
    def train(kind: type) -> Any:
        variables = [variable_on("CPU:0"), variable_on("CPU:1")]
        kind(0.1).apply([None, tf.ones(3)], variables)
        return [v.numpy() for v in variables]

    np.testing.assert_allclose(train(Nadam), train(Stock), rtol=1e-6)


def test_a_model_with_its_embedding_elsewhere() -> None:
    def train(kind: type) -> Any:
        keras.utils.set_random_seed(0)
        with tf.device("CPU:1"):
            embedding = keras.layers.Embedding(8, 4)
            embedding.build(())
        model = keras.Sequential([keras.Input((5,)), embedding, keras.layers.Dense(2)])
        model.compile(optimizer=kind(0.01), loss="mse", jit_compile=False)
        words = np.arange(40).reshape(8, 5) % 8
        history = model.fit(words, np.ones((8, 5, 2)), epochs=3, shuffle=False, verbose=0)
        return history.history["loss"]

    with pytest.warns(UserWarning, match="are on 2 devices"):
        ours = train(Nadam)
    np.testing.assert_allclose(ours, train(Stock), rtol=1e-5)


SCALARS = dict.fromkeys(
    ("momentum", "next_momentum", "momentum_product", "beta2_power", "lr", "beta1", "beta2"), 0.5
) | {"epsilon": 1e-7}


@pytest.mark.parametrize("by_handle", [False, True], ids=["variable", "handle"])
@pytest.mark.parametrize("caller", CALLERS)
def test_raw_ops_run_where_their_variables_are(caller: str, by_handle: bool) -> None:
    def updated(devices: list[str]) -> Any:
        leaves = [[variable_on(d, x) for x in (1.0, 0.0, 0.0)] for d in devices]
        given = [[v.handle if by_handle else v for v in leaf] for leaf in leaves]
        var, m, v = (list(group) for group in zip(*given, strict=True))

        def step(grads: list[Any]) -> None:
            raw_ops.ResourceMultiApplyNadam(var=var, m=m, v=v, grad=grads, **SCALARS)
            raw_ops.ResourceApplyNadam(var=var[0], m=m[0], v=v[0], grad=grads[0], **SCALARS)

        CALLERS[caller](step)([tf.ones(3) for _ in devices])
        return np.stack([[x.numpy() for x in leaf] for leaf in leaves])

    np.testing.assert_array_equal(
        updated(["CPU:1", "CPU:0", "CPU:1"]), updated(["CPU:0", "CPU:0", "CPU:0"])
    )


def test_raw_ops_name_variables_that_are_apart() -> None:
    var, m, v = variable_on("CPU:0"), variable_on("CPU:1"), variable_on("CPU:0")
    with pytest.raises(ValueError, match="on one device; var on /device:CPU:0, m on /device:CPU:1"):
        raw_ops.ResourceApplyNadam(var=var, m=m, v=v, grad=tf.ones(3), **SCALARS)
