"""Which of several libraries with CUDA kernels is taken, and what is said of those that are not."""

import re
from pathlib import Path

import jax
import pytest
from compiled_source import (
    compile_library,
    skip_where_the_compiler_is_for_another_machine,
)

from nadam_xla import _native, cuda_library

skip_where_the_compiler_is_for_another_machine()

CUDA_12, CUDA_13 = (12, 4), (13, 0)
NO_DRIVER = (0, 0)
PACKAGES = {CUDA_12: "nadam_xla_cuda12", CUDA_13: "nadam_xla_cuda13"}

# A library without kernels.
SOURCE = """
#include "kernels/ffi/cuda_library.h"

using nadam_xla::ffi::CudaLibrary;

extern "C" const CudaLibrary* nadam_xla_cuda_library() {
  static constexpr CudaLibrary library{INTERFACE, TOOLKIT, VERSION, nullptr, 0, nullptr, 0};
  return &library;
}
"""


def compile_to(library: Path, source: str, *options: str) -> None:
    compile_library(library, f"-I{jax.ffi.include_dir()}", *options, code=source)


def make_library(
    folder: Path,
    toolkit: tuple[int, int],
    *,
    version: str = _native.VERSION,
    interface: str = "nadam_xla::ffi::kCudaInterface",
) -> Path:
    values = {
        "INTERFACE": interface,
        "TOOLKIT": 1000 * toolkit[0] + 10 * toolkit[1],
        "VERSION": f'"{version}"',
    }
    library = folder / cuda_library.NAME
    compile_to(library, SOURCE, *(f"-D{name}={value}" for name, value in values.items()))
    return library


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages; in another one lies nadam_xla, which was built without nvcc."""
    site = tmp_path / "site"
    site.mkdir()
    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.setattr(_native, "__file__", str(own / "_native.so"))
    monkeypatch.syspath_prepend(site)
    return site


@pytest.fixture
def own(site: Path) -> Path:
    return Path(_native.__file__).parent


def install(site: Path, toolkit: tuple[int, int], **options: str) -> Path:
    """The package of a major version of CUDA; returns its library."""
    package = site / PACKAGES[toolkit]
    package.mkdir()
    (package / "__init__.py").touch()
    return make_library(package, toolkit, **options)


def with_driver(monkeypatch: pytest.MonkeyPatch, version: tuple[int, int]) -> None:
    monkeypatch.setattr(_native, "cuda_driver_version", lambda: version)


@pytest.mark.parametrize(
    ("driver", "taken"),
    [(NO_DRIVER, CUDA_13), ((13, 2), CUDA_13), ((14, 0), CUDA_13), ((12, 9), CUDA_12)],
)
def test_the_newest_package_that_the_driver_can_run_is_taken(
    driver: tuple[int, int],
    taken: tuple[int, int],
    site: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_driver(monkeypatch, driver)
    for toolkit in PACKAGES:
        install(site, toolkit)
    assert cuda_library.load().toolkit_version == taken


@pytest.mark.parametrize(("driver", "taken"), [(NO_DRIVER, (13, 5)), ((12, 9), CUDA_12)])
def test_the_own_build_comes_first_where_the_driver_can_run_it(
    driver: tuple[int, int],
    taken: tuple[int, int],
    site: Path,
    own: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_driver(monkeypatch, driver)
    make_library(own, (13, 5))
    for toolkit in PACKAGES:
        install(site, toolkit)
    assert cuda_library.load().toolkit_version == taken


@pytest.mark.parametrize(
    ("driver", "toolkit", "runs"),
    [
        (NO_DRIVER, (13, 0), True),
        ((13, 0), (13, 5), True),
        ((13, 1), (12, 9), True),
        ((12, 9), (13, 0), False),
        ((12, 1), (12, 9), True),
        ((12, 0), (12, 1), False),
    ],
)
def test_what_drivers_can_run(
    driver: tuple[int, int], toolkit: tuple[int, int], runs: bool
) -> None:
    assert cuda_library.driver_can_run(driver, toolkit) == runs


@pytest.mark.parametrize(
    ("driver", "toolkit", "advice"),
    [
        ((12, 9), CUDA_13, r"update the driver, or pip install 'nadam-xla\[cuda12\]'"),
        ((12, 0), CUDA_12, "update the driver"),
        ((11, 8), CUDA_12, "update the driver"),
    ],
)
def test_a_driver_that_is_too_old_is_told_what_would_help(
    driver: tuple[int, int],
    toolkit: tuple[int, int],
    advice: str,
    site: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_driver(monkeypatch, driver)
    install(site, toolkit)
    built, runs = (rf"CUDA {major}\.{minor}" for major, minor in (toolkit, driver))
    expect(rf"was built with {built}, and the driver runs {runs} at most: {advice}$")


def expect(reason: str) -> None:
    """Nothing can be used; an error and a warning say why."""
    with (
        pytest.warns(UserWarning, match=f"GPUs run plain StableHLO: .*{reason}"),
        pytest.raises(ImportError, match=reason),
    ):
        cuda_library.load()


def test_a_package_of_another_version_is_refused(site: Path) -> None:
    library = install(site, CUDA_13, version="0.0.1")
    own = re.escape(_native.VERSION)
    expect(
        rf"{re.escape(str(library))} is of nadam_xla 0\.0\.1, and this is {own}: pip install"
        rf" nadam-xla-cu13=={own}$"
    )


def test_a_package_that_can_be_used_makes_up_for_one_that_cannot(site: Path) -> None:
    install(site, CUDA_13, version="0.0.1")
    install(site, CUDA_12)
    assert cuda_library.load().toolkit_version == CUDA_12


def test_all_that_cannot_be_used_is_told(site: Path) -> None:
    for toolkit in PACKAGES:
        install(site, toolkit, version="0.0.1")
    expect("nadam_xla_cuda13.*; .*nadam_xla_cuda12.*")


def test_a_library_with_another_table_is_not_read(site: Path) -> None:
    install(site, CUDA_13, interface="17")
    expect("has interface 17; this build of nadam_xla needs 1$")


def test_a_missing_file(site: Path) -> None:
    install(site, CUDA_13).unlink()
    expect(f"{cuda_library.NAME}: .*No such file")


def test_a_file_that_is_no_library(site: Path) -> None:
    install(site, CUDA_13).write_text("version https://git-lfs.github.com/spec/v1")
    expect(f"{cuda_library.NAME}: .*")


def test_a_file_of_which_a_part_is_missing(site: Path) -> None:
    library = install(site, CUDA_13)
    library.write_bytes(library.read_bytes()[:-1])
    expect(f"{cuda_library.NAME} is cut off$")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("int other() { return 0; }", f"{cuda_library.NAME} has no symbol nadam_xla_cuda_library$"),
        ("int absent(); int other() { return absent(); }", "undefined symbol: _Z6absentv"),
    ],
)
def test_a_library_of_something_else(source: str, reason: str, site: Path) -> None:
    compile_to(install(site, CUDA_13), source)
    expect(reason)


def test_without_any_library_the_reason_says_what_brings_one(site: Path) -> None:
    with pytest.raises(ImportError, match=r"built without nvcc.*pip install 'nadam-xla\[cuda13\]'"):
        cuda_library.load()
