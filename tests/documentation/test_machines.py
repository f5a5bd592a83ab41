"""The versions that docs/machines.md promises are those that the package asks for."""

import re
import tomllib
from pathlib import Path

import pytest

from nadam_xla.jax import TESTED_JAX, TESTED_OPTAX
from nadam_xla.jax.oldest_jax import OLDEST_JAX, OLDEST_OPTAX
from nadam_xla.keras import TESTED_KERAS
from nadam_xla.keras.oldest_keras import OLDEST_KERAS
from nadam_xla.tensorflow import runtime

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "machines.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def takes(name: str) -> str:
    (found,) = re.findall(rf"^\| {re.escape(name)}(?:, on Linux)? \| (.+?) \|", PAGE, re.MULTILINE)
    return str(found)


def at_least(package: str) -> str:
    """The lower bound of the extra that draws a package in."""
    wanted = [entry for extra in PROJECT["optional-dependencies"].values() for entry in extra]
    (bound,) = {entry.split(">=")[1] for entry in wanted if entry.startswith(f"{package}>=")}
    return str(bound)


@pytest.mark.parametrize("name", ["JAX", "optax", "Keras"])
def test_a_lower_bound_is_that_of_the_extra(name: str) -> None:
    assert takes(name) == f"{at_least(name.lower())} and later"


def test_python_is_what_the_package_requires() -> None:
    assert f">={takes('Python').split()[0]}" == PROJECT["requires-python"]


@pytest.mark.parametrize(
    ("name", "oldest"), [("JAX", OLDEST_JAX), ("optax", OLDEST_OPTAX), ("Keras", OLDEST_KERAS)]
)
def test_what_is_refused_at_import_is_older_than_what_is_taken(
    name: str, oldest: tuple[int, ...]
) -> None:
    assert ".".join(map(str, oldest)) == takes(name).split()[0]


@pytest.mark.parametrize(
    ("name", "tested"), [("JAX", TESTED_JAX), ("optax", TESTED_OPTAX), ("Keras", TESTED_KERAS)]
)
def test_what_an_error_names_as_tested_is_what_was_tested(name: str, tested: str) -> None:
    (column,) = re.findall(rf"^\| {name} \| .+? \| (.+?) \|", PAGE, re.MULTILINE)
    oldest, *_, newest = column.split(", ")
    first, last = tested.split(" to ")
    assert oldest == first
    assert newest.startswith(last)


def test_tensorflow_is_what_its_error_names() -> None:
    assert f"TensorFlow {takes('TensorFlow')} for Linux" == runtime.SUPPORTED
    assert takes("TensorFlow").split()[0] == at_least("tensorflow")
