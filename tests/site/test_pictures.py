"""The pictures in docs/performance show what the measurements in the documentation say."""

import re
from pathlib import Path

import pytest

from benchmarks import pages
from benchmarks.records import OURS, Record, read_tables, table

PICTURES = sorted((pages.DOCS / "performance").glob("*.svg"))


def words(picture: Path) -> list[str]:
    return re.findall(r"<text [^>]*>([^<]+)</text>", picture.read_text())


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    texts = [(pages.DOCS / page).read_text() for page in pages.PAGES]
    pages.draw([record for text in texts for record in read_tables(text)], folder)
    pages.draw_losses(folder)
    return folder


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.name)
def test_a_picture_is_drawn_from_the_measurements(picture: Path, drawn: Path) -> None:
    assert words(picture) == words(drawn / picture.name)
    assert words(picture)


@pytest.mark.parametrize(
    ("figures", "row"),
    [
        ((1.5, 1.25, 1.75), "| a | 2 | 1.50 (1.25 to 1.75) |"),
        ((1.5, 1.5, 1.5), "| a | 2 | 3 |"),
    ],
    ids=["ratios", "amounts"],
)
def test_a_table_is_read_as_it_was_written(figures: tuple[float, float, float], row: str) -> None:
    records = [
        Record("Section", "a", 0, OURS, 2.0, "MiB", 1.0, 1.0, 1.0),
        Record("Section", "a", 0, "stock", 3.0, "MiB", *figures),
    ]
    written = table(records)
    assert written.splitlines()[-1] == row
    assert read_tables(f"**Section**\n\n{written}\n\nWords.\n") == records
