"""The memory that calls need beside their operands and results."""

PARTS = 4096
"""The sums of squares that warps of a GPU leave for one another, beside one for each result: enough
for every GPU to be busy, few enough to be added up in no time."""


def workspace_bytes(sums: int) -> int:
    """The size of the second result of a call of the sums of squares, on a GPU.

    Args:
        sums: how many sums the call has.
    """
    return 8 * (sums + PARTS)


def rows_workspace_bytes(touched: int) -> int:
    """The size of the last result of a call of the rows' update, on the CPU, which sorts in it.

    Args:
        touched: how many numbers of rows there are, in one batch entry.
    """
    return 16 * touched
