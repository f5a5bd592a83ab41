"""Training where the environment turns the kernels off."""

import keras
import pytest
from processes import output_of

if keras.backend.backend() == "torch":
    pytest.skip("there are no kernels to turn off", allow_module_level=True)

TRAIN = """
import warnings

import keras
import numpy as np
from nadam_xla.keras import Nadam


def losses(kind):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile(optimizer=kind(0.01, weight_decay=0.1), loss="mse")
    x = np.random.default_rng(0).normal(size=(32, 4)).astype("f")
    return model.fit(x, x[:, :2], batch_size=8, epochs=2, shuffle=False, verbose=0).history["loss"]


with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert losses(Nadam) == losses(keras.optimizers.Nadam), "the parent's own update"
print(*(w.message for w in caught if "nadam_xla" in str(w.message)), sep="\\n")
"""


@pytest.mark.slow
def test_it_is_the_parents_update_and_says_so_once() -> None:
    (warning,) = output_of(TRAIN, environment={"NADAM_XLA_DISABLE": "cpu"}).splitlines()
    assert "NADAM_XLA_DISABLE turns nadam_xla's kernels off for it" in warning
    assert warning.endswith("Training goes on by Keras's own update.")
