"""What `make wheels` has made."""

import tomllib
from pathlib import Path
from typing import Any
from zipfile import ZipFile

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VERSION: str = PROJECT["version"]

ARCHITECTURES = ("x86_64", "aarch64")
ABIS = ("cp311-cp311", "cp312-abi3")


def wheel_of(abi: str, architecture: str) -> Path:
    """The wheel of an ABI and an architecture.

    Raises:
        AssertionError: there is none, or more than one.
    """
    found = sorted(DIST.glob(f"nadam_xla-{VERSION}-{abi}-*_{architecture}.whl"))
    assert len(found) == 1, f"dist/ has {len(found)} wheels for {abi} on {architecture}"
    return found[0]


def files_of(wheel: Path) -> list[str]:
    with ZipFile(wheel) as archive:
        return [name for name in archive.namelist() if not name.endswith("/")]


def metadata_of(wheel: Path) -> str:
    with ZipFile(wheel) as archive:
        return archive.read(f"nadam_xla-{VERSION}.dist-info/METADATA").decode()
