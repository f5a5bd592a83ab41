"""Each wheel of this machine, alone with a framework in an empty environment, trains there.

The oldest framework that we support is one of them, the newest that pip finds another: a handler
whose headers are too new for a runtime is refused by the one, and one that a new runtime does not
take by the other.
"""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from distributions import ROOT, wheel_of

PROGRAMS = Path(__file__).parent
ARCHITECTURE = platform.machine()
ABI = {"3.11": "cp311-cp311", "3.12": "cp312-abi3", "3.13": "cp312-abi3"}
# The smaller of the two packages; there is none for aarch64.
TENSORFLOW = "tensorflow-cpu" if ARCHITECTURE == "x86_64" else "tensorflow"


@dataclass(frozen=True)
class Environment:
    """An interpreter, the extra of ours that is installed in it, and what else pip is told."""

    python: str
    extra: str
    requirements: tuple[str, ...]
    program: str

    def __str__(self) -> str:
        return "-".join([self.python, *self.requirements])


def lowest(*extras: str) -> tuple[str, ...]:
    """The lower bounds of extras, as pins, and TensorFlow by the package that is tested."""
    pins = run(sys.executable, ROOT / "tools" / "requirements.py", "--lowest", *extras).split()
    return tuple(pin.replace("tensorflow==", f"{TENSORFLOW}==") for pin in pins)


def environments() -> list[Environment]:
    frameworks = [
        ("jax", lowest("jax"), "train_jax.py"),
        ("jax", ("jax",), "train_jax.py"),
        ("keras", lowest("tensorflow", "keras"), "train_keras.py"),
        ("keras", (TENSORFLOW, "keras"), "train_keras.py"),
    ]
    tested = [
        Environment(python, extra, requirements, program)
        for python in ("3.11", "3.12")
        for extra, requirements, program in frameworks
    ]
    # That the stable ABI is one is seen on a Python that is not the one it was built with.
    return [*tested, Environment("3.13", "jax", ("jax",), "train_jax.py")]


def interpreter(version: str) -> str:
    """The interpreter that PYTHON313, and its like, names in the environment, or the PATH's."""
    name = f"PYTHON{version.replace('.', '')}"
    python = os.environ.get(name) or f"python{version}"
    try:
        subprocess.run([python, "-c", "pass"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(f"there is no Python {version}; {name} names one")
    return python


def run(*command: str | Path) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that is gone afterwards: an environment takes more than a gigabyte."""
    with TemporaryDirectory() as name:
        yield Path(name)


@pytest.mark.parametrize("environment", environments(), ids=str)
def test_it_trains(environment: Environment, folder: Path) -> None:
    run(interpreter(environment.python), "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    wheel = wheel_of(ABI[environment.python], ARCHITECTURE)
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-compile"]
    run(*pip, f"{wheel}[{environment.extra}]", *environment.requirements)
    # Isolated: it finds what is installed, and nothing of the checkout.
    run(python, "-I", PROGRAMS / environment.program)
