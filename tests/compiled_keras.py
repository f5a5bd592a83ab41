"""What a compiled step of a Keras optimizer consists of."""

from typing import Any

import keras

# Names for memory, and the calls themselves.
NO_PASS = {"parameter", "get-tuple-element", "tuple", "custom-call", "bitcast", "constant"}


def text_of_step(optimizer: Any, of: list[Any], grads: list[Any]) -> str:
    """The optimized HLO, on the backends with a fused step.

    Args:
        optimizer: built for these variables.
        of: the variables.
        grads: a gradient of each.
    """
    return (_on_jax if keras.backend.backend() == "jax" else _on_tensorflow)(optimizer, of, grads)


def _on_tensorflow(optimizer: Any, of: list[Any], grads: list[Any]) -> str:
    import tensorflow as tf  # noqa: PLC0415

    @tf.function(jit_compile=True)
    def step(grads: list[Any]) -> None:
        optimizer.apply(grads, of)

    text: str = step.experimental_get_compiler_ir(grads)(stage="optimized_hlo")
    return text


def _on_jax(optimizer: Any, of: list[Any], grads: list[Any]) -> str:
    import jax  # noqa: PLC0415

    def step(params: Any, state: Any, grads: Any) -> Any:
        return optimizer.stateless_apply(state, grads, params)

    arguments = [v.value for v in of], [v.value for v in optimizer.variables], grads
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*arguments).compile()
    return str(compiled.as_text())
