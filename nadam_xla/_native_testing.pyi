import numpy as np
from numpy.typing import NDArray

_Leaf = NDArray[np.float32]

def stretches(
    lengths: list[int], batch: int, chunk_length: int
) -> list[list[tuple[int, int, int, int]]]: ...
def run_chunks(chunks: int, threads: int, start: str) -> tuple[list[int], int]: ...
def run_update_chunks(
    coefficients: _Leaf, params: _Leaf, grads: _Leaf, mu: _Leaf, nu: _Leaf, chunks: list[int]
) -> int: ...
def update_rows(
    coefficients: _Leaf,
    indices: NDArray[np.int32],
    grads: _Leaf,
    params: _Leaf,
    mu: _Leaf,
    nu: _Leaf,
    *,
    threads: int,
    start: str,
) -> None: ...

class MemoryLimit:
    def __init__(
        self, elements: int, threads: int, sizes: tuple[int, int, int, int, int] = (4, 4, 4, 4, 0)
    ) -> None: ...
    def run(self, passes: int) -> None: ...

class RowsLimit:
    def __init__(self, height: int, columns: int, rows: list[int], threads: int) -> None: ...
    def run(self, passes: int) -> None: ...
