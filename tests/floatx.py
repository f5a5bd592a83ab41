"""Keras in another floating dtype for the length of a block."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import keras


@contextmanager
def floatx(dtype: str) -> Iterator[None]:
    """New variables, models and optimizers have this dtype; on JAX, float64 is switched on."""
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    try:
        with _x64() if dtype == "float64" else nullcontext():
            yield
    finally:
        keras.config.set_floatx(before[0])
        keras.config.set_dtype_policy(before[1])


def _x64() -> AbstractContextManager[None]:
    if keras.backend.backend() != "jax":
        return nullcontext()
    from x64 import enable_x64  # noqa: PLC0415

    return enable_x64(True)
