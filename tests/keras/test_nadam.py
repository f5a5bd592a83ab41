"""nadam_xla.keras.Nadam against stock Keras and the float64 oracle, on the backend of this process.

KERAS_BACKEND chooses it; `make test` runs this file once for each.
"""

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import oracle
import pytest
from floatx import floatx
from keras import ops

from nadam_xla.keras import Nadam

BACKEND = keras.backend.backend()
FUSED = BACKEND in ("tensorflow", "jax")
STEPS = 200
SHAPES = [(7, 5), (5,), (), (2, 3, 4)]

only_where_fused = pytest.mark.skipif(not FUSED, reason=f"{BACKEND} has no fused step")
against_stock = pytest.mark.skipif(
    BACKEND == "torch",
    reason="Keras's own Nadam for torch multiplies its momentum product twice a step",
)


def numpy_of(values: Sequence[Any]) -> list[np.ndarray]:
    return [ops.convert_to_numpy(ops.convert_to_tensor(v)) for v in values]


def start_and_grads(dtype: str = "float32") -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
    rng = np.random.default_rng(0)
    start = [rng.normal(size=s).astype(dtype) for s in SHAPES]
    grads = [
        [((0.1 + t % 7) * rng.normal(size=s)).astype(dtype) for s in SHAPES] for t in range(STEPS)
    ]
    return start, grads


def apply_steps(optimizer: Any, dtype: str = "float32", count: int = 20) -> list[np.ndarray]:
    start, steps = start_and_grads("float64" if dtype == "float64" else "float32")
    variables = [keras.Variable(p, dtype=dtype) for p in start]
    for grads in steps[:count]:
        optimizer.apply([ops.convert_to_tensor(g, dtype) for g in grads], variables)
    narrow = dtype in ("bfloat16", "float16")
    return numpy_of([ops.cast(v, "float32") if narrow else v for v in variables])


def assert_all_close(a: Sequence[Any], b: Sequence[Any], rtol: float = 2e-5) -> None:
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol / 10)


# ---- the same numbers ----------------------------------------------------------------------------


def test_it_equals_the_oracle() -> None:
    start, steps = start_and_grads()
    expected = [
        oracle.nadam(
            p,
            [grads[i] for grads in steps],
            learning_rate=1e-2,
            b1=0.8,
            b2=0.99,
            eps=1e-5,
            momentum_decay=1.0,
        )
        for i, p in enumerate(start)
    ]
    optimizer = Nadam(1e-2, beta_1=0.8, beta_2=0.99, epsilon=1e-5)
    assert_all_close(apply_steps(optimizer, count=STEPS), expected)


ARGUMENTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "rate": {"learning_rate": 0.02},
    "betas": {"beta_1": 0.7, "beta_2": 0.95},
    "epsilon": {"epsilon": 1e-2},
    "weight decay": {"weight_decay": 0.05},
    "clipnorm": {"clipnorm": 0.5},
    "clipvalue": {"clipvalue": 0.3},
    "global clipnorm": {"global_clipnorm": 0.5},
    "moving average": {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 7},
    "loss scale": {"loss_scale_factor": 8.0},
    "accumulation": {"gradient_accumulation_steps": 4},
    "clipnorm out of reach": {"clipnorm": 1e6},
    "all that goes into the row": {
        "weight_decay": 0.05,
        "global_clipnorm": 0.5,
        "loss_scale_factor": 3.0,
        "gradient_accumulation_steps": 3,
    },
    "all of it, each variable by itself": {
        "weight_decay": 0.05,
        "clipnorm": 0.5,
        "loss_scale_factor": 3.0,
        "gradient_accumulation_steps": 3,
    },
    "averages of accumulated steps": {
        "use_ema": True,
        "ema_overwrite_frequency": 2,
        "gradient_accumulation_steps": 3,
    },
}


@against_stock
@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_it_equals_stock_with(arguments: str) -> None:
    ours = apply_steps(Nadam(**ARGUMENTS[arguments]))
    assert_all_close(ours, apply_steps(keras.optimizers.Nadam(**ARGUMENTS[arguments])))


@against_stock
@pytest.mark.parametrize("by", ["var_list", "var_names"])
def test_variables_excluded_from_weight_decay_do_not_decay(by: str) -> None:
    def train(optimizer: Any) -> list[np.ndarray]:
        start, steps = start_and_grads()
        variables = [keras.Variable(p, name=f"leaf{i}") for i, p in enumerate(start)]
        excluded = {"var_list": variables[1:3], "var_names": ["leaf1", "leaf2"]}
        optimizer.exclude_from_weight_decay(**{by: excluded[by]})
        for grads in steps[:20]:
            optimizer.apply([ops.convert_to_tensor(g) for g in grads], variables)
        return numpy_of(variables)

    ours = train(Nadam(weight_decay=0.5))
    assert_all_close(ours, train(keras.optimizers.Nadam(weight_decay=0.5)))
    assert not np.allclose(ours[0], apply_steps(Nadam())[0]), "this one decays"
    np.testing.assert_allclose(ours[1], apply_steps(Nadam())[1], rtol=1e-6)


@against_stock
@pytest.mark.parametrize("kind", ["a callable", "a constant tensor"])
def test_betas_may_be(kind: str) -> None:
    def beta(value: float) -> Any:
        return (lambda: value) if kind == "a callable" else ops.convert_to_tensor(value)

    ours = apply_steps(Nadam(beta_1=beta(0.8), beta_2=beta(0.99)))
    stock = keras.optimizers.Nadam(beta_1=0.8, beta_2=0.99)
    assert_all_close(ours, apply_steps(stock), rtol=1e-4)


@keras.saving.register_keras_serializable(package="tests")
def three_quarters() -> float:
    return 0.75


def test_betas_of_every_kind_are_in_the_config() -> None:
    config = Nadam(beta_1=three_quarters, beta_2=ops.convert_to_tensor(0.5)).get_config()
    made = Nadam.from_config(config)
    assert (made.beta_1, made.beta_2) == (0.75, 0.5)
    assert made.get_config() == config


@only_where_fused
@pytest.mark.parametrize("clipping", ["clipnorm", "global_clipnorm"])
def test_a_gradient_that_is_not_finite_shows(clipping: str) -> None:
    variable = keras.Variable(np.ones(3, "f"))
    Nadam(**{clipping: 1.0}).apply([ops.convert_to_tensor([np.inf, 0.0, 1.0])], [variable])
    assert np.isnan(ops.convert_to_numpy(variable)).any()


@against_stock
@pytest.mark.parametrize("kind", ["schedule", "callable"])
def test_it_equals_stock_with_a_changing_rate(kind: str) -> None:
    def rate() -> Any:
        if kind == "callable":
            return lambda: 0.005
        return keras.optimizers.schedules.CosineDecay(0.02, STEPS, alpha=0.1)

    ours = apply_steps(Nadam(rate()))
    assert_all_close(ours, apply_steps(keras.optimizers.Nadam(rate())))


@against_stock
def test_hyperparameters_may_be_set_between_steps() -> None:
    def train(optimizer: Any) -> list[np.ndarray]:
        start, steps = start_and_grads()
        variables = [keras.Variable(p) for p in start]
        for t, grads in enumerate(steps[:20]):
            optimizer.learning_rate = 1e-3 * (1 + t)
            optimizer.beta_1 = 0.9 - 0.1 * (t // 10)
            optimizer.apply([ops.convert_to_tensor(g) for g in grads], variables)
        return numpy_of(variables)

    assert_all_close(train(Nadam()), train(keras.optimizers.Nadam()))


def test_float64_variables() -> None:
    start, steps = start_and_grads("float64")
    with floatx("float64"):
        (trained, *_) = apply_steps(Nadam(1e-2), "float64", count=STEPS)
    # Stock's scalars are rounded to float32 on their way; 1 - beta_2 keeps five digits of that.
    expected = oracle.nadam(
        start[0], [g[0] for g in steps], learning_rate=1e-2, eps=1e-7, momentum_decay=1.0
    )
    np.testing.assert_allclose(trained, expected, rtol=1e-4, atol=1e-5)


@against_stock
@pytest.mark.parametrize(
    "arguments", ["betas", "all that goes into the row", "all of it, each variable by itself"]
)
def test_float64_variables_equal_those_of_stock_with(arguments: str) -> None:
    """Stock's scalars included, which are rounded to float32 here and there."""
    with floatx("float64"):
        ours = apply_steps(Nadam(**ARGUMENTS[arguments]), "float64", count=6)
        stock = apply_steps(keras.optimizers.Nadam(**ARGUMENTS[arguments]), "float64", count=6)
    assert_all_close(ours, stock, rtol=1e-13)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@only_where_fused
def test_narrow_variables_train(dtype: str) -> None:
    """Stock Keras makes bfloat16 variables NaN at the first step."""
    optimizer = Nadam(1e-2)
    trained = apply_steps(optimizer, dtype)
    for ours, wide in zip(trained, apply_steps(Nadam(1e-2)), strict=True):
        assert np.isfinite(ours).all()
        np.testing.assert_allclose(ours, wide, atol=0.2)
    state = [v.dtype for v in optimizer.variables if "iteration" not in v.path]
    assert set(state) == {"float32"}


@pytest.mark.skipif(FUSED, reason=f"{BACKEND} trains them, see above")
def test_bfloat16_variables_are_an_error_where_they_would_become_nan() -> None:
    with pytest.raises(TypeError, match="is bfloat16; only the fused update can train it"):
        apply_steps(Nadam(), "bfloat16")


# ---- a drop-in -----------------------------------------------------------------------------------


def model_of(optimizer: Any, **compile_arguments: Any) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(16, "tanh", name="a"),
            keras.layers.Dense(3, name="b"),
        ],
        name="model",
    )
    model.compile(optimizer=optimizer, loss="mse", **compile_arguments)
    return model


def fit(model: keras.Model, epochs: int = 3) -> list[float]:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(96, 8)).astype("f"), rng.normal(size=(96, 3)).astype("f")
    return model.fit(x, y, epochs=epochs, batch_size=8, shuffle=False, verbose=0).history["loss"]


@against_stock
def test_constraints_hold_after_each_step() -> None:
    def train(optimizer: Any) -> list[np.ndarray]:
        variable = keras.Variable(np.full(3, 0.01, "f"))
        variable.constraint = keras.constraints.NonNeg()
        for _ in range(20):
            optimizer.apply([ops.convert_to_tensor([1.0, -1.0, 0.5])], [variable])
        return numpy_of([variable])

    ours = train(Nadam(1e-2))
    assert_all_close(ours, train(keras.optimizers.Nadam(1e-2)))
    assert (ours[0] >= 0).all()


def test_the_signature_is_that_of_stock_and_keywords_behind_it() -> None:
    def defaults(function: Callable[..., Any]) -> dict[str, Any]:
        return {name: p.default for name, p in inspect.signature(function).parameters.items()}

    stock = defaults(keras.optimizers.Nadam.__init__)
    assert stock["name"] in (None, "nadam")  # the latter in older versions, to the same effect
    parameters = inspect.signature(Nadam.__init__).parameters.values()
    own = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert own == {
        "momentum_dtype": None,
        "velocity_dtype": None,
        "rounding": "nearest",
        "seed": 0,
        "master": None,
        "sparse": "dense",
    }
    ours = defaults(Nadam.__init__)
    assert ours == {**stock, "name": None, **own}
    assert [name for name in ours if name not in own] == list(stock)


def test_variables_and_config_are_those_of_stock() -> None:
    ours = model_of(Nadam(0.01, beta_1=0.8, weight_decay=0.1, use_ema=True, name="n")).optimizer
    stock = keras.optimizers.Nadam(0.01, beta_1=0.8, weight_decay=0.1, use_ema=True, name="n")
    stock = model_of(stock).optimizer
    for optimizer in (ours, stock):
        optimizer.build(model_of(optimizer).trainable_variables)

    def described(optimizer: Any) -> list[tuple[str, tuple[int, ...], str]]:
        # The momentum product has no name of its own: Keras numbers it anew for each optimizer.
        return [
            (v.path if "variable" not in v.path else "", tuple(v.shape), str(v.dtype))
            for v in optimizer.variables
        ]

    assert described(ours) == described(stock)
    assert ours.get_config() == stock.get_config()
    assert Nadam.from_config(stock.get_config()).get_config() == stock.get_config()


@pytest.mark.parametrize("saved_by_us", [True, False], ids=["ours to stock", "stock to ours"])
def test_variable_stores_of_one_load_into_the_other(saved_by_us: bool) -> None:
    kinds = (Nadam, keras.optimizers.Nadam) if saved_by_us else (keras.optimizers.Nadam, Nadam)
    saved, loaded = (kind(1e-2) for kind in kinds)
    apply_steps(saved)
    loaded.build([keras.Variable(np.zeros(s, "f")) for s in SHAPES])
    store: dict[str, np.ndarray] = {}
    saved.save_own_variables(store)
    loaded.load_own_variables(store)
    for a, b in zip(saved.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))


def test_one_variable_can_still_be_updated_alone() -> None:
    optimizer = Nadam()
    variable = keras.Variable(np.ones(3, "f"))
    optimizer.build([variable])
    optimizer.update_step(ops.ones(3), variable, ops.convert_to_tensor(1e-3))
    expected = oracle.nadam(np.ones(3), [np.ones(3)], eps=1e-7, momentum_decay=1.0)
    np.testing.assert_allclose(*numpy_of([variable]), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beta_1": 1.0}, "beta_1 is 1.0; it must be at least 0 and less than 1"),
        ({"beta_2": -0.1}, "beta_2 is -0.1"),
        ({"epsilon": -1e-7}, "epsilon is -1e-07; it must not be negative"),
        ({"momentum": 0.9}, "(?i)argument.*momentum"),
    ],
)
def test_bad_arguments_are_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Nadam(**arguments)


@only_where_fused
@pytest.mark.parametrize(
    ("dtype", "shape", "error", "message"),
    [
        (
            "int32",
            (3,),
            TypeError,
            "the variable .*w has the dtype int32; Nadam updates floats only",
        ),
        ("float32", (4,), ValueError, r"gradient of .*w has the shape \(4,\); it must be \(3,\)"),
        ("float32", (3, 1), ValueError, r"has the shape \(3, 1\); it must be \(3,\)"),
    ],
)
def test_bad_leaves_are_errors_that_name_the_variable(
    dtype: str, shape: tuple[int, ...], error: type[Exception], message: str
) -> None:
    variable = keras.Variable(np.ones(3, dtype), dtype=dtype, name="w")
    with pytest.raises(error, match=message):
        Nadam().apply([ops.ones(shape, dtype)], [variable])
    np.testing.assert_array_equal(ops.convert_to_numpy(variable), np.ones(3))


# ---- the fused step ------------------------------------------------------------------------------


@only_where_fused
@pytest.mark.parametrize("leaves", [3, 70])
def test_the_compiled_step_is_fused_and_copies_nothing(leaves: int) -> None:
    variables = [keras.Variable(np.ones((16, i + 1), "f")) for i in range(leaves)]
    grads = [ops.ones(v.shape) for v in variables]
    optimizer = Nadam()
    optimizer.build(variables)
    text = compiled_text(optimizer, variables, grads)
    assert text.count('custom_call_target="nadam_xla_update_v2"') == -(-leaves // 32)
    assert not re.findall(r"= \w+\[\d.* copy\(.*", text), "an array is copied"
    aliases = text.split("entry_computation_layout")[0]
    assert aliases.count("-alias)") >= 3 * leaves, "parameters, momentums and velocities"


@only_where_fused
def test_clipping_decay_and_unscaling_read_each_gradient_twice_and_write_none() -> None:
    shapes = [(64, i + 3) for i in range(5)]
    variables = [keras.Variable(np.ones(s, "f")) for s in shapes]
    optimizer = Nadam(global_clipnorm=1.0, weight_decay=0.01, loss_scale_factor=128.0)
    optimizer.build(variables)
    text = compiled_text(optimizer, variables, [ops.ones(s) for s in shapes])
    for i, shape in enumerate(shapes):
        leaf = f"f32[{shape[0]},{shape[1]}]"
        made = re.findall(rf"= {re.escape(leaf)}\S* (\w[\w-]*)\(", text)
        assert set(made) <= {"parameter", "get-tuple-element", "bitcast"}, f"leaf {i} is rewritten"
    calls = {
        target: [line for line in text.splitlines() if f'custom_call_target="{target}"' in line]
        for target in ("nadam_xla_update_v2", "nadam_xla_sum_squares_v1")
    }
    assert [len(lines) for lines in calls.values()] == [1, 1]
    readers = [line for line in text.splitlines() if " custom-call(" in line or " fusion(" in line]
    norm = re.search(r"custom-call\((.*?)\)", calls["nadam_xla_sum_squares_v1"][0]).group(1)
    for gradient in re.findall(r"%[\w.-]+", norm):
        reading = [line for line in readers if re.search(re.escape(gradient) + r"[,)]", line)]
        assert len(reading) == 2, "the norm and the update"


@only_where_fused
def test_an_accumulating_step_computes_no_update_that_it_throws_away() -> None:
    """The call is told to skip, and no array is chosen between an old and a new one."""
    variables = [keras.Variable(np.ones((64, i + 3), "f")) for i in range(3)]
    optimizer = Nadam(gradient_accumulation_steps=4)
    optimizer.build(variables)
    text = compiled_text(optimizer, variables, [ops.ones(v.shape) for v in variables])
    assert text.count('custom_call_target="nadam_xla_update_v2"') == 1
    assert "conditional(" not in text
    after_update = re.findall(r"= .*fusion\(.*%nadam.*\)|= .*select\(.*custom-call.*\)", text)
    assert not [line for line in after_update if "f32[64" in line]


def test_more_gradients_than_variables_are_an_error() -> None:
    variable = keras.Variable(np.ones(3, "f"))
    with pytest.raises(ValueError, match="apply got 2 gradients and 1 variables"):
        Nadam().apply([ops.ones(3), ops.ones(3)], [variable])


def compiled_text(optimizer: Any, variables: list[Any], grads: list[Any]) -> str:
    if BACKEND == "tensorflow":
        import tensorflow as tf  # noqa: PLC0415

        @tf.function(jit_compile=True)
        def tf_step(grads: list[Any]) -> None:
            optimizer.apply(grads)

        return tf_step.experimental_get_compiler_ir(grads)(stage="optimized_hlo")
    import jax  # noqa: PLC0415

    def step(trainable: list[Any], state: list[Any], grads: list[Any]) -> Any:
        return optimizer.stateless_apply(state, grads, trainable)

    values = [v.value for v in variables], [v.value for v in optimizer.variables], grads
    return jax.jit(step, donate_argnums=(0, 1)).lower(*values).compile().as_text()
