"""Tests of ``tools/mutants``."""

import sys
from pathlib import Path

# Of the sources, not of the installed package.
sys.path.append(str(Path(__file__).resolve().parents[2]))
