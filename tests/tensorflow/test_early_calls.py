"""A compiled step updates each leaf as its gradient is made: shown by the program's own order."""

import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from compiled import CALL, copies_of_arrays, entry_of
from processes import output_of

if keras.backend.backend() != "tensorflow":
    pytest.skip("for the TensorFlow backend", allow_module_level=True)

import tensorflow as tf

from nadam_xla.coefficients import constant_momentum
from nadam_xla.coefficients import nadam as coefficients
from nadam_xla.keras import Nadam
from nadam_xla.tensorflow import nadam_update, raw_ops

WIDTH = 512  # a leaf has 1 MiB, enough for a call of its own
DEPTH = 6
LEAF = 4 * WIDTH**2

Loss = Callable[[list[Any], Any], Any]
Apply = Callable[[list[Any]], None]


def kernels() -> list[tf.Variable]:
    rng = np.random.default_rng(0)
    return [
        tf.Variable(0.05 * rng.standard_normal((WIDTH, WIDTH)), dtype="float32")
        for _ in range(DEPTH)
    ]


def dense(params: list[Any], x: Any) -> Any:
    for w in params:
        x = tf.tanh(x @ w)
    return tf.reduce_sum(x * x)


def recomputed(params: list[Any], x: Any) -> Any:
    for w in params:
        x = tf.recompute_grad(lambda x, w=w: tf.tanh(tf.tanh(x @ w) @ w))(x)
    return tf.reduce_sum(x * x)


def attention(params: list[Any], x: Any) -> Any:
    """Of whose three readers none waits for a neighbour's gradient."""
    for q, k, v in zip(params[::3], params[1::3], params[2::3], strict=True):
        scores = tf.nn.softmax(tf.matmul(x @ q, x @ k, transpose_b=True))
        x = x + scores @ (x @ v)
    return tf.reduce_sum(x * x)


def tied(params: list[Any], x: Any) -> Any:
    """Each leaf is read twice, the second time transposed."""
    for w in params:
        x = tf.tanh(x @ w)
    for w in params:
        x = tf.tanh(tf.matmul(x, w, transpose_b=True))
    return tf.reduce_sum(x * x)


def transposed(params: list[Any], x: Any) -> Any:
    for w in params:
        x = tf.tanh(tf.tanh(x @ w) @ tf.transpose(w))
    return tf.reduce_sum(x * x)


# Of a transpose in a function TensorFlow's XLA makes a program with the parameters as constants.
LOSSES: list[Loss] = [dense, recomputed, attention, tied]


def by_keras(params: list[Any], **arguments: Any) -> Apply:
    optimizer = Nadam(1e-3, **arguments)
    optimizer.build(params)
    return lambda grads: optimizer.apply(grads, params)


def moments(params: list[Any]) -> tuple[list[Any], list[Any]]:
    mu, nu = ([tf.Variable(tf.zeros_like(p)) for p in params] for _ in range(2))
    return mu, nu


def by_raw_op(params: list[Any]) -> Apply:
    mu, nu = moments(params)
    momentum = {"momentum": 0.9, "next_momentum": 0.9, "momentum_product": 0.9, "beta1": 0.9}
    scalars = {**momentum, "beta2": 0.999, "beta2_power": 0.999, "lr": 1e-3, "epsilon": 1e-7}
    return lambda grads: raw_ops.ResourceMultiApplyNadam(
        var=params, m=mu, v=nu, grad=grads, **scalars
    )


def by_function(params: list[Any]) -> Apply:
    groups = (params, *moments(params))
    row = coefficients(
        learning_rate=1e-3,
        momentum=constant_momentum(0.9, 1),
        b1=0.9,
        b2=0.999,
        b2_power=0.999,
        eps=1e-7,
    )

    def apply(grads: list[Any]) -> None:
        p, mu, nu = ([tf.convert_to_tensor(v) for v in group] for group in groups)
        for group, new in zip(groups, nadam_update(row, p, grads, mu, nu), strict=True):
            for variable, value in zip(group, new, strict=True):
                variable.assign(value)

    return apply


WAYS = [by_keras, by_raw_op, by_function]


def gradients(loss: Loss, params: list[Any], x: Any) -> list[Any]:
    with tf.GradientTape() as tape:
        value = loss(params, x)
    grads: list[Any] = tape.gradient(value, params)
    return grads


def loss_in_a_function(loss: Loss) -> Loss:
    """As a model's decorated ``call`` is."""
    return lambda params, x: tf.function(lambda x: loss(params, x))(x)


def text_of_step(
    loss: Loss, params: list[Any], apply: Apply, gradients_of: Any = lambda f: f
) -> str:
    grads_of = gradients_of(lambda x: gradients(loss, params, x))

    @tf.function(jit_compile=True)
    def step(x: Any) -> None:
        apply(grads_of(x))

    text: str = step.experimental_get_compiler_ir(tf.ones((4, WIDTH)))(stage="optimized_hlo")
    return text


def order_of(text: str) -> list[str]:
    """The calls and the products of the program, in the order in which they are run."""
    assert "is_scheduled=true" in text
    product = rf"= f32\[{WIDTH},{WIDTH}\]\S* (?:dot|custom-call)\("
    found = re.finditer(rf"({re.escape(CALL)})|{product}", entry_of(text))
    return ["call" if match[1] else "gradient" for match in found]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("loss", [*LOSSES, transposed])
def test_a_leaf_is_updated_before_the_next_gradients_are_made(loss: Loss, way: Any) -> None:
    params = kernels()
    assert_early(text_of_step(loss, params, way(params)))


@pytest.mark.parametrize("loss", LOSSES)
def test_so_it_is_where_a_function_computes_the_loss(loss: Loss) -> None:
    params = kernels()
    decorated = loss_in_a_function(loss)
    assert_early(text_of_step(decorated, params, by_keras(params)))


@pytest.mark.parametrize("loss", LOSSES)
def test_so_it_is_where_functions_compute_the_gradients(loss: Loss) -> None:
    params = kernels()

    def nested(gradients: Any) -> Any:
        return tf.function(tf.function(gradients, jit_compile=True))

    assert_early(text_of_step(loss, params, by_keras(params), nested))


def assert_early(text: str) -> None:
    assert copies_of_arrays(text) == 0
    order = order_of(text)
    assert order.count("call") == DEPTH
    assert order[: len(order) - 3].count("call") >= DEPTH - 3, "most are done before the end"


@pytest.mark.parametrize(
    "arguments",
    [{"gradient_accumulation_steps": 2}, {"global_clipnorm": 1.0}, {"weight_decay": 0.1}],
    ids=lambda arguments: next(iter(arguments)),
)
def test_nothing_is_copied_whatever_the_step_does_beside(arguments: dict[str, Any]) -> None:
    params = kernels()
    assert copies_of_arrays(text_of_step(dense, params, by_keras(params, **arguments))) == 0


@pytest.mark.parametrize(
    "arguments",
    [{}, {"master": "remainder", "rounding": "stochastic", "velocity_dtype": "bfloat16"}],
    ids=str,
)
def test_narrow_variables_are_updated_early_too(arguments: dict[str, Any]) -> None:
    """Two of them are as large as one of float32, so there are half as many calls."""
    params = [tf.Variable(tf.cast(w, "bfloat16")) for w in kernels()]
    apply = by_keras(params, **arguments)

    @tf.function(jit_compile=True)
    def step(x: Any) -> None:
        apply(gradients(dense, params, x))

    x = tf.ones((4, WIDTH), "bfloat16")
    text = step.experimental_get_compiler_ir(x)(stage="optimized_hlo")
    assert copies_of_arrays(text) == 0
    order = order_of(text)
    assert order.count("call") == DEPTH // 2
    assert "call" in order[: order.index("gradient") + DEPTH], "before the last gradients"


@pytest.mark.parametrize("jit_compile", [True, False])
def test_the_bits_do_not_depend_on_the_calls(jit_compile: bool) -> None:
    """Small and large leaves in turn; eagerly, the same gradients are updated in one call."""

    def leaves() -> list[tf.Variable]:
        return [x for w in kernels() for x in (w, tf.Variable(tf.ones(WIDTH)))]

    def loss(params: list[Any], x: Any) -> Any:
        for w, b in zip(params[::2], params[1::2], strict=True):
            x = tf.tanh(x @ w + b)
        return tf.reduce_sum(x * x)

    params, expected = leaves(), leaves()
    apply, apply_apart = by_keras(params), by_keras(expected)

    @tf.function(jit_compile=jit_compile)
    def step(x: Any) -> Any:
        grads = gradients(loss, params, x)
        apply(grads)
        return grads

    for _ in range(3):
        apply_apart(step(tf.ones((4, WIDTH))))
        for ours, apart in zip(params, expected, strict=True):
            np.testing.assert_array_equal(ours, apart)


def test_what_is_read_for_no_gradient_is_read_before_it_is_overwritten() -> None:
    params = kernels()
    apply = by_keras(params)
    expected = [float(tf.reduce_sum(w * w)) for w in params]

    @tf.function(jit_compile=True)
    def step(x: Any) -> Any:
        before = [tf.reduce_sum(w * w) for w in params]
        apply(gradients(dense, params, x))
        return before, [tf.reduce_sum(w * w) for w in params]

    before, after = step(tf.ones((4, WIDTH)))
    np.testing.assert_allclose(before, expected, rtol=1e-6)
    np.testing.assert_allclose(after, [tf.reduce_sum(w * w) for w in params], rtol=1e-6)


TEMPORARY_BYTES = """
import re, sys
from pathlib import Path

import keras, numpy as np, tensorflow as tf
from nadam_xla.keras import Nadam

folder, width, depth = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
for kind in (keras.optimizers.Nadam, Nadam):
    before = set(folder.iterdir())
    layers = [keras.layers.Dense(width) for _ in range(depth)]
    model = keras.Sequential([keras.Input((width,)), *layers])
    model.compile(kind(1e-3), loss="mse", jit_compile=True)
    x = np.ones((4, width), "float32")
    model.fit(x, x, batch_size=4, verbose=0)
    texts = [p.read_text() for p in set(folder.iterdir()) - before if "buffer-assignment" in p.name]
    sizes = [re.findall(r"size (\\d+), preallocated-temp", text) for text in texts]
    print(max(sum(map(int, found)) for found in sizes))
"""


@pytest.mark.slow
def test_a_step_of_fit_needs_no_more_memory_than_stock_and_two_gradients(tmp_path: Any) -> None:
    flags = {"XLA_FLAGS": f"--xla_dump_to={tmp_path} --xla_dump_hlo_as_text"}
    printed = output_of(TEMPORARY_BYTES, tmp_path, WIDTH, DEPTH, environment=flags)
    stock, ours = map(int, printed.split())
    assert LEAF / 4 < ours <= stock + 2 * LEAF
    assert stock < DEPTH * LEAF, "stock's holds not all gradients at once"
