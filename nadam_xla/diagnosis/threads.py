"""The threads of this process, by the names that libraries give them."""

from pathlib import Path

_POOL_OF_XLA = "tf_XLAEigen"
"""In JAX and in TensorFlow, the threads that share a program's work on the CPU."""


def threads_of_xla() -> int | None:
    """How many XLA has for the work of programs on the CPU; None where it cannot be seen."""
    try:
        names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    except OSError:
        return None
    return names.count(_POOL_OF_XLA) or None
