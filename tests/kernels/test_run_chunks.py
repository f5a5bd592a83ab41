"""Chunks shared among threads, compiled without the update and XLA, under ThreadSanitizer."""

import os
import subprocess
from pathlib import Path

from compiled_source import compile_program, skip_where_the_compiler_is_for_another_machine
from processes import ROOT

skip_where_the_compiler_is_for_another_machine()

WATCHDOG_S = 30
SOURCES = [
    Path(__file__).with_name("run_chunks.cpp"),
    ROOT / "tests/native_boundary/pool.cpp",
    ROOT / "kernels/cpu/parallel.cpp",
]


def test_chunks_run_once_and_whoever_waits_is_woken(tmp_path: Path) -> None:
    options = ["-fsanitize=thread", "-O1", "-g1", "-pthread"]
    program = compile_program(tmp_path / "run_chunks", *options, sources=SOURCES)
    environment = os.environ | {"TSAN_OPTIONS": "halt_on_error=1"}
    done = subprocess.run(
        [program], env=environment, capture_output=True, text=True, timeout=WATCHDOG_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
