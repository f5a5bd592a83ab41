"""What `python -m nadam_xla` says where all is there."""

import os
import pty
import re
import struct
import subprocess
import sys
from copy import deepcopy
from ctypes.util import find_library
from fcntl import ioctl
from functools import cache
from pathlib import Path
from termios import TIOCSWINSZ
from types import NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints, is_typeddict

import pytest
from diagnosed import diagnosis, hide, run
from imports import newly_imported

from nadam_xla.diagnosis.facts import Diagnosis
from nadam_xla.diagnosis.report import report

FRAMEWORKS = ("jax", "tensorflow", "keras")
OTHERS_THAN_JAX = ("tensorflow", "keras")


@cache
def all_that_is_said() -> dict[str, Any]:
    return diagnosis(environment={"KERAS_BACKEND": "tensorflow"})


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_each_framework_runs_the_kernel_on_the_cpu(framework: str) -> None:
    found = all_that_is_said()[framework]
    assert found["error"] is None
    (cpu,) = (entry for entry in found["devices"] if entry["device"].lower() == "cpu")
    assert (cpu["update"], cpu["reason"], cpu["step"]) == ("kernel", None, "ran")


@pytest.mark.parametrize("framework", ["jax", "tensorflow"])
def test_each_runtime_has_the_handlers_and_as_many_threads_as_cores(framework: str) -> None:
    said = all_that_is_said()
    assert "cpu" in said[framework]["registered"]
    assert said[framework]["threads"] == len(os.sched_getaffinity(0))
    assert said["system"]["cores"]["usable"] == len(os.sched_getaffinity(0))


def test_what_exporting_and_a_mesh_change_is_said() -> None:
    updates = {
        (program["partitioned"], program["exported"]): program["update"]
        for program in all_that_is_said()["jax"]["programs"]
    }
    assert updates == {(True, False): "kernel", (False, True): "kernel", (True, True): "stablehlo"}


def test_steps_are_measured() -> None:
    measurement = all_that_is_said()["measurement"]
    assert measurement["error"] is None
    seconds = measurement["milliseconds"] / 1e3
    moved = 7 * 4 * measurement["parameters"]
    assert measurement["gigabytes_per_second"] == pytest.approx(moved / seconds / 1e9)
    assert [ratio["name"] for ratio in measurement["ratios"]] == ["optax.nadam", "memory limit"]
    for ratio in measurement["ratios"]:
        assert 0 < ratio["first_quartile"] <= ratio["median"] <= ratio["third_quartile"]


def test_the_build_is_named() -> None:
    native = all_that_is_said()["native"]
    cpu, cuda = native["modules"]
    assert (cpu["platform"], cpu["used"], cpu["ffi_api_version"]) == ("cpu", True, "0.1")
    assert re.fullmatch(r"(GCC|Clang) \d+\.\d+\.\d+", cpu["compiler"])
    assert cuda["platform"] == "cuda"
    assert (cuda["reason"] is None) == cuda["used"] == (cuda["cuda_toolkit"] is not None)
    assert native["instruction_set"] in native["instruction_sets"]


# ---- the keys ------------------------------------------------------------------------------------


def assert_is(kind: Any, value: Any, where: str = "diagnosis") -> None:
    """The value, from JSON, is of the type, and has all of its keys and no others."""
    if is_typeddict(kind):
        hints = get_type_hints(kind)
        assert value.keys() == hints.keys(), where
        for key, hint in hints.items():
            assert_is(hint, value[key], f"{where}.{key}")
    elif get_origin(kind) in (Union, UnionType):
        present = [member for member in get_args(kind) if member is not NoneType]
        if value is not None:
            assert_is(present[0], value, where)
    elif get_origin(kind) is list:
        for i, entry in enumerate(value):
            assert_is(get_args(kind)[0], entry, f"{where}[{i}]")
    elif get_origin(kind) is dict:
        for key, entry in value.items():
            assert_is(get_args(kind)[1], entry, f"{where}.{key}")
    elif get_origin(kind) is Literal:
        assert value in get_args(kind), where
    else:
        assert isinstance(value, (int, float) if kind is float else kind), where


def test_the_keys_are_those_that_are_documented() -> None:
    assert_is(Diagnosis, all_that_is_said())


# Of schema 1: they may become more.
KEYS = {
    "": "schema nadam_xla system packages environment native jax tensorflow keras measurement",
    "system": "os machine libc cpu cores transparent_huge_pages python",
    "native": "modules instruction_set instruction_sets error",
    "jax": "version backend registered threads devices programs allocator large_step error",
    "measurement": "framework device update parameters turns milliseconds gigabytes_per_second"
    " ratios error",
}


@pytest.mark.parametrize("section", KEYS)
def test_no_key_goes_without_a_new_schema(section: str) -> None:
    said = all_that_is_said()
    assert said["schema"] == 1
    assert set(KEYS[section].split()) <= set(said[section] if section else said)


# ---- the text ------------------------------------------------------------------------------------


def on_a_terminal(columns: int, modules: Path) -> list[str]:
    """The lines that the command writes to a terminal of so many columns."""
    ours, theirs = pty.openpty()
    ioctl(theirs, TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "nadam_xla", "--no-measure"],
        env=os.environ | {"PYTHONPATH": str(modules)},
        cwd="/",
        stdout=theirs,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs)
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        written = b""
        try:
            while chunk := terminal.read(4096):
                written += chunk
        except OSError:  # so a terminal ends
            pass
    assert process.wait() == 0
    return written.decode().splitlines()


@pytest.mark.parametrize("columns", [80, 60])
def test_the_text_is_no_wider_than_the_terminal(columns: int, tmp_path: Path) -> None:
    lines = on_a_terminal(columns, hide(tmp_path, *OTHERS_THAN_JAX))
    headings = [line.split()[0] for line in lines if line and not line.startswith(" ")]
    assert headings == ["nadam_xla", "Native", "JAX", "TensorFlow", "Keras", "Memory"]
    assert columns - 10 < max(map(len, lines)) <= columns


def test_the_text_says_which_update_runs_and_what_was_measured(tmp_path: Path) -> None:
    text = run(modules=hide(tmp_path, *OTHERS_THAN_JAX))
    assert re.search(r"^JAX \d[\d.]+\n  cpu +kernel\n", text, re.MULTILINE)
    assert re.search(r"^  nadam_xla +\d+\.\d ms, \d+ GB/s \(kernel\)$", text, re.MULTILINE)
    figure = r"\d+\.\d\d"
    ratio = rf"{figure} times as long \({figure} to {figure}\)"
    assert re.search(rf"^  optax.nadam +{ratio}$", text, re.MULTILINE)
    assert re.search(rf"^  memory limit +{ratio}; it is x \* a", text, re.MULTILINE)


def test_gpus_are_named_and_counted() -> None:
    said = deepcopy(all_that_is_said())
    reason = "nadam_xla was built without nvcc, and so without kernels for it"
    gpus = {"device": "gpu", "kind": "NVIDIA H100", "count": 8, "step": "ran"}
    said["jax"]["devices"].insert(0, gpus | {"update": "stablehlo", "reason": reason})
    text = report(cast("Diagnosis", said))
    assert "gpu            8 x NVIDIA H100: plain StableHLO: nadam_xla was built without" in text


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "nadam_xla", "--no-measure"],
        env=os.environ | {"PYTHONPATH": str(hide(tmp_path, *FRAMEWORKS))},
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert (process.stderr.read(), process.wait()) == (b"", 0)


# ---- memory --------------------------------------------------------------------------------------


def test_an_allocator_that_keeps_memory_is_told_from_one_that_does_not(tmp_path: Path) -> None:
    library = find_library("tcmalloc_minimal") or find_library("tcmalloc")
    if library is None:
        pytest.skip("there is no tcmalloc here")
    modules = hide(tmp_path, *OTHERS_THAN_JAX)
    glibc = diagnosis("--no-measure", modules=modules)["jax"]
    assert glibc["allocator"].startswith("glibc")
    assert glibc["large_step"]["faults_anew"]
    assert "LD_PRELOAD=libtcmalloc_minimal.so.4" in glibc["large_step"]["advice"]
    tcmalloc = diagnosis("--no-measure", modules=modules, environment={"LD_PRELOAD": library})
    assert tcmalloc["jax"]["allocator"] == "tcmalloc"
    assert not tcmalloc["jax"]["large_step"]["faults_anew"]
    assert tcmalloc["jax"]["large_step"]["advice"] is None


# ---- its own process -----------------------------------------------------------------------------


def test_it_imports_no_framework_itself() -> None:
    others = (*FRAMEWORKS, "optax", "torch", "numpy")
    assert newly_imported("import nadam_xla.diagnosis.command", others) == []
