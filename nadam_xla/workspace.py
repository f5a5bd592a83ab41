"""The memory that the sums of squares need on a GPU, beside their operands and results."""

PARTS = 4096
"""The sums that warps leave for one another, beside one for each result: enough for every GPU to be
busy, few enough to be added up in no time."""


def workspace_bytes(sums: int) -> int:
    """The size of the call's second result, on a GPU.

    Args:
        sums: how many sums the call has.
    """
    return 8 * (sums + PARTS)


def rows_workspace_bytes(touched: int) -> int:
    """The size of the last result of the update of some rows, on the CPU, which sorts in it.

    Args:
        touched: how many rows the gradient has.
    """
    return 16 * touched
