"""Figures that survive a shared machine: contenders take turns; ratios are taken turn by turn."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial


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
    """Runs the contenders A B B A ... and times each run; a first round goes unmeasured.

    Args:
        contenders: what to run, by name; each returns when its work is done.
        turns: how many measured rounds, at least 2.
        rest: seconds of idleness before each run.
    """

    def timed(run: Callable[[], None]) -> float:
        time.sleep(rest)
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    return interleave_figures({n: partial(timed, run) for n, run in contenders.items()}, turns)


def interleave_figures(contenders: Mapping[str, Callable[[], float]], turns: int) -> Turns:
    """Runs the contenders A B B A ... and keeps what each run returns; a first round goes unkept.

    Every other round goes backwards: what runs behind a contender that leaves other data in the
    caches loses some per cent by that.

    Args:
        contenders: what to run, by name.
        turns: how many rounds to keep, at least 2.
    """
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(turns + 1):
        order = list(contenders.items())
        for name, run in order if turn % 2 else reversed(order):
            figure = run()
            if turn:
                figures[name].append(figure)
    return Turns(figures)
