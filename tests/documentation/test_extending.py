"""The diffs of docs/extending.md still apply to what they change."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text()
RECIPES = re.split(r"^## ", PAGE, flags=re.MULTILINE)


@pytest.mark.parametrize("recipe", ["A coefficient", "A stream"])
def test_the_diffs_of_a_recipe_apply(recipe: str) -> None:
    (text,) = (text for text in RECIPES if text.startswith(recipe + "\n"))
    patch = "".join(re.findall(r"^```diff\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL))
    files = re.findall(r"^\+\+\+ b/(.*)$", patch, flags=re.MULTILINE)
    assert len(files) >= 4
    subprocess.run(["git", "apply", "--check", "-"], input=patch, text=True, cwd=ROOT, check=True)
