"""``use_ema``: the averages that the fused step updates with the variables; the judge is stock."""

from typing import Any

import keras
import numpy as np
import pytest
from compiled import CALL, aliased_results, entry_of, instructions
from compiled_keras import NO_PASS, text_of_step
from keras import ops

from nadam_xla.keras import Nadam

BACKEND = keras.backend.backend()
Stock = keras.optimizers.Nadam
SIZE = 64


def variables(dtype: str = "float32") -> list[Any]:
    rng = np.random.default_rng(0)
    return [keras.Variable(rng.normal(size=shape), dtype=dtype) for shape in ((33, 7), (5,), ())]


def gradients(of: list[Any], seed: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [ops.convert_to_tensor(rng.normal(size=v.shape), v.dtype) for v in of]


def averages_of(optimizer: Any) -> list[np.ndarray]:
    return [ops.convert_to_numpy(x) for x in optimizer._model_variables_moving_average]


def after_each_step(
    kind: Any, steps: int = 8, without: tuple[int, ...] = (), **arguments: Any
) -> Any:
    """Variables and averages after each step; some variables have no gradients."""
    of = variables()
    optimizer = kind(0.1, **arguments)
    optimizer.build(of)
    seen = []
    for seed in range(steps):
        grads = gradients(of, seed)
        kept = [i for i in range(len(of)) if i not in without or seed % 2 == 0]
        optimizer.apply([grads[i] for i in kept], [of[i] for i in kept])
        seen.append(([ops.convert_to_numpy(v) for v in of], averages_of(optimizer)))
    return seen


CHOICES: dict[str, dict[str, Any]] = {
    "plain": {"ema_momentum": 0.9},
    "all of the row": {"ema_momentum": 0.5, "weight_decay": 0.1, "clipvalue": 0.5},
    "overwriting": {"ema_momentum": 0.9, "ema_overwrite_frequency": 3},
    "overwriting always": {"ema_momentum": 0.9, "ema_overwrite_frequency": 1},
    "accumulating": {"ema_momentum": 0.9, "gradient_accumulation_steps": 3},
    "momentum 0": {"ema_momentum": 0.0},
    "momentum 1": {"ema_momentum": 1.0},
}


@pytest.mark.parametrize("without", [(), (1,)], ids=["all", "some without gradients"])
@pytest.mark.parametrize("choice", CHOICES)
def test_after_each_step_they_are_stocks(choice: str, without: tuple[int, ...]) -> None:
    arguments = {"use_ema": True, **CHOICES[choice]}
    ours = after_each_step(Nadam, without=without, **arguments)
    stock = after_each_step(Stock, without=without, **arguments)
    for (params, averages), (of_stock, averages_of_stock) in zip(ours, stock, strict=True):
        for a, b in zip([*params, *averages], [*of_stock, *averages_of_stock], strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=5e-6)


@pytest.mark.skipif(BACKEND not in ("tensorflow", "jax"), reason="nothing is fused")
def test_the_first_step_copies_to_the_bit() -> None:
    ((params, averages),) = after_each_step(Nadam, steps=1, use_ema=True)
    for a, b in zip(params, averages, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.skipif(BACKEND not in ("tensorflow", "jax"), reason="nothing is fused")
@pytest.mark.parametrize("arguments", [{}, {"weight_decay": 0.1, "global_clipnorm": 1.0}], ids=str)
def test_the_compiled_step_has_no_pass_for_them(arguments: dict[str, Any]) -> None:
    of = [keras.Variable(np.ones((SIZE, SIZE), "f")) for _ in range(3)]
    optimizer = Nadam(use_ema=True, **arguments)
    optimizer.build(of)
    text = text_of_step(optimizer, of, [ops.ones((SIZE, SIZE)) for _ in of])
    assert text.count(CALL) == 1
    assert {i.opcode for i in instructions(text) if i.bytes >= 4 * SIZE * SIZE} <= NO_PASS
    leaves = [v for v in (*of, *optimizer.variables) if v.shape == (SIZE, SIZE)]
    assert len(leaves) == 12
    assert len(aliased_results(text)) >= len(leaves), "each variable is updated in place"


@pytest.mark.skipif(BACKEND not in ("tensorflow", "jax"), reason="nothing is fused")
def test_steps_that_overwrite_nothing_have_no_pass_either() -> None:
    """What is copied stands in the branch of those that do. (TensorFlow's XLA copies in both.)"""
    of = [keras.Variable(np.ones((SIZE, SIZE), "f")) for _ in range(3)]
    optimizer = Nadam(use_ema=True, ema_overwrite_frequency=3)
    optimizer.build(of)
    text = text_of_step(optimizer, of, [ops.ones((SIZE, SIZE)) for _ in of])
    own = entry_of(text)
    assert own.count(CALL) == 1
    large = {i.opcode for i in instructions(own) if i.bytes >= 4 * SIZE * SIZE}
    assert large <= NO_PASS | {"conditional"}
    branches = text[: text.index("\nENTRY ")]
    copies = sum(i.opcode == "copy" for i in instructions(branches))
    assert copies <= len(of) * (2 if BACKEND == "tensorflow" else 1)


def test_who_overrides_their_update_gets_it_called_with_all_variables() -> None:
    called = []

    class Own(Nadam):
        def _update_model_variables_moving_average(self, trainable_variables: list[Any]) -> None:
            called.append(len(trainable_variables))
            super()._update_model_variables_moving_average(trainable_variables)

    arguments = {"use_ema": True, "ema_momentum": 0.9}
    own, plain = (after_each_step(kind, steps=3, **arguments) for kind in (Own, Nadam))
    assert called == [3] * 3
    for (_, averages), (_, expected) in zip(own, plain, strict=True):
        for a, b in zip(averages, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_of_other_dtypes_they_average_what_is_stored(dtype: str) -> None:
    of = variables(dtype)
    optimizer = Nadam(0.01, use_ema=True, ema_momentum=0.75)
    optimizer.build(of)
    expected: list[np.ndarray] = []
    for seed in range(4):
        if BACKEND == "torch" and dtype == "bfloat16":
            pytest.skip("stock's own update cannot train it")
        optimizer.apply(gradients(of, seed), of)
        wide = "float64" if of[0].dtype == "float64" else "float32"
        stored = [ops.convert_to_numpy(ops.cast(v, wide)) for v in of]
        pairs = zip(expected, stored, strict=True)
        expected = [0.75 * a + 0.25 * v for a, v in pairs] if seed else stored
    for a, b in zip(averages_of(optimizer), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
