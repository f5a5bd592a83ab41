"""A short measurement of our step, beside the framework's own and the memory limit."""

import time
from collections.abc import Callable, Mapping

from nadam_xla.diagnosis.facts import Measurement, Ratio
from nadam_xla.diagnosis.interleave import Turns, interleave

PARAMETERS = 2**24
"""In one array of float32: more than caches hold."""

ELEMENTS_OF_LIMIT = PARAMETERS * 7 // 2
"""Of an array that is read and written, as a step reads four arrays and writes three."""

OURS = "nadam_xla"
LIMIT = "memory limit"

_BYTES_OF_STEP = PARAMETERS * 28
_SECONDS = 0.5
_TURNS = (4, 50)  # at least and at most


def measure(found: Measurement, contenders: Mapping[str, Callable[[], None]], steps: int) -> None:
    """Lets the contenders take turns, and writes down what ours takes and the ratios to it.

    Args:
        found: what is written to.
        contenders: a turn of each, by name; it returns when its work is done.
        steps: of a turn.
    """
    turns = interleave(contenders, _turns(contenders))
    seconds = turns.median(OURS) / steps
    found["parameters"] = PARAMETERS
    found["turns"] = len(turns.figures[OURS])
    found["milliseconds"] = seconds * 1e3
    found["gigabytes_per_second"] = _BYTES_OF_STEP / seconds / 1e9
    found["ratios"] = [_ratio(turns, name) for name in contenders if name != OURS]


def _turns(contenders: Mapping[str, Callable[[], None]]) -> int:
    """How many there is time for, judged by a round after the one in which they are compiled."""
    for _ in range(2):
        start = time.perf_counter()
        for run in contenders.values():
            run()
        seconds = time.perf_counter() - start
    least, most = _TURNS
    return max(least, min(most, round(_SECONDS / seconds)))


def _ratio(turns: Turns, name: str) -> Ratio:
    median, low, high = turns.ratio(name, OURS)
    return {"name": name, "median": median, "first_quartile": low, "third_quartile": high}
