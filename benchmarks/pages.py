"""The documentation's pictures.

A run of all sections draws them beside its report. ``python -m benchmarks.pages`` draws those in
docs/performance, from the tables that stand there, and from the losses that are kept as JSON.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks import row_curves, sizes
from benchmarks.loss_curves import KEPT, KEPT_OF_8_BITS, load
from benchmarks.plots import against_size, amounts, losses, losses_of_rows, plain, ratios, save
from benchmarks.records import OURS, Record, read_tables

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ("performance/measurements.md", "jax/scanned_layers.md")

WHOLE = "Whole training step, "
JAX = WHOLE + "JAX, jitted and donated"
SCANNED = "Training step over scanned layers, JAX, jitted and donated"
MEMORY = ": temporary memory"
WHOLE_STEPS = {
    "JAX": (JAX, "optax"),
    "Keras on JAX": (WHOLE + "Keras on jax, model.fit", "stock"),
    "Keras on TensorFlow": (WHOLE + "Keras on tensorflow, model.fit, jit_compile=True", "stock"),
    "the same, not compiled": (
        WHOLE + "Keras on tensorflow, model.fit, jit_compile=False",
        "stock",
    ),
    "PyTorch's fused Adam": (WHOLE + "PyTorch beside JAX", "Adam, fused"),
}
ON_THE_FRONT_PAGE = ("JAX", "Keras on TensorFlow", "PyTorch's fused Adam")
UPDATE = {
    "optax": ("JAX, compiled loop of steps", "optax"),
    "the memory's limit": ("JAX, compiled loop of steps", sizes.LIMIT),
}
COMPILING = "JAX, trace and compile one step"
OF_ROWS = {
    "rows": "Rows of a table of 200000x128, JAX, a call a step, donated",
    "rows_tensorflow": "Rows of a table of 200000x128, Keras on TensorFlow, tf.function",
}


def draw(records: list[Record], folder: Path) -> None:
    """Draws the pictures of a run that had all of these sections.

    Args:
        records: of the run.
        folder: where to put them.
    """
    whole = series_of(records, WHOLE_STEPS)
    save(ratios(whole, what="stock's time / ours"), folder / "whole_steps.svg")
    front = {
        name: [r for r in whole[name] if r.case == plain(r) and "scanned" not in r.case]
        for name in ON_THE_FRONT_PAGE
    }
    save(ratios(front, what="stock's time / ours"), folder / "front.svg")
    memory = {
        name: of(records, JAX + MEMORY, contender) + of(records, SCANNED + MEMORY, contender)
        for name, contender in (("ours", OURS), ("optax", "optax"))
    }
    save(amounts(memory, what="temporary memory, MiB"), folder / "temporary_memory.svg")
    save(ratios(series_of(records, UPDATE), what="time / ours"), folder / "update.svg")
    compiling = against_number(records, COMPILING, what="leaves")
    save(compiling, folder / "compile_time.svg")
    for picture, section in OF_ROWS.items():
        save(against_number(records, section, what="rows touched"), folder / f"{picture}.svg")


def draw_losses(folder: Path) -> None:
    """Draws the pictures of trainings."""
    for kept in (KEPT, KEPT_OF_8_BITS):
        save(losses(load(kept)), folder / f"{kept.stem}.svg")
    of_rows = row_curves.KEPT
    save(losses_of_rows(row_curves.load(of_rows)), folder / f"{of_rows.stem}.svg")


def series_of(
    records: list[Record], chosen: Mapping[str, tuple[str, str]]
) -> dict[str, list[Record]]:
    return {name: of(records, section, who) for name, (section, who) in chosen.items()}


def of(records: list[Record], section: str, contender: str) -> list[Record]:
    """The records of one contender in one section, their cases as the pictures call them."""
    chosen = [r for r in records if (r.section, r.contender) == (section, contender)]
    if section.startswith(SCANNED):
        return [replace(r, case=f"{r.case}, scanned, under fuse_updates") for r in chosen]
    return [replace(r, case=r.case.replace(", unrolled", "")) for r in chosen]


def against_number(records: list[Record], section: str, *, what: str) -> Figure:
    """Times of a section whose cases begin with a number, against that number."""
    cases = [r for r in records if r.section == section]
    numbered = [replace(r, parameters=int(r.case.split()[0])) for r in cases]
    return against_size(numbered, xlabel=what)


if __name__ == "__main__":
    texts = [(DOCS / page).read_text() for page in PAGES]
    draw([r for text in texts for r in read_tables(text)], DOCS / "performance")
    draw_losses(DOCS / "performance")
