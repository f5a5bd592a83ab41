"""How the leaves of a step are spread over custom calls: the same in every framework."""

from collections.abc import Iterator, Sequence

LEAVES_IN_CALL = 32
"""XLA takes disproportionately long to compile a call of hundreds of leaves, and pays for the start
of each call when it runs; some tens of leaves are the best of both."""


def compute_dtype(dtype: str) -> str:
    """The dtype in which a floating-point leaf of this dtype is updated.

    Args:
        dtype: the dtype's name, such as ``"bfloat16"``.

    Returns:
        ``"float64"`` for float64; ``"float32"`` for all others, the narrower ones being widened.
    """
    return "float64" if dtype == "float64" else "float32"


def calls(dtypes: Sequence[str]) -> Iterator[tuple[str, list[int]]]:
    """Cuts the leaves into calls, each of leaves with one compute dtype.

    Args:
        dtypes: the dtype's name of each leaf.

    Yields:
        The compute dtype of a call and the indices of its leaves, at most ``LEAVES_IN_CALL``.
    """
    for dtype, indices in by_compute_dtype(dtypes).items():
        for start in range(0, len(indices), LEAVES_IN_CALL):
            yield dtype, indices[start : start + LEAVES_IN_CALL]


def by_compute_dtype(dtypes: Sequence[str]) -> dict[str, list[int]]:
    """The indices of the leaves that are updated in each compute dtype."""
    groups: dict[str, list[int]] = {}
    for index, dtype in enumerate(dtypes):
        groups.setdefault(compute_dtype(dtype), []).append(index)
    return groups
