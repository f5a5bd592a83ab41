"""``sparse="lazy"`` on two replicas: the rows of all replicas are updated, and no others."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from lazy_nadam import Touched, joined, lazy_nadam, some_rows

from nadam_xla.keras import Nadam

HEIGHT, WIDTH = 11, 5

pytestmark = pytest.mark.filterwarnings("error:.*Keras's own update")


def clipped(touched: Touched) -> Touched:
    """What a replica adds to the sum of all."""
    sums = touched.summed(HEIGHT)
    return Touched(np.array([*sums]), np.clip(np.array([*sums.values()]), -0.4, 0.4))


@pytest.mark.parametrize("clips", [False, True])
def test_the_rows_of_all_replicas_are_summed(clips: bool, mirrored: tf.distribute.Strategy) -> None:
    arguments: dict[str, Any] = {"clipvalue": 0.4} if clips else {}
    rng = np.random.default_rng(0)
    start = rng.normal(size=(HEIGHT, WIDTH))
    with mirrored.scope():
        table = keras.Variable(start, name="table")
        optimizer = Nadam(0.01, weight_decay=0.1, use_ema=True, sparse="lazy", **arguments)
        optimizer.build([table])
    steps = [[some_rows(rng, HEIGHT, 6, (WIDTH,)) for _ in range(2)] for _ in range(3)]

    def apply(indices: Any, values: Any) -> None:
        slices = tf.IndexedSlices(values, indices, tf.constant([HEIGHT, WIDTH]))
        optimizer.apply([slices], [table])

    @tf.function
    def step(indices: Any, values: Any) -> None:
        mirrored.run(apply, args=(indices, values))

    for pair in steps:
        step(*(of_replicas(mirrored, parts) for parts in zip(*pair, strict=True)))
    taken = [joined(*(map(clipped, pair) if clips else pair)) for pair in steps]
    expected = lazy_nadam(start, taken, learning_rate=0.01, weight_decay=0.1)
    first, second = table.value.values
    np.testing.assert_allclose(first, expected, rtol=2e-5, atol=2e-6)
    for variable in (table, *optimizer.variables):
        first, second = getattr(variable, "value", variable).values
        np.testing.assert_array_equal(first, second)


def of_replicas(strategy: tf.distribute.Strategy, parts: Any) -> Any:
    def part(context: Any) -> Any:
        x = parts[context.replica_id_in_sync_group]
        return tf.constant(x, tf.float32 if x.ndim > 1 else tf.int64)

    return strategy.experimental_distribute_values_from_function(part)


def test_fit_gives_what_one_device_gives(mirrored: tf.distribute.Strategy) -> None:
    def fitted(strategy: tf.distribute.Strategy) -> list[np.ndarray]:
        keras.utils.set_random_seed(0)
        with strategy.scope():
            words = keras.layers.Embedding(50, 4)
            model = keras.Sequential([words, keras.layers.Flatten(), keras.layers.Dense(1)])
            model.build((None, 3))
            optimizer = Nadam(0.01, weight_decay=0.1, global_clipnorm=1e3, sparse="lazy")
            model.compile(optimizer=optimizer, loss="mse", jit_compile=False)
        before = words.get_weights()[0]
        model.fit(x, np.ones((12, 1)), batch_size=8, epochs=2, shuffle=False, verbose=0)
        moved = np.flatnonzero(np.any(words.get_weights()[0] != before, axis=1))
        assert set(moved) == set(x.flatten())
        return model.get_weights()

    x = np.random.default_rng(0).integers(0, 20, (12, 3))
    one = fitted(tf.distribute.get_strategy())
    for a, b in zip(fitted(mirrored), one, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)
