"""Whatever is missing, too old or broken: the command says so, and says all else."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
from diagnosed import diagnosis, hide, replace, run

MEASURE_NOTHING = "--no-measure"


def path(said: dict[str, Any], framework: str) -> tuple[str, str | None]:
    """The update that the framework runs on the CPU, and why."""
    (cpu,) = (entry for entry in said[framework]["devices"] if entry["device"].lower() == "cpu")
    return cpu["update"], cpu["reason"]


# ---- frameworks ----------------------------------------------------------------------------------


def test_without_jax_it_is_keras_that_is_measured(tmp_path: Path) -> None:
    modules = hide(tmp_path, "jax", "jaxlib", "optax", "flax")
    said = diagnosis(modules=modules, environment={"KERAS_BACKEND": "tensorflow"})
    assert "ModuleNotFoundError" in said["jax"]["error"]
    assert said["jax"]["version"] is None
    assert path(said, "tensorflow") == path(said, "keras") == ("kernel", None)
    assert said["measurement"]["framework"] == "keras"
    assert said["measurement"]["error"] is None
    names = [ratio["name"] for ratio in said["measurement"]["ratios"]]
    assert names == ["keras.optimizers.Nadam", "memory limit"]


def test_without_tensorflow(tmp_path: Path) -> None:
    modules = hide(tmp_path, "tensorflow")
    said = diagnosis(MEASURE_NOTHING, modules=modules, environment={"KERAS_BACKEND": "jax"})
    assert "ModuleNotFoundError" in said["tensorflow"]["error"]
    assert path(said, "jax") == path(said, "keras") == ("kernel", None)
    assert said["keras"]["backend"] == "jax"


def test_without_any_framework(tmp_path: Path) -> None:
    said = diagnosis(modules=hide(tmp_path, "jax", "tensorflow", "keras"))
    for framework in ("jax", "tensorflow", "keras"):
        assert "ModuleNotFoundError" in said[framework]["error"]
    assert said["measurement"]["error"] == "neither JAX nor Keras on TensorFlow can be used here"
    assert said["native"]["modules"][0]["used"]


def test_on_torch_keras_has_stocks_update_and_no_warning(tmp_path: Path) -> None:
    modules = hide(tmp_path, "jax", "tensorflow")
    said = diagnosis(MEASURE_NOTHING, modules=modules, environment={"KERAS_BACKEND": "torch"})
    (entry,) = said["keras"]["devices"]
    assert entry["update"] == "stock"
    assert "torch" in entry["reason"]
    assert entry["step"] == "ran"


# All of JAX, but for its number.
OLDER_JAX = """
import sys
sys.path.remove({folder!r})
del sys.modules["jax"]
import jax
jax.__version__, jax.__version_info__ = "0.7.0", (0, 7, 0)
"""


def test_a_jax_that_is_too_old(tmp_path: Path) -> None:
    hide(tmp_path, "tensorflow", "keras")
    said = diagnosis(modules=replace(tmp_path, "jax", OLDER_JAX.format(folder=str(tmp_path))))
    assert said["jax"]["version"] == "0.7.0"
    assert "needs JAX 0.8.2 or later, and this is 0.7.0" in said["jax"]["error"]
    assert path(said, "jax") == ("none", None)
    assert said["measurement"]["error"] is not None


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (
            "raise RuntimeError('built\\nelsewhere')",
            "RuntimeError: built elsewhere",
        ),
        ("import os; print('oh no', flush=True); os.abort()", "signal 6 .*its last words: oh no"),
        ("raise SystemExit(3)", "ended with exit code 3"),
        ("import time; time.sleep(600)", "no answer within 10 s"),
    ],
    ids=["raises", "aborts", "exits", "hangs"],
)
def test_a_jax_whose_import_fails_takes_nothing_else_down(
    code: str, error: str, tmp_path: Path
) -> None:
    modules = replace(hide(tmp_path, "tensorflow", "keras"), "jax", code)
    said = diagnosis("--timeout", "10", modules=modules)
    assert re.search(error, said["jax"]["error"])
    assert said["native"]["instruction_set"] is not None
    assert said["native"]["error"] is None


def test_an_error_in_letters_that_the_terminal_has_not(tmp_path: Path) -> None:
    modules = replace(hide(tmp_path, "tensorflow", "keras"), "jax", "raise OSError('größer')")
    text = run(MEASURE_NOTHING, modules=modules, environment={"PYTHONIOENCODING": "ascii"})
    assert r"OSError: gr\xf6\xdfer" in text


def test_what_was_found_before_the_end_is_kept(tmp_path: Path) -> None:
    """A version, where nadam_xla's import aborts."""
    modules = replace(hide(tmp_path, "tensorflow", "keras"), "optax", "import os; os.abort()")
    said = diagnosis(MEASURE_NOTHING, modules=modules)["jax"]
    assert said["version"] is not None
    assert [entry["device"] for entry in said["devices"]] == ["cpu"]
    assert "signal 6" in said["error"]


# ---- the environment -----------------------------------------------------------------------------


def test_on_one_core(tmp_path: Path) -> None:
    first, *_ = sorted(os.sched_getaffinity(0))
    said = diagnosis(MEASURE_NOTHING, modules=hide(tmp_path, "tensorflow", "keras"), cores={first})
    assert said["system"]["cores"]["usable"] == 1
    assert said["jax"]["threads"] == 1
    assert path(said, "jax") == ("kernel", None)


def test_with_the_narrowest_instruction_set(tmp_path: Path) -> None:
    modules = hide(tmp_path, "tensorflow", "keras")
    environment = {"NADAM_XLA_MAX_ISA": "baseline"}
    said = diagnosis(MEASURE_NOTHING, modules=modules, environment=environment)
    assert said["environment"]["NADAM_XLA_MAX_ISA"] == "baseline"
    assert said["native"]["instruction_set"] == "baseline"
    assert said["native"]["instruction_sets"][0] == "baseline"
    assert path(said, "jax") == ("kernel", None)


def test_an_instruction_set_that_there_is_not(tmp_path: Path) -> None:
    modules = hide(tmp_path, "tensorflow", "keras")
    environment = {"NADAM_XLA_MAX_ISA": "mmx"}
    said = diagnosis(modules=modules, environment=environment)
    (cpu,) = said["jax"]["devices"]
    for error in (said["native"]["error"], cpu["step"], said["measurement"]["error"]):
        assert "NADAM_XLA_MAX_ISA is 'mmx'; this machine can run: baseline" in error
    assert said["native"]["instruction_sets"][0] == "baseline"


def test_kernels_that_are_turned_off() -> None:
    environment = {"NADAM_XLA_DISABLE": "cpu,cuda", "KERAS_BACKEND": "tensorflow"}
    said = diagnosis(MEASURE_NOTHING, environment=environment)
    updates = {"jax": "stablehlo", "tensorflow": "none", "keras": "stock"}
    for framework, expected in updates.items():
        update, reason = path(said, framework)
        assert update == expected
        assert reason is not None
        assert "NADAM_XLA_DISABLE turns nadam_xla's kernels off" in reason
    assert said["jax"]["registered"] == []


def test_a_platform_to_turn_off_that_there_is_not(tmp_path: Path) -> None:
    modules = hide(tmp_path, "tensorflow", "keras")
    said = diagnosis(modules=modules, environment={"NADAM_XLA_DISABLE": "gpu"})
    for error in (said["native"]["error"], said["jax"]["error"]):
        assert "NADAM_XLA_DISABLE is 'gpu'; it turns kernels off by platform" in error
    assert said["native"]["instruction_sets"][0] == "baseline"
    assert said["jax"]["version"] is not None
