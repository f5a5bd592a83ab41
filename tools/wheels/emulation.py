"""Makes an environment for aarch64 on a machine that is another, with the wheel that is in dist/.

    python -m tools.wheels.emulation FOLDER
    python -m tools.wheels.emulation FOLDER --with-tests PYTHON3.11

FOLDER is then as a virtual environment is, but its Python is Debian's for arm64, and runs in QEMU's
emulator of a process. Processes that it starts by `sys.executable` do so, too. The second command
adds what tests/kernels needs: JAX, pytest, and the module that reaches the lower layers, which
takes minutes to compile. Both need Debian's packages qemu-user and mmdebstrap, and install nothing
outside of FOLDER.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from zipfile import ZipFile

from tools.wheels.building import DIST, build_environment, build_wheel, run

# Debian 12 has this one, and there is a wheel for it alone.
VERSION = "3.11"
PACKAGES = ("python3.11-minimal", "libpython3.11-stdlib", "libstdc++6")
REQUIREMENTS = ("pytest>=8", "hypothesis>=6.100")
GLIBCS = ("manylinux2014", "manylinux_2_17", "manylinux_2_26", "manylinux_2_27", "manylinux_2_28")


def main() -> None:
    """Makes the environment, or adds to it."""
    parser = argparse.ArgumentParser(prog="python -m tools.wheels.emulation")
    parser.add_argument("folder", type=Path, help="where it is, or will be")
    parser.add_argument("--with-tests", metavar="PYTHON", help="a Python 3.11 of this machine")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    packages = folder / f"lib/python{VERSION}/site-packages"
    if arguments.with_tests:
        install(packages, f"{wheel()}[jax]", *REQUIREMENTS)
        add_testing_module(packages, arguments.with_tests)
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    make_environment(folder, root_of_debian(folder / "root"))
    install(packages, "--no-deps", str(wheel()))


def root_of_debian(folder: Path) -> Path:
    """A Debian for arm64 with a Python, unpacked and not set up: it only lends its files."""
    unpacked = ["--variant=extract", "--architectures=arm64", "--skip=check/qemu"]
    run("mmdebstrap", *unpacked, f"--include={','.join(PACKAGES)}", "bookworm", folder)
    return folder


def make_environment(folder: Path, root: Path) -> None:
    """Makes what `venv` makes, with a program in the place of the link to the interpreter.

    The interpreter takes the program for itself, so that `sys.executable` is what can be run here.
    """
    home = root / "usr/bin"
    (folder / "pyvenv.cfg").write_text(f"home = {home}\nversion = {VERSION}\n")
    python = folder / "bin/python"
    python.parent.mkdir()
    emulated = f'qemu-aarch64 -0 "$0" -L {root} {home}/python{VERSION}'
    python.write_text(f'#!/bin/sh\nexec {emulated} "$@"\n')
    python.chmod(0o755)


def wheel() -> Path:
    """The wheel that `make wheels` has built for this Python and aarch64."""
    (found,) = DIST.glob("nadam_xla-*-cp311-*_aarch64.whl")
    return found


def install(packages: Path, *requirements: str) -> None:
    """Installs packages for the machine that is emulated."""
    platforms = [f"--platform={glibc}_aarch64" for glibc in GLIBCS]
    foreign = [f"--python-version={VERSION}", "--only-binary=:all:", *platforms]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile"]
    run(*pip, "--target", packages, *foreign, *requirements)


def add_testing_module(packages: Path, python: str) -> None:
    """Builds the module that tests reach the lower layers by, and puts it beside the wheel's."""
    (sdist,) = DIST.glob("nadam_xla-*.tar.gz")
    definitions = {"NADAM_XLA_CUDA": "OFF", "NADAM_XLA_TESTING": "ON"}
    with tempfile.TemporaryDirectory() as folder:
        environment = build_environment(python, Path(folder))
        with ZipFile(build_wheel(environment, "aarch64", sdist, definitions)) as archive:
            (module,) = (name for name in archive.namelist() if "_native_testing." in name)
            archive.extract(module, packages)


if __name__ == "__main__":
    main()
