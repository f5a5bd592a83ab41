"""Tests of ``tools/gpu_check`` and of its benchmarks, as far as they can be run without a GPU."""

import sys
from pathlib import Path

# Of the sources, not of the installed package.
sys.path.append(str(Path(__file__).resolve().parents[2]))
