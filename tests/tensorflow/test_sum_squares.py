"""The sums of squares inside TensorFlow's XLA."""

import numpy as np
import pytest
import tensorflow as tf

from nadam_xla.tensorflow import sum_squares

DTYPES = ["float32", "float64", "bfloat16", "float32"]
SHAPES = [(130, 7), (33,), (5,), ()]


def tensors() -> list[tf.Tensor]:
    rng = np.random.default_rng(0)
    return [tf.constant(rng.normal(size=s), d) for s, d in zip(SHAPES, DTYPES, strict=True)]


@pytest.mark.parametrize("jit_compile", [None, False, True])
def test_equals_the_float64_sum(jit_compile: bool | None) -> None:
    xs = tensors()
    call = sum_squares
    if jit_compile is not None:
        call = tf.function(lambda *x: sum_squares(x), jit_compile=jit_compile)
        sums = call(*xs)
    else:
        sums = call(xs)
    for total, x in zip(sums, xs, strict=True):
        assert total.shape == ()
        assert total.dtype == ("float64" if x.dtype == "float64" else "float32")
        expected = np.sum(np.square(x.numpy().astype(np.float64)))
        np.testing.assert_allclose(total, expected, rtol=1e-6)


@pytest.mark.parametrize("jit_compile", [None, False, True])
def test_a_tape_differentiates_it(jit_compile: bool | None) -> None:
    xs = tensors()

    def gradients(*xs: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(xs)
            first, *others = sum_squares(xs)
            loss = 3 * first + sum(tf.cast(x, "float32") for x in others)
        return tape.gradient(loss, xs)

    run = gradients if jit_compile is None else tf.function(gradients, jit_compile=jit_compile)
    for i, (gradient, x) in enumerate(zip(run(*xs), xs, strict=True)):
        assert gradient.dtype == x.dtype
        np.testing.assert_allclose(gradient, tf.cast(6 if i == 0 else 2, x.dtype) * x, rtol=1e-6)


def test_what_it_cannot_sum_is_named() -> None:
    with pytest.raises(TypeError, match=r"tensors\[1\] has the dtype int32"):
        sum_squares([tf.ones(3), tf.constant([1])])
