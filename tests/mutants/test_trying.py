"""What becomes of a mutant, in a small repository of its own."""

import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tools.mutants import trying
from tools.mutants.__main__ import Trial
from tools.mutants.listed import ROOT, Mutant, Selection
from tools.mutants.trying import Fate, UnmutatedTestsError, Workplace

PACKAGE = """
def absolute(x):
    while x < 0:
        x = -x
    return x
"""
TESTS = """
from nadam_xla import absolute

def test_of_a_negative_number():
    assert absolute(-3) == 3

def test_that_fails():
    assert absolute(3) == 4
"""
PASSING = Selection(("tests/test_absolute.py::test_of_a_negative_number",), (), ("json",))
FAILING = Selection(("tests/test_absolute.py",))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    for name, text in {"nadam_xla/__init__.py": PACKAGE, "tests/test_absolute.py": TESTS}.items():
        (folder / name).parent.mkdir()
        (folder / name).write_text(text)
    (folder / "kernels").mkdir()
    (folder / "pyproject.toml").write_text("")
    shutil.copytree(ROOT / "tools", folder / "tools")
    return folder


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Iterator[Workplace]:
    with Workplace(tmp_path_factory.mktemp("workplace"), source) as workplace:
        yield workplace


def mutant(old: str, new: str, survives: str | None = None) -> Mutant:
    return Mutant("nadam_xla/__init__.py", old, new, PASSING, survives)


KILLED = mutant("x = -x", "x = 1 - x")
SURVIVING = mutant("x < 0", "x <= -1")


def test_one_that_a_test_notices_is_killed_by_it(workplace: Workplace) -> None:
    outcome = workplace.try_mutant(KILLED, 1.0)
    assert (outcome.fate, outcome.says) == (Fate.KILLED, *PASSING.tests)


def test_one_that_no_test_notices_survives_and_the_code_is_as_it_was(workplace: Workplace) -> None:
    assert workplace.try_mutant(KILLED, 1.0).fate is Fate.KILLED
    assert workplace.try_mutant(SURVIVING, 1.0).fate is Fate.SURVIVED
    assert workplace.unmutated(PASSING) > 0


def test_one_that_never_ends_hangs(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trying, "SECONDS_AT_LEAST", 2.0)
    assert workplace.try_mutant(mutant("x = -x", "pass"), 0.1).fate is Fate.HUNG


def test_one_that_is_no_python_is_not_tried(workplace: Workplace) -> None:
    outcome = workplace.try_mutant(mutant("x = -x", "x = = x"), 1.0)
    assert outcome.fate is Fate.NOT_TRIED
    assert "SyntaxError" in outcome.says


def test_tests_that_fail_without_a_mutant_say_nothing(workplace: Workplace) -> None:
    with pytest.raises(UnmutatedTestsError, match="test_that_fails"):
        workplace.unmutated(FAILING)


def test_those_that_are_not_as_listed_are_counted_and_shown(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = "whole numbers alone are tried"
    as_listed = [KILLED, mutant("x < 0", "x <= -1", reason)]
    not_so = [mutant("x = -x", "x = 2 - x", reason), SURVIVING]
    with ExitStack() as ends:
        assert Trial(tmp_path, 2, ends, source).run([*as_listed, *not_so]) == len(not_so)
    said = capsys.readouterr().out
    assert sorted(re.findall(r"^(?:NOT AS LISTED: )?\w+", said, re.MULTILINE)) == [
        "NOT AS LISTED: killed",
        "NOT AS LISTED: survived",
        "killed",
        "survived",
    ]
    assert f"    - x < 0\n    + x <= -1\n    {reason}\n" in said
