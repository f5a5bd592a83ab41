"""nadam_xla.tensorflow: the functional update, ResourceApplyNadam, and what they refuse."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import oracle
import pytest
import tensorflow as tf
from imports import newly_imported
from processes import output_of
from raw_op_scalars import BETA1, BETA2, EPSILON, RATE, scalars

from nadam_xla.coefficients import Coefficients
from nadam_xla.tensorflow import nadam_update, raw_ops, runtime

STEPS = 200


def variables(shape: tuple[int, ...], dtype: str) -> tuple[tf.Variable, ...]:
    start = np.random.default_rng(0).normal(size=shape)
    return tuple(tf.Variable(tf.cast(x, dtype)) for x in (start, 0 * start, 0 * start))


def eager(var: Any, m: Any, v: Any, t: Any, grad: Any) -> None:
    raw_ops.ResourceApplyNadam(var=var, m=m, v=v, grad=grad, **scalars(t))


def by_handle(var: Any, m: Any, v: Any, t: Any, grad: Any) -> None:
    eager(var.handle, m.handle, v.handle, t, grad)


CALLERS: dict[str, Callable[..., None]] = {
    "eager": eager,
    "eager, by handle": by_handle,
    "function": tf.function(eager),
    "function, by handle": tf.function(by_handle),
    "compiled function": tf.function(eager, jit_compile=True),
}


@pytest.mark.parametrize(
    ("caller", "dtype", "shape"),
    [
        *product(CALLERS, ["float32", "float64"], [(33, 17)]),
        *product(["eager", "compiled function"], ["float32"], [(), (7,), (3, 0)]),
    ],
    ids=str,
)
def test_it_equals_the_oracle(caller: str, dtype: str, shape: tuple[int, ...]) -> None:
    var, m, v = variables(shape, dtype)
    start = var.numpy()
    rng = np.random.default_rng(1)
    grads = [rng.normal(size=shape).astype(dtype) for _ in range(STEPS)]
    for t, grad in enumerate(grads, start=1):
        CALLERS[caller](var, m, v, tf.constant(t), tf.constant(grad))
    expected = oracle.nadam(start, grads, learning_rate=RATE, b1=BETA1, b2=BETA2, eps=EPSILON)
    tolerance = {"float32": 2e-5, "float64": 1e-12}[dtype]
    np.testing.assert_allclose(var.numpy(), expected, rtol=tolerance, atol=tolerance / 10)


MANY_SHAPES = [(7,), (), (3, 0), (33, 17), (64,)] * 10


@pytest.mark.parametrize("jit_compile", [None, False, True])
def test_many_variables_at_once_are_updated_as_one_by_one(jit_compile: bool | None) -> None:
    rng = np.random.default_rng(0)
    dtypes = ["float32", "float32", "float64"] * 17
    leaves = [variables(s, d) for s, d in zip(MANY_SHAPES, dtypes, strict=False)]
    single = [tuple(tf.Variable(x) for x in leaf) for leaf in leaves]

    def step(**arguments: Any) -> None:
        raw_ops.ResourceMultiApplyNadam(**arguments)

    if jit_compile is not None:
        step = tf.function(step, jit_compile=jit_compile)
    for t in range(1, 4):
        grads = [tf.constant(rng.normal(size=leaf[0].shape), leaf[0].dtype) for leaf in leaves]
        var, m, v = (list(group) for group in zip(*leaves, strict=True))
        step(var=var, m=m, v=v, grad=grads, **scalars(t))
        for leaf, grad in zip(single, grads, strict=True):
            eager(*leaf, t, grad)
    for together, alone in zip(leaves, single, strict=True):
        for x, y in zip(together, alone, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7)


def test_many_variables_are_some_tens_a_call() -> None:
    leaves = [variables((8, i + 1), "float32") for i in range(70)]
    var, m, v = (list(group) for group in zip(*leaves, strict=True))

    @tf.function(jit_compile=True)
    def step(grads: list[Any]) -> None:
        raw_ops.ResourceMultiApplyNadam(var=var, m=m, v=v, grad=grads, **scalars(1))

    text = step.experimental_get_compiler_ir([tf.ones_like(x) for x in var])(stage="optimized_hlo")
    assert text.count('custom_call_target="nadam_xla_update_v2"') == 3
    assert " copy(" not in text


def test_lists_that_do_not_fit_are_named() -> None:
    leaves = [variables((4,), "float32") for _ in range(2)]
    var, m, v = (list(group) for group in zip(*leaves, strict=True))
    good = {"var": var, "m": m, "v": v, "grad": [tf.ones(4), tf.ones(4)]}
    with pytest.raises(ValueError, match="m has 1 entries; it must have 2, like var"):
        raw_ops.ResourceMultiApplyNadam(**good | {"m": m[:1]}, **scalars(1))
    bad_grads = [tf.ones(4), tf.ones(5)]
    with pytest.raises(ValueError, match=r"grad\[1\] has the shape \(5,\); .* that of var\[1\]"):
        raw_ops.ResourceMultiApplyNadam(**good | {"grad": bad_grads}, **scalars(1))
    raw_ops.ResourceMultiApplyNadam(var=[], m=[], v=[], grad=[], **scalars(1))


def test_a_variable_given_twice_is_an_error_that_says_what_to_do() -> None:
    """It would be read twice before it is written, and one of the gradients lost."""
    leaves = [variables((4,), "float32") for _ in range(2)]
    var, m, v = (list(group) for group in zip(*leaves, strict=True))
    good = {"var": var, "m": m, "v": v, "grad": [tf.ones(4), tf.ones(4)]}
    for name, twice, message in (
        ("var", [var[0], var[0]], r"var\[1\] and var\[0\] are the same variable.* add them up"),
        ("var", [var[0].handle, var[0]], r"var\[1\] and var\[0\] are the same variable"),
        ("v", [v[0], m[0]], r"v\[1\] and m\[0\] are the same variable"),
    ):
        with pytest.raises(ValueError, match=message):
            raw_ops.ResourceMultiApplyNadam(**good | {name: twice}, **scalars(1))
    with pytest.raises(ValueError, match="m and var are the same variable"):
        eager(var[0], var[0], v[0], 1, tf.ones(4))
    np.testing.assert_array_equal(var[0], variables((4,), "float32")[0])


@pytest.mark.parametrize("name", ["lr", "beta1", "epsilon"])
def test_a_scalar_is_one_number_for_all_variables(name: str) -> None:
    def update(value: Any) -> np.ndarray:
        leaves = [variables((4,), "float32") for _ in range(2)]
        var, m, v = (list(group) for group in zip(*leaves, strict=True))
        grads, given = [tf.ones(4), tf.ones(4)], {**scalars(1), name: value}
        raw_ops.ResourceMultiApplyNadam(var=var, m=m, v=v, grad=grads, **given)
        return np.stack(var)

    with pytest.raises(ValueError, match=rf"{name} has the shape \(2,\); it must be a scalar"):
        update([0.5, 0.25])
    np.testing.assert_array_equal(update([0.5]), update(0.5))


@pytest.mark.parametrize("many", [False, True])
def test_in_a_graph_it_returns_an_operation_as_tf_raw_ops_do(many: bool) -> None:
    leaves = [variables((4,), "float32"), variables((3,), "float64")]
    var, m, v = (list(group) for group in zip(*leaves, strict=True))
    grads = [tf.ones(4), tf.ones(3, "float64")]

    def apply(t: Any) -> Any:
        if many:
            return raw_ops.ResourceMultiApplyNadam(var=var, m=m, v=v, grad=grads, **scalars(t))
        return raw_ops.ResourceApplyNadam(var=var[0], m=m[0], v=v[0], grad=grads[0], **scalars(t))

    @tf.function
    def step(t: Any) -> tf.Tensor:
        before = tf.identity(var[0])
        done = apply(t)
        assert isinstance(done, tf.Operation)
        with tf.control_dependencies([done]):
            return tf.reduce_max(tf.abs(var[0].read_value() - before))

    assert step(tf.constant(1)) > 0
    assert apply(2) is None, "eagerly it is done"


def test_of_no_variables_the_operation_does_nothing() -> None:
    with tf.Graph().as_default():
        done = raw_ops.ResourceMultiApplyNadam(var=[], m=[], v=[], grad=[], **scalars(1))
        assert isinstance(done, tf.Operation)


@pytest.mark.parametrize("in_function", [False, True])
def test_a_tape_is_told_that_there_is_no_gradient(in_function: bool) -> None:
    var, m, v = (tf.convert_to_tensor(x) for x in variables((4,), "float32"))

    def gradient(grad: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(grad)
            new = raw_ops.ApplyNadam(var=var, m=m, v=v, grad=2 * grad, **scalars(1)).var
        return tape.gradient(new, grad)

    with pytest.raises(NotImplementedError, match="has no gradient in TensorFlow"):
        (tf.function(gradient) if in_function else gradient)(tf.ones(4))


def test_a_tape_may_watch_what_goes_past_the_update() -> None:
    var, m, v = (tf.convert_to_tensor(x) for x in variables((4,), "float32"))
    with tf.GradientTape() as tape:
        tape.watch(var)
        new = raw_ops.ApplyNadam(var=var, m=m, v=v, grad=2 * var, **scalars(1)).var
        loss = tf.reduce_sum(var * tf.stop_gradient(new))
    np.testing.assert_array_equal(tape.gradient(loss, var), new)


CHECK_NUMERICS = """
import numpy as np
import tensorflow as tf
from nadam_xla.tensorflow import raw_ops

tf.debugging.enable_check_numerics()
names = "momentum next_momentum momentum_product beta2_power lr beta1 beta2 epsilon".split()
var, m, v = tf.Variable(tf.ones(4)), tf.Variable(tf.zeros(4)), tf.Variable(tf.zeros(4))
for caller in (lambda f: f, tf.function):
    def step(grad):
        raw_ops.ResourceApplyNadam(var=var, m=m, v=v, grad=grad, **dict.fromkeys(names, 0.5))
    caller(step)(tf.ones(4))
    new = raw_ops.ApplyNadam(var=var, m=m, v=v, grad=tf.ones(4), **dict.fromkeys(names, 0.5))
    try:
        raw_ops.ApplyNadam(var=var, m=m, v=v, grad=tf.fill(4, np.nan), **dict.fromkeys(names, 0.5))
    except tf.errors.InvalidArgumentError as error:
        print("NaN" in str(error))
assert new.var[0] < var[0] < 1
"""


def test_numerics_may_be_checked() -> None:
    """TensorFlow puts operations into what it traces, that XLA does not know."""
    assert output_of(CHECK_NUMERICS).split() == ["True", "True"]


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_the_functional_op_returns_what_the_other_assigns(dtype: str) -> None:
    leaf = variables((5, 3), dtype)
    before = [x.numpy() for x in leaf]
    grad = tf.cast(tf.ones((5, 3)), dtype)
    out = raw_ops.ApplyNadam(
        **dict(zip(("var", "m", "v"), leaf, strict=True)), grad=grad, **scalars(1)
    )
    for x, kept in zip(leaf, before, strict=True):
        np.testing.assert_array_equal(x.numpy(), kept)
    eager(*leaf, 1, grad)
    for x, new in zip(leaf, (out.var, out.m, out.v), strict=True):
        assert new.dtype == dtype
        np.testing.assert_array_equal(x.numpy(), new.numpy())


def test_the_functional_update_has_the_bits_of_the_rule() -> None:
    rng = np.random.default_rng(0)
    shapes = [(5, 3), (), (0, 2), (1000,)] * 20
    params, grads, mu = ([rng.normal(size=s).astype("f") for s in shapes] for _ in range(3))
    nu = [rng.uniform(size=s).astype("f") for s in shapes]
    row = oracle.rows(rng, (), "float32")
    compiled = tf.function(
        lambda *groups: nadam_update(Coefficients(*row), *groups), jit_compile=True
    )
    for update in (nadam_update, lambda row, *groups: compiled(*groups)):
        new = update(Coefficients(*row), params, grads, mu, nu)
        for i, leaf in enumerate(zip(params, grads, mu, nu, strict=True)):
            expected_params, _, expected_mu, expected_nu = oracle.rule(row, *leaf)
            np.testing.assert_array_equal(new[0][i], expected_params)
            np.testing.assert_array_equal(new[1][i], expected_mu)
            np.testing.assert_array_equal(new[2][i], expected_nu)


def test_repeated_indices_of_a_sparse_gradient_are_summed() -> None:
    sparse = tf.IndexedSlices(tf.ones((3, 2)), tf.constant([1, 1, 3]), tf.constant([4, 2]))
    dense = tf.constant([[0.0, 0], [2, 2], [0, 0], [1, 1]])
    row = Coefficients(1.0, 1.0, 1.0, 0.9, 0.1, 0.999, 0.001, 1e-3, 1e-8)
    zeros = [tf.zeros((4, 2))]
    for a, b in zip(
        nadam_update(row, zeros, [sparse], zeros, zeros),
        nadam_update(row, zeros, [dense], zeros, zeros),
        strict=True,
    ):
        np.testing.assert_array_equal(a[0], b[0])


def test_the_compiled_step_updates_the_variables_in_place() -> None:
    var, m, v = variables((64, 64), "float32")
    step = tf.function(lambda t, grad: eager(var, m, v, t, grad), jit_compile=True)
    arguments = tf.constant(1), tf.ones((64, 64))
    text = step.experimental_get_compiler_ir(*arguments)(stage="optimized_hlo")
    assert text.count('custom_call_target="nadam_xla_update_v2"') == 1
    assert " copy(" not in text
    assert text.split("entry_computation_layout")[0].count("may-alias") == 3


GOOD = {"var": (4,), "m": (4,), "v": (4,)}


@pytest.mark.parametrize(
    ("replaced", "error", "message"),
    [
        ({"grad": tf.zeros(5)}, ValueError, r"grad has the shape \(5,\); .* that of var, \(4,\)"),
        ({"m": tf.Variable(tf.zeros(3))}, ValueError, r"grad has the shape \(4,\); .* that of m"),
        (
            {"grad": tf.zeros(4, tf.int32)},
            TypeError,
            "grad has the dtype int32; it must be floating",
        ),
        (
            {"var": tf.zeros(4)},
            TypeError,
            "var is .*; it must be a tf.Variable or the handle of one",
        ),
        ({"v": 3.0}, TypeError, r"v is 3.0; it must be a tf.Variable"),
    ],
)
def test_bad_input_is_an_error_before_anything_is_written(
    replaced: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {name: tf.Variable(tf.ones(s)) for name, s in GOOD.items()}
    arguments["grad"] = tf.ones(4)
    with pytest.raises(error, match=message):
        raw_ops.ResourceApplyNadam(**{**arguments, **replaced, **scalars(1)})
    for name in GOOD:
        np.testing.assert_array_equal(arguments[name], np.ones(4))


def test_arguments_are_keywords_as_in_tf_raw_ops() -> None:
    with pytest.raises(TypeError, match="positional"):
        raw_ops.ResourceApplyNadam(*variables((4,), "float32"))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"grads": []}, ValueError, "grads has 0 tensors; it must have 1"),
        ({"mu": [tf.zeros((3, 2))]}, ValueError, r"mu\[0\] has the shape \(3, 2\)"),
        ({"nu": [tf.zeros((2, 3), tf.int32)]}, TypeError, r"nu\[0\] has the dtype int32"),
    ],
)
def test_the_functional_update_names_what_is_wrong(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments = {name: [tf.zeros((2, 3))] for name in ("params", "grads", "mu", "nu")}
    row = Coefficients(1.0, 1.0, 1.0, 0.9, 0.1, 0.999, 0.001, 1e-3, 1e-8)
    with pytest.raises(error, match=message):
        nadam_update(row, **{**arguments, **change})


@pytest.mark.parametrize(
    ("name", "value"),
    [("_LIBRARY", "libtensorflow_none.so"), ("_GET_XLA_FFI_API", "_ZN3xla3ffi4NoneEv")],
)
def test_an_unreachable_xla_is_an_error_that_names_both_versions(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setattr(runtime, name, value)
    *_, reason = runtime._load()
    monkeypatch.setattr(runtime, "_why_unavailable", reason)
    with pytest.raises(NotImplementedError, match=rf"TensorFlow {tf.__version__} .*2\.18 to 2\.21"):
        eager(*variables((4,), "float32"), 1, tf.ones(4))


def test_the_package_needs_only_tensorflow() -> None:
    others = ("jax", "optax", "torch")
    assert newly_imported("import nadam_xla.tensorflow", others, after="import tensorflow") == []


def test_a_coefficient_may_be_a_vector_with_an_entry_for_each_tensor() -> None:
    row = Coefficients(1.0, 1.0, 1.0, 0.9, 0.1, 0.99, 0.01, 0.1, 1e-7)
    decays, skips = [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]
    ones = [tf.ones(4)] * 3
    together = nadam_update(row._replace(decay=decays, skip=skips), ones, ones, ones, ones)
    for i, (decay, skip) in enumerate(zip(decays, skips, strict=True)):
        own = row._replace(decay=decay, skip=skip)
        alone = nadam_update(own, ones[:1], ones[:1], ones[:1], ones[:1])
        for group, single in zip(together, alone, strict=True):
            np.testing.assert_array_equal(group[i], single[0])
    with pytest.raises(ValueError, match=r"coefficient decay has the shape \(2,\); it must be a"):
        nadam_update(row._replace(decay=decays[:2]), ones, ones, ones, ones)
