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


@pytest.fixture(scope="module", params=["kernel", "reference"])
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    """How a step is lowered: to the call, or as where there is no kernel."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "reference":
            patch.setattr(native, "MODULES", {})
        jax.clear_caches()
        yield request.param
    jax.clear_caches()
