"""The variables and gradients of a step: the same variable twice, and gradients of other dtypes."""

import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from nadam_xla.keras import Nadam

BACKEND = keras.backend.backend()
Stock = keras.optimizers.Nadam

if BACKEND == "torch":
    pytest.skip("trains by the parent's update", allow_module_level=True)


def variables() -> list[Any]:
    return [keras.Variable(np.full(3, 1.0 + i, "f"), name=f"w{i}") for i in range(2)]


def grad(t: int) -> Any:
    return ops.convert_to_tensor(np.random.default_rng(t).normal(size=3), "float32")


@pytest.mark.parametrize(
    "choose",
    [
        lambda a, b: [a, a],
        lambda a, b: [a, b, a],
        lambda a, b: [b, a, a, b],
        pytest.param(
            lambda a, b: [a.value, b, a],
            marks=pytest.mark.skipif(BACKEND != "tensorflow", reason="variables of two kinds"),
        ),
    ],
    ids=["twice", "among others", "two", "in two forms"],
)
@pytest.mark.parametrize(
    "arguments", [{}, {"weight_decay": 0.1, "global_clipnorm": 1.0}, {"use_ema": True}], ids=str
)
def test_a_variable_given_twice_is_updated_twice(
    choose: Callable[[Any, Any], list[Any]], arguments: dict[str, Any]
) -> None:
    """As in the concatenated lists of models that share a layer."""

    def train(kind: type) -> list[np.ndarray]:
        both = variables()
        optimizer = kind(0.1, **arguments)
        optimizer.build(both)
        for t in range(3):
            given = choose(*both)
            optimizer.apply([grad(t + i) for i in range(len(given))], given)
        return [ops.convert_to_numpy(v) for v in both]

    with pytest.warns(UserWarning, match="was given a variable twice in one step.* own update"):
        ours = train(Nadam)
    for a, b in zip(ours, train(Stock), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_shared_between_two_models() -> None:
    def train(kind: type) -> list[np.ndarray]:
        keras.utils.set_random_seed(0)
        shared = keras.layers.Dense(4, name="shared")
        models = [
            keras.Sequential([keras.Input((4,)), shared, keras.layers.Dense(1)]) for _ in range(2)
        ]
        given = [v for model in models for v in model.trainable_variables]
        optimizer = kind(0.1)
        for t in range(3):
            rng = np.random.default_rng(t)
            grads = [ops.convert_to_tensor(rng.normal(size=v.shape), "float32") for v in given]
            optimizer.apply_gradients(zip(grads, given, strict=True))
        return [ops.convert_to_numpy(v) for v in given]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        ours = train(Nadam)
    for a, b in zip(ours, train(Stock), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool", "complex64"])
def test_gradients_that_are_no_floats_are_refused_by_the_variables_name(dtype: str) -> None:
    both = variables()
    with pytest.raises(
        TypeError, match=rf"gradient of the variable .*w1 has the dtype {dtype}; "
    ) as e:
        Nadam(0.1).apply([grad(0), ops.cast(grad(1), dtype)], both)
    assert 'keras.ops.cast(gradient, "float32")' in str(e.value)
    assert "optax" not in str(e.value)
    np.testing.assert_array_equal(ops.convert_to_numpy(both[0]), np.ones(3))


@pytest.mark.filterwarnings("error:.*own update", "ignore:Gradients do not exist")
def test_what_has_no_gradient_is_not_given_twice() -> None:
    def train(kind: type) -> list[np.ndarray]:
        both = variables()
        optimizer = kind(0.1)
        optimizer.apply([grad(0), None, grad(1), None], [both[0], both[0], both[1], both[1]])
        return [ops.convert_to_numpy(v) for v in both]

    for a, b in zip(train(Nadam), train(Stock), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
