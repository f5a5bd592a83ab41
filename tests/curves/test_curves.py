"""Training curves of three small real models, ours against stock, for each constructor argument.

In float64, where two trainings that differ in rounding alone stay together for all these steps, so
that the curves must agree nearly to the last digit. KERAS_BACKEND chooses the backend, jax or
tensorflow; `make test-curves` runs this file once for each.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
from floatx import floatx
from keras import ops
from small_models import SMALL_MODELS

from nadam_xla.keras import Nadam

BACKEND = keras.backend.backend()
if BACKEND == "torch":
    pytest.skip("Keras's own Nadam for torch is another one", allow_module_level=True)

STEPS = 200
BATCH = 16
RATE = 1e-2

# Of losses between 5 and 0. What rounding does to them is measured by the control below.
TOLERANCE = 1e-9
# What an argument changes in the curve, at least: ten thousand times as much.
EFFECT = 1e-5


class Stock(keras.optimizers.Nadam):
    """Stock, given the true gradient of an embedding.

    On TensorFlow that gradient comes as slices, which may repeat a row. Stock squares each slice by
    itself, compiled or not; densified first, repeated rows are summed.
    """

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        super().apply([densified(g) for g in grads], trainable_variables)


def densified(grad: Any) -> Any:
    if BACKEND == "jax":
        return grad
    import tensorflow as tf  # noqa: PLC0415

    return tf.convert_to_tensor(grad)


class Case(NamedTuple):
    """A constructor argument, what stock is given instead where it fails, and what must differ."""

    arguments: Callable[[Callable[[], Any]], dict[str, Any]]  # given a getter of the optimizer
    of_stock: dict[str, Any] | None = None
    excluded: str = ""  # by which argument biases and scales are excluded from weight decay
    unlike: tuple[str, ...] = ("defaults",)
    like: str = ""
    batches_a_step: int = 1


def case(**arguments: Any) -> Case:
    return Case(lambda optimizer: arguments)


def schedule() -> Any:
    return keras.optimizers.schedules.CosineDecay(2 * RATE, STEPS, alpha=0.1)


def decaying(optimizer: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: RATE / (1.0 + 0.02 * ops.cast(optimizer().iterations, "float64"))


_FLOATS_FOR_BETAS = {"beta_1": 0.8, "beta_2": 0.99}
_AVERAGE = {"use_ema": True, "ema_momentum": 0.9}

CASES = {
    "defaults": case()._replace(unlike=()),
    "learning_rate, a float": case(learning_rate=RATE / 2),
    "learning_rate, a schedule": Case(lambda _: {"learning_rate": schedule()}),
    "learning_rate, a callable": Case(lambda made: {"learning_rate": decaying(made)}),
    "beta_1, a float": case(beta_1=0.8),
    "beta_2, a float": case(beta_2=0.99),
    "betas, tensors": Case(
        lambda _: {name: ops.convert_to_tensor(b) for name, b in _FLOATS_FOR_BETAS.items()}
    ),
    "betas, callables": Case(
        lambda _: {"beta_1": lambda: 0.8, "beta_2": lambda: 0.99}, of_stock=_FLOATS_FOR_BETAS
    ),
    "epsilon": case(epsilon=1e-2),
    "weight_decay": case(weight_decay=0.5),
    "weight_decay, variables excluded": case(weight_decay=0.5)._replace(
        excluded="var_list", unlike=("defaults", "weight_decay")
    ),
    "weight_decay, names excluded": case(weight_decay=0.5)._replace(
        excluded="var_names", like="weight_decay, variables excluded"
    ),
    # Nadam's step does not depend on the gradients' size unless epsilon is beside it.
    "clipnorm": case(clipnorm=0.05, epsilon=1e-2)._replace(unlike=("epsilon",)),
    "clipvalue": case(clipvalue=1e-3, epsilon=1e-2)._replace(unlike=("epsilon",)),
    "global_clipnorm": case(global_clipnorm=0.05, epsilon=1e-2)._replace(unlike=("epsilon",)),
    # Shown by the last point alone, which comes after finalize_variable_values.
    "use_ema": case(use_ema=True),
    "ema_momentum": case(**_AVERAGE)._replace(unlike=("defaults", "use_ema")),
    "ema_overwrite_frequency": case(**_AVERAGE, ema_overwrite_frequency=7)._replace(
        unlike=("ema_momentum",)
    ),
    # By design the scale changes nothing. If it were not taken back, epsilon would be as small
    # beside the gradients as by default, and the curve that of the defaults.
    "loss_scale_factor": case(loss_scale_factor=2.0**17, epsilon=1e-2)._replace(like="epsilon"),
    "gradient_accumulation_steps": case(gradient_accumulation_steps=2)._replace(batches_a_step=2),
}


class Training:
    """A compiled model, which can be trained from its start again and again."""

    def __init__(self, name: str, optimizer_class: type, case_name: str) -> None:
        self._case = CASES[case_name]
        keras.utils.set_random_seed(0)
        self._model = SMALL_MODELS[name].build()
        self._examples = SMALL_MODELS[name].examples()
        self._optimizer = self._made(optimizer_class)
        self._optimizer.build(self._model.trainable_variables)
        self._model.compile(
            optimizer=self._optimizer,
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        self._start = self._values()

    def _made(self, optimizer_class: type) -> Any:
        arguments = {"learning_rate": RATE, **self._case.arguments(lambda: optimizer)}
        if optimizer_class is not Nadam:
            arguments |= self._case.of_stock or {}
        optimizer = optimizer_class(**arguments)
        if self._case.excluded:
            small = ("bias", "gamma", "beta")
            variables = [v for v in self._model.trainable_variables if v.name in small]
            chosen = {"var_list": variables, "var_names": list(small)}[self._case.excluded]
            optimizer.exclude_from_weight_decay(**{self._case.excluded: chosen})
        return optimizer

    def _variables(self) -> list[Any]:
        return [*self._model.variables, *self._optimizer.variables]

    def _values(self) -> list[np.ndarray]:
        # Copies: of JAX's arrays numpy has but a view, which ends when they are donated.
        return [np.array(ops.convert_to_numpy(v)) for v in self._variables()]

    def curve(self, rounded: Callable[[np.ndarray], np.ndarray] = lambda w: w) -> np.ndarray:
        """The loss of each batch, and of many examples with the weights that training ends with.

        Args:
            rounded: what the weights are changed to before the first step.
        """
        for variable, value in zip(self._variables(), self._start, strict=True):
            variable.assign(value)
        self._model.set_weights([rounded(w) for w in self._model.get_weights()])
        losses = [
            self._model.train_on_batch(*self._batch(t, BATCH))
            for t in range(STEPS * self._case.batches_a_step)
        ]
        self._optimizer.finalize_variable_values(self._model.trainable_variables)
        x, y = self._batch(0, 512)
        return np.array([*losses, ops.convert_to_numpy(self._model.loss(y, self._model(x)))])

    def _batch(self, number: int, size: int) -> tuple[np.ndarray, ...]:
        chosen = np.arange(number * size, (number + 1) * size)
        return tuple(x[chosen % len(x)] for x in self._examples)


@cache
def stock_curve(model: str, case_name: str) -> np.ndarray:
    with floatx("float64"):
        return Training(model, Stock, case_name).curve()


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The largest of any point; of curves of different lengths, of those that both have."""
    return max(abs(x - y) for x, y in zip(a, b, strict=False))


@pytest.mark.parametrize("case_name", CASES)
@pytest.mark.parametrize("model", SMALL_MODELS)
def test_the_curve_is_that_of_stock(model: str, case_name: str) -> None:
    stock = stock_curve(model, case_name)
    with floatx("float64"):
        ours = Training(model, Nadam, case_name).curve()
    assert len(ours) == len(stock) > STEPS
    assert distance(ours, stock) < TOLERANCE

    wanted = CASES[case_name]
    assert ours[-1] < 0.6 * ours[0], "it learns"
    for other in wanted.unlike:
        assert distance(stock, stock_curve(model, other)) > EFFECT, "the argument has no effect"
    if wanted.like:
        assert distance(stock, stock_curve(model, wanted.like)) < TOLERANCE


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("model", SMALL_MODELS)
def test_ours_is_as_near_to_stock_as_stock_is_to_itself_rounded(model: str, dtype: str) -> None:
    """The control: stock from weights that are one unit in the last place larger or smaller."""
    with floatx(dtype):
        stock = Training(model, Stock, "defaults")
        curve = stock.curve()
        rounded = [stock.curve(last_places(seed)) for seed in range(3)]
        assert distance(curve, stock.curve()) == 0, "a training can be repeated"
        ours = Training(model, Nadam, "defaults").curve()
    control = max(distance(curve, other) for other in rounded)
    assert 0 < control < (TOLERANCE if dtype == "float64" else 1e-3)
    assert distance(curve, ours) < 10 * control


def last_places(seed: int) -> Callable[[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)

    def changed(weights: np.ndarray) -> np.ndarray:
        if weights.dtype.kind != "f":
            return weights
        to = np.where(rng.random(weights.shape) < 0.5, np.inf, -np.inf)
        return np.nextafter(weights, to.astype(weights.dtype))

    return changed


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow's gradients may be slices")
def test_stock_itself_squares_repeated_rows_of_an_embedding_one_by_one() -> None:
    """Why its judge here is densified. If this fails, stock is cured and ``Stock`` may go."""
    with floatx("float64"):
        of_slices = Training("transformer", keras.optimizers.Nadam, "defaults").curve()
    assert distance(of_slices, stock_curve("transformer", "defaults")) > EFFECT
