"""docs/performance/moment_codes.md says what was measured, and its candidates are what it says."""

import json
from typing import Any

import blockwise_oracle as oracle
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.codes_of_8_bits import FIRST, SECOND, Code
from benchmarks.moment_codes import CHOSEN, KEPT, stale, tables

CHOSEN_SECOND = f"{CHOSEN['nu']}; stochastic"


@pytest.fixture(scope="module")
def measured() -> dict[str, list[dict[str, Any]]]:
    kept: dict[str, list[dict[str, Any]]] = json.loads(KEPT.read_text())
    return kept


def test_the_tables_are_those_of_the_run(measured: Any) -> None:
    page = KEPT.with_suffix(".md").read_text()
    for table in tables(measured).values():
        assert table in page


def test_what_was_chosen_is_what_is_told(measured: Any) -> None:
    stale = [row for row in measured["staleness"] if row["code"] == CHOSEN_SECOND]
    assert len(stale) == 4
    assert all(abs(row["mean of nu"] - 1) < 0.003 for row in stale)
    errors = [row for row in measured["errors"] if row["moment"] == "mu"]
    worst = {row["code"]: row["worst leaf"] for row in errors if row["task"] == "characters"}
    stochastic = [f"{name}; stochastic" for name in FIRST]
    assert min(stochastic, key=worst.__getitem__) == f"{CHOSEN['mu']}; stochastic"


def test_the_chosen_codes_are_those_of_the_documentation() -> None:
    x = np.random.default_rng(0).normal(size=(8, 512)).astype(np.float32)
    for name, codes, encoded, given in (
        ("mu", FIRST, oracle.encoded_signed, x),
        ("nu", SECOND, oracle.encoded_unsigned, x**2),
    ):
        code = Code(codes[CHOSEN[name]], is_stochastic=False)
        found = code.stored(jnp.asarray(given), jnp.zeros(x.shape, jnp.uint32))
        np.testing.assert_allclose(found, oracle.decoded(encoded(given)), rtol=3e-6, atol=1e-7)


def test_the_program_still_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.moment_codes.STALENESS_STEPS", 5000)
    found = stale(Code(SECOND[CHOSEN["nu"]], is_stochastic=True), 0.999, at_once=True)
    assert 0.9 < found["mean of nu"] < 1.1
