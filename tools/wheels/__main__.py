"""Builds the source distribution, and from it the wheels, into dist/.

    python -m tools.wheels PYTHON3.11 PYTHON3.12

One wheel for each interpreter and architecture. auditwheel gives each its manylinux tag, and
abi3audit sees whether one for the stable ABI keeps to it.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tools.wheels.building import DIST, ROOT, build_environment, build_wheel, run, tag

ARCHITECTURES = ("x86_64", "aarch64")


def main() -> None:
    """Builds, and prints what it has built."""
    parser = argparse.ArgumentParser(prog="python -m tools.wheels")
    parser.add_argument("python", nargs="+", help="an interpreter to build for")
    pythons = parser.parse_args().python
    for old in DIST.glob("nadam_xla-*"):
        old.unlink()
    sdist = build_sdist()
    for python in pythons:
        with tempfile.TemporaryDirectory() as folder:
            environment = build_environment(python, Path(folder))
            for architecture in ARCHITECTURES:
                wheel = build_wheel(environment, architecture, sdist, {"NADAM_XLA_CUDA": "OFF"})
                check(tag(wheel))
    for path in sorted(DIST.glob("nadam_xla-*")):
        print(f"{path.stat().st_size / 1024:7.0f} KiB  {path.name}")


def build_sdist() -> Path:
    """The source distribution, in dist/."""
    run(sys.executable, "-m", "build", "--sdist", "--outdir", DIST, ROOT)
    (sdist,) = DIST.glob("nadam_xla-*.tar.gz")
    return sdist


def check(wheel: Path) -> None:
    """Fails where a wheel for the stable ABI uses what is not a part of it."""
    if "-abi3-" in wheel.name:
        run(sys.executable, "-m", "abi3audit", "--strict", wheel)


if __name__ == "__main__":
    main()
