"""The command itself, and what it reads from the output of others."""

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from benchmarks.gpu_cases import OURS_CALL, OURS_LOOP, TINY, TORCH_FUSED, XLA_CALL
from benchmarks.gpu_steps import NO_TIME, Measured
from tools.gpu import benchmark, command_buffer, machine, recorded_run, sanitizer, short_run
from tools.gpu.build import ON_DEVICE_FLAGS, ON_DEVICE_SOURCE
from tools.gpu.check import Check
from tools.gpu.layout import SOURCES
from tools.gpu.outcome import Verdict, failed, passed, skipped
from tools.gpu.processes import Finished, Running


@pytest.mark.skipif(machine.gpus() > 0, reason="there is a GPU: the command would begin")
def test_without_a_gpu_it_stops_at_once_and_says_why() -> None:
    before = sorted(SOURCES.joinpath("build").rglob("*"))
    command = subprocess.run(
        [sys.executable, SOURCES / "tools" / "gpu_check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd="/",
    )
    assert command.returncode == 2
    assert command.stdout == ""
    assert "gpu_check: this machine has no GPU that CUDA's driver shows" in command.stderr
    assert sorted(SOURCES.joinpath("build").rglob("*")) == before


@pytest.mark.skipif(machine.nvcc() is None, reason="there is no nvcc")
def test_the_program_without_a_framework_compiles() -> None:
    """It runs where there is a GPU alone, and what it calls changes everywhere."""
    warnings = "-Xcompiler=-Werror,-fsyntax-only"
    command = [
        machine.nvcc(),
        *ON_DEVICE_FLAGS,
        warnings,
        "-c",
        ON_DEVICE_SOURCE,
        "-o",
        "/dev/null",
    ]
    compiled = subprocess.run(command, capture_output=True, text=True, check=False)
    assert compiled.returncode == 0, compiled.stderr


def test_packages_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "MODULES", ("pytest", "no_such_module", "nor_this_one"))
    assert "Python has no no_such_module, nor_this_one" in list(machine.obstacles())


def test_a_part_that_fails_makes_the_whole_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    check = Check()
    check.run(lambda: [passed("a", "well"), skipped("b", "not there")])
    assert not check.wrong
    check.run(lambda: [failed("c", "badly")])
    assert check.wrong
    assert 0 < check.left <= 570
    assert [line.split("] ")[1] for line in capsys.readouterr().out.splitlines()] == [
        "a: passed: well",
        "b: SKIPPED: not there",
        "c: FAILED: badly",
    ]


def test_a_command_is_ended_at_its_limit_with_what_it_started(tmp_path: Path) -> None:
    log = tmp_path / "log"
    child = f"touch {tmp_path}/started; sleep 3; touch {tmp_path}/survived"
    finished = Running(["sh", "-c", f"echo begun; ({child})& sleep 60"], log, seconds=1).wait()
    assert (finished.status, finished.failed, finished.output) == (None, True, "begun\n")
    assert finished.ending == "ran past its limit"
    assert (tmp_path / "started").exists()
    assert Running(["sh", "-c", "sleep 3"], log, seconds=20).wait().status == 0
    assert not (tmp_path / "survived").exists()


def test_a_command_gets_its_environment_and_folder(tmp_path: Path) -> None:
    finished = Running(
        ["sh", "-c", "echo $GREETING; pwd; exit 3"],
        tmp_path / "log",
        seconds=20,
        environment={"GREETING": "hello"},
        folder=tmp_path,
    ).wait()
    assert finished.output.split() == ["hello", str(tmp_path)]
    assert (finished.status, finished.ending) == (3, "ended with 3")


@pytest.mark.parametrize(
    ("status", "output", "verdict"),
    [
        (0, "right\n========= ERROR SUMMARY: 0 errors\n", Verdict.PASSED),
        (0, "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n", None),
        (9, "========= ERROR SUMMARY: 10 errors\n", Verdict.FAILED),
        (0, "========= ERROR SUMMARY: 10 errors\n", Verdict.FAILED),
        (0, "right\n", Verdict.FAILED),
        (1, "========= ERROR SUMMARY: 0 errors\n", Verdict.FAILED),
        (None, "right\n", Verdict.FAILED),
        (1, "========= Error: Device not supported.\n", Verdict.SKIPPED),
    ],
)
def test_what_compute_sanitizer_says(
    status: int | None, output: str, verdict: Verdict | None, tmp_path: Path
) -> None:
    outcome = sanitizer.judged("memcheck", Finished(status, output, tmp_path / "log"))
    assert outcome.verdict is (verdict or Verdict.PASSED)


@pytest.mark.parametrize(
    ("part", "status", "contender", "note", "verdict"),
    [
        ("benchmark, jax", 0, OURS_LOOP, "", Verdict.PASSED),
        ("benchmark, jax", 0, OURS_LOOP, NO_TIME, Verdict.PASSED),
        ("benchmark, jax", 0, OURS_CALL, "XlaRuntimeError: launch", Verdict.FAILED),
        ("benchmark, jax", 0, XLA_CALL, "XlaRuntimeError: memory", Verdict.PASSED),
        ("benchmark, jax", 1, OURS_LOOP, "", Verdict.FAILED),
        ("benchmark, jax", None, OURS_LOOP, "", Verdict.SKIPPED),
        ("benchmark, torch", 1, TORCH_FUSED, "", Verdict.SKIPPED),
    ],
)
def test_ours_must_run_in_the_benchmarks_and_others_may_be_missing(
    part: str, status: int | None, contender: str, note: str, verdict: Verdict, tmp_path: Path
) -> None:
    time = None if note else 1.0
    measured = [Measured("jax", TINY, "float32", contender, time=time, note=note)]
    outcome = benchmark.judged(part, Finished(status, "", tmp_path / "log"), measured)
    assert outcome.verdict is verdict
    assert outcome.detail.startswith("0 figures" if note else "1 figures")


def test_calls_in_the_steps_that_xla_dumps() -> None:
    text = dedent("""\
        000: kKernel\t#hlo_op=a
        001: kCommandBuffer\tcommand_buffer_2

          000: kKernel\t#hlo_op=b
          001: kCustomCall\t#hlo_op=custom-call
          002: kCustomCall\t#hlo_op=custom-call.1
        002: kCustomCall\t#hlo_op=custom-call.2
        003: kWhile
          condition:
            000: kKernel
          body:
            000: kCommandBuffer
              000: kCustomCall
            001: kCustomCall
        """)
    assert command_buffer.calls_in_thunks(text) == (3, 2)


def test_calls_in_the_hlo_that_xla_dumps() -> None:
    call = '  c = f32[] custom-call(x), custom_call_target="nadam_xla_update_v2"\n'
    text = f"%command_buffer.1 (x: f32[]) -> f32[] {{\n{call}{call}}}\n\nENTRY %main {{\n{call}}}\n"
    assert command_buffer.calls_in_hlo(text) == (2, 1)


def test_a_dump_of_several_programs(tmp_path: Path) -> None:
    calling = 'ENTRY %main {\n  c = f32[] custom-call(x), custom_call_target="nadam_xla_update_v2"'
    for name, text in {
        "module_0001.jit_step.sm_9.0_gpu_after_optimizations.txt": calling,
        "module_0001.jit_step.thunk_sequence.txt": "000: kCustomCall\n",
        "module_0001.jit_step.thunk_sequence_after_thunk_passes.txt": (
            "000: kCommandBuffer\n  000: kCustomCall\n"
        ),
        "module_0002.jit_other.sm_9.0_gpu_after_optimizations.txt": "ENTRY %main {\n",
        "module_0002.jit_other.thunk_sequence.txt": "000: kCustomCall\n",
        "module_0003.jit_step.sm_9.0_gpu_after_optimizations.txt": calling,
        "module_0003.jit_step.thunk_sequence.txt": "000: kCustomCall\n",
    }.items():
        (tmp_path / name).write_text(text)
    assert command_buffer.calls_in(tmp_path) == (1, 1)


def test_the_programs_that_it_runs_are_right_here(capsys: pytest.CaptureFixture[str]) -> None:
    recorded_run.main()
    short_run.main()
    assert capsys.readouterr().out.count("right\n") == 4
