"""Moments in codes of eight bits in the Keras optimizer.

The judge of a step is the same step in float32 from the numbers that the codes stand for, and a
codec in numpy that shares no code with the package.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import blockwise_oracle as codec
import keras
import numpy as np
import pytest
from keras import layers, ops
from keras_copies import WAYS, checkpoint
from keras_models import compiled, fit

from nadam_xla.keras import Nadam, update_path

BACKEND = keras.backend.backend()
FUSED = BACKEND in ("tensorflow", "jax")

only_where_fused = pytest.mark.skipif(not FUSED, reason=f"{BACKEND} has no fused step")

SHAPES = {"a": (20, 300), "b": (300,), "c": (2, 10, 256), "d": (7,)}
IN_CODES = {"a", "c"}
SCALES = {"a": (20, 2), "c": (2, 10, 1)}

CODES = {"momentum_dtype": "blockwise8", "velocity_dtype": "blockwise8"}
CHOICES: dict[str, dict[str, Any]] = {
    "both": CODES,
    "first": {"momentum_dtype": "blockwise8", "seed": 2**32 - 1},
    "second, first in bfloat16": {
        "momentum_dtype": "bfloat16",
        "velocity_dtype": "blockwise8",
        "rounding": "stochastic",
    },
    "remainder": {**CODES, "master": "remainder"},
}


@pytest.fixture(params=CHOICES)
def choice(request: pytest.FixtureRequest) -> dict[str, Any]:
    return CHOICES[request.param]


def numbers(value: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(ops.convert_to_tensor(value)))


def variables(dtype: str = "float32") -> list[Any]:
    rng = np.random.default_rng(0)
    return [
        keras.Variable(rng.normal(size=shape), dtype=dtype, name=name)
        for name, shape in SHAPES.items()
    ]


def gradients(of: list[Any], step: int) -> list[Any]:
    rng = np.random.default_rng(100 + step)
    return [ops.cast(ops.convert_to_tensor(rng.normal(size=v.shape)), v.dtype) for v in of]


def trained(dtype: str = "float32", steps: int = 2, **arguments: Any) -> tuple[list[Any], Any]:
    """Variables after some steps, and their optimizer."""
    of, optimizer = variables(dtype), Nadam(1e-2, **arguments)
    for step in range(steps):
        optimizer.apply(gradients(of, step), of)
    return of, optimizer


def state_of(optimizer: Any, of: list[Any]) -> list[np.ndarray]:
    return [numbers(v) for v in (*of, *optimizer.variables)]


def assert_same_bits(a: list[np.ndarray], b: list[np.ndarray]) -> None:
    for x, y in zip(a, b, strict=True):
        assert x.dtype == y.dtype
        assert x.tobytes() == y.tobytes()


# ---- the numbers ---------------------------------------------------------------------------------


def moments_of(optimizer: Any) -> dict[str, list[Any]]:
    """Of each variable the two moments: an array, or codes and scales."""

    def group(moments: list[Any], scales: list[Any] | None) -> list[Any]:
        of_each = scales or [None] * len(moments)
        return [
            numbers(m) if s is None else codec.Blockwise(numbers(m), numbers(s))
            for m, s in zip(moments, of_each, strict=True)
        ]

    return {
        "mu": group(optimizer._momentums, optimizer._momentum_scales),
        "nu": group(optimizer._velocities, optimizer._velocity_scales),
    }


def flat(moments: dict[str, list[Any]]) -> list[np.ndarray]:
    each = (x for group in moments.values() for x in group)
    return [y for x in each for y in (x if isinstance(x, codec.Blockwise) else [x])]


def wide(moment: Any) -> np.ndarray:
    if isinstance(moment, codec.Blockwise):
        return codec.decoded(moment)
    return moment.astype(np.float32)


ARGUMENTS = {"mu": "momentum_dtype", "nu": "velocity_dtype"}


@only_where_fused
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_is_that_of_float32_in_codes(dtype: str, choice: dict[str, Any]) -> None:
    arguments = {"weight_decay": 0.1, "clipvalue": 0.5}
    of, optimizer = trained(dtype, steps=1, **arguments, **choice)
    before = moments_of(optimizer)
    twins = [keras.Variable(numbers(v).astype("f")) for v in of]
    twin = Nadam(1e-2, **arguments)
    twin.build(twins)
    twin._iterations.assign(optimizer._iterations)
    twin._u_product.assign(optimizer._u_product)
    for i in range(len(of)):
        twin._momentums[i].assign(wide(before["mu"][i]))
        twin._velocities[i].assign(wide(before["nu"][i]))
    grads = gradients(of, 1)
    optimizer.apply(grads, of)
    twin.apply([ops.cast(g, "float32") for g in grads], twins)
    found, expected = moments_of(optimizer), moments_of(twin)
    for i, name in enumerate(SHAPES):
        key = {"seed": optimizer.seed, "leaf": i, "step": 2}
        for moment, encoded in (("mu", codec.encoded_signed), ("nu", codec.encoded_unsigned)):
            new = found[moment][i]
            is_chosen = choice.get(ARGUMENTS[moment]) == "blockwise8"
            assert isinstance(new, codec.Blockwise) == (is_chosen and name in IN_CODES)
            if not isinstance(new, codec.Blockwise):
                continue
            judged = encoded(expected[moment][i], codec.draws_of(SHAPES[name], **key)[moment])
            assert_same_bits(list(new), list(judged))
        if choice.get("rounding") != "stochastic" and "master" not in choice:
            assert_same_bits([numbers(of[i])], [numbers(twins[i]).astype(numbers(of[i]).dtype)])


@only_where_fused
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_moments_have_the_bits_of_the_jax_optimizer(dtype: str) -> None:
    """With decay rates whose complements float32 has: Keras's are those of its arithmetic."""
    jnp = pytest.importorskip("jax.numpy")  # not "jax", for the tests have a folder of that name
    import jax  # noqa: PLC0415

    from nadam_xla.jax import nadam  # noqa: PLC0415

    of = variables(dtype)
    params = [jnp.asarray(numbers(v)) for v in of]
    rates = {"beta_1": 0.875, "beta_2": 0.96875}
    optimizer = Nadam(1e-2, seed=7, **CODES, **rates)
    tx = nadam(
        1e-2,
        *rates.values(),
        eps=1e-7,
        momentum_decay=1.0,
        mu_dtype="blockwise8",
        nu_dtype="blockwise8",
        seed=7,
    )
    state, apply = tx.init(params), jax.jit(tx.apply)
    for step in range(3):
        grads = gradients(of, step)
        optimizer.apply(grads, of)
        params, state = apply([jnp.asarray(numbers(g)) for g in grads], state, params)
    theirs = [np.asarray(x) for x in jax.tree.leaves((state.mu, state.nu))]
    assert_same_bits(flat(moments_of(optimizer)), theirs)


@only_where_fused
def test_a_seed_gives_codes_of_its_own() -> None:
    codes = [numbers(trained(steps=1, **CODES, seed=seed)[1]._momentums[0]) for seed in (3, 3, 4)]
    assert codes[0].tobytes() == codes[1].tobytes() != codes[2].tobytes()


@only_where_fused
def test_averages_are_those_of_the_variables() -> None:
    averaged, optimizer = trained(**CODES, use_ema=True, ema_momentum=0.5)
    plain, without = trained(**CODES)
    assert_same_bits([numbers(v) for v in averaged], [numbers(v) for v in plain])
    assert_same_bits(*[[numbers(v) for v in o._momentums] for o in (optimizer, without)])
    first, _ = trained(**CODES, steps=1)
    for average, a, b in zip(optimizer._model_variables_moving_average, first, plain, strict=True):
        mean = (numbers(a) + numbers(b)) / 2
        np.testing.assert_allclose(numbers(average), mean, rtol=1e-5, atol=1e-7)


@only_where_fused
def test_a_step_that_only_accumulates_leaves_all_as_it_is(choice: dict[str, Any]) -> None:
    of, optimizer = variables("bfloat16"), Nadam(0.1, gradient_accumulation_steps=2, **choice)
    optimizer.build(of)

    def held() -> list[np.ndarray]:
        return [numbers(v) for v in of] + flat(moments_of(optimizer))

    for steps in (2, 4):
        before = held()
        optimizer.apply(gradients(of, 0), of)
        assert_same_bits(held(), before)
        optimizer.apply(gradients(of, 1), of)
        assert int(numbers(optimizer._iterations)) == steps
        assert held()[0].tobytes() != before[0].tobytes()


@only_where_fused
@pytest.mark.parametrize("clipping", ["clipnorm", "global_clipnorm"])
def test_clipping_that_changes_nothing_changes_no_code(clipping: str) -> None:
    of_both = (moments_of(trained(**CODES, **limit)[1]) for limit in ({clipping: 2.0**20}, {}))
    assert_same_bits(*map(flat, of_both))


# ---- the variables -------------------------------------------------------------------------------


def test_codes_have_the_shape_of_their_variable_and_scales_stand_behind_all_that_stock_has() -> (
    None
):
    of, optimizer = variables("bfloat16"), Nadam(**CODES, master="remainder", use_ema=True)
    optimizer.build(of)
    stocks = keras.optimizers.Nadam(use_ema=True)
    stocks.build(of)

    def described(group: list[Any]) -> list[tuple[str, tuple[int, ...]]]:
        return [(str(v.dtype), tuple(v.shape)) for v in group]

    for moments, codes in ((optimizer._momentums, "int8"), (optimizer._velocities, "uint8")):
        assert described(moments) == [
            (codes if name in IN_CODES else "float32", shape) for name, shape in SHAPES.items()
        ]
    behind = optimizer.variables[len(stocks.variables) :]
    scales = [("float32", shape) for shape in SCALES.values()]
    assert described(behind) == [*scales, *scales, *(("uint16", x) for x in SHAPES.values())]
    assert [v.name for v in behind[:4]] == [
        f"{name}_{moment}_scales" for moment in ("momentum", "velocity") for name in SCALES
    ]


def test_variables_in_float64_and_those_that_gradients_overwrite_have_no_codes() -> None:
    of = [keras.Variable(np.ones((64, 64)), dtype=dtype) for dtype in ("float64", "float32")]
    of[1].overwrite_with_gradient = True
    optimizer = Nadam(**CODES)
    optimizer.build(of)
    assert str(optimizer._momentums[0].dtype) == "float64"
    assert optimizer._momentums[1] is None
    assert [*optimizer._momentum_scales, *optimizer._velocity_scales] == [None] * 4


@pytest.mark.parametrize("dtypes", CHOICES.values(), ids=CHOICES)
def test_the_configuration_has_what_is_not_at_its_default(dtypes: dict[str, Any]) -> None:
    config = Nadam(**dtypes).get_config()
    assert set(config) - set(keras.optimizers.Nadam().get_config()) == set(dtypes)
    assert Nadam.from_config(config).get_config() == config


# ---- saved, copied, restored ---------------------------------------------------------------------


def model_of(optimizer: Any, dtype: str = "bfloat16") -> keras.Model:
    """One kernel is in codes, with blocks that end within a row; what else there is is small."""
    keras.utils.set_random_seed(0)
    wide = layers.Dense(520, "tanh", dtype=dtype, name="a")
    model = keras.Sequential([keras.Input((8,)), wide, layers.Dense(3, dtype=dtype, name="b")])
    return compiled(model, optimizer)


@only_where_fused
@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_was_kept_goes_on_bit_for_bit(way: str, tmp_path: Path) -> None:
    model = model_of(Nadam(1e-2, **CODES, master="correction", rounding="stochastic", seed=7))
    fit(model, epochs=1)
    other = WAYS[way](model, model_of, tmp_path)

    def held() -> list[list[np.ndarray]]:
        return [state_of(run.optimizer, run.trainable_variables) for run in (model, other)]

    assert_same_bits(*held())
    for run in (model, other):
        fit(run, epochs=1)
    assert_same_bits(*held())
    assert numbers(model.optimizer._momentum_scales[0]).all()


FIRST = {"momentum_dtype": "blockwise8"}
SECOND = {"velocity_dtype": "blockwise8"}


def built(**choice: Any) -> keras.Model:
    model = model_of(Nadam(**choice))
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.mark.parametrize(
    ("saved", "loaded", "message"),
    [
        (FIRST, SECOND, "a_kernel_momentum as float32, and the file has int8 in its place: it was"),
        (SECOND, FIRST, "a_kernel_momentum as int8, and the file has float32 in its place: it was"),
        (
            {"master": "remainder"},
            {"master": "correction"},
            "master as uint8, and .* has (uint16|int32)",
        ),
    ],
)
def test_a_file_that_was_saved_with_another_choice_is_refused(
    saved: dict[str, Any], loaded: dict[str, Any], message: str, tmp_path: Path
) -> None:
    built(**saved).save_weights(tmp_path / "run.weights.h5")
    with pytest.raises(ValueError, match=message):
        built(**loaded).load_weights(tmp_path / "run.weights.h5")


def test_a_file_is_of_any_integers_for_the_count_of_steps() -> None:
    """As TensorFlow's and JAX's differ, and whatever the steps are that are counted."""
    optimizer = built(gradient_accumulation_steps=2).optimizer
    store: dict[str, np.ndarray] = {}
    optimizer.save_own_variables(store)
    optimizer.load_own_variables({**store, "0": np.asarray(4, "int16")})
    assert int(numbers(optimizer._iterations)) == 4


@pytest.mark.parametrize(
    "kept", [CODES, {"master": "remainder"}, {"master": "correction"}], ids=str
)
def test_a_file_is_read_on_the_backend_that_wrote_it(kept: dict[str, Any], tmp_path: Path) -> None:
    """Torch has other integers for the bits of a master."""
    model, other = built(**kept), built(**kept)
    own = model.optimizer.variables[-1]
    own.assign(ops.ones(own.shape, own.dtype))
    model.save_weights(tmp_path / "run.weights.h5")
    other.load_weights(tmp_path / "run.weights.h5")
    assert numbers(other.optimizer.variables[-1]).all()


@pytest.mark.parametrize("loaded", [{}, CODES], ids=["without codes", "both moments"])
def test_a_file_of_more_or_fewer_variables_is_skipped_by_name(
    loaded: dict[str, Any], tmp_path: Path
) -> None:
    built(**FIRST).save_weights(tmp_path / "run.weights.h5")
    with pytest.warns(UserWarning, match="Skipping variable loading for optimizer 'nadam"):
        built(**loaded).load_weights(tmp_path / "run.weights.h5")


@pytest.mark.skipif(BACKEND != "tensorflow", reason="checkpoints are TensorFlow's")
@pytest.mark.parametrize("loaded", [{}, SECOND, CODES], ids=["without codes", "second", "both"])
def test_a_checkpoint_of_another_choice_is_refused(loaded: dict[str, Any], tmp_path: Path) -> None:
    path = checkpoint(built(**FIRST)).save(tmp_path / "checkpoint")
    with pytest.raises(
        Exception, match=r"optimizer/_variables/\d/.* expected dtype u?(int8|float)"
    ):
        checkpoint(built(**loaded)).restore(path)


@pytest.mark.skipif(BACKEND != "jax", reason="stateless_apply is JAX's")
def test_stateless_steps_are_those_of_apply(choice: dict[str, Any]) -> None:
    of, optimizer = variables("bfloat16"), Nadam(1e-2, **choice)
    optimizer.build(of)
    params, state = ([v.value for v in group] for group in (of, optimizer.variables))
    for step in range(2):
        params, state = optimizer.stateless_apply(state, gradients(of, step), params)
    expected, own = trained("bfloat16", **choice)
    assert_same_bits([np.asarray(x) for x in (*params, *state)], state_of(own, expected))


@pytest.mark.skipif(BACKEND != "jax", reason="buffers are donated in JAX")
def test_donated_codes_and_scales_stay_where_they_are() -> None:
    import jax  # noqa: PLC0415

    of, optimizer = variables(), Nadam(1e-2, **CODES)
    optimizer.build(of)
    step = jax.jit(optimizer.stateless_apply, donate_argnums=(0, 2))
    state, params = ([jax.numpy.copy(v.value) for v in x] for x in (optimizer.variables, of))
    addresses = []
    for number in range(3):
        params, state = step(state, gradients(of, number), params)
        held = [x for x in (*params, *state) if x.ndim > 1]
        addresses.append([x.unsafe_buffer_pointer() for x in held])
    assert {str(x.dtype) for x in held} == {"float32", "int8", "uint8"}
    assert addresses[0] == addresses[1] == addresses[2]


# ---- trained -------------------------------------------------------------------------------------


@only_where_fused
@pytest.mark.parametrize("jit_compile", [True, False] if BACKEND == "tensorflow" else [True])
def test_fit_learns_as_with_float32(jit_compile: bool) -> None:
    def losses(**choice: Any) -> list[float]:
        model = model_of(Nadam(1e-2, **choice), "float32")
        model.compile(model.optimizer, "mse", jit_compile=jit_compile)
        return fit(model, epochs=4)

    found, expected = losses(**CODES), losses()
    np.testing.assert_allclose(found, expected, rtol=0.05)


@only_where_fused
def test_within_a_loss_scale_optimizer() -> None:
    def losses(wrap: Callable[[Any], Any]) -> list[float]:
        return fit(model_of(wrap(Nadam(1e-2, **CODES)), "float32"), epochs=1)

    scaled = losses(lambda o: keras.optimizers.LossScaleOptimizer(o, initial_scale=8.0))
    np.testing.assert_allclose(scaled, losses(lambda o: o), rtol=1e-3)


# ---- what is refused -----------------------------------------------------------------------------


class Own(Nadam):
    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        super().update_step(gradient, variable, learning_rate)


def not_fused(**choice: Any) -> Nadam:
    optimizer = Nadam(**choice)
    optimizer.fused = False
    return optimizer


@pytest.mark.parametrize("moment", ["momentum", "velocity"])
@pytest.mark.parametrize("make", [Own, not_fused], ids=["a hook", "fused = False"])
def test_keras_own_update_does_not_take_the_place(make: Any, moment: str) -> None:
    of, optimizer = variables(), make(**{f"{moment}_dtype": "blockwise8"})
    message = f"has {moment}_dtype='blockwise8', and the variable a a {moment} in codes of eight"
    with pytest.raises(NotImplementedError, match=message):
        optimizer.apply(gradients(of, 0), of)
    path = update_path(optimizer)
    assert path.update == "none"
    assert "which the fused update alone knows" in path.reason
    assert_same_bits([numbers(v) for v in of], [numbers(v) for v in variables()])
    with pytest.raises(NotImplementedError, match="this is Keras's own update"):
        optimizer.update_step(gradients(of, 0)[0], of[0], 1e-3)


@pytest.mark.skipif(FUSED, reason="for the backends without a fused step")
def test_a_backend_without_a_fused_step_refuses() -> None:
    of = variables()
    with pytest.raises(NotImplementedError, match=f"fused step for Keras's backend {BACKEND}"):
        Nadam(**CODES).apply(gradients(of, 0), of)


@pytest.mark.filterwarnings("ignore:.*own update")
def test_where_nothing_is_in_codes_nothing_is_refused() -> None:
    def small(make: Any, **choice: Any) -> list[np.ndarray]:
        of, optimizer = variables()[1::2], make(1e-2, **choice)
        optimizer.apply(gradients(of, 0), of)
        return state_of(optimizer, of)

    assert_same_bits(small(Own, **CODES), small(Own))
