"""``sparse="lazy"``: a gradient that has some rows of its variable updates those alone."""

import copy
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from compiled import copies_of_arrays, text_of
from compiled_keras import text_of_step
from keras import ops
from keras_models import (
    assert_all_close,
    batches_of_words,
    compiled,
    embedding,
    fit,
    numpy_of,
)
from lazy_nadam import Touched, by_norm, joined, lazy_nadam, some_rows

from nadam_xla.keras import Nadam

BACKEND = keras.backend.backend()
FUSED = BACKEND in ("tensorflow", "jax")

only_where_fused = pytest.mark.skipif(not FUSED, reason=f"{BACKEND} has no fused step")
only_tensorflow = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="Keras on JAX makes no sparse gradients by itself"
)
only_jax = pytest.mark.skipif(BACKEND != "jax", reason="of Keras on JAX")

pytestmark = pytest.mark.filterwarnings("error:.*Keras's own update")

HEIGHT, WIDTH = 11, 5


def sparse(touched: Touched, shape: tuple[int, ...], dtype: str = "float32") -> Any:
    """The gradient, as the backend has it."""
    values = ops.convert_to_tensor(touched.values, dtype)
    if BACKEND == "tensorflow":
        import tensorflow as tf  # noqa: PLC0415

        return tf.IndexedSlices(values, tf.constant(touched.indices), tf.constant(shape))
    if BACKEND == "jax":
        import jax  # noqa: PLC0415
        from jax.experimental.sparse import BCOO  # noqa: PLC0415

        indices = jax.numpy.asarray(touched.indices, "int32")[:, None]
        return BCOO((values, indices), shape=shape)
    import torch  # noqa: PLC0415

    indices = torch.asarray(touched.indices)[None]
    return torch.sparse_coo_tensor(indices, values.cpu(), shape)


def compiled_step(optimizer: Any, variables: list[Any]) -> Callable[[list[Any]], None]:
    """A step that the backend compiles whole."""
    if BACKEND == "tensorflow":
        import tensorflow as tf  # noqa: PLC0415

        return tf.function(lambda grads: optimizer.apply(grads, variables), jit_compile=True)
    import jax  # noqa: PLC0415

    step = jax.jit(optimizer.stateless_apply)

    def apply(grads: list[Any]) -> None:
        state, params = [v.value for v in optimizer.variables], [v.value for v in variables]
        new_params, new_state = step(state, grads, params)
        for v, new in zip(variables + optimizer.variables, new_params + new_state, strict=True):
            v.assign(new)

    return apply


def eager_step(optimizer: Any, variables: list[Any]) -> Callable[[list[Any]], None]:
    return lambda grads: optimizer.apply(grads, variables)


WAYS = {"eager": eager_step, "compiled": compiled_step}


def table_of(shape: tuple[int, ...] = (HEIGHT, WIDTH), dtype: str = "float32") -> keras.Variable:
    start = np.random.default_rng(0).normal(size=shape)
    return keras.Variable(start, dtype=dtype, name="table")


def steps_of(count: int = 3, height: int = HEIGHT, columns: tuple[int, ...] = (WIDTH,)) -> Any:
    rng = np.random.default_rng(1)
    return [some_rows(rng, height, 9, columns) for _ in range(count)]


def train(
    optimizer: Any,
    variables: list[Any],
    steps: list[Any],
    way: str = "eager",
    others: list[Any] | None = None,
) -> None:
    """Steps of the first variable by rows, and of the others by the same dense gradients."""
    optimizer.build(variables)
    step = WAYS[way](optimizer, variables)
    for touched in steps:
        step([sparse(touched, tuple(variables[0].shape)), *(others or [])])


# ---- the numbers ---------------------------------------------------------------------------------

CHOICES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "defaults": ({}, {}),
    "decay": ({"weight_decay": 0.1}, {"weight_decay": 0.1}),
    "clipnorm": ({"clipnorm": 0.5}, {"limit": by_norm(0.5)}),
    "clipvalue": (
        {"clipvalue": 0.4},
        {"limit": lambda sums: {row: np.clip(g, -0.4, 0.4) for row, g in sums.items()}},
    ),
    "loss scale": (
        {"loss_scale_factor": 8.0},
        {"limit": lambda sums: {row: g / 8 for row, g in sums.items()}},
    ),
}


@only_where_fused
@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("way", WAYS)
def test_it_is_nadam_of_the_rows_that_are_touched(choice: str, way: str) -> None:
    arguments, of_oracle = CHOICES[choice]
    table, steps = table_of(), steps_of()
    start = numpy_of([table])[0]
    train(Nadam(0.01, sparse="lazy", **arguments), [table], steps, way)
    expected = lazy_nadam(start, steps, learning_rate=0.01, **of_oracle)
    np.testing.assert_allclose(numpy_of([table])[0], expected, rtol=2e-5, atol=2e-6)


@only_where_fused
@pytest.mark.parametrize("clips", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_of_accumulated_gradients_the_rows_that_have_any_are_updated(way: str, clips: bool) -> None:
    table, steps = table_of(), steps_of(4)
    start = numpy_of([table])[0]
    arguments = {"clipnorm": 0.3} if clips else {}
    optimizer = Nadam(
        0.01, weight_decay=0.1, gradient_accumulation_steps=2, sparse="lazy", **arguments
    )
    train(optimizer, [table], steps, way)
    halves = [Touched(touched.indices, touched.values / 2) for touched in steps]
    together = [joined(*halves[:2]), joined(*halves[2:])]
    of_oracle = {"limit": by_norm(0.3)} if clips else {}
    expected = lazy_nadam(start, together, learning_rate=0.01, weight_decay=0.1, **of_oracle)
    np.testing.assert_allclose(numpy_of([table])[0], expected, rtol=2e-5, atol=2e-6)


@only_where_fused
@pytest.mark.parametrize("columns", [(), (3,), (2, 3), (2, 1, 3)], ids=str)
def test_tables_of_any_rank(columns: tuple[int, ...]) -> None:
    table, steps = table_of((HEIGHT, *columns)), steps_of(2, columns=columns)
    start = numpy_of([table])[0]
    train(Nadam(0.01, sparse="lazy"), [table], steps)
    expected = lazy_nadam(start, steps, learning_rate=0.01)
    np.testing.assert_allclose(numpy_of([table])[0], expected, rtol=2e-5, atol=2e-6)


STORAGE: list[dict[str, Any]] = [
    {},
    {"dtype": "float64"},
    {"global_clipnorm": 0.5, "weight_decay": 0.1, "loss_scale_factor": 3.0},
    {"use_ema": True, "ema_overwrite_frequency": 2},
    {"dtype": "bfloat16", "rounding": "stochastic", "momentum_dtype": "bfloat16", "seed": 7},
    {"dtype": "bfloat16", "master": "remainder"},
    {"dtype": "float16", "master": "float32", "velocity_dtype": "float16"},
]


@only_where_fused
@pytest.mark.parametrize("storage", STORAGE, ids=str)
def test_every_row_touched_once_has_the_bits_of_the_dense_step(storage: dict[str, Any]) -> None:
    arguments = dict(storage)
    dtype = arguments.pop("dtype", "float32")
    if dtype == "float64" and BACKEND == "jax":
        pytest.skip("JAX has no float64 here")
    rng = np.random.default_rng(2)
    every = [Touched(rng.permutation(HEIGHT), rng.normal(size=(HEIGHT, WIDTH))) for _ in range(2)]
    bias_grad = ops.cast(ops.convert_to_tensor(rng.normal(size=WIDTH)), dtype)

    def run(mode: str) -> list[np.ndarray]:
        variables = [table_of(dtype=dtype), keras.Variable(np.ones(WIDTH), dtype=dtype)]
        optimizer = Nadam(0.01, sparse=mode, **arguments)
        optimizer.build(variables)
        for touched in every:
            optimizer.apply([sparse(touched, (HEIGHT, WIDTH), dtype), bias_grad], variables)
        return numpy_of([ops.cast(v, "float64") for v in (*variables, *optimizer.variables)])

    exact = not (BACKEND == "jax" and "use_ema" in storage)  # averages are of another program
    for a, b in zip(run("lazy"), run("dense"), strict=True):
        np.testing.assert_allclose(a, b, rtol=0 if exact else 1e-6)


@only_where_fused
def test_rows_that_are_not_touched_stand_still_with_their_moments_and_without_decay() -> None:
    table, optimizer = table_of(), Nadam(0.01, weight_decay=0.1, sparse="lazy")
    every = Touched(np.arange(HEIGHT), np.ones((HEIGHT, WIDTH)))
    train(optimizer, [table], [every])
    held = [table, *optimizer._momentums, *optimizer._velocities]
    before = numpy_of(held)
    one = Touched(np.array([3, -1, HEIGHT, 3]), np.full((4, WIDTH), 2.0))
    train(optimizer, [table], [one] * 2)
    for a, b in zip(numpy_of(held), before, strict=True):
        moved = np.any(a != b, axis=1)
        assert list(np.flatnonzero(moved)) == [3]


@only_where_fused
def test_a_step_without_rows_is_counted_and_moves_no_row() -> None:
    table, optimizer = table_of(), Nadam(0.01, weight_decay=0.1, sparse="lazy")
    (before,) = numpy_of([table])
    none = Touched(np.zeros(0, np.int64), np.zeros((0, WIDTH)))
    outside = Touched(np.array([HEIGHT, -3]), np.full((2, WIDTH), np.nan))
    train(optimizer, [table], [none, outside])
    np.testing.assert_array_equal(numpy_of([table])[0], before)
    assert optimizer.iterations == 2


@only_where_fused
@pytest.mark.parametrize("clipping", ["clipnorm", "global_clipnorm"])
def test_norms_are_those_of_the_summed_rows(clipping: str) -> None:
    """Its judge is the dense step of the same gradient. What is outside of the table is no part."""
    rng = np.random.default_rng(3)
    indices = np.array([*np.arange(HEIGHT), 3, 3, HEIGHT, -1])
    values = rng.normal(size=(len(indices), WIDTH))
    values[-2:] = np.nan
    inside = Touched(indices[:-2], values[:-2])
    bias_grad = ops.convert_to_tensor(np.ones(WIDTH, "f"))

    def run(mode: str, touched: Touched) -> list[np.ndarray]:
        variables = [table_of(), keras.Variable(np.ones(WIDTH, "f"))]
        optimizer = Nadam(0.01, sparse=mode, **{clipping: 0.3})
        train(optimizer, variables, [touched], others=[bias_grad])
        return numpy_of([*variables, *optimizer.variables])

    assert_all_close(run("lazy", Touched(indices, values)), run("dense", inside), rtol=1e-6)


@only_where_fused
def test_averages_move_in_every_row() -> None:
    table, optimizer = table_of(), Nadam(0.01, use_ema=True, ema_momentum=0.5, sparse="lazy")
    one = Touched(np.array([3]), np.ones((1, WIDTH)))
    start = numpy_of([table])[0]
    train(optimizer, [table], [one])
    table.assign(table + 1.0)
    train(optimizer, [table], [one])
    average, now = numpy_of([optimizer._model_variables_moving_average[0], table])
    still = [i for i in range(HEIGHT) if i != 3]
    np.testing.assert_allclose(average[still], start[still] + 0.5, rtol=1e-5)
    np.testing.assert_allclose(now[still], start[still] + 1.0)


@only_where_fused
def test_variables_that_are_excluded_do_not_decay() -> None:
    table, optimizer = table_of(), Nadam(0.01, weight_decay=0.1, sparse="lazy")
    optimizer.exclude_from_weight_decay(var_names=["table"])
    start, steps = numpy_of([table])[0], steps_of()
    train(optimizer, [table], steps)
    expected = lazy_nadam(start, steps, learning_rate=0.01)
    np.testing.assert_allclose(numpy_of([table])[0], expected, rtol=2e-5, atol=2e-6)


@only_where_fused
def test_a_dense_gradient_takes_the_dense_step() -> None:
    def run(mode: str) -> list[np.ndarray]:
        table, optimizer = table_of(), Nadam(0.01, weight_decay=0.1, sparse=mode)
        optimizer.apply([ops.ones((HEIGHT, WIDTH))], [table])
        optimizer.apply([ops.zeros((HEIGHT, WIDTH))], [table])
        return numpy_of([table, *optimizer.variables])

    for a, b in zip(run("lazy"), run("dense"), strict=True):
        np.testing.assert_array_equal(a, b)


@only_where_fused
def test_leaves_of_several_kinds_are_each_updated_as_they_are_alone() -> None:
    """A table by its rows, and leaves of two dtypes in turn, each with a norm of its own."""
    rng = np.random.default_rng(5)
    touched = some_rows(rng, HEIGHT, 9, (WIDTH,))
    dtypes = ["float32", "bfloat16", "float32"]
    grads = [
        ops.convert_to_tensor(3.0**i * rng.normal(size=WIDTH), d) for i, d in enumerate(dtypes)
    ]

    def updated(chosen: Sequence[int]) -> list[np.ndarray]:
        names = [f"leaf{i}" for i in range(len(dtypes))]
        leaves = [
            keras.Variable(np.ones(WIDTH), dtype=d, name=n)
            for d, n in zip(dtypes, names, strict=True)
        ]
        leaves.insert(1, table_of())
        given = [*grads[:1], sparse(touched, (HEIGHT, WIDTH)), *grads[1:]]
        optimizer = Nadam(0.01, sparse="lazy", clipnorm=0.5, weight_decay=0.5, use_ema=True)
        optimizer.exclude_from_weight_decay(var_names=["leaf2", "table"])
        variables = [leaves[i] for i in chosen]
        optimizer.build(variables)
        optimizer.apply([given[i] for i in chosen], variables)
        return [ops.convert_to_numpy(ops.cast(v, "float32")) for v in variables]

    together = updated(range(4))
    for i, leaf in enumerate(together):
        np.testing.assert_array_equal(leaf, updated([i])[0])


# ---- training ------------------------------------------------------------------------------------


@only_tensorflow
@pytest.mark.parametrize(
    "how",
    [
        {"jit_compile": False},
        {"jit_compile": True},
        {"run_eagerly": True},
        {"jit_compile": False, "steps_per_execution": 4},
    ],
    ids=str,
)
def test_fit(how: dict[str, Any]) -> None:
    """Each batch has each word once, so the dense step gives the same."""
    lazy, losses = fitted("lazy", **how)
    dense, expected = densely_fitted()
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert_all_close(lazy.get_weights(), dense.get_weights())


def fitted(mode: str, **how: Any) -> tuple[keras.Model, list[float]]:
    model = compiled(embedding(), Nadam(0.01, weight_decay=0.01, sparse=mode), **how)
    return model, fit(model, epochs=1, data=batches_of_words)


@cache
def densely_fitted() -> tuple[keras.Model, list[float]]:
    return fitted("dense", jit_compile=False)


@only_tensorflow
@pytest.mark.parametrize("scaled", [False, True])
def test_words_that_no_batch_has_stay_as_they_are(scaled: bool) -> None:
    """With batches of two sizes; the gradients being divided by a ``LossScaleOptimizer`` or not."""
    keras.utils.set_random_seed(0)
    words = keras.layers.Embedding(50, 4)
    model = keras.Sequential([words, keras.layers.Flatten(), keras.layers.Dense(1)])
    optimizer = Nadam(0.01, weight_decay=0.1, sparse="lazy")
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=64.0)
    model.compile(optimizer=optimizer, loss="mse", jit_compile=False)
    x = np.random.default_rng(0).integers(0, 20, (10, 3))
    model.build(x.shape)
    before = words.get_weights()[0]
    model.fit(x, np.ones((10, 1)), batch_size=4, epochs=2, verbose=0)
    moved = np.flatnonzero(np.any(words.get_weights()[0] != before, axis=1))
    assert set(moved) == set(x.flatten())


@only_tensorflow
def test_a_table_that_is_used_as_a_whole_too_is_updated_as_a_whole() -> None:
    import tensorflow as tf  # noqa: PLC0415

    def run(mode: str) -> list[np.ndarray]:
        table, optimizer = table_of(), Nadam(0.01, sparse=mode)
        with tf.GradientTape() as tape:
            looked_up = tf.gather(table.value, [1, 1, 3])
            loss = tf.reduce_sum(looked_up) + tf.reduce_sum(tf.square(table.value))
        (grad,) = tape.gradient(loss, [table.value])
        optimizer.apply([grad], [table])
        return numpy_of([table])

    np.testing.assert_array_equal(run("lazy"), run("dense"))


@only_where_fused
def test_a_compiled_step_does_nothing_of_the_size_of_the_table() -> None:
    shape = (1001, 3)
    table, optimizer = table_of(shape), Nadam(0.01, global_clipnorm=1.0, sparse="lazy")
    optimizer.build([table])
    touched = Touched(np.array([4, 1, 4]), np.ones((3, 3)))
    text = text_of_step(optimizer, [table], [sparse(touched, shape)])
    assert copies_of_arrays(text) == 0
    made = [line for line in text.splitlines() if " = f32[1001,3]" in line]
    assert made
    for line in made:
        assert "parameter(" in line or "get-tuple-element(" in line


@only_jax
def test_a_jitted_training_step_copies_no_parameters() -> None:
    """The gradient of the rows is what reads the layer behind them last."""
    import jax  # noqa: PLC0415
    from jax.experimental.sparse import BCOO  # noqa: PLC0415

    layer, table = table_of((48, 48)), table_of((1001, 48))
    optimizer = Nadam(0.01, sparse="lazy")
    optimizer.build([layer, table])

    def loss(layer: Any, rows: Any) -> Any:
        return ops.mean(ops.tanh(rows @ layer) ** 2)

    def step(values: list[Any], state: list[Any], words: Any) -> Any:
        layer, table = values
        grad, of_rows = jax.grad(loss, (0, 1))(layer, table[words])
        sparse_grad = BCOO((of_rows, words[:, None]), shape=table.shape)
        return optimizer.stateless_apply(state, [grad, sparse_grad], values)

    values = [variable.value for variable in (layer, table)]
    state = [variable.value for variable in optimizer.variables]
    text = text_of(step, values, state, ops.arange(8), donate=(0, 1))
    assert copies_of_arrays(text) == 0


@only_tensorflow
def test_a_compiled_training_step_copies_no_parameters() -> None:
    """The gradient of the rows is what reads the layer behind them last."""
    import tensorflow as tf  # noqa: PLC0415

    model, optimizer = embedding(), Nadam(0.01, sparse="lazy")
    optimizer.build(model.trainable_variables)

    @tf.function(jit_compile=True)
    def step(x: Any, y: Any) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x) - y))
        optimizer.apply(tape.gradient(loss, model.trainable_variables))

    batch = [tf.constant(part) for part in batches_of_words()[0]]
    text = step.experimental_get_compiler_ir(*batch)(stage="optimized_hlo")
    shapes = [",".join(map(str, v.shape)) for v in model.trainable_variables if len(v.shape) > 1]
    copies = [line for line in text.splitlines() if " copy(" in line]
    assert not [line for line in copies for shape in shapes if f"f32[{shape}]" in line]


# ---- what is kept --------------------------------------------------------------------------------


def test_the_configuration_has_it_where_it_is_not_the_default() -> None:
    assert "sparse" not in Nadam().get_config()
    assert Nadam().sparse == "dense"
    config = Nadam(sparse="lazy").get_config()
    assert config["sparse"] == "lazy"
    assert Nadam.from_config(config).sparse == "lazy"
    assert copy.deepcopy(Nadam(sparse="lazy")).sparse == "lazy"


def test_it_is_kept_with_a_model_and_its_file_loads_into_stock(tmp_path: Path) -> None:
    model = compiled(embedding(), Nadam(0.01, sparse="lazy"))
    fit(model, epochs=1, data=batches_of_words)
    path = tmp_path / "model.keras"
    model.save(path)
    assert keras.models.load_model(path).optimizer.sparse == "lazy"
    stock = compiled(embedding(), keras.optimizers.Nadam(0.01))
    stock.optimizer.build(stock.trainable_variables)
    stock.load_weights(path)
    kept, loaded = (numpy_of([*x.variables, *x.optimizer.variables]) for x in (model, stock))
    for a, b in zip(kept, loaded, strict=True):
        np.testing.assert_array_equal(a, b)


# ---- what is refused -----------------------------------------------------------------------------


def test_what_it_does_not_go_with_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="sparse is 'rows'; it must be one of dense, lazy"):
        Nadam(sparse="rows")
    for name in ("momentum_dtype", "velocity_dtype"):
        with pytest.raises(ValueError, match=f"sparse is \"lazy\" and {name} 'blockwise8'"):
            Nadam(sparse="lazy", **{name: "blockwise8"})


class Own(Nadam):
    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        super().update_step(gradient, variable, learning_rate)


@pytest.mark.parametrize("why", ["fused is False", "a method of its own"])
def test_keras_own_update_refuses_rows_and_takes_dense_gradients(why: str) -> None:
    table = table_of()
    optimizer = (Own if why == "a method of its own" else Nadam)(sparse="lazy", name="mine")
    optimizer.fused = why != "fused is False"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        optimizer.apply([ops.ones((HEIGHT, WIDTH))], [table])
    grad = sparse(steps_of()[0], (HEIGHT, WIDTH))
    message = "mine has sparse='lazy', and the gradient of the variable table is sparse"
    for apply in (
        lambda: optimizer.apply([grad], [table]),
        lambda: optimizer.update_step(grad, table, 0.01),
    ):
        with pytest.raises(NotImplementedError, match=message):
            apply()


@only_where_fused
def test_rows_that_do_not_fit_are_refused_by_the_name_of_the_variable() -> None:
    table, optimizer = table_of(), Nadam(sparse="lazy")
    optimizer.build([table])
    with pytest.raises(ValueError, match=r"the gradient of the variable table.*\(\d+, 4\)"):
        optimizer.apply([sparse(Touched(np.arange(2), np.ones((2, 4))), (HEIGHT, 4))], [table])
