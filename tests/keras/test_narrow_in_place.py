"""Compiled steps of narrow variables: one call, in place, and nothing else that touches a leaf."""

from typing import Any

import keras
import numpy as np
import pytest
from compiled import CALL, aliased_results, instructions
from compiled_keras import NO_PASS, text_of_step
from keras import ops

from nadam_xla.keras import Nadam

BACKEND = keras.backend.backend()

if BACKEND not in ("tensorflow", "jax"):
    pytest.skip("for the backends with a fused step", allow_module_level=True)

SIZE = 64
COUNT = 3

CHOICES = [
    {},
    {"momentum_dtype": "bfloat16", "velocity_dtype": "bfloat16", "rounding": "stochastic"},
    {"master": "float32"},
    {"master": "remainder", "momentum_dtype": "bfloat16", "velocity_dtype": "float16"},
    {"master": "correction", "rounding": "stochastic"},
    {"momentum_dtype": "blockwise8", "velocity_dtype": "blockwise8"},
    {"momentum_dtype": "bfloat16", "velocity_dtype": "blockwise8", "master": "remainder"},
]


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize(
    "arguments",
    [
        {"weight_decay": 0.1, "clipvalue": 1.0, "loss_scale_factor": 8.0},
        {"global_clipnorm": 1.0},
    ],
    ids=str,
)
def test_nothing_but_the_call_touches_a_whole_leaf(
    choice: dict[str, Any], arguments: dict[str, Any]
) -> None:
    of = [keras.Variable(np.ones((SIZE, SIZE)), dtype="bfloat16") for _ in range(COUNT)]
    optimizer = Nadam(**choice, **arguments)
    optimizer.build(of)
    text = text_of_step(optimizer, of, [ops.ones((SIZE, SIZE), "bfloat16") for _ in of])
    assert text.count(CALL) == 1
    is_in_bytes = "correction" in choice.values() or "blockwise8" in choice.values()
    smallest = SIZE * SIZE * (1 if is_in_bytes else 2)
    assert {i.opcode for i in instructions(text) if i.bytes >= smallest} <= NO_PASS
    leaves = [v for v in (*of, *optimizer.variables) if v.shape == (SIZE, SIZE)]
    assert len(aliased_results(text)) >= len(leaves), "each variable is updated in place"


def test_averages_of_variables_whose_moments_are_in_codes_are_made_by_the_call_too() -> None:
    of = [keras.Variable(np.ones((SIZE, SIZE), "f")) for _ in range(COUNT)]
    optimizer = Nadam(momentum_dtype="blockwise8", velocity_dtype="blockwise8", use_ema=True)
    optimizer.build(of)
    text = text_of_step(optimizer, of, [ops.ones((SIZE, SIZE)) for _ in of])
    assert text.count(CALL) == 1
    assert {i.opcode for i in instructions(text) if i.bytes >= SIZE * SIZE} <= NO_PASS
    held = [v for v in (*of, *optimizer.variables) if v.shape in ((SIZE, SIZE), (SIZE, 1))]
    assert len(held) == COUNT * 6, "variables, averages, both moments and their scales"
    assert len(aliased_results(text)) >= len(held)
