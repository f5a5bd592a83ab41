"""``nadam_xla.tensorflow.update_path``: where the ops run, and where they raise."""

from types import SimpleNamespace

import pytest
import tensorflow as tf

from nadam_xla import UpdatePath, native
from nadam_xla.tensorflow import runtime, sum_squares, update_path


@pytest.mark.parametrize("device", [None, "/device:CPU:0", "CPU:0", "/job:localhost/device:CPU:0"])
def test_on_the_cpu(device: str | None) -> None:
    assert update_path(device) == UpdatePath("kernel")


def test_where_it_says_that_there_is_none_the_ops_raise_with_the_same_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtime, "unavailable", lambda: "no XLA here")
    assert update_path() == UpdatePath("none", "no XLA here")
    with pytest.raises(NotImplementedError, match="no XLA here"):
        sum_squares([tf.ones(3)])


@pytest.mark.parametrize(
    ("has_module", "with_cuda", "capability", "reason"),
    [
        (False, True, (9, 0), "nadam_xla"),
        (True, False, (9, 0), "TensorFlow has no GPU of NVIDIA's here"),
        (True, True, (7, 0), "capability 7.5 and later, and there is one of 7.0"),
    ],
    ids=["no module", "no CUDA", "too old"],
)
def test_why_a_gpu_has_none(
    has_module: bool,
    with_cuda: bool,
    capability: tuple[int, int],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = {"cuda": SimpleNamespace(architectures=(75, 90))} if has_module else {}
    monkeypatch.setattr(native, "MODULES", {"cpu": native.MODULES["cpu"], **module})
    monkeypatch.setattr(tf.test, "is_built_with_cuda", lambda: with_cuda)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: ["a GPU"])
    details = {"compute_capability": capability}
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda _: details)
    path = update_path("/device:GPU:0")
    assert path.update == "none"
    assert reason in str(path)


def test_on_other_devices() -> None:
    assert update_path("TPU:0") == UpdatePath("none", "nadam_xla has no kernels for it")
