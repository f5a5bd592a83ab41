"""Figures that survive a shared machine: contenders take turns; ratios are taken turn by turn."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Turns:
    """What each turn of each contender took: seconds, or whatever else was measured."""

    figures: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        """The median figure of a contender."""
        return statistics.median(self.figures[name])

    def ratio(self, slow: str, fast: str) -> tuple[float, float, float]:
        """The median, first and third quartile of ``slow / fast``, turn by turn."""
        pairs = zip(self.figures[slow], self.figures[fast], strict=True)
        low, middle, high = statistics.quantiles([a / b for a, b in pairs], n=4)
        return middle, low, high


def interleave(
    contenders: Mapping[str, Callable[[], None]], turns: int, *, rest: float = 0.0
) -> Turns:
    """Runs the contenders A B A B ... and times each run; a first round goes unmeasured.

    Args:
        contenders: what to run, by name; each returns when its work is done.
        turns: how many measured rounds, at least 2.
        rest: seconds of idleness before each run.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(turns + 1):
        for name, run in contenders.items():
            time.sleep(rest)
            start = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return Turns(seconds)
