"""Probes, each in a process of its own: what it has found out, and how it ended if it ended badly.

An import may raise, abort or never return, and writes what it likes to the standard streams.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nadam_xla.diagnosis.probe import PROBES

# A diagnosis beside a running training must not take a GPU's memory.
_MODEST = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}


def answer_of(probe: str, seconds: float) -> dict[str, Any]:
    """The facts of a probe; with an ``error`` where its process did not end as it should.

    Args:
        probe: one of :data:`nadam_xla.diagnosis.probe.PROBES`.
        seconds: after which it is given up.
    """
    with TemporaryDirectory() as folder:
        answer, log = Path(folder, "answer"), Path(folder, "log")
        with log.open("wb") as streams:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "nadam_xla.diagnosis.probe", probe, str(answer)],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=streams,
                stderr=streams,
            )
            how = _ended(process, seconds)
        facts = json.loads(answer.read_text()) if answer.exists() else dict(PROBES[probe].blank)
        if how is not None:
            facts["error"] = _joined(how, log.read_text(errors="replace"))
        return facts


def _environment() -> dict[str, str]:
    """Modules are found where this process finds them."""
    return {**_MODEST, **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def _ended(process: subprocess.Popen[bytes], seconds: float) -> str | None:
    """How the process ended, in words; None where it ended well."""
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        return f"no answer within {seconds:g} s"
    finally:
        process.kill()
        process.wait()
    if code == 0:
        return None
    if code > 0:
        return f"ended with exit code {code}"
    return f"ended by signal {-code} ({signal.strsignal(-code)})"


def _joined(how: str, log: str) -> str:
    """With the last that it said."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return f"{how}; its last words: {lines[-1]}" if lines else how
