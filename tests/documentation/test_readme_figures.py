"""The figures of whole steps in README.md are those of the measurements."""

import re
from pathlib import Path

from benchmarks.pages import DOCS, WHOLE_STEPS, series_of
from benchmarks.records import read_tables

CLIPPED = ", clipped by global norm"
# By README's columns: the series, and what follows the name of the network there.
COLUMNS = [
    ("JAX", ""),
    ("JAX", CLIPPED),
    ("Keras on JAX", ""),
    ("Keras on TensorFlow", ""),
    ("the same, not compiled", ""),
]


def test_whole_steps() -> None:
    records = read_tables((DOCS / "performance" / "measurements.md").read_text())
    measured = {
        (series, record.case): record.ratio
        for series, of_series in series_of(records, WHOLE_STEPS).items()
        for record in of_series
    }
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    table = readme.split("| whole step |")[1].split("\n\n")[0].splitlines()[2:]
    assert len(table) >= 4
    for row in table:
        network, *figures = (re.sub(r"\*", "", cell).strip() for cell in row.strip("|").split("|"))
        expected = [measured[series, network + more] for series, more in COLUMNS]
        assert [float(figure) for figure in figures] == expected, network
