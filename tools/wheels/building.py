"""Builds a wheel for a machine other than this one, by zig's compiler (zig.cmake)."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import ziglang

ROOT = Path(__file__).parents[2]
DIST = ROOT / "dist"
TOOLCHAIN = Path(__file__).with_name("zig.cmake")
ZIG = Path(ziglang.__file__).with_name("zig")


def build_environment(python: str, folder: Path) -> Path:
    """The Python of an environment that holds what pyproject.toml asks for a build, and no more.

    What pip's isolated builds are, but made once for all architectures.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    run(python, "-m", "venv", "--without-pip", folder)
    environment = folder / "bin" / "python"
    tools = ["cmake", "ninja"]  # for which scikit-build-core asks where a machine has none
    pip(environment, "install", *project["build-system"]["requires"], *tools)
    return environment


def build_wheel(
    environment: Path, architecture: str, source: Path, definitions: Mapping[str, str]
) -> Path:
    """The wheel as scikit-build-core names it: for a Linux of which nothing is said.

    The headers are those of the interpreter that runs here, for every architecture. What differs in
    `pyconfig.h` between 64-bit Linuxes are HAVE_GCC_ASM_FOR_X64 and HAVE_GCC_ASM_FOR_X87, and no
    header of CPython's reads them.

    Args:
        environment: the Python of a build environment, whose ABI the wheel has.
        architecture: as Linux names it: x86_64 or aarch64.
        source: what is built: a source distribution, or a folder with a pyproject.toml.
        definitions: CMake's variables, beside those of the toolchain.
    """
    soabi = f"cpython-{version_of(environment)}-{architecture}-linux-gnu"
    defined = {
        "CMAKE_TOOLCHAIN_FILE": TOOLCHAIN,
        "ZIG": ZIG,
        "ZIG_ARCHITECTURE": architecture,
        **definitions,
    }
    settings = {
        **{f"cmake.define.{name}": value for name, value in defined.items()},
        # By these scikit-build-core is told of another machine than its own.
        "env._PYTHON_HOST_PLATFORM": f"linux-{architecture}",
        "env.SETUPTOOLS_EXT_SUFFIX": f".{soabi}.so",
    }
    options = [f"--config-settings={name}={value}" for name, value in settings.items()]
    folder = environment.parents[1] / architecture / source.name
    isolated = ["--no-build-isolation", "--no-deps"]  # the environment is one for this build
    pip(environment, "wheel", *isolated, "--wheel-dir", folder, *options, source)
    (wheel,) = folder.glob("*.whl")
    return wheel


def tag(wheel: Path) -> Path:
    """The wheel in dist/, with the oldest manylinux tag that what is in it keeps to.

    auditwheel would take in libraries of other packages; that it finds none is seen to here.
    """
    before = set(DIST.iterdir())
    auditwheel = [sys.executable, "-m", "auditwheel"]
    run(*auditwheel, "repair", "--patcher", "none", "--wheel-dir", DIST, wheel)
    (tagged,) = set(DIST.iterdir()) - before
    return tagged


def version_of(environment: Path) -> str:
    """As in the names of modules and wheels: 311."""
    return run(environment, "-c", "import sys; print(*sys.version_info[:2], sep='')").strip()


def pip(environment: Path, command: str, *arguments: str | Path) -> None:
    """Runs this process's pip for another environment, whose tools it finds."""
    path = os.pathsep.join([str(environment.parent), os.environ["PATH"]])
    whose = [sys.executable, "-m", "pip", "--python", environment]
    run(*whose, command, "--quiet", *arguments, PATH=path)


def run(*command: str | Path, **environment: str) -> str:
    """Runs a command and returns its output.

    Raises:
        SystemExit: it failed; the message is all that it printed.
    """
    result = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}\n{result.stdout}{result.stderr}")
    return result.stdout
