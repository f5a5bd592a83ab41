"""Tries the mutants that are listed, and fails where one of them has another fate than listed.

    python -m tools.mutants [--only FILE] [--every N [--first I]] [--jobs N]

Each is applied in a copy of this repository, where the tests that its list names are run.
"""

import argparse
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue

from tools.mutants.listed import ROOT, Mutant, Selection, every, read_all, run_together
from tools.mutants.trying import Outcome, UnmutatedTestsError, Workplace


def main() -> int:
    """Tries, prints each fate, and then what is not as it should be."""
    arguments = _arguments()
    listed = [mutant for of in read_all() for mutant in of.mutants]
    chosen = [mutant for mutant in listed if arguments.only in mutant.file]
    if arguments.every > 1:
        chosen = every(chosen, arguments.every, arguments.first)
        part = f"every {arguments.every}th from number {arguments.first % arguments.every} on"
        print(f"{len(chosen)} of {len(listed)} mutants: {part}", flush=True)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            with ExitStack() as ends:
                wrong = Trial(Path(folder), arguments.jobs, ends).run(chosen)
        except UnmutatedTestsError as error:
            print(error, file=sys.stderr)
            return 1
    surviving = sum(mutant.survives is not None for mutant in chosen)
    listed_so = f"{len(chosen) - surviving} listed as found, {surviving} as surviving"
    print(
        f"{len(chosen)} mutants, {time.monotonic() - start:.0f} s: {listed_so}; {wrong} are not so"
    )
    return 1 if wrong else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.mutants", description=__doc__)
    parser.add_argument("--only", default="", help="a part of the name of the mutated files")
    parser.add_argument("--every", type=int, default=1, help="try one in so many")
    parser.add_argument("--first", type=int, default=0, help="with --every: from this one on")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    return parser.parse_args()


class Trial:
    """Tries mutants, some at a time, each in a workplace that no other one uses."""

    def __init__(self, folder: Path, jobs: int, ends: ExitStack, source: Path = ROOT) -> None:
        """Makes the workplaces.

        Args:
            folder: an empty one.
            jobs: how many.
            ends: what they started ends with it.
            source: what they are copies of.
        """
        self._free: SimpleQueue[Workplace] = SimpleQueue()
        self._jobs = jobs
        self._source = source
        for number in range(jobs):
            self._free.put(ends.enter_context(Workplace(folder / str(number), source)))

    def run(self, mutants: list[Mutant]) -> int:
        """How many of the mutants have not the fate that is listed.

        Raises:
            UnmutatedTestsError: tests fail without a mutant.
        """
        with ThreadPoolExecutor(self._jobs) as pool:
            selections = {mutant.selection for mutant in mutants}
            together = run_together(selections)
            seconds = dict(zip(together, pool.map(self._unmutated, together), strict=True))
            seconds_of = {one: seconds[all_] for all_, some in together.items() for one in some}
            tried: list[tuple[Mutant, Future[Outcome]]] = [
                (mutant, pool.submit(self._try, mutant, seconds_of[mutant.selection]))
                for mutant in mutants
            ]
            outcomes = [(mutant, future.result()) for mutant, future in tried]
        return sum(not outcome.is_expected_of(mutant) for mutant, outcome in outcomes)

    def _unmutated(self, selection: Selection) -> float:
        place = self._free.get()
        try:
            return place.unmutated(selection)
        finally:
            self._free.put(place)

    def _try(self, mutant: Mutant, seconds_unmutated: float) -> Outcome:
        place = self._free.get()
        try:
            outcome = place.try_mutant(mutant, seconds_unmutated)
        finally:
            self._free.put(place)
        print(_shown(mutant, outcome, self._source), flush=True)
        return outcome


def _shown(mutant: Mutant, outcome: Outcome, source: Path) -> str:
    as_listed = outcome.is_expected_of(mutant)
    line = mutant.line((source / mutant.file).read_text())
    mark = "" if as_listed else "NOT AS LISTED: "
    says = mutant.survives if as_listed and mutant.survives else outcome.says
    old, new = (text.strip().replace("\n", "\n      ") for text in (mutant.old, mutant.new))
    title = f"{mark}{outcome.fate.value}, {outcome.seconds:.1f} s: {mutant.file}:{line}"
    return f"{title}\n    - {old}\n    + {new}\n    {says}"


if __name__ == "__main__":
    sys.exit(main())
