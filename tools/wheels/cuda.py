"""Builds the wheels with the CUDA kernels, one for each major version of CUDA, into dist/.

    python -m tools.wheels.cuda NVCC_OF_CUDA_12 NVCC_OF_CUDA_13

nvcc compiles the kernels, with the machine's g++; all other code is compiled by zig, as in the
wheels of nadam_xla itself. Of each major version the oldest release serves most drivers: they
cannot read the PTX of one that is newer than they are.
"""

import argparse
import platform
import re
import sys
import tempfile
from pathlib import Path

from tools.wheels.building import DIST, ROOT, build_environment, build_wheel, run, tag


def main() -> None:
    """Builds, and prints what it has built."""
    parser = argparse.ArgumentParser(prog="python -m tools.wheels.cuda")
    parser.add_argument("nvcc", nargs="+", help="a compiler of CUDA to build with")
    compilers = {major_of(nvcc): nvcc for nvcc in parser.parse_args().nvcc}
    DIST.mkdir(exist_ok=True)
    for old in DIST.glob("nadam_xla_cu*"):
        old.unlink()
    with tempfile.TemporaryDirectory() as folder:
        environment = build_environment(sys.executable, Path(folder))
        for major, nvcc in compilers.items():
            package = ROOT / "packages" / f"nadam-xla-cu{major}"
            definitions = {"CMAKE_CUDA_COMPILER": nvcc}
            tag(build_wheel(environment, platform.machine(), package, definitions))
    for path in sorted(DIST.glob("nadam_xla_cu*")):
        print(f"{path.stat().st_size / 1024:7.0f} KiB  {path.name}")


def major_of(nvcc: str) -> int:
    """The major version of its CUDA.

    Raises:
        SystemExit: it does not say.
    """
    said = run(nvcc, "--version")
    release = re.search(r"release (\d+)\.", said)
    if release is None:
        raise SystemExit(f"{nvcc} does not name its release:\n{said}")
    return int(release[1])


if __name__ == "__main__":
    main()
