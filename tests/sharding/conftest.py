"""These tests see eight devices, so they need a process in which JAX has not started yet."""

import jax
import pytest

DEVICES = 8

try:
    jax.config.update("jax_num_cpu_devices", DEVICES)
except RuntimeError as error:
    raise pytest.UsageError(
        f"tests/sharding needs {DEVICES} CPU devices, and JAX has started with"
        f" {jax.device_count()}: run it in a process of its own, as `make test` does"
    ) from error
