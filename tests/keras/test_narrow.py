"""Narrow variables and moments, stochastic rounding and master weights in the Keras optimizer.

The judge of a step is the same step in float32 from the numbers that are stored, the fused one that
is held against stock elsewhere, and a codec in numpy that shares no code with the package.
"""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import storage_oracle as codec
from keras import ops
from keras_copies import WAYS
from keras_models import compiled, dense, fit

from nadam_xla.keras import Nadam, update_path

BACKEND = keras.backend.backend()
FUSED = BACKEND in ("tensorflow", "jax")

only_where_fused = pytest.mark.skipif(not FUSED, reason=f"{BACKEND} has no fused step")

SHAPES = {"a": (7, 5), "b": (), "c": (3, 0), "d": (1000,)}

CHOICES: list[dict[str, Any]] = [
    {},
    {"momentum_dtype": "bfloat16"},
    {"velocity_dtype": "float16"},
    {"rounding": "stochastic", "seed": 2**32 - 1},
    {"rounding": "stochastic", "momentum_dtype": "bfloat16", "velocity_dtype": "bfloat16"},
    {"rounding": "stochastic", "momentum_dtype": "float16", "velocity_dtype": "float16"},
    *({"master": master} for master in ("float32", "remainder", "correction")),
    {"master": "correction", "rounding": "stochastic"},
    {"master": "remainder", "rounding": "stochastic", "momentum_dtype": "bfloat16", "seed": 7},
]

KEPT = [
    {"momentum_dtype": "bfloat16", "velocity_dtype": "float16", "rounding": "stochastic"},
    {"master": "float32"},
    {"master": "remainder", "momentum_dtype": "bfloat16"},
    {"master": "correction", "rounding": "stochastic", "seed": 7},
]


def numbers(value: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(ops.convert_to_tensor(value)))


def variables(dtype: str, **others: str) -> list[Any]:
    """One of each shape; ``others`` have dtypes of their own."""
    rng = np.random.default_rng(0)
    return [
        keras.Variable(rng.normal(size=shape), dtype=others.get(name, dtype), name=name)
        for name, shape in SHAPES.items()
    ]


def gradients(of: list[Any], step: int) -> list[Any]:
    rng = np.random.default_rng(100 + step)
    return [ops.cast(ops.convert_to_tensor(rng.normal(size=v.shape)), v.dtype) for v in of]


def state_of(optimizer: Any, of: list[Any]) -> list[np.ndarray]:
    """All that a step reads and writes."""
    return [numbers(v) for v in (*of, *optimizer.variables)]


def assert_same_bits(a: list[np.ndarray], b: list[np.ndarray]) -> None:
    for x, y in zip(a, b, strict=True):
        assert x.dtype == y.dtype
        assert x.tobytes() == y.tobytes()


# ---- the numbers ---------------------------------------------------------------------------------


def wide(params: np.ndarray, master: np.ndarray | None) -> np.ndarray:
    """The float32 that is computed with."""
    if master is None:
        return params.astype(np.float32)
    return master if master.dtype == np.float32 else codec.joined(params, master)


def stored(x: np.ndarray, dtype: np.dtype, draw: np.ndarray | None) -> np.ndarray:
    if draw is None or dtype not in (codec.BFLOAT16, codec.FLOAT16):
        return codec.nearest(x, dtype)
    return codec.stochastic(x, dtype, draw)


def stored_params(
    x: np.ndarray, like: np.ndarray, master: np.ndarray | None, draw: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    if master is None:
        return stored(x, like.dtype, draw), None
    if master.dtype == np.float32:
        return codec.nearest(x, like.dtype), x
    bits = 8 * master.dtype.itemsize
    return codec.split(x if bits == 16 else codec.to_24_bits(x, draw), bits)


def expected_step(
    optimizer: Any, of: list[Any], grads: list[Any], arguments: dict[str, Any]
) -> Iterator[tuple[np.ndarray, ...]]:
    """For each variable: it, its moments and its master after the step, by the judge."""
    masters = optimizer._masters or [None] * len(of)
    before = [
        tuple(None if x is None else numbers(x) for x in leaf)
        for leaf in zip(of, optimizer._momentums, optimizer._velocities, masters, strict=True)
    ]
    twins = [keras.Variable(wide(p, master)) for p, _, _, master in before]
    twin = Nadam(1e-2, **arguments)
    twin.build(twins)
    twin._iterations.assign(optimizer._iterations)
    twin._u_product.assign(optimizer._u_product)
    for i, (_, m, v, _) in enumerate(before):
        twin._momentums[i].assign(m.astype(np.float32))
        twin._velocities[i].assign(v.astype(np.float32))
    twin.apply([ops.cast(g, "float32") for g in grads], twins)
    step = int(numbers(optimizer.iterations)) + 1
    for i, (p, m, v, master) in enumerate(before):
        key = {"seed": optimizer.seed, "leaf": i, "step": step}
        of_params = of_mu = of_nu = None
        if optimizer.rounding == "stochastic":
            of_params, of_mu = (
                codec.draws(p.size, draw, **key).reshape(p.shape)
                for draw in (codec.OF_PARAMS, codec.OF_STATES)
            )
            of_nu = codec.swapped_bytes(of_mu)
        new_p, new_m, new_v = (
            numbers(x) for x in (twins[i], twin._momentums[i], twin._velocities[i])
        )
        new_p, new_master = stored_params(new_p, p, master, of_params)
        yield new_p, stored(new_m, m.dtype, of_mu), stored(new_v, v.dtype, of_nu), new_master


@only_where_fused
@pytest.mark.parametrize(
    ("dtype", "choice"),
    [
        (dtype, choice)
        for dtype in ("bfloat16", "float16", "float32")
        for choice in CHOICES
        if dtype != "float16" or choice.get("master") in (None, "float32")
    ],
    ids=str,
)
def test_a_step_is_that_of_float32_stored(dtype: str, choice: dict[str, Any]) -> None:
    arguments = {"weight_decay": 0.1, "clipvalue": 0.5}
    of = variables(dtype, b="float32")
    optimizer = Nadam(1e-2, **arguments, **choice)
    optimizer.build(of)
    for step in range(3):
        grads = gradients(of, step)
        expected = list(expected_step(optimizer, of, grads, arguments))
        optimizer.apply(grads, of)
        masters = optimizer._masters or [None] * len(of)
        leaves = zip(of, optimizer._momentums, optimizer._velocities, masters, strict=True)
        for leaf, judged in zip(leaves, expected, strict=True):
            assert_same_bits(
                [numbers(x) for x in leaf if x is not None], [x for x in judged if x is not None]
            )


@only_where_fused
def test_a_seed_gives_numbers_of_its_own_and_the_same_again() -> None:
    def trained(seed: int) -> list[np.ndarray]:
        of = variables("bfloat16")
        optimizer = Nadam(1e-3, rounding="stochastic", seed=seed)
        for step in range(3):
            optimizer.apply(gradients(of, step), of)
        return state_of(optimizer, of)

    assert_same_bits(trained(3), trained(3))
    assert trained(3)[3].tobytes() != trained(4)[3].tobytes()


@only_where_fused
def test_small_changes_move_what_is_rounded_stochastically_or_has_a_master() -> None:
    """One of 1e-4 is lost on a bfloat16 near 1, whose neighbours are 0.004 and 0.008 away."""

    def moved(dtype: str = "bfloat16", **choice: Any) -> float:
        variable = keras.Variable(np.ones(4096), dtype=dtype)
        optimizer = Nadam(1e-4, **choice)
        for _ in range(100):
            optimizer.apply([ops.ones(4096, dtype)], [variable])
        return float(1 - numbers(variable).astype("f").mean())

    expected = moved("float32")
    assert moved() == 0
    assert moved(rounding="stochastic") == pytest.approx(expected, rel=0.05)
    for master in ("float32", "remainder", "correction"):
        assert moved(master=master) == pytest.approx(expected, abs=0.004)


@only_where_fused
def test_a_variable_keeps_its_random_numbers_where_others_have_no_gradient() -> None:
    """They are of its number among those that the optimizer was built for."""

    def trained(missing: bool) -> np.ndarray:
        of = variables("bfloat16")
        optimizer = Nadam(1e-3, rounding="stochastic")
        optimizer.build(of)
        grads = gradients(of, 0)
        chosen = slice(2, None) if missing else slice(None)
        optimizer.apply(grads[chosen], of[chosen])
        return numbers(of[3])

    assert trained(True).tobytes() == trained(False).tobytes()


# ---- the variables -------------------------------------------------------------------------------


def test_masters_stand_behind_all_that_stock_has() -> None:
    def names(optimizer: Any) -> list[tuple[str, str]]:
        of = variables("bfloat16", b="float32")
        optimizer.build(of)
        return [(v.name, str(v.dtype)) for v in optimizer.variables]

    def unnumbered(found: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return [pair for pair in found if not pair[0].startswith("variable")]  # the product

    arguments = {"use_ema": True, "gradient_accumulation_steps": 2}
    plain = names(Nadam(**arguments))
    with_masters = names(Nadam(**arguments, master="remainder"))
    behind = [("a_master", "uint16"), ("c_master", "uint16"), ("d_master", "uint16")]
    assert unnumbered(with_masters) == [*unnumbered(plain), *behind]
    assert with_masters[len(plain) :] == behind


def test_the_moments_have_the_dtypes_that_were_chosen() -> None:
    of = variables("bfloat16", b="float32")
    optimizer = Nadam(momentum_dtype="bfloat16", velocity_dtype="float16", use_ema=True)
    optimizer.build(of)
    assert {str(v.dtype) for v in optimizer._momentums} == {"bfloat16"}
    assert {str(v.dtype) for v in optimizer._velocities} == {"float16"}
    assert {str(v.dtype) for v in optimizer._model_variables_moving_average} == {"float32"}
    assert optimizer._u_product.dtype == "float32"


@only_where_fused
def test_a_master_begins_at_its_variable() -> None:
    of = variables("bfloat16")
    for master in ("float32", "remainder", "correction"):
        optimizer = Nadam(master=master)
        optimizer.build(of)
        for variable, own in zip(of, optimizer._masters, strict=True):
            np.testing.assert_array_equal(
                wide(numbers(variable), numbers(own)), numbers(variable).astype("f")
            )


# ---- what writes to the variables beside the step ------------------------------------------------


def assert_masters(variable: Any, own: Any) -> None:
    """That the variable is what is stored of its master."""
    params, master = numbers(variable), numbers(own)
    assert_same_bits([stored_params(wide(params, master), params, master, None)[0]], [params])


@only_where_fused
@pytest.mark.parametrize("master", ["float32", "remainder", "correction"])
def test_a_master_follows_the_averages(master: str) -> None:
    """After a step that overwrites by them, training goes on from the averages."""
    of = variables("bfloat16")
    optimizer = Nadam(0.1, master=master, use_ema=True, ema_overwrite_frequency=2)
    for step in range(4):
        optimizer.apply(gradients(of, step), of)
        for variable, own in zip(of, optimizer._masters, strict=True):
            assert_masters(variable, own)
    averages = [numbers(v) for v in optimizer._model_variables_moving_average]
    for variable, average in zip(of, averages, strict=True):
        assert numbers(variable).tobytes() == codec.nearest(average, codec.BFLOAT16).tobytes()


@only_where_fused
@pytest.mark.parametrize("master", ["float32", "remainder", "correction"])
def test_a_master_follows_the_averages_at_the_end_of_fit(master: str) -> None:
    model = bfloat16_model(Nadam(1e-2, master=master, use_ema=True))
    fit(model, epochs=1)
    fresh = copy.deepcopy(model)
    for own, variable in zip(model.optimizer._masters, model.trainable_variables, strict=True):
        assert_masters(variable, own)
    assert fit(model, epochs=1) == fit(fresh, epochs=1)


@only_where_fused
@pytest.mark.parametrize("master", ["float32", "remainder", "correction"])
def test_a_master_follows_a_constraint_and_is_kept_where_that_changes_nothing(master: str) -> None:
    def trained(dtype: str, **choice: Any) -> tuple[Any, Any]:
        variable = keras.Variable(np.array([0.0078125, 1.0, 2.0]), dtype=dtype)
        variable.constraint = keras.constraints.NonNeg()
        optimizer = Nadam(1e-3, **choice)
        for _ in range(40):
            optimizer.apply([ops.ones(3, dtype)], [variable])
        return variable, optimizer

    expected, _ = trained("float32")
    variable, optimizer = trained("bfloat16", master=master)
    (own,) = optimizer._masters
    held = wide(numbers(variable), numbers(own))
    assert held[0] == 0
    # The others go on in steps that a bfloat16 does not see.
    np.testing.assert_allclose(held, numbers(expected), rtol=2e-4)
    assert np.any(held[1:] != numbers(variable).astype("f")[1:])


@only_where_fused
def test_what_others_write_is_taken_up_when_the_masters_are_refreshed() -> None:
    of = variables("bfloat16")
    optimizer = Nadam(1e-3, master="float32")
    optimizer.apply(gradients(of, 0), of)
    for variable in of:
        variable.assign(ops.ones(variable.shape, "bfloat16"))
    optimizer.refresh_masters()
    optimizer.apply(gradients(of, 1), of)
    for variable in of:
        np.testing.assert_allclose(numbers(variable).astype("f"), 1, atol=0.01)
    Nadam().refresh_masters()  # there are none


@only_where_fused
@pytest.mark.parametrize("optimizer_is_kept", [True, False])
@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")
def test_masters_begin_at_weights_that_are_loaded_without_them(
    optimizer_is_kept: bool, tmp_path: Path
) -> None:
    """As those of a model that was trained before, with another optimizer or none."""
    trained = bfloat16_model(Nadam(0.1))
    fit(trained, epochs=1)
    if not optimizer_is_kept:
        trained = keras.Sequential([keras.Input((8,)), *trained.layers])
    trained.save_weights(tmp_path / "trained.weights.h5")
    model = bfloat16_model(Nadam(1e-6, master="float32"))
    model.optimizer.build(model.trainable_variables)
    model.load_weights(tmp_path / "trained.weights.h5")
    fit(model, epochs=1)
    for a, b in zip(model.trainable_variables, trained.trainable_variables, strict=True):
        np.testing.assert_allclose(numbers(a).astype("f"), numbers(b).astype("f"), atol=1e-2)


@only_where_fused
def test_variables_that_their_gradient_overwrites_have_no_master() -> None:
    of = variables("bfloat16")
    of[0].overwrite_with_gradient = True
    optimizer = Nadam(master="float32")
    optimizer.apply(gradients(of, 0), of)
    assert optimizer._masters[0] is None
    np.testing.assert_array_equal(
        numbers(of[0]).astype("f"), numbers(gradients(of, 0)[0]).astype("f")
    )


@only_where_fused
@pytest.mark.parametrize("choice", KEPT, ids=str)
def test_a_step_that_only_accumulates_leaves_all_as_it_is(choice: dict[str, Any]) -> None:
    of = variables("bfloat16")
    optimizer = Nadam(0.1, gradient_accumulation_steps=2, **choice)
    optimizer.build(of)

    def held() -> list[np.ndarray]:
        masters = [m for m in optimizer._masters or () if m is not None]
        return [numbers(v) for v in (*of, *optimizer._momentums, *optimizer._velocities, *masters)]

    before = held()
    optimizer.apply(gradients(of, 0), of)
    assert_same_bits(held(), before)
    optimizer.apply(gradients(of, 1), of)
    assert held()[0].tobytes() != before[0].tobytes()


# ---- saved, copied, restored ---------------------------------------------------------------------


def bfloat16_model(optimizer: Any) -> keras.Model:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("bfloat16")
    try:
        return compiled(dense(), optimizer)
    finally:
        keras.config.set_dtype_policy(before)


def weights_of(model: keras.Model) -> list[np.ndarray]:
    return state_of(model.optimizer, model.trainable_variables)


@only_where_fused
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("choice", KEPT, ids=str)
def test_a_run_that_was_kept_goes_on_bit_for_bit(
    way: str, choice: dict[str, Any], tmp_path: Path
) -> None:
    model = bfloat16_model(Nadam(1e-2, **choice))
    fit(model, epochs=1)
    other = WAYS[way](model, bfloat16_model, tmp_path)
    assert_same_bits(weights_of(other), weights_of(model))
    fit(model, epochs=1)
    fit(other, epochs=1)
    assert_same_bits(weights_of(other), weights_of(model))


@pytest.mark.skipif(BACKEND != "jax", reason="stateless_apply is JAX's")
@pytest.mark.parametrize("choice", KEPT, ids=str)
def test_stateless_steps_are_those_of_apply(choice: dict[str, Any]) -> None:
    of, optimizer = variables("bfloat16"), Nadam(1e-2, **choice)
    optimizer.build(of)
    params = [v.value for v in of]
    state = [v.value for v in optimizer.variables]
    for step in range(3):
        params, state = optimizer.stateless_apply(state, gradients(of, step), params)
    for step in range(3):
        optimizer.apply(gradients(of, step), of)
    assert_same_bits([np.asarray(x) for x in (*params, *state)], state_of(optimizer, of))


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_the_configuration_has_what_is_not_at_its_default(choice: dict[str, Any]) -> None:
    config = Nadam(**choice).get_config()
    own = set(config) - set(keras.optimizers.Nadam().get_config())
    assert own == set(choice)
    made = Nadam.from_config(config)
    assert made.get_config() == config
    for name, value in choice.items():
        assert getattr(made, name) == value


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "error", "message"),
    [
        ({"rounding": "up"}, ValueError, "rounding is 'up'; it must be one of nearest, stochastic"),
        ({"master": "float16"}, ValueError, "master is 'float16'; it must be None or one of"),
        ({"seed": -1}, ValueError, "seed is -1; it must be a whole number from 0"),
        ({"seed": 2**32}, ValueError, "seed is 4294967296; it must be a whole number from 0"),
        ({"seed": 0.5}, TypeError, "seed is 0.5; it must be a whole number"),
        ({"seed": True}, TypeError, "seed is True; it must be a whole number"),
        ({"momentum_dtype": "int32"}, ValueError, "momentum_dtype is 'int32'; it must be None or"),
        (
            {"velocity_dtype": "blockwise4"},
            ValueError,
            "velocity_dtype is 'blockwise4'; .*blockwise8",
        ),
        ({"velocity_dtype": "f"}, ValueError, "velocity_dtype is 'f'; it must be None or one of"),
    ],
)
def test_a_bad_argument_is_refused_by_its_name(
    argument: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Nadam(**argument)


def test_they_are_keywords() -> None:
    stocks = [0.001, 0.9, 0.999, 1e-7, *[None] * 4, False, 0.99, *[None] * 4]
    with pytest.raises(TypeError, match="positional"):
        Nadam(*stocks, "bfloat16")


@pytest.mark.parametrize("master", ["remainder", "correction"])
def test_a_float16_that_no_bits_complete_is_named(master: str) -> None:
    of, optimizer = variables("float32", d="float16"), Nadam(master=master)
    for _ in range(2):
        with pytest.raises(TypeError, match=f"the variable d is float16: a {master} completes a b"):
            optimizer.build(of)


@pytest.mark.parametrize("name", ["momentum_dtype", "velocity_dtype", "rounding", "seed", "master"])
def test_what_was_chosen_cannot_be_set_any_more(name: str) -> None:
    """The variables are what they are; none of it would be heeded, or checked."""
    with pytest.raises(AttributeError):
        setattr(Nadam(), name, "float32")


NEEDS_FUSED = [{"master": "float32"}, {"master": "remainder"}, {"rounding": "stochastic"}]


class Own(Nadam):
    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        super().update_step(gradient, variable, learning_rate)


def not_fused(**choice: Any) -> Nadam:
    optimizer = Nadam(**choice)
    optimizer.fused = False
    return optimizer


@pytest.mark.parametrize("choice", NEEDS_FUSED, ids=str)
@pytest.mark.parametrize("make", [Own, not_fused], ids=["a hook", "fused = False"])
def test_keras_own_update_does_not_take_the_place(make: Any, choice: dict[str, Any]) -> None:
    of = variables("bfloat16")
    optimizer = make(**choice)
    ((name, value),) = choice.items()
    with pytest.raises(NotImplementedError, match=f"{name}=.{value}.*the variable a .*; "):
        optimizer.apply(gradients(of, 0), of)
    path = update_path(optimizer)
    assert path.update == "none"
    assert "which the fused update alone" in path.reason
    assert_same_bits([numbers(v) for v in of], [numbers(v) for v in variables("bfloat16")])


@pytest.mark.parametrize("choice", NEEDS_FUSED, ids=str)
def test_update_step_is_refused(choice: dict[str, Any]) -> None:
    of, optimizer = variables("bfloat16"), Nadam(**choice)
    optimizer.build(of)
    with pytest.raises(NotImplementedError, match="this is Keras's own update"):
        optimizer.update_step(gradients(of, 0)[0], of[0], 1e-3)


@pytest.mark.skipif(FUSED, reason="for the backends without a fused step")
@pytest.mark.parametrize("choice", NEEDS_FUSED, ids=str)
def test_a_backend_without_a_fused_step_refuses(choice: dict[str, Any]) -> None:
    of = variables("bfloat16")
    with pytest.raises(NotImplementedError, match=f"fused step for Keras's backend {BACKEND}"):
        Nadam(**choice).apply(gradients(of, 0), of)


@pytest.mark.filterwarnings("ignore:.*own update")
@pytest.mark.parametrize("choice", NEEDS_FUSED, ids=str)
def test_where_nothing_is_narrow_nothing_is_refused(choice: dict[str, Any]) -> None:
    def trained(**arguments: Any) -> list[np.ndarray]:
        of, optimizer = variables("float32"), Own(1e-2, **arguments)
        optimizer.apply(gradients(of, 0), of)
        return state_of(optimizer, of)

    assert_same_bits(trained(**choice), trained())


@pytest.mark.filterwarnings("ignore:.*own update")
def test_keras_own_update_keeps_the_dtypes_of_the_moments() -> None:
    of = variables("float32")
    optimizer = Own(1e-2, momentum_dtype="bfloat16", velocity_dtype="bfloat16")
    expected, fused = variables("float32"), Nadam(1e-2)
    for step in range(3):
        optimizer.apply(gradients(of, step), of)
        fused.apply(gradients(expected, step), expected)
    assert {str(v.dtype) for v in optimizer._momentums} == {"bfloat16"}
    for a, b in zip(of, expected, strict=True):
        np.testing.assert_allclose(numbers(a), numbers(b), atol=2e-3)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="for graphs that build what they use")
def test_masters_in_a_function_that_makes_the_variables() -> None:
    import tensorflow as tf  # noqa: PLC0415

    def trained(master: str) -> Any:
        layer, optimizer = keras.layers.Dense(3, dtype="bfloat16"), Nadam(0.1, master=master)

        @tf.function
        def step(x: Any) -> None:
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(layer(x) ** 2)
            optimizer.apply(tape.gradient(loss, layer.trainable_variables), layer.trainable_weights)

        for _ in range(3):
            step(tf.ones((2, 4), "bfloat16"))
        return optimizer

    optimizer = trained("remainder")
    assert int(optimizer.iterations) == 3
    assert np.any(numbers(optimizer._masters[0]))
    with pytest.raises(RuntimeError, match=r"kernel has no value yet, .* build model and"):
        trained("float32")


# ---- within other optimizers ---------------------------------------------------------------------


@only_where_fused
@pytest.mark.parametrize("choice", KEPT, ids=str)
def test_within_a_loss_scale_optimizer(choice: dict[str, Any]) -> None:
    def losses(wrap: Callable[[Any], Any]) -> tuple[list[float], list[np.ndarray]]:
        model = bfloat16_model(wrap(Nadam(1e-2, **choice)))
        found = fit(model, epochs=1)
        return found, [numbers(v) for v in model.trainable_variables]

    scaled, weights = losses(lambda o: keras.optimizers.LossScaleOptimizer(o, initial_scale=8.0))
    plain, expected = losses(lambda o: o)
    assert scaled == plain
    if choice.get("rounding") != "stochastic":
        return assert_same_bits(weights, expected)
    # The two programs may have the last bit of a coefficient otherwise, and then the random numbers
    # decide otherwise once in some thousand times.
    found, of_plain = (np.concatenate([x.ravel() for x in y]) for y in (weights, expected))
    assert np.mean(found != of_plain) < 0.02
    np.testing.assert_allclose(found.astype("f"), of_plain.astype("f"), rtol=2.0**-5)
    return None


@only_where_fused
@pytest.mark.parametrize("clipping", ["clipnorm", "global_clipnorm"])
def test_a_step_that_is_clipped_by_its_norm(clipping: str) -> None:
    """As the gradients would be that are small enough."""
    of, expected = variables("bfloat16"), variables("bfloat16")
    choice = {"master": "remainder", "rounding": "stochastic", "momentum_dtype": "bfloat16"}
    clipped, plain = Nadam(0.1, **{clipping: 1e6}, **choice), Nadam(0.1, **choice)
    for step in range(2):
        clipped.apply(gradients(of, step), of)
        plain.apply(gradients(expected, step), expected)
    assert_same_bits(state_of(clipped, of), state_of(plain, expected))
