"""What several files of these tests use."""

from collections.abc import Iterator

import jax
import pytest

from nadam_xla import native


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a platform for which nothing was built."""
    jax.clear_caches()  # which do not know whether there was a module
    monkeypatch.setattr(native, "MODULES", {})
    yield
    jax.clear_caches()
