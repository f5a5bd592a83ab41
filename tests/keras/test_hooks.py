"""Methods of Keras's optimizers that a subclass or an object overrides: honoured, as with stock."""

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from nadam_xla.keras import Nadam
from nadam_xla.keras.hooks import REPLACED

BACKEND = keras.backend.backend()
Stock = keras.optimizers.Nadam

if BACKEND == "torch":
    pytest.skip("trains by the parent's update, in which every hook is stock's", True)

SAYS_SO = "Training goes on by Keras's own update"


class ZeroGradient:
    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        super().update_step(gradient * 0, variable, learning_rate)


class HalfRate:
    def _backend_update_step(self, grads: Any, variables: Any, learning_rate: Any) -> None:
        super()._backend_update_step(grads, variables, learning_rate / 2)


class CentredGradients:
    def _clip_gradients(self, grads: list[Any]) -> list[Any]:
        return [g - ops.mean(g) for g in super()._clip_gradients(grads)]


class NoDecay:
    def _apply_weight_decay(self, variables: list[Any]) -> None:
        pass


class Rounding:
    """To halves, whatever is written to the model: stock calls ``assign_sub`` for that."""

    def assign_sub(self, variable: Any, value: Any) -> None:
        super().assign_sub(variable, value)
        self.assign(variable, ops.round(ops.convert_to_tensor(variable) * 2) / 2)


class NoProduct:
    def assign(self, variable: Any, value: Any) -> None:
        if variable is not self._u_product:
            super().assign(variable, value)


class DoubleMoments:
    def assign_add(self, variable: Any, value: Any) -> None:
        super().assign_add(variable, value * 2)


class Signs:
    def _backend_apply_gradients(self, grads: list[Any], variables: list[Any]) -> None:
        super()._backend_apply_gradients([ops.sign(g) for g in grads], variables)


class NoAverages:
    def _update_model_variables_moving_average(self, variables: list[Any]) -> None:
        pass


class SlowRate:
    @property
    def learning_rate(self) -> Any:
        return super().learning_rate / 4


class SlowSchedule:
    def _get_current_learning_rate(self) -> Any:
        return super()._get_current_learning_rate() / 4


class KernelsDecay:
    def _use_weight_decay(self, variable: Any) -> bool:
        return "bias" not in variable.name


class NoBiases:
    def _filter_empty_gradients(self, grads: Any, variables: Any) -> Any:
        kept = [(g, v) for g, v in zip(grads, variables, strict=True) if "bias" not in v.name]
        return [g for g, _ in kept], [v for _, v in kept]


FALLS_BACK = [
    ZeroGradient, HalfRate, CentredGradients, NoDecay, Rounding, NoProduct, DoubleMoments, Signs,
]  # fmt: skip
STAYS_FUSED = [NoAverages, SlowRate, SlowSchedule, KernelsDecay, NoBiases]
ARGUMENTS = {"weight_decay": 0.1, "clipnorm": 1.0, "use_ema": True}


def trained(optimizer: Any, steps: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"kernel": (3, 2), "bias": (2,)}
    variables = [keras.Variable(np.ones(s, "f"), name=name) for name, s in shapes.items()]
    optimizer.build(variables)
    for _ in range(steps):
        grads = [ops.convert_to_tensor(rng.normal(size=v.shape), "float32") for v in variables]
        optimizer.apply(grads, variables)
    return [ops.convert_to_numpy(v) for v in variables]


def assert_as_stock(make: Callable[[type], Any], *, fused: bool) -> list[np.ndarray]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ours = trained(make(Nadam))
    said = [w for w in caught if SAYS_SO in str(w.message)]
    assert len(said) == (0 if fused else 1), "it says so once"
    for a, b in zip(ours, trained(make(Stock)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    return ours


@pytest.mark.parametrize("mixin", FALLS_BACK + STAYS_FUSED)
@pytest.mark.parametrize("order", ["mixin first", "subclass of a subclass"])
def test_what_a_subclass_overrides_is_called(mixin: type, order: str) -> None:
    def make(kind: type) -> Any:
        made = type(mixin.__name__, (mixin, kind), {})
        if order == "subclass of a subclass":
            made = type("Sub" + mixin.__name__, (made,), {})
        return made(0.1, **ARGUMENTS)

    ours = assert_as_stock(make, fused=mixin in STAYS_FUSED)
    if mixin is not NoAverages:  # they change no parameter
        plain = trained(Nadam(0.1, **ARGUMENTS))
        assert not all(np.allclose(a, b) for a, b in zip(ours, plain, strict=True))


def test_what_an_object_overrides_is_called() -> None:
    def make(kind: type) -> Any:
        optimizer = kind(0.1)
        update_step = optimizer.update_step
        optimizer.update_step = lambda g, v, rate: update_step(g * 0, v, rate)
        return optimizer

    ours = assert_as_stock(make, fused=False)
    np.testing.assert_array_equal(ours[0], np.ones((3, 2)))


def test_what_is_put_into_the_class_of_keras_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """As packages do that add a step of their own to every optimizer."""
    clip = keras.optimizers.Optimizer._clip_gradients
    monkeypatch.setattr(
        keras.optimizers.Optimizer,
        "_clip_gradients",
        lambda self, grads: [ops.sign(g) for g in clip(self, grads)],
    )
    assert_as_stock(lambda kind: kind(0.1), fused=False)


def test_a_subclass_that_overrides_none_of_them_is_fused() -> None:
    def make(kind: type) -> Any:
        class Mine(kind):
            def __init__(self) -> None:
                super().__init__(0.1, **ARGUMENTS)

            def build(self, variables: list[Any]) -> None:
                super().build(variables)
                self.extra = self.add_variable((2,))

            def apply(self, grads: list[Any], trainable_variables: Any = None) -> None:
                super().apply([g / 2 for g in grads], trainable_variables)

        return Mine()

    assert_as_stock(make, fused=True)


def test_fit_honours_it_compiled() -> None:
    def fitted(kind: type) -> list[np.ndarray]:
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        optimizer = type("Centred", (CentredGradients, kind), {})(0.1)
        model.compile(optimizer=optimizer, loss="mse", jit_compile=True)
        x = np.random.default_rng(0).normal(size=(32, 4)).astype("f")
        model.fit(x, x[:, :2], batch_size=8, shuffle=False, verbose=0)
        return model.get_weights()

    with pytest.warns(UserWarning, match=f"a method _clip_gradients of its own. {SAYS_SO}"):
        ours = fitted(Nadam)
    for a, b in zip(ours, fitted(Stock), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_an_overridden_update_cannot_train_bfloat16() -> None:
    """It is stock's, which makes them NaN."""
    optimizer = type("Zero", (ZeroGradient, Nadam), {})(0.1)
    variable = keras.Variable(np.ones(3), dtype="bfloat16")
    with (
        pytest.warns(UserWarning, match="has a method update_step of its own"),
        pytest.raises(TypeError, match="is bfloat16; only the fused update can train it"),
    ):
        optimizer.apply([ops.ones(3, "bfloat16")], [variable])


# What the fused step calls as stock does, and what is no part of a step.
CALLED_AS_BY_STOCK = {
    "_check_super_called", "_check_variables_are_known", "_filter_empty_gradients",
    "_get_current_learning_rate", "_get_variable_index", "_overwrite_variable_with_gradient",
    "_overwrite_variables_directly_with_gradients", "_update_model_variables_moving_average",
    "_use_weight_decay", "_var_key", "apply", "apply_gradients", "build", "stateless_apply",
}  # fmt: skip
NO_PART_OF_A_STEP = {
    "_obj_type", "_track_variable", "_untrack_variable", "add_optimizer_variables", "add_variable",
    "add_variable_from_reference", "exclude_from_weight_decay", "finalize_variable_values",
    "from_config", "get_config", "load_own_variables", "save_own_variables", "scale_loss",
    "set_weights",
}  # fmt: skip


def test_every_method_of_this_keras_is_known() -> None:
    """A new one of a newer Keras has to be sorted in: replaced, called, or neither."""
    optimizers = [kind for kind in Stock.__mro__ if ".optimizer" in kind.__module__]
    methods = {
        name
        for kind in optimizers
        for name, value in vars(kind).items()
        if inspect.isroutine(value) and not name.startswith("__")
    }
    assert methods - CALLED_AS_BY_STOCK - NO_PART_OF_A_STEP <= set(REPLACED)
