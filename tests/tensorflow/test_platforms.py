"""The graph that a TensorFlow with GPUs gets, one call for two platforms, run on the CPU."""

import numpy as np
import oracle
import pytest
import tensorflow as tf

from nadam_xla.coefficients import Coefficients
from nadam_xla.tensorflow import nadam_update, runtime, sum_squares


@pytest.fixture(autouse=True)
def _two_platforms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "PLATFORMS", ("cpu", "cuda"))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_update_has_the_bits_of_the_rule(jit_compile: bool) -> None:
    rng = np.random.default_rng(0)
    row = oracle.rows(rng, (), "float32")
    p, g, m, v = np.abs(rng.normal(size=(4, 3, 5))).astype(np.float32)
    update = tf.function(nadam_update, jit_compile=jit_compile)
    coefficients = Coefficients(*(tf.constant(x) for x in row))
    (new_p,), (new_m,), (new_v,) = update(coefficients, [p], [g], [m], [v])
    expected_p, _, expected_m, expected_v = oracle.rule(row, p, g, m, v)
    for new, expected in ((new_p, expected_p), (new_m, expected_m), (new_v, expected_v)):
        np.testing.assert_array_equal(new, expected)


def test_the_sums_of_squares_leave_the_workspace_to_gpus() -> None:
    sums = tf.function(sum_squares)([tf.constant([3.0, 4.0]), tf.constant(2.0)])
    assert [float(total) for total in sums] == [25.0, 4.0]


def test_the_call_takes_and_makes_arrays_that_lie_row_by_row() -> None:
    """Where it does not say so, XLA hands a GPU's handler each array as it happens to lie."""
    leaves = [tf.ones(shape) for shape in ((), (3,), (2, 3, 4, 5))]
    row = Coefficients(*[tf.constant(0.5)] * len(Coefficients._fields))
    update = tf.function(nadam_update).get_concrete_function(row, *[leaves] * 4)
    (call,) = (op for op in update.graph.get_operations() if op.type == "XlaCallModule")
    text = call.get_attr("module").decode()
    table = "dense<[2, 1, 0]> : tensor<3xindex>"
    of_leaves = (
        "dense<> : tensor<0xindex>, dense<[0]> : tensor<1xindex>,"
        " dense<[3, 2, 1, 0]> : tensor<4xindex>"
    )
    assert f"operand_layouts = [{table}, {', '.join([of_leaves] * 4)}]" in text
    assert f"result_layouts = [{', '.join([of_leaves] * 3)}]" in text


def test_the_module_serves_both() -> None:
    graph = tf.function(lambda x: sum_squares([x])).get_concrete_function(tf.ones(3)).graph
    (call,) = (op for op in graph.get_operations() if op.type == "XlaCallModule")
    assert call.get_attr("platforms") == [b"CPU", b"CUDA"]
    assert len(call.inputs) == 1, "TensorFlow itself says which platform it is"
