"""Which library's CUDA kernels this process calls.

They are no part of the native module, so that who has no GPU needs none of it: they lie beside it
where nadam_xla was built with nvcc, or in a package of their own for each major version of CUDA.
"""

import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from nadam_xla.native_module import _native

NAME = "libnadam_xla_cuda.so"

PACKAGES = {"nadam_xla_cuda13": "nadam-xla-cu13", "nadam_xla_cuda12": "nadam-xla-cu12"}
"""The packages that have it, newest first, as they are imported and as pip names them."""

ABSENT = (
    "nadam_xla was built without nvcc, and no package has kernels for it: pip install"
    " 'nadam-xla[cuda13]' brings them, or [cuda12] for older drivers"
)


def load() -> _native.CudaLibrary:
    """The first library that the driver can run, where there is a driver.

    The own build comes before the packages, a newer package before an older one. Where none can be
    used, a warning says what was found.

    Raises:
        ImportError: there is none that can be used; the message says why.
    """
    obstacles = []
    for path in _paths():
        try:
            return _usable(path)
        except ImportError as error:
            obstacles.append(str(error))
    if not obstacles:
        raise ImportError(ABSENT)
    reasons = "; ".join(obstacles)
    warnings.warn(f"GPUs run plain StableHLO: {reasons}", stacklevel=2)
    raise ImportError(reasons)


def _paths() -> Iterator[Path]:
    own = Path(_native.__file__).with_name(NAME)
    if own.exists():
        yield own
    for package in PACKAGES:
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            yield Path(spec.origin).with_name(NAME)


def _usable(path: Path) -> _native.CudaLibrary:
    """Raises ``ImportError`` where it is not."""
    library = _native.CudaLibrary(str(path))
    if library.version != _native.VERSION:
        raise ImportError(
            f"{path} is of nadam_xla {library.version}, and this is {_native.VERSION}: pip install"
            f" {PACKAGES.get(path.parent.name, 'nadam-xla')}=={_native.VERSION}"
        )
    driver, toolkit = _native.cuda_driver_version(), library.toolkit_version
    if not driver_can_run(driver, toolkit):
        raise ImportError(
            f"{path} was built with CUDA {toolkit[0]}.{toolkit[1]}, and the driver runs CUDA"
            f" {driver[0]}.{driver[1]} at most: update the driver"
            + (", or pip install 'nadam-xla[cuda12]'" if driver_can_run(driver, (12, 1)) else "")
        )
    return library


def driver_can_run(driver: tuple[int, int], toolkit: tuple[int, int]) -> bool:
    """Whether a driver runs what a toolkit has built, each as the version of CUDA that it is of.

    Drivers run what any toolkit of their own major version, or of an older one, has built. But the
    kernels' launches have parameters of up to 32 KiB, and drivers before 12.1 take 4. Where there
    is no driver, (0, 0), programs may be compiled for other machines.
    """
    return driver == (0, 0) or (driver[0] >= toolkit[0] and driver >= (12, 1))
