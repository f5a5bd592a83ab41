"""The mutants that are listed, and what of a file they touch."""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LISTS = Path(__file__).resolve().parent / "lists"
_SELECTION = ("tests", "environment", "preloaded")


class ListError(Exception):
    """A list that says what cannot be so."""


@dataclass(frozen=True)
class Selection:
    """Tests, and where they are run."""

    tests: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    preloaded: tuple[str, ...] = ()  # modules that they import, and that import nothing of ours

    @property
    def folder(self) -> Path:
        """That of the tests: those of another one may need a process of their own.

        Raises:
            ListError: they are of several.
        """
        folders = {Path(test.split("::")[0]).parent for test in self.tests}
        if len(folders) != 1:
            raise ListError(f"{' '.join(self.tests)} are not of one folder")
        return folders.pop()


@dataclass(frozen=True)
class Mutant:
    """A file with one mistake in it."""

    file: str
    old: str  # what stands in the file, once
    new: str  # the mistake in its place
    selection: Selection  # the tests that are asked for it
    survives: str | None = None  # why no test can find it

    def apply(self, text: str) -> str:
        """The text of the file, with the mistake.

        Raises:
            ListError: what it is to replace does not stand there once.
        """
        times = text.count(self.old)
        if times != 1:
            raise ListError(f"{self.file} has {times} times, and not once: {self.old!r}")
        if self.new == self.old:
            raise ListError(f"{self.file}: nothing is changed in {self.old!r}")
        return text.replace(self.old, self.new)

    def touched(self, text: str) -> set[int]:
        """The lines of the file, counted from 1, that are others or gone in the mutant."""
        after = self.apply(text)
        first = text.count("\n", 0, text.index(self.old))
        lines, new_lines = text.splitlines(), after.splitlines()
        behind = len(lines) - first - self.old.count("\n") - 1
        span, new_span = (
            lines[first : len(lines) - behind],
            new_lines[first : len(new_lines) - behind],
        )
        changes = SequenceMatcher(None, span, new_span, autojunk=False).get_opcodes()
        return {
            first + i + 1
            for kind, begin, end, *_ in changes
            if kind != "equal"
            for i in range(begin, end)
        }

    def line(self, text: str) -> int:
        """The first line that it touches, or else the one where it stands."""
        at = text.index(self.old)
        return min(self.touched(text), default=text.count("\n", 0, at) + 1)


@dataclass(frozen=True)
class Listed:
    """A file's mutants, and its lines that have none, with the reasons."""

    file: str
    mutants: tuple[Mutant, ...]
    without: Mapping[str, str]  # of a line, without the space around it, the reason

    @property
    def text(self) -> str:
        """The file as it stands here."""
        return (ROOT / self.file).read_text()


def read(path: Path) -> Listed:
    """A list.

    Raises:
        ListError: it has what no list has.
    """
    given = tomllib.loads(path.read_text())
    _check_keys(path, given, {"file", *_SELECTION, "mutant", "without"})
    mutants = []
    for mutant in given["mutant"]:
        _check_keys(path, mutant, {"old", "new", *_SELECTION, "survives"})
        selection = _selection({name: given[name] for name in _SELECTION if name in given} | mutant)
        old, new = mutant["old"], mutant["new"]
        mutants.append(Mutant(given["file"], old, new, selection, mutant.get("survives")))
    without = {line: each["reason"] for each in given.get("without", []) for line in each["lines"]}
    return Listed(given["file"], tuple(mutants), without)


def read_all() -> list[Listed]:
    """All lists."""
    return [read(path) for path in sorted(LISTS.glob("*.toml"))]


def run_together(selections: Iterable[Selection]) -> dict[Selection, list[Selection]]:
    """The selections that one process can run, by the selection of all their tests."""
    groups: dict[tuple[object, ...], list[Selection]] = {}
    for one in sorted(selections, key=lambda one: one.tests):
        groups.setdefault((one.environment, one.preloaded, one.folder), []).append(one)
    return {
        replace(
            some[0], tests=tuple(dict.fromkeys(test for one in some for test in one.tests))
        ): some
        for some in groups.values()
    }


def every(mutants: Sequence[Mutant], step: int, first: int) -> list[Mutant]:
    """A part of the mutants, from one of the first `step` on."""
    return list(mutants[first % step :: step])


def _selection(given: Mapping[str, Any]) -> Selection:
    environment = tuple(sorted(given.get("environment", {}).items()))
    return Selection(tuple(given["tests"]), environment, tuple(given.get("preloaded", ())))


def _check_keys(path: Path, given: Mapping[str, Any], known: Iterable[str]) -> None:
    unknown = given.keys() - set(known)
    if unknown:
        raise ListError(f"{path.name} has {', '.join(sorted(unknown))}, which no list has")
