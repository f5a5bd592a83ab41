"""Under ``tf.debugging``, which looks into every operation: in processes of its own."""

import keras
import pytest
from processes import output_of

if keras.backend.backend() != "tensorflow":
    pytest.skip("for the TensorFlow backend", allow_module_level=True)

TRAINING = """
import sys
import warnings
from tempfile import TemporaryDirectory

import keras
import numpy as np
import tensorflow as tf
from nadam_xla.keras import Nadam

how, arguments = sys.argv[1], eval(sys.argv[2])
variable, optimizer = keras.Variable(np.ones(3, "f")), Nadam(0.1, **arguments)
if how == "late":  # the fused step is compiled already
    optimizer.apply([tf.ones(3)], [variable])
folder = TemporaryDirectory()
if how == "dump":
    tf.debugging.experimental.enable_dump_debug_info(folder.name)
else:
    tf.debugging.enable_check_numerics()


def train(kind, wrap, gradient):
    variable, optimizer = keras.Variable(np.ones(3, "f")), kind(0.1, **arguments)
    optimizer.build([variable])
    step = wrap(lambda grad: optimizer.apply([grad], [variable]))
    for t in range(3):
        step(tf.constant([0.5, -1.0, gradient]))
    return variable.numpy()


with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for wrap in (lambda f: f, tf.function):
        ours, stock = (train(kind, wrap, 2.0) for kind in (Nadam, keras.optimizers.Nadam))
        np.testing.assert_allclose(ours, stock, rtol=1e-6)
assert len([w for w in caught if "tf.debugging looks into every operation" in str(w.message)]) == 1
if how != "dump":
    for kind in (Nadam, keras.optimizers.Nadam):
        for gradient in (np.nan, np.inf):
            try:
                train(kind, tf.function, gradient)
            except tf.errors.InvalidArgumentError as error:
                print("NaN" in str(error) or "Inf" in str(error))
    tf.debugging.disable_check_numerics()
optimizer.apply([tf.ones(3)], [variable])
"""


@pytest.mark.parametrize(
    ("how", "arguments"),
    [
        ("late", {"weight_decay": 0.1, "clipnorm": 1.0}),
        ("early", {"gradient_accumulation_steps": 2}),
    ],
    ids=str,
)
def test_numerics_may_be_checked(how: str, arguments: dict[str, float]) -> None:
    """Stock finds a NaN and an infinity among the gradients; so do we."""
    assert output_of(TRAINING, how, arguments).split() == ["True"] * 4


def test_all_that_is_computed_may_be_dumped() -> None:
    output_of(TRAINING, "dump", {})
