"""What hyperparameters may be given as, and what becomes of what is no single number."""

import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from keras_steps import step_of

from nadam_xla.keras import Nadam

BACKEND = keras.backend.backend()
Stock = keras.optimizers.Nadam

if BACKEND == "torch":
    pytest.skip("trains by the parent's update, which is given what stock is given", True)

WAYS = {"tensorflow": ["eager", "function"], "jax": ["eager", "compiled"]}[BACKEND]
# Each with a value that is not its default, and a second one.
NUMBERS = {
    "beta_1": (0.75, 0.5),
    "beta_2": (0.96875, 0.75),
    "epsilon": (1e-3, 0.25),
    "weight_decay": (0.125, 0.5),
    "loss_scale_factor": (4.0, 0.5),
    "clipnorm": (0.5, 0.25),
    "global_clipnorm": (0.5, 0.25),
    "clipvalue": (0.375, 0.25),
}
# Stock asks of a limit whether it is positive, which no variable can be asked.
STOCK_READS = [name for name in NUMBERS if "clip" not in name]
SIZE = 3


def trained(
    optimizer: Any, way: str, count: int = 2, between: Callable[[], None] = lambda: None
) -> list[np.ndarray]:
    variables = [keras.Variable(np.full(SIZE, 1.0 + i, "f")) for i in range(count)]
    optimizer.build(variables)
    step = step_of(optimizer, variables, way)
    for t in range(3):
        step([ops.convert_to_tensor([0.5, -1.0, 0.25 * t]) for _ in variables])
        between()
    return [ops.convert_to_numpy(v) for v in variables]


def assert_close(ours: list[np.ndarray], stock: list[np.ndarray]) -> None:
    for a, b in zip(ours, stock, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def assert_same(make: Callable[[type], Any], way: str, *, fused: bool, count: int = 2) -> None:
    """Ours trains as stock does; where it is not fused, it says so once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ours = trained(make(Nadam), way, count)
    said = [w for w in caught if "Keras's own update" in str(w.message)]
    assert len(said) == (0 if fused else 1)
    assert_close(ours, trained(make(Stock), way, count))


# ---- variables -----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", STOCK_READS)
def test_variables_are_read_anew_at_each_step(name: str, way: str) -> None:
    if BACKEND == "jax" and way == "compiled":
        pytest.skip("there a variable that the step is not given is a constant, stock's too")
    before, after = NUMBERS[name]

    def train(kind: type) -> Any:
        value = keras.Variable(before)
        return trained(kind(0.1, **{name: value}), way, between=lambda: value.assign(after))

    assert_close(train(Nadam), train(Stock))
    assert not np.allclose(train(Nadam)[0], trained(Nadam(0.1, **{name: before}), way)[0], 1e-5)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's own variables")
@pytest.mark.parametrize("way", ["eager", "function", "compiled"])
def test_variables_of_tensorflow_are_read_too(way: str) -> None:
    import tensorflow as tf  # noqa: PLC0415

    values = {name: tf.Variable(NUMBERS[name][0]) for name in STOCK_READS}
    assert_same(lambda kind: kind(0.1, **values), way, fused=True)


def test_a_limit_may_be_a_variable_eagerly() -> None:
    for name in ("clipnorm", "global_clipnorm", "clipvalue"):
        limit = NUMBERS[name][0]
        ours = trained(Nadam(0.1, **{name: keras.Variable(limit)}), "eager")
        assert_close(ours, trained(Stock(0.1, **{name: limit}), "eager"))


# ---- numbers of numpy ----------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind_of_number", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("limit", ["clipnorm", "global_clipnorm", "clipvalue"])
def test_numbers_of_numpy(limit: str, kind_of_number: type, way: str) -> None:
    """Of some dtypes stock on TensorFlow takes only some; ours computes with the number."""
    values = {name: NUMBERS[name][0] for name in [*STOCK_READS, limit]}
    of_numpy = {name: kind_of_number(value) for name, value in values.items()}
    stock = {name: float(value) for name, value in of_numpy.items()}
    assert_close(trained(Nadam(0.1, **of_numpy), way), trained(Stock(0.1, **stock), way))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("steps", [np.int64(2), np.array(2), np.uint8(2)], ids=repr)
def test_accumulation_over_a_number_of_numpy(steps: Any, way: str) -> None:
    assert_same(
        lambda kind: kind(
            0.1, gradient_accumulation_steps=steps if kind is Nadam else 2, clipnorm=0.5
        ),
        way,
        fused=True,
    )


@pytest.mark.parametrize("momentum", [np.float32(0.5), np.float64(0.5), keras.Variable(0.5)])
def test_the_momentum_of_averages_likewise(momentum: Any) -> None:
    def average(kind: type, momentum: Any) -> np.ndarray:
        optimizer = kind(0.1, use_ema=True, ema_momentum=momentum)
        trained(optimizer, "eager")
        return ops.convert_to_numpy(optimizer._model_variables_moving_average[0])

    np.testing.assert_allclose(average(Nadam, momentum), average(Stock, 0.5), rtol=1e-6)


def test_whole_numbers_are_numbers() -> None:
    given = {"weight_decay": 1, "global_clipnorm": 2, "loss_scale_factor": np.int64(2)}
    assert_same(lambda kind: kind(0.1, **given), "eager", fused=True)


# ---- more numbers than one -----------------------------------------------------------------------


def rate(value: Any) -> Callable[[], Any]:
    return lambda: ops.convert_to_tensor(value, "float32")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "array",
    [lambda x: [x], lambda x: np.full((1, 1), x), lambda x: ops.convert_to_tensor([x], "float32")],
    ids=["list", "numpy", "tensor"],
)
@pytest.mark.parametrize("limit", ["clipnorm", "global_clipnorm", "clipvalue"])
def test_an_array_of_one_element_is_that_number(
    limit: str, array: Callable[[float], Any], way: str
) -> None:
    if ops.is_tensor(array(0.5)) and way != "eager":
        limit = "weight_decay"  # while it is traced, stock cannot ask it whether it is positive
    values = {name: NUMBERS[name][0] for name in [*STOCK_READS, limit]}
    ours = Nadam(rate(array(0.5)), **{name: array(value) for name, value in values.items()})
    assert_close(trained(ours, way), trained(Stock(0.5, **values), way))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "make",
    [
        lambda kind: kind(rate([0.1, 0.2, 0.3])),
        lambda kind: kind(0.1, weight_decay=np.array([0.1, 0.2, 0.3], "f")),
        lambda kind: kind(0.1, weight_decay=[0.1, 0.2, 0.3]),
        lambda kind: kind(0.1, epsilon=np.array([0.1, 0.2, 0.3], "f")),
        lambda kind: kind(0.1, epsilon=ops.convert_to_tensor([0.1, 0.2, 0.3])),
        lambda kind: kind(0.1, loss_scale_factor=np.array([1.0, 2.0, 4.0], "f")),
        lambda kind: kind(0.1, weight_decay=keras.Variable([0.1, 0.2, 0.3])),
    ],
    ids=[
        "rate", "decay", "list of decays", "epsilon", "tensor", "loss scale", "variable"
    ],
)  # fmt: skip
def test_a_number_for_each_element_is_what_stock_takes_it_for(
    make: Callable[[type], Any], way: str
) -> None:
    """With as many variables as elements, too: it is no number for each of those."""
    assert_same(make, way, fused=False, count=SIZE)


@pytest.mark.filterwarnings("ignore:.*Keras's own update")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "make",
    [
        lambda kind: kind(rate([0.1, 0.2])),
        lambda kind: kind(0.1, weight_decay=np.array([0.1, 0.2], "f")),
        lambda kind: kind(0.1, epsilon=np.array([0.1, 0.2], "f")),
        lambda kind: kind(0.1, clipvalue=np.array([0.1, 0.2], "f")),
    ],
    ids=["rate", "decay", "epsilon", "limit"],
)
def test_what_fits_no_variable_is_stocks_error(make: Callable[[type], Any], way: str) -> None:
    errors = []
    for kind in (Nadam, Stock):
        with pytest.raises(Exception, match=r"(?s).+") as caught:
            trained(make(kind), way, count=2)
        errors.append(type(caught.value))
    assert errors[0] is errors[1]


# ---- what is no number ---------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["0.5", b"0.5", ["0.5"], 0.5j], ids=repr)
@pytest.mark.parametrize("name", [*NUMBERS, "ema_momentum", "gradient_accumulation_steps"])
def test_what_is_no_number_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=rf"{name} is .*0.5.*; it must be a number, or a tensor"):
        Nadam(**{name: value})


@pytest.mark.parametrize("name", ["beta_1", "beta_2", "epsilon"])
def test_none_is_refused_where_it_switches_nothing_off(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} is None; it must be a number"):
        Nadam(**{name: None})


@pytest.mark.parametrize("name", ["epsilon", "weight_decay", "beta_1", "loss_scale_factor"])
def test_what_is_set_later_likewise(name: str) -> None:
    optimizer = Nadam()
    setattr(optimizer, name, "0.5")
    with pytest.raises(TypeError, match=f"{name} is '0.5'; it must be a number"):
        trained(optimizer, "eager")


def test_of_several_limits_the_first_counts() -> None:
    """The constructor refuses them; set later, stock takes the norm before the value."""

    def make(kind: type) -> Any:
        optimizer = kind(0.1, clipvalue=0.01)
        optimizer.global_clipnorm = 0.5
        return optimizer

    assert_same(make, "eager", fused=True)
