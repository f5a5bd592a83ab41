"""Eight CPU devices for JAX, in a process of their own."""

import jax
import pytest

DEVICES = 8


def start(tests: str) -> None:
    """Makes JAX start with them; ``tests`` is the folder that needs them.

    Raises:
        pytest.UsageError: JAX has started already.
    """
    try:
        jax.config.update("jax_num_cpu_devices", DEVICES)
    except RuntimeError as error:
        raise pytest.UsageError(
            f"{tests} needs {DEVICES} CPU devices, and JAX has started with"
            f" {jax.device_count()}: run it in a process of its own, as `make test` does"
        ) from error
