"""How the leaves of a step are spread over custom calls: the same in every framework."""

from collections.abc import Iterator, Sequence

_LEAVES_IN_CALL = 32
_LEAVES_IN_CALL_ON_GPU = 256


def leaves_in_call(platform: str) -> int:
    """How many leaves a call has at most.

    XLA takes disproportionately long to compile a call of hundreds of leaves, and pays for the
    start of each call when it runs; some tens of leaves are the best of both. A GPU pays more for
    the start of a call, which is the launch of a kernel.

    Args:
        platform: as ``jax.default_backend`` names it.
    """
    return _LEAVES_IN_CALL_ON_GPU if platform == "gpu" else _LEAVES_IN_CALL


def compute_dtype(dtype: str) -> str:
    """The dtype in which a floating-point leaf of this dtype is updated.

    Args:
        dtype: the dtype's name, such as ``"bfloat16"``.

    Returns:
        ``"float64"`` for float64; ``"float32"`` for all others, the narrower ones being widened.
    """
    return "float64" if dtype == "float64" else "float32"


def calls(dtypes: Sequence[str], platform: str) -> Iterator[tuple[str, list[int]]]:
    """Cuts the leaves into calls, each of leaves with one compute dtype.

    Args:
        dtypes: the dtype's name of each leaf.
        platform: on which the calls will run, as ``jax.default_backend`` names it.

    Yields:
        The compute dtype of a call and the indices of its leaves, at most ``leaves_in_call``.
    """
    size = leaves_in_call(platform)
    for dtype, indices in by_compute_dtype(dtypes).items():
        for start in range(0, len(indices), size):
            yield dtype, indices[start : start + size]


def by_compute_dtype(dtypes: Sequence[str]) -> dict[str, list[int]]:
    """The indices of the leaves that are updated in each compute dtype."""
    groups: dict[str, list[int]] = {}
    for index, dtype in enumerate(dtypes):
        groups.setdefault(compute_dtype(dtype), []).append(index)
    return groups
