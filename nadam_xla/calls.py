"""How the leaves of a step are spread over custom calls: the same in every framework."""

from collections.abc import Iterator, Sequence

from nadam_xla.platforms import CPU, CUDA

_LEAVES_IN_CALL = {CPU: 32, CUDA: 256}

# Of gradients: from so many on, the start of a call is negligible.
_BYTES_OF_CALL = {CPU: 2**20, CUDA: 2**23}


def leaves_in_call(platform: str) -> int:
    """How many leaves a call has at most.

    XLA takes disproportionately long to compile a call of hundreds of leaves, and pays for the
    start of each call when it runs; some tens of leaves are the best of both. A GPU pays more for
    the start of a call, which is the launch of a kernel.

    Args:
        platform: one that has kernels.
    """
    return _LEAVES_IN_CALL[platform]


def compute_dtype(dtype: str) -> str:
    """The dtype in which a floating-point leaf of this dtype is updated.

    Args:
        dtype: the dtype's name, such as ``"bfloat16"``.

    Returns:
        ``"float64"`` for float64 and complex128; ``"float32"`` for all others, the narrower ones
        being widened. A complex number's parts are computed in it.
    """
    return "float64" if dtype in ("float64", "complex128") else "float32"


def full_calls(dtypes: Sequence[str], platform: str) -> Iterator[tuple[str, list[int]]]:
    """Splits the leaves into calls, each of leaves with one compute dtype.

    Args:
        dtypes: the dtype's name of each leaf.
        platform: on which the calls will run.

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


def in_order_of_birth(
    births: Sequence[int], sizes: Sequence[int], platform: str
) -> list[list[int]]:
    """Splits leaves into calls that can begin while the rest of the gradients is still to come.

    A gradient that is used as soon as it is made is still in the cache, and its memory is free for
    the next one.

    Args:
        births: for each leaf, the place in the program at which its gradient is made; -1 where that
            is not known.
        sizes: the bytes of each gradient.
        platform: on which the calls will run.

    Returns:
        The leaves of each call, in the order in which their gradients are made, each call with
        enough bytes to be worth its start; those of unknown birth in calls that are as full as
        :func:`leaves_in_call` allows.
    """
    budget, most = _BYTES_OF_CALL[platform], leaves_in_call(platform)
    groups: list[list[int]] = []
    full = True
    for leaf in sorted(range(len(births)), key=lambda leaf: births[leaf]):
        known = births[leaf] >= 0
        if full or len(groups[-1]) == most or known != (births[groups[-1][-1]] >= 0):
            groups.append([])
            filled = 0
        groups[-1].append(leaf)
        filled += sizes[leaf]
        full = known and filled >= budget
    return groups
