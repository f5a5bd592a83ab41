"""The variables of a step on TensorFlow: which, by what names, and what is left behind."""

import gc
import logging
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from processes import output_of

if keras.backend.backend() != "tensorflow":
    pytest.skip("for the TensorFlow backend", allow_module_level=True)

import tensorflow as tf

from nadam_xla.keras import Nadam

Stock = keras.optimizers.Nadam
Kind = type


def assert_same(train: Callable[[Kind], list[Any]], rtol: float = 1e-6) -> list[Any]:
    ours, stock = train(Nadam), train(Stock)
    for a, b in zip(ours, stock, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)
    return ours


# ---- names ---------------------------------------------------------------------------------------


def normalized() -> keras.Model:
    keras.utils.set_random_seed(0)
    parts = layers.LayerNormalization(name="layer_norm"), layers.Dense(2, name="out")
    return keras.Sequential([keras.Input((4,)), *parts])


@pytest.mark.parametrize(
    ("pattern", "how"),
    [
        ("layer_norm", {"jit_compile": False}),
        ("layer_norm/gamma", {"jit_compile": True}),
        ("^sequential", {"run_eagerly": True}),
        ("bias:0$", {"run_eagerly": True}),
        ("^gamma$", {"run_eagerly": True}),
    ],
    ids=str,
)
def test_exclusion_by_the_names_that_stock_matches(pattern: str, how: dict[str, Any]) -> None:
    def train(kind: Kind) -> list[Any]:
        model = normalized()
        optimizer = kind(0.1, weight_decay=5.0)
        optimizer.exclude_from_weight_decay(var_names=[pattern])
        model.compile(optimizer=optimizer, loss="mse", **how)
        x = np.random.default_rng(0).normal(size=(8, 4)).astype("f")
        model.fit(x, x[:, :2], batch_size=4, shuffle=False, verbose=0)
        return model.get_weights()

    assert_same(train, rtol=1e-5)


def test_a_method_that_excludes_is_asked_of_what_stock_asks_it_of() -> None:
    def asked(kind: Kind) -> list[Any]:
        class Asking(kind):
            def _use_weight_decay(self, variable: Any) -> bool:
                seen.add((type(variable).__name__, variable.name))
                return super()._use_weight_decay(variable)

        seen: set[Any] = set()
        variable = keras.Variable(np.ones(3, "f"), name="w")
        Asking(0.1, weight_decay=0.1).apply([tf.ones(3)], [variable])
        Asking(0.1).apply([tf.ones(3)], [variable])
        return sorted(seen)

    assert asked(Nadam) == asked(Stock)


# ---- built anew ----------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [False, True], ids=["the same variables", "others"])
@pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "function"])
def test_an_optimizer_that_is_built_again_updates_what_it_was_built_for(
    other: bool, wrap: Any
) -> None:
    def train(kind: Kind) -> list[Any]:
        a, b = (keras.Variable(np.ones(3, "f")) for _ in range(2))
        optimizer = kind(0.1, weight_decay=0.1)
        for variable in (a, b if other else a, a):
            optimizer.built = False
            optimizer.build([variable])
            for t in range(2):
                grads = [tf.constant([1.0, -2.0, t])]
                wrap(lambda: optimizer.apply(grads, [variable]))()  # noqa: B023 - called here
        return [a.numpy(), b.numpy()]

    assert_same(train)


def test_fits_of_two_models_with_one_optimizer() -> None:
    def train(kind: Kind) -> list[Any]:
        optimizer = kind(0.01)
        models = [normalized() for _ in range(2)]
        x = np.random.default_rng(0).normal(size=(16, 4)).astype("f")
        for model in models:
            optimizer.built = False
            model.compile(optimizer=optimizer, loss="mse", run_eagerly=True)
            model.fit(x, x[:, :2], batch_size=4, shuffle=False, verbose=0)
        return [w for model in models for w in model.get_weights()]

    assert_same(train, rtol=1e-5)


def test_variables_that_are_gone_are_let_go() -> None:
    """Of the optimizer's, and of a model that it is not built for any more."""
    optimizer = Nadam(0.1, use_ema=True)
    gone = []
    for _ in range(2):
        optimizer.built = False
        optimizer._variables.clear()
        optimizer._trainable_variables_indices.clear()
        variable = tf.Variable(tf.ones(3))
        optimizer.build([variable])
        optimizer.apply([tf.ones(3)], [variable])
        gone.append(weakref.ref(variable))
    del variable
    gc.collect()
    assert gone[0]() is None
    last = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert last() is None
    assert gone[1]() is None


# ---- many optimizers -----------------------------------------------------------------------------

MANY = """
import gc
import keras
import numpy as np
import tensorflow as tf
from nadam_xla.keras import Nadam

def train(kind, i):
    variables = [keras.Variable(np.ones(s, "f")) for s in [(4, 3), (3,)]]
    optimizer = kind(1e-3 * (i + 1), weight_decay=1e-3 * (i + 1), beta_1=0.5 + 0.01 * i)
    for _ in range(2):
        optimizer.apply([tf.ones(v.shape) for v in variables], variables)


def resident():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4


for kind in (keras.optimizers.Nadam, Nadam):
    for i in range(5):
        train(kind, i)
    before = resident()
    for i in range(20):
        train(kind, i)
    print((resident() - before) / 20)
"""


@pytest.mark.slow
def test_many_optimizers_take_no_more_memory_than_stocks() -> None:
    stock, ours = map(float, output_of(MANY).split())  # KiB for each
    assert ours < stock + 200, "a compiled function takes 2000"


def test_many_optimizers_warn_of_no_retracing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="tensorflow"):
        for size in range(20):
            variable = keras.Variable(np.ones(size % 5 + 1, "f"))
            optimizer = Nadam(0.1 / (size + 1), epsilon=1e-3 * (size + 1))
            for _ in range(3):
                optimizer.apply([tf.ones(variable.shape)], [variable])
    assert not [record for record in caplog.records if "retracing" in record.getMessage()]


NEW_CONTEXT = """
import keras
import numpy as np
import tensorflow as tf
from nadam_xla.keras import Nadam
from tensorflow.python.eager import context

for _ in range(2):
    variable, optimizer = keras.Variable(np.ones(3, "f")), Nadam(0.1, clipnorm=1.0)
    optimizer.apply([tf.ones(3)], [variable])
    tf.function(lambda: optimizer.apply([tf.ones(3)], [variable]))()
    print(variable.numpy().tolist())
    context._reset_context()
"""


def test_a_new_context_of_tensorflows_compiles_its_own() -> None:
    """Keras's tests under tf.distribute begin one, as does whoever needs other devices."""
    first, second = output_of(NEW_CONTEXT).splitlines()
    assert first == second


def test_optimizers_that_share_a_step_share_no_number() -> None:
    def train(kind: Kind) -> list[Any]:
        variables = [keras.Variable(np.ones(3, "f")) for _ in range(3)]
        optimizers = [
            kind(0.1, beta_1=0.5, weight_decay=0.1, clipnorm=1.0),
            kind(0.2, beta_1=0.75, weight_decay=0.2, clipnorm=0.5),
            kind(0.1, beta_1=0.5, weight_decay=0.3, clipnorm=2.0, epsilon=0.1),
        ]
        for t in range(3):
            for optimizer, variable in zip(optimizers, variables, strict=True):
                optimizer.apply([tf.constant([1.0, -2.0, t])], [variable])
        return [v.numpy() for v in variables]

    assert_same(train)


def test_within_a_tape_the_step_is_the_same() -> None:
    def train(kind: Kind) -> list[Any]:
        variable, optimizer = keras.Variable(np.ones(3, "f")), kind(0.1)
        with tf.GradientTape(persistent=True) as tape:
            for _ in range(3):
                loss = tf.reduce_sum(variable**3)
                optimizer.apply([tape.gradient(loss, variable.value)], [variable])
        return [variable.numpy()]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_same(train)
