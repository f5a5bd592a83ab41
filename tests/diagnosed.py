"""`python -m nadam_xla`, as a user runs it, in environments that are not as they should be."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WATCHDOG_S = 300


def run(
    *arguments: str,
    modules: Path | None = None,
    environment: Mapping[str, str] | None = None,
    cores: set[int] | None = None,
) -> str:
    """What the command prints; it must end well, and leave the standard error alone.

    Other tests of this process may have made XLA believe in more devices; here there is one CPU.

    Args:
        *arguments: of the command.
        modules: a folder of modules that come before those that are installed.
        environment: variables beside those of this process.
        cores: those that the command may use.
    """
    own = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    path = {"PYTHONPATH": str(modules)} if modules else {}
    process = subprocess.run(
        [sys.executable, "-m", "nadam_xla", *arguments],
        env={**own, **path, **(environment or {})},
        cwd="/",  # the package is the one that is installed
        preexec_fn=(lambda: os.sched_setaffinity(0, cores)) if cores else None,
        capture_output=True,
        text=True,
        timeout=WATCHDOG_S,
        check=False,
    )
    assert (process.returncode, process.stderr) == (0, "")
    return process.stdout


def diagnosis(*arguments: str, **how: Any) -> dict[str, Any]:
    """What it prints as JSON."""
    found: dict[str, Any] = json.loads(run("--json", *arguments, **how))
    return found


def hide(folder: Path, *packages: str) -> Path:
    """The folder, with what makes these packages as good as not installed."""
    lines = ["import sys", *(f"sys.modules[{package!r}] = None" for package in packages)]
    Path(folder, "sitecustomize.py").write_text("\n".join(lines))
    return folder


def replace(folder: Path, package: str, code: str) -> Path:
    """The folder, with code that runs when the package is imported."""
    Path(folder, package).mkdir()
    Path(folder, package, "__init__.py").write_text(code)
    return folder
