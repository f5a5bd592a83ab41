"""Compiled steps of narrow variables: one call, in place, and nothing else that touches a leaf."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from compiled import CALL, aliased_results, instructions
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
]

# Names for memory, and the calls themselves.
NO_PASS = {"parameter", "get-tuple-element", "tuple", "custom-call", "bitcast", "constant"}


def on_tensorflow(optimizer: Any, of: list[Any], grads: list[Any]) -> str:
    import tensorflow as tf  # noqa: PLC0415

    @tf.function(jit_compile=True)
    def step(grads: list[Any]) -> None:
        optimizer.apply(grads, of)

    text: str = step.experimental_get_compiler_ir(grads)(stage="optimized_hlo")
    return text


def on_jax(optimizer: Any, of: list[Any], grads: list[Any]) -> str:
    import jax  # noqa: PLC0415

    def step(params: Any, state: Any, grads: Any) -> Any:
        return optimizer.stateless_apply(state, grads, params)

    arguments = [v.value for v in of], [v.value for v in optimizer.variables], grads
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*arguments).compile()
    return str(compiled.as_text())


TEXT_OF: Callable[..., str] = {"tensorflow": on_tensorflow, "jax": on_jax}[BACKEND]


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
    text = TEXT_OF(optimizer, of, [ops.ones((SIZE, SIZE), "bfloat16") for _ in of])
    assert text.count(CALL) == 1
    smallest = SIZE * SIZE * (1 if choice.get("master") == "correction" else 2)
    assert {i.opcode for i in instructions(text) if i.bytes >= smallest} <= NO_PASS
    leaves = [v for v in (*of, *optimizer.variables) if v.shape == (SIZE, SIZE)]
    assert len(aliased_results(text)) >= len(leaves), "each variable is updated in place"
