"""Builds the package with its CUDA kernels into a folder of its own, and the program beside it."""

import shutil
from collections.abc import Iterator

from tools.gpu import machine
from tools.gpu.layout import BUILT, CMAKE, LOGS, ON_DEVICE, PYTHON, SITE, SOURCES
from tools.gpu.outcome import Outcome, failed, passed
from tools.gpu.processes import Running

SECONDS = 200
DEFINES = ("NADAM_XLA_CUDA=ON", "NADAM_XLA_TESTING=ON")

ON_DEVICE_SOURCE = SOURCES / "tests" / "gpu" / "on_device.cpp"
ON_DEVICE_FLAGS = ("-std=c++17", "-O1", f"-I{SOURCES}", "-Xcompiler=-pthread,-Wall,-Wextra")


def build() -> Iterator[Outcome]:
    """The package, as pip installs it from what is here, and the program without a framework."""
    shutil.rmtree(SITE, ignore_errors=True)
    ON_DEVICE.unlink(missing_ok=True)
    LOGS.mkdir(parents=True, exist_ok=True)
    compiler = machine.nvcc()
    settings = [f"build-dir={CMAKE}", *(f"cmake.define.{define}" for define in DEFINES)]
    install = [*PYTHON, "-m", "pip", "install", "--no-index", "--no-build-isolation", "--no-deps"]
    options = [f"--config-settings={setting}" for setting in settings]
    finished = Running(
        [
            *install,
            "--no-cache-dir",
            "--disable-pip-version-check",
            f"--target={SITE}",
            *options,
            SOURCES,
        ],
        LOGS / "build.log",
        seconds=SECONDS,
        environment={"CUDACXX": str(compiler)},
        folder=BUILT,
    ).wait()
    if finished.failed:
        print(finished.tail())
        yield failed("build", f"pip {finished.ending}; {finished.log}")
        return
    yield passed("build", f"{SITE.relative_to(SOURCES)}, against the installed jaxlib's FFI")

    libraries = [CMAKE / "kernels" / "cuda" / "libnadam_xla_cuda.a", CMAKE / "libnadam_xla_cpu.a"]
    finished = Running(
        [str(compiler), *ON_DEVICE_FLAGS, ON_DEVICE_SOURCE, *libraries, "-o", ON_DEVICE],
        LOGS / "build_on_device.log",
        seconds=SECONDS,
    ).wait()
    if finished.failed:
        print(finished.tail())
        yield failed("build of on_device", f"nvcc {finished.ending}; {finished.log}")
