"""The table of a GPU's figures, and what they say of the targets."""

from collections.abc import Iterable, Iterator, Mapping

from benchmarks.gpu_cases import (
    AGAINST,
    CASES,
    COPY,
    LARGEST,
    OURS_CALL,
    OURS_LOOP,
    PRECISIONS,
    SMALL,
    TINY,
    TRANSFORMER,
    UPDATES,
    XLA_CALL,
    XLA_LOOP,
)
from benchmarks.gpu_steps import Measured
from benchmarks.shapes import elements

NOT_MEASURED = "not measured"

LARGE = (LARGEST, TRANSFORMER)
LEAST_OF_COPY = 0.92
TIMES_XLA = {TINY: 2.0, SMALL: 1.5}  # elsewhere: never slower
LEAVES_OF_LAUNCH = 200  # at least, where there are so many

HEADER = (
    "| case | precision | contender | ms a step (quartiles) | bytes a parameter | GB/s |"
    " of the copy | time / ours | launches a step |\n|---|---|---|---|---|---|---|---|---|"
)


class Figures:
    """What was measured, by case, precision and contender; the last figure where there are two."""

    def __init__(self, measured: Iterable[Measured]) -> None:
        self._copies: dict[tuple[str, str, str], Measured] = {}
        self._updates: dict[tuple[str, str, str], Measured] = {}
        for m in measured:
            if m.contender == COPY:
                self._copies[m.framework, m.case, m.precision] = m
            else:
                self._updates[m.case, m.precision, m.contender] = m

    def of(self, case: str, precision: str, contender: str) -> Measured | None:
        return self._updates.get((case, precision, contender))

    def of_copy(self, m: Measured) -> float | None:
        """The rate as a fraction of that of a copy in the same process and case."""
        copy = self._copies.get((m.framework, m.case, m.precision))
        return m.rate / copy.rate if copy and copy.rate and m.rate else None

    def times_ours(self, m: Measured) -> float | None:
        """Its time over ours, made in the same way."""
        ours = self.of(m.case, m.precision, AGAINST[m.contender])
        return m.time / ours.time if ours and ours.time and m.time else None

    def copies(self) -> Iterator[Measured]:
        yield from self._copies.values()


def table(figures: Figures) -> str:
    """Markdown: every case, precision and contender, measured or not."""
    lines = [HEADER]
    for precision in PRECISIONS:
        for case in CASES:
            for contender in UPDATES:
                cells = [case, precision, contender, *_cells(figures, case, precision, contender)]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(figures: Figures, case: str, precision: str, contender: str) -> list[str]:
    m = figures.of(case, precision, contender)
    if m is None or m.time is None or m.low is None or m.high is None:
        why = f": {m.note}" if m and m.note else ""
        return [f"{NOT_MEASURED}{why}".replace("|", "/"), *[NOT_MEASURED] * 5]
    milliseconds = [f"{1e3 * seconds:.4g}" for seconds in (m.time, m.low, m.high)]
    return [
        f"{milliseconds[0]} ({milliseconds[1]} to {milliseconds[2]})",
        f"{m.bytes / elements(CASES[case]()):.3g}",
        f"{m.bytes / m.time / 1e9:.0f}",
        _or_not(figures.of_copy(m)),
        _or_not(figures.times_ours(m)),
        _launches(m),
    ]


def _or_not(figure: float | None) -> str:
    return NOT_MEASURED if figure is None else f"{figure:.2f}"


def _launches(m: Measured) -> str:
    if m.contender in (OURS_LOOP, XLA_LOOP):
        return "as in a call"
    if m.launches is None:
        return "not counted"
    ours = f", {m.our_launches:g} of them ours" if m.our_launches else ""
    return f"{m.launches:g}{ours}"


def copies(figures: Figures) -> str:
    """The copies against which the rates stand, a line for each framework."""
    rates: dict[str, list[float]] = {}
    for m in figures.copies():
        rates.setdefault(m.framework, []).extend([m.rate / 1e9] if m.rate else [])
    return "\n".join(
        f"Copy on the device, {framework}: {min(found):.4g} to {max(found):.4g} GB/s, read and"
        " written"
        for framework, found in rates.items()
        if found
    )


def verdicts(figures: Figures) -> Iterator[str]:
    """A line for each target in each case and precision."""
    for precision in PRECISIONS:
        for case in CASES:
            for ours, xla in ((OURS_LOOP, XLA_LOOP), (OURS_CALL, XLA_CALL)):
                where = f"{case}, {precision}, {ours.split(', ')[1]}"
                mine, theirs = (figures.of(case, precision, name) for name in (ours, xla))
                if case in LARGE:
                    rate = figures.of_copy(mine) if mine else None
                    yield _line(f"{where}: of the copy's rate", rate, LEAST_OF_COPY)
                times = figures.times_ours(theirs) if theirs else None
                yield _line(f"{where}: times as fast as XLA", times, TIMES_XLA.get(case, 1.0))
            yield _line(
                f"{case}, {precision}: leaves a launch",
                _leaves_of_launch(figures.of(case, precision, OURS_CALL)),
                min(LEAVES_OF_LAUNCH, len(CASES[case]())),
            )


def _leaves_of_launch(m: Measured | None) -> float | None:
    return len(CASES[m.case]()) / m.our_launches if m and m.our_launches else None


def _line(what: str, found: float | None, least: float) -> str:
    if found is None:
        return f"{NOT_MEASURED}: {what} (at least {least:g})"
    return f"{'MET' if found >= least else 'MISSED'}: {what} {found:.4g} (at least {least:g})"


def report(measured: Iterable[Measured], description: Mapping[str, str]) -> str:
    """All of it: what stands in docs/performance/measurements.md."""
    figures = Figures(measured)
    machine = "\n".join(f"- {name}: {value}" for name, value in description.items())
    parts = [machine, copies(figures), "\n".join(verdicts(figures)), table(figures)]
    return "\n\n".join(part for part in parts if part)
