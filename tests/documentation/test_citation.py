"""CITATION.cff, which cannot read pyproject.toml, has its version."""

import re
from importlib.metadata import version
from pathlib import Path

CITATION = Path(__file__).parents[2] / "CITATION.cff"


def test_it_cites_the_version_that_is_installed() -> None:
    cited = re.search(r"^version: (.+)$", CITATION.read_text(), re.MULTILINE)
    assert cited
    assert cited[1] == version("nadam-xla")
