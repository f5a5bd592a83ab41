"""The update of some rows: ResourceSparseApplyNadam, and the tensors beneath it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import oracle
import pytest
import rows_oracle
import tensorflow as tf
from compiled import copies_of_arrays
from lazy_nadam import lazy_nadam, some_rows
from raw_op_scalars import BETA1, BETA2, EPSILON, RATE, scalars

from nadam_xla.coefficients import Coefficients
from nadam_xla.tensorflow import nadam_update, nadam_update_rows, raw_ops, runtime


def variables(shape: tuple[int, ...], dtype: str = "float32") -> tuple[tf.Variable, ...]:
    start = np.random.default_rng(0).normal(size=shape)
    return tuple(tf.Variable(tf.cast(x, dtype)) for x in (start, 0 * start, 0 * start))


def eager(var: Any, m: Any, v: Any, t: Any, indices: Any, grad: Any, **others: Any) -> None:
    given = {"var": var, "m": m, "v": v, "grad": grad, "indices": indices}
    raw_ops.ResourceSparseApplyNadam(**given, **scalars(t), **others)


def of_open_length(jit_compile: bool) -> Callable[..., None]:
    """A graph that is traced for any number of rows."""

    def call(var: Any, m: Any, v: Any, t: Any, indices: Any, grad: Any) -> None:
        if not traced:
            specs = (
                tf.TensorSpec([], t.dtype),
                tf.TensorSpec([None], indices.dtype),
                tf.TensorSpec([None, *grad.shape[1:]], grad.dtype),
            )
            step = tf.function(
                lambda *args: eager(var, m, v, *args),
                input_signature=specs,
                jit_compile=jit_compile,
            )
            traced.append(step)
        traced[0](t, indices, grad)

    traced: list[Any] = []
    return call


CALLERS: dict[str, Callable[[], Callable[..., None]]] = {
    "eager": lambda: eager,
    "function": lambda: tf.function(eager),
    "function of any length": lambda: of_open_length(jit_compile=False),
    "compiled function": lambda: of_open_length(jit_compile=True),
}


@pytest.mark.parametrize(
    ("caller", "dtype", "index_dtype", "columns"),
    [
        ("eager", "float32", "int64", (5,)),
        ("eager", "float32", "int32", ()),
        ("function", "float64", "int32", (2, 3)),
        ("function of any length", "float32", "int64", (5,)),
        ("compiled function", "float32", "int32", (2, 1, 3)),
        ("compiled function", "float64", "int64", (5,)),
    ],
    ids=str,
)
def test_it_is_nadam_of_the_rows_that_are_touched(
    caller: str, dtype: str, index_dtype: str, columns: tuple[int, ...]
) -> None:
    height, call = 11, CALLERS[caller]()
    var, m, v = variables((height, *columns), dtype)
    start, rng = var.numpy(), np.random.default_rng(1)
    steps = [some_rows(rng, height, touched, columns) for touched in (7, 20, 7, 20, 7)]
    for t, (indices, values) in enumerate(steps, start=1):
        given = tf.constant(indices, index_dtype), tf.constant(values, dtype)
        call(var, m, v, tf.constant(t), *given)
    expected = lazy_nadam(
        start, steps, learning_rate=RATE, b1=BETA1, b2=BETA2, eps=EPSILON, is_scheduled=False
    )
    tolerance = {"float32": 2e-5, "float64": 1e-12}[dtype]
    np.testing.assert_allclose(var, expected, rtol=tolerance, atol=tolerance / 10)


NARROW: list[dict[str, Any]] = [
    {"dtype": "float32"},
    {"dtype": "float16", "master": "float32"},
    {"dtype": "bfloat16", "rounding": "stochastic", "seed": 2**32 - 1, "leaf": 3},
    {"dtype": "bfloat16", "master": "uint8", "rounding": "stochastic"},
    {"dtype": "float8_e4m3fn"},
]


@pytest.mark.parametrize("storage", NARROW, ids=str)
def test_every_row_touched_once_has_the_bits_of_the_dense_op(storage: dict[str, Any]) -> None:
    arguments = dict(storage)
    dtype, master = arguments.pop("dtype"), arguments.pop("master", None)
    rng = np.random.default_rng(0)

    def train(op: Callable[..., Any], **of_rows: Any) -> list[np.ndarray]:
        var, m, v = variables((20, 7), dtype)
        kept = {}
        if master is not None:
            kept["master"] = tf.Variable(tf.cast(var if master == "float32" else m, master))
        for t in (1, 2):
            grad = tf.constant(grads[t - 1], tf.float32)
            if of_rows:
                grad = tf.gather(grad, of_rows["indices"])
            others = {**arguments, **of_rows, **kept}
            op(var=var, m=m, v=v, grad=grad, step=t, **scalars(t), **others)
        return [tf.cast(x, tf.float64).numpy() for x in (var, m, v, *kept.values())]

    grads = rng.normal(size=(2, 20, 7))
    order = tf.constant(rng.permutation(20))
    rows = train(raw_ops.ResourceSparseApplyNadam, indices=order)
    for a, b in zip(rows, train(raw_ops.ResourceApplyNadam), strict=True):
        np.testing.assert_array_equal(a, b)


def test_rows_that_are_not_touched_keep_their_bits() -> None:
    var, m, v = variables((8, 3))
    unusual = np.array([np.nan, -0.0, np.inf, 1e-40], np.float32)
    for x in (var, m, v):
        x.assign(tf.constant(np.resize(unusual, (8, 3))))
    before = [x.numpy() for x in (var, m, v)]
    eager(var, m, v, 1, tf.constant([2, 2, -1, 8, 5]), tf.ones((5, 3)))
    kept = [0, 1, 3, 4, 6, 7]
    for x, old in zip((var, m, v), before, strict=True):
        assert x.numpy()[kept].tobytes() == old[kept].tobytes()
        assert x.numpy()[[2, 5]].tobytes() != old[[2, 5]].tobytes()


@pytest.mark.parametrize(
    ("shape", "indices"),
    [((5, 3), []), ((5, 3), [5, -1, -5, 2**31 - 1]), ((0, 3), [0, 1]), ((5, 0), [1, 2])],
    ids=str,
)
def test_what_touches_no_element_changes_nothing(
    shape: tuple[int, ...], indices: list[int]
) -> None:
    var, m, v = variables(shape)
    before = var.numpy()
    grad = tf.fill((len(indices), *shape[1:]), np.float32(np.nan))
    eager(var, m, v, 1, tf.constant(indices, tf.int32), grad)
    np.testing.assert_array_equal(var, before)
    np.testing.assert_array_equal(m, 0 * before)


def test_narrow_rows_are_summed_in_float32() -> None:
    var, m, v = variables((3, 2))
    grad = tf.cast([[256.0, 1.0]] * 3 + [[1.0, 0.0]] * 3, tf.bfloat16)
    eager(var, m, v, 1, tf.constant([1] * 6), grad)
    np.testing.assert_allclose(m[1], (1 - np.float32(BETA1)) * np.array([771.0, 3.0], "f"))


# ---- the update of tensors -----------------------------------------------------------------------


def of_tensors(platforms: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, jit: bool) -> Any:
    monkeypatch.setattr(runtime, "PLATFORMS", platforms)
    return tf.function(nadam_update_rows, jit_compile=jit)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("platforms", [("cpu",), ("cpu", "cuda")], ids=str)
def test_it_has_the_bits_of_the_rule(
    platforms: tuple[str, ...], jit_compile: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph of a TensorFlow with GPUs has a call for each, and runs on the CPU too."""
    rng = np.random.default_rng(0)
    row = oracle.rows(rng, (), "float32")
    p, m, v = np.abs(rng.normal(size=(3, 9, 5))).astype(np.float32)
    touched = some_rows(rng, 9, 12, (5,))
    grads = touched.values.astype(np.float32)
    update = of_tensors(platforms, monkeypatch, jit_compile)
    coefficients = Coefficients(*(tf.constant(x) for x in row))
    new = update(coefficients, p, touched.indices, grads, m, v)
    table = {"params": p, "mu": m, "nu": v}
    expected = rows_oracle.updated_rows(row, touched.indices, grads, table)
    for a, b in zip(new, expected.values(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_on_gpus_the_indices_are_sorted_before_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    update = of_tensors(("cpu", "cuda"), monkeypatch, False)
    row = Coefficients(*[tf.constant(0.5)] * len(Coefficients._fields))
    table = tf.ones((4, 2))
    graph = update.get_concrete_function(row, table, [0], tf.ones((1, 2)), table, table).graph
    (call,) = (op for op in graph.get_operations() if op.type == "XlaCallModule")
    on_cpu, on_cuda = call.get_attr("module").decode().split("}, {\n")
    assert "stablehlo.sort" in on_cuda
    assert "stablehlo.sort" not in on_cpu
    table, leaf = "dense<[2, 1, 0]> : tensor<3xindex>", "dense<[1, 0]> : tensor<2xindex>"
    vector = "dense<[0]> : tensor<1xindex>"
    layouts = f"operand_layouts = [{table}, {vector}, {', '.join([leaf] * 4)}, {vector}]"
    assert layouts in on_cuda
    assert f"result_layouts = [{', '.join([leaf] * 3)}, {vector}]" in on_cpu


def test_a_tape_that_asks_for_its_gradient_is_refused() -> None:
    row = Coefficients(*[tf.constant(0.5)] * len(Coefficients._fields))
    p = tf.ones((4, 2))
    with tf.GradientTape() as tape:
        tape.watch(p)
        new, *_ = nadam_update_rows(row, p, [0], tf.ones((1, 2)), p, p)
    with pytest.raises(NotImplementedError, match="no gradient in TensorFlow"):
        tape.gradient(new, p)


# ---- what it costs -------------------------------------------------------------------------------


def test_a_compiled_step_does_nothing_of_the_size_of_the_table() -> None:
    var, m, v = variables((1001, 3))

    @tf.function(jit_compile=True)
    def step(indices: Any, weights: Any) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(weights * tf.tanh(tf.nn.embedding_lookup(var, indices)))
        grad = tape.gradient(loss, var)
        eager(var, m, v, 1, grad.indices, grad.values)

    given = tf.constant([3, 1, 3]), tf.ones((3, 3))
    text = step.experimental_get_compiler_ir(*given)(stage="optimized_hlo")
    assert copies_of_arrays(text) == 0
    opcodes = {
        line.split("{1,0} ", 1)[1].split("(")[0]
        for line in text.splitlines()
        if " = f32[1001,3]" in line
    }
    assert opcodes <= {"parameter", "get-tuple-element"}


@pytest.mark.parametrize("caller", CALLERS)
def test_the_table_stays_where_it_is_in_memory(caller: str) -> None:
    call, (var, m, v) = CALLERS[caller](), variables((64, 64))
    given = tf.constant(1), tf.constant([3, 1, 3]), tf.ones((3, 64))
    call(var, m, v, *given)
    before = [address_of(x) for x in (var, m, v)]
    call(var, m, v, *given)
    assert [address_of(x) for x in (var, m, v)] == before


def address_of(variable: tf.Variable) -> int:
    return np.frombuffer(memoryview(variable.read_value()), np.uint8).ctypes.data


# ---- what is refused -----------------------------------------------------------------------------


def refused(**changed: Any) -> None:
    var, m, v = variables((4, 2))
    given = {"var": var, "m": m, "v": v, "indices": tf.constant([1]), "grad": tf.ones((1, 2))}
    raw_ops.ResourceSparseApplyNadam(**{**given, **changed}, **scalars(1))


def test_what_does_not_fit_is_refused_by_name() -> None:
    for error, message, changed in (
        (TypeError, "indices has the dtype float32; it must be int32 or int64", {"indices": [1.0]}),
        (TypeError, "grad has the dtype int32; it must be floating", {"grad": [[1, 2]]}),
        (ValueError, r"indices has the shape \(1, 1\); it must be a vector", {"indices": [[1]]}),
        (ValueError, r"grad has the shape \(1, 3\).*\(1, 2\)", {"grad": tf.ones((1, 3))}),
        (ValueError, r"grad has the shape \(2, 2\).*\(1, 2\)", {"grad": tf.ones((2, 2))}),
        (ValueError, r"m has the shape \(4, 3\)", {"m": tf.Variable(tf.ones((4, 3)))}),
        (TypeError, "v has the dtype int32", {"v": tf.Variable(tf.ones((4, 2), tf.int32))}),
        (TypeError, "(?s)var is .*; it must be a tf.Variable", {"var": tf.ones((4, 2))}),
        (TypeError, "(?s)m is .*; it must be a tf.Variable", {"m": variables((4, 2))[1].handle}),
        (ValueError, "var is a scalar; it must have rows", scalar_leaf()),
        (TypeError, "master has the dtype int32", {"master": tf.Variable([[1, 2]] * 4)}),
        (ValueError, "rounding is 'up'", {"rounding": "up"}),
        (ValueError, "step is None", {"rounding": "stochastic"}),
    ):
        with pytest.raises(error, match=message):
            refused(**changed)
    var = variables((4, 2))[0]
    with pytest.raises(ValueError, match="m and var are the same variable"):
        refused(var=var, m=var)


def scalar_leaf() -> dict[str, Any]:
    var, m, v = (tf.Variable(1.0) for _ in range(3))
    return {"var": var, "m": m, "v": v, "grad": tf.ones(1)}


def test_a_vector_of_indices_is_checked_when_it_is_known() -> None:
    var, m, v = variables((4, 2))

    @tf.function(input_signature=[tf.TensorSpec(None, tf.int32), tf.TensorSpec(None)])
    def step(indices: Any, grad: Any) -> None:
        eager(var, m, v, 1, indices, grad)

    step([1, 1], tf.ones((2, 2)))
    with pytest.raises(tf.errors.InvalidArgumentError):
        step([1], tf.ones((1, 3)))


def test_all_at_once_is_the_dense_update() -> None:
    """Of tensors too, and with a coefficient of each kind."""
    rng = np.random.default_rng(3)
    row = Coefficients(*(tf.constant(x) for x in oracle.rows(rng, (), "float32")))
    p, g, m, v = (tf.constant(x, tf.float32) for x in np.abs(rng.normal(size=(4, 6, 5))))
    order = tf.constant([5, 0, 3, 1, 2, 4])
    rows = nadam_update_rows(row, p, order, tf.gather(g, order), m, v)
    for a, (b,) in zip(rows, nadam_update(row, [p], [g], [m], [v]), strict=True):
        np.testing.assert_array_equal(a, b)
