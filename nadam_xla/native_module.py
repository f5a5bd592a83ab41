"""The native module of this package, once it is known to load and to be of this version."""

import platform
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import nadam_xla

_ANEW = "pip install --force-reinstall --no-deps nadam-xla"


def _why_not(error: ImportError) -> str:
    """What was found in the place of a module that this Python can load."""
    folders = list(map(Path, nadam_xla.__path__))
    files = sorted(file for folder in folders for file in folder.glob("_native.*.so"))
    takes = [f"_native{suffix}" for suffix in EXTENSION_SUFFIXES]
    if any(file.name in takes for file in files):
        return f"nadam_xla's native module does not load ({error}): {_ANEW}"
    here = f"Python {platform.python_version()} on {platform.machine()} takes {' or '.join(takes)}"
    if files:
        found = ", ".join(file.name for file in files)
        return f"nadam_xla's native module is for another Python, {found}, and {here}: {_ANEW}"
    return (
        f"nadam_xla has no native module in {' or '.join(map(str, folders))}: {here}. A source tree"
        " has none: start elsewhere, or pip install the tree"
    )


try:
    from nadam_xla import _native
except ImportError as error:
    raise ImportError(_why_not(error)) from error

if nadam_xla.__version__ != _native.VERSION:
    raise ImportError(
        f"nadam_xla's native module is of version {_native.VERSION}, and this is nadam_xla"
        f" {nadam_xla.__version__}: {_ANEW}"
    )

__all__ = ["_native"]
