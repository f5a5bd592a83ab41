"""The packages with the CUDA kernels, beside a wheel of nadam_xla, on a machine without a driver.

`make test-wheels-cuda` makes and runs all of it.
"""

import json
import os
import platform
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZipFile

import pytest
from machine_code import MachineCode
from processes import ROOT

from nadam_xla import cuda_library

DIST = ROOT / "dist"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
MAJORS = (12, 13)
# What glibc consists of, on every Linux.
GLIBC = {"libc", "libdl", "libpthread", "librt", "libm", "ld-linux-x86-64", "ld-linux-aarch64"}


def wheel_of(name: str, python: str = "py3-none") -> Path:
    found = sorted(DIST.glob(f"{name}-{VERSION}-{python}-*_{platform.machine()}.whl"))
    assert len(found) == 1, (
        f"dist/ has {len(found)} wheels {name} {VERSION}: make wheels wheels-cuda"
    )
    return found[0]


def package_of(major: int) -> Path:
    return wheel_of(f"nadam_xla_cu{major}")


def pyproject_of(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text())


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture(scope="session")
def libraries(folder: Path) -> dict[int, Path]:
    """By major version of CUDA, the library out of its wheel."""
    for major in MAJORS:
        ZipFile(package_of(major)).extractall(folder)
    return {major: folder / f"nadam_xla_cuda{major}" / cuda_library.NAME for major in MAJORS}


class Environment:
    """An environment of its own, in which wheels are installed as users do."""

    def __init__(self, folder: Path, *extras: str) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        self.python = folder / "bin" / "python"
        this = "".join(map(str, sys.version_info[:2]))
        wheel = wheel_of("nadam_xla", f"cp{this}-*" if this == "311" else "cp312-abi3")
        requirement = f"nadam-xla[{','.join(extras)}] @ {wheel.as_uri()}"
        pip = [sys.executable, "-m", "pip", "--python", self.python, "install", "--quiet"]
        subprocess.run([*pip, "--find-links", DIST, requirement], check=True)
        (self.site,) = (folder / "lib").glob("python*/site-packages")
        # Frameworks are those that this process has.
        frameworks = [path for path in sys.path if path.endswith("site-packages")]
        (self.site / "frameworks.pth").write_text("\n".join(frameworks))

    def library(self, major: int) -> Path:
        return self.site / f"nadam_xla_cuda{major}" / cuda_library.NAME

    def run(self, code: str) -> Any:
        """What the code prints, as JSON, and its warnings."""
        folders = [str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders))}
        command = [self.python, "-P", "-c", code]
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def without(folder: Path) -> Environment:
    return Environment(folder / "without")


@pytest.fixture(scope="session")
def with_both(folder: Path) -> Environment:
    return Environment(folder / "with_both", "cuda12", "cuda13")


@pytest.fixture(scope="session", params=MAJORS)
def with_one(request: pytest.FixtureRequest, folder: Path) -> tuple[Environment, int]:
    """The environment, and the major version of CUDA."""
    major: int = request.param
    return Environment(folder / f"with_{major}", f"cuda{major}"), major


CHOICE = """
import json, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from nadam_xla.native import MODULES, why_no_kernel
library = getattr(MODULES.get("cuda"), "path", None)
print(json.dumps([library, why_no_kernel("cuda"), [str(warning.message) for warning in caught]]))
"""


def test_who_asks_for_no_cuda_gets_none(without: Environment) -> None:
    assert not list(without.site.glob("nadam_xla_cuda*"))
    assert not list(without.site.rglob(cuda_library.NAME))
    assert without.run(CHOICE) == [None, cuda_library.ABSENT, []]


def test_an_extra_brings_its_package(with_one: tuple[Environment, int]) -> None:
    environment, major = with_one
    assert environment.run(CHOICE) == [str(environment.library(major)), None, []]


def test_the_newest_of_both_is_taken(with_both: Environment) -> None:
    assert with_both.library(12).exists()
    assert with_both.run(CHOICE) == [str(with_both.library(13)), None, []]


TRAINING = """
import hashlib, json
import jax, jax.numpy as jnp
from nadam_xla.jax import nadam

tx, x = nadam(1e-2), jax.random.normal(jax.random.key(0), (32, 64))

@jax.jit
def step(params, state):
    grads = jax.grad(lambda p: jnp.mean((jnp.tanh(x @ p[0]) @ p[1] - 0.5) ** 2))(params)
    return tx.apply(grads, state, params)

params = [0.1 * jax.random.normal(jax.random.key(i), (64, 64)) for i in (1, 2)]
state = tx.init(params)
assert "nadam_xla_update" in step.lower(params, state).as_text()
for _ in range(20):
    params, state = step(params, state)
print(json.dumps([hashlib.sha256(bytes(memoryview(p))).hexdigest() for p in params]))
"""


def test_training_on_the_cpu_is_the_same(without: Environment, with_both: Environment) -> None:
    assert with_both.run(TRAINING) == without.run(TRAINING)


FOR_A_GPU = """
import json
from absent_devices import compiled_for
from nadam_xla.jax import nadam
print(json.dumps(compiled_for("H100", nadam(1e-3)).calls))
"""


def test_jaxs_xla_finds_the_handlers_for_gpus(
    without: Environment, with_one: tuple[Environment, int]
) -> None:
    """It compiles no call whose handler it does not know."""
    assert without.run(FOR_A_GPU) == 0
    assert with_one[0].run(FOR_A_GPU) > 0


IN_TENSORFLOW = """
import json
from nadam_xla.tensorflow import runtime
assert runtime.unavailable() is None, runtime.unavailable()
runtime.PLATFORMS = ("cuda",)  # as where there are GPUs
runtime._register_kernels()
print(json.dumps("registered"))
"""


def test_tensorflows_xla_takes_the_handlers(with_one: tuple[Environment, int]) -> None:
    assert with_one[0].run(IN_TENSORFLOW) == "registered"


Spoil = Callable[[tuple[int, ...], Callable[[bytes], bytes]], Environment]


@pytest.fixture
def with_spoilt(with_both: Environment) -> Iterator[Spoil]:
    """Makes of the environment with both packages one in which libraries are other ones."""
    right = {major: with_both.library(major).read_bytes() for major in MAJORS}

    def spoil(majors: tuple[int, ...], change: Callable[[bytes], bytes]) -> Environment:
        for major in majors:
            with_both.library(major).write_bytes(change(right[major]))
        return with_both

    yield spoil
    for major, library in right.items():
        with_both.library(major).write_bytes(library)


def of_another_version(library: bytes) -> bytes:
    other = VERSION.replace(VERSION[-1], str((int(VERSION[-1]) + 1) % 10))
    was, becomes = (b"\0" + text.encode() + b"\0" for text in (VERSION, other))
    assert library.count(was) == 1
    return library.replace(was, becomes)


def test_packages_of_another_version_are_refused_and_the_cpu_trains(
    with_spoilt: Spoil, without: Environment
) -> None:
    environment = with_spoilt(MAJORS, of_another_version)
    library, reason, warnings = environment.run(CHOICE)
    assert library is None
    for major in MAJORS:
        assert f"pip install nadam-xla-cu{major}=={VERSION}" in reason
    assert warnings == [f"GPUs run plain StableHLO: {reason}"]
    assert environment.run(TRAINING) == without.run(TRAINING)


def test_a_broken_file_is_told_and_the_cpu_trains(with_spoilt: Spoil, without: Environment) -> None:
    environment = with_spoilt(MAJORS, lambda library: library[: len(library) // 2])
    library, reason, warnings = environment.run(CHOICE)
    assert library is None
    for major in MAJORS:
        assert f"{environment.library(major)} is cut off" in reason
    assert warnings == [f"GPUs run plain StableHLO: {reason}"]
    assert environment.run(TRAINING) == without.run(TRAINING)


def test_a_package_that_is_right_serves_beside_one_that_is_not(with_spoilt: Spoil) -> None:
    environment = with_spoilt((13,), of_another_version)
    assert environment.run(CHOICE) == [str(environment.library(12)), None, []]


@pytest.mark.parametrize("major", MAJORS)
class TestWheel:
    def test_it_has_one_library_and_what_its_parts_are_licensed_by(self, major: int) -> None:
        wheel = ZipFile(package_of(major))
        files = set(wheel.namelist())
        metadata = f"nadam_xla_cu{major}-{VERSION}.dist-info/"
        package = f"nadam_xla_cuda{major}/"
        assert {file for file in files if not file.startswith(metadata)} - {package} == {
            f"{package}__init__.py",
            f"{package}{cuda_library.NAME}",
        }
        assert wheel.read(f"{metadata}licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
        assert f"{metadata}licenses/NOTICE" in files

    def test_it_requires_the_nadam_xla_of_its_version(self, major: int) -> None:
        name = f"nadam_xla_cu{major}-{VERSION}.dist-info/METADATA"
        metadata = ZipFile(package_of(major)).read(name).decode()
        assert re.findall("^Requires-Dist: (.*)$", metadata, re.MULTILINE) == [
            f"nadam-xla=={VERSION}"
        ]

    def test_it_needs_glibc_alone(self, major: int, libraries: dict[int, Path]) -> None:
        dynamic = subprocess.run(
            ["readelf", "--dynamic", libraries[major]], capture_output=True, text=True, check=True
        ).stdout
        needed = re.findall(r"\(NEEDED\).*\[(.+?)\.so\.\d+\]", dynamic)
        assert needed
        assert set(needed) <= GLIBC

    def test_it_shows_nothing_but_its_table(self, major: int, libraries: dict[int, Path]) -> None:
        """A C++ library that others could see would be theirs, too, or theirs ours."""
        symbols = subprocess.run(
            ["nm", "--dynamic", "--defined-only", "--format=just-symbols", libraries[major]],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert symbols.split() == ["nadam_xla_cuda_library"]

    def test_it_is_built_with_what_nadam_xla_is(self, major: int) -> None:
        package = pyproject_of(ROOT / "packages" / f"nadam-xla-cu{major}")
        assert package["build-system"] == pyproject_of(ROOT)["build-system"]
        python = [
            project["project"]["requires-python"] for project in (package, pyproject_of(ROOT))
        ]
        assert python[0] == python[1]


@pytest.mark.parametrize("major", MAJORS)
class TestMachineCode(MachineCode):
    @pytest.fixture
    def library(self, major: int, libraries: dict[int, Path]) -> Path:
        return libraries[major]
