"""The table in docs/jax/optax.md of what `fuse_updates` makes of optax's wrappers is true."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from training import PARAMS, gradients

from nadam_xla.jax import explain_updates, fuse_updates, nadam, nadamw, scale_by_nadam

DOCS = Path(__file__).parents[2] / "docs" / "jax" / "optax.md"
GRADS = gradients(4)

# What keeps each of them from being fused, in the words of `explain_updates`.
REASONS = {
    "it decays by the average and adds to another tree": "another value than the parameter",
    "it multiplies the change by 0 or 1": "goes into mul",
    "it uses the change twice": " and ",
    "it cuts the change apart": "goes into split",
    "it takes the change from a sum of its own": "goes into sub",
    "it scales the change; give the rate to `nadam`": "goes into mul",
    "the same": "goes into mul",
    "it compares the change with the parameter": " and ",
}


class Row(NamedTuple):
    transformation: str
    one_pass: str
    why_not: str


def rows() -> Iterator[Row]:
    table = DOCS.read_text().split("| transformation | one pass | why not |\n|---|---|---|\n")[1]
    for line in table.split("\n\n")[0].splitlines():
        yield Row(*re.fullmatch(r"\| `(.*)` \| (.*?) \| ?(.*?) ?\|", line).groups())


def is_matrix(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.ndim > 1, tree)


def kind_of_leaf(tree: Any) -> Any:
    return jax.tree.map(lambda x: "matrix" if x.ndim > 1 else "vector", tree)


NAMES = {
    "jax": jax,
    "optax": optax,
    "nadam": nadam,
    "nadamw": nadamw,
    "scale_by_nadam": scale_by_nadam,
    "is_matrix": is_matrix,
    "kind_of_leaf": kind_of_leaf,
}


def made(code: str) -> Any:
    """The transformation, where the installed optax has it."""
    for name in re.findall(r"optax\.(?:contrib\.)?\w+", code):
        module: Any = optax.contrib if name.startswith("optax.contrib.") else optax
        if not hasattr(module, name.rsplit(".", 1)[1]):
            pytest.skip(f"optax {optax.__version__} has no {name}")
    return eval(code, NAMES)


@pytest.mark.parametrize("row", list(rows()), ids=lambda row: row.transformation)
def test_it_is_fused_or_not_as_is_said_and_gives_the_same_bits(row: Row) -> None:
    tx = made(row.transformation)
    params = PARAMS
    if "lookahead" in row.transformation:
        params = optax.LookaheadParams.init_synced(PARAMS)

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.tree.map(jnp.asarray, tx.init(params))
    reports = explain_updates(step)(params, state, GRADS[0])
    assert reports
    for report in reports:
        assert report.returns_params == row.one_pass.startswith("yes"), str(report)
        if report.returns_params:
            assert ("cond" in report.where) == row.one_pass.endswith("inside of its branch")
        else:
            assert all(REASONS[row.why_not] in reason for reason in report.reasons), str(report)

    plain, fused = jax.jit(step), jax.jit(fuse_updates(step))
    one = other = (params, state)
    for grads in GRADS:
        one, other = plain(*one, grads), fused(*other, grads)
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(x, y)


def test_all_kinds_of_answers_are_there() -> None:
    assert {row.why_not for row in rows() if row.one_pass == "no"} == REASONS.keys()
    assert {row.one_pass for row in rows()} == {"yes", "yes, inside of its branch", "no"}


def test_trees_with_none_and_updates_without_parameters() -> None:
    params = {"trained": jnp.ones((3, 4)), "frozen": None}
    tx = nadam(1e-2)

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state)
        return optax.apply_updates(params, updates), state

    (report,) = explain_updates(step)(params, tx.init(params), params)
    assert report.returns_params
    new, _ = jax.jit(fuse_updates(step))(params, tx.init(params), params)
    assert new["frozen"] is None
    assert new["trained"].shape == (3, 4)
