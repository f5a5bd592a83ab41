"""The parity matrix runs wherever JAX runs: against the CUDA kernels on a GPU, else the CPU's."""

import jax
import pytest


@pytest.fixture(scope="session")
def on_gpu() -> bool:
    return jax.default_backend() == "gpu"


@pytest.fixture
def free_memory() -> int:
    """The bytes of the device's memory that JAX may still take; 0 where it does not say."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit", 0) - stats.get("bytes_in_use", 0)
