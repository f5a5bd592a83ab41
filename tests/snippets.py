"""The Python blocks of the README, which its reader completes by names of their own."""

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def readme_snippet(heading: str) -> str:
    """The one Python block under this heading."""
    section = README.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    return str(block)
