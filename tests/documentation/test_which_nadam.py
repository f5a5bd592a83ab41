"""The tables of docs/which_nadam.md name what the frameworks and this package have."""

import inspect
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import optax
import pytest
import torch

from nadam_xla.jax import nadam, nadamw
from nadam_xla.keras import Nadam
from nadam_xla.tensorflow import raw_ops

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "which_nadam.md").read_text()


def table(heading: str) -> list[list[str]]:
    """The cells of the rows of the first table under a heading."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in (rows[0], *rows[2:])]


def arguments(*functions: Callable[..., Any]) -> set[str]:
    return {name for function in functions for name in inspect.signature(function).parameters}


OF_EVERY_KERAS_OPTIMIZER = arguments(keras.optimizers.SGD) & arguments(keras.optimizers.Adagrad)

# By column: what takes the arguments, those that the table leaves out, and what is none.
COLUMNS = [
    (arguments(optax.nadam, optax.nadamw), set(), set()),
    (
        arguments(torch.optim.NAdam),
        {"params", "foreach", "maximize", "capturable", "differentiable"},
        set(),
    ),
    (
        arguments(keras.optimizers.Nadam),
        OF_EVERY_KERAS_OPTIMIZER - {"learning_rate", "weight_decay"},
        {"exclude_from_weight_decay"},
    ),
    (arguments(nadam, nadamw), set(), set()),
    (arguments(raw_ops.ResourceApplyNadam), {"var", "m", "v", "grad", "name"}, set()),
]


@pytest.mark.parametrize("column", range(len(COLUMNS)))
def test_every_argument_has_its_place(column: int) -> None:
    taken, left_out, methods = COLUMNS[column]
    _, *rows = table("Arguments side by side")
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row[1 + column])}
    assert named - methods == taken - left_out - {"kwargs"}
    assert all(hasattr(keras.optimizers.Nadam, name) for name in methods)


def test_our_keras_optimizer_has_stocks_arguments_and_six_of_its_own() -> None:
    own = {"momentum_dtype", "velocity_dtype", "rounding", "seed", "master", "sparse"}
    assert arguments(Nadam) == arguments(keras.optimizers.Nadam) | own


def defaults(function: Callable[..., Any]) -> dict[str, Any]:
    return {name: p.default for name, p in inspect.signature(function).parameters.items()}


def test_the_defaults_are_the_frameworks() -> None:
    header, *rows = table("Where they differ")
    assert header[1:] == ["Keras 3", "PyTorch", "optax"]
    cells = {row[0]: row[1:] for row in rows}
    of_keras, of_torch, of_optax = map(
        defaults, (keras.optimizers.Nadam, torch.optim.NAdam, optax.nadamw)
    )
    assert [float(x) for x in cells["learning rate"][:2]] == [
        of_keras["learning_rate"],
        of_torch["lr"],
    ]
    assert of_optax["learning_rate"] is inspect.Parameter.empty
    eps = [of_keras["epsilon"], of_torch["eps"], of_optax["eps"]]
    assert [float(x) for x in cells["`eps`"]] == eps
    assert float(cells["`eps_root`, inside the root"][2]) == of_optax["eps_root"]
    decay = cells["its default"]
    assert decay[0] == "none"
    assert of_keras["weight_decay"] is None
    assert float(decay[1]) == of_torch["weight_decay"]
    assert decay[2] == f"`nadamw` {of_optax['weight_decay']:.0e}".replace("e-04", "e-4")


def test_the_picture_is_what_the_program_draws() -> None:
    program = runpy.run_path(str(DOCS / "momentum_schedules.py"))
    assert (DOCS / "momentum_schedules.svg").read_text() == program["picture"]()
