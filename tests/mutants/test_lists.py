"""The lists of mutants are whole: no line of these files could be wrong without a mutant of it."""

from pathlib import Path

import pytest

from tools.mutants.code_lines import code_lines
from tools.mutants.listed import (
    LISTS,
    ROOT,
    Listed,
    ListError,
    Mutant,
    Selection,
    every,
    read,
    run_together,
)

ALL = {listed.file: listed for listed in map(read, sorted(LISTS.glob("*.toml")))}
# The others have but some.
WITH_EVERY_LINE = [
    "kernels/cpu/parallel.cpp",
    "kernels/update_rule.h",
    "nadam_xla/coefficients.py",
    "nadam_xla/frameworks.py",
    "nadam_xla/jax/lowering.py",
    "nadam_xla/jax/partitioning.py",
    "nadam_xla/keras/fused_step.py",
    "nadam_xla/native_module.py",
]


@pytest.fixture(params=ALL)
def listed(request: pytest.FixtureRequest) -> Listed:
    return ALL[request.param]


def test_each_mutant_can_be_made_and_is_listed_once(listed: Listed) -> None:
    made = [mutant.apply(listed.text) for mutant in listed.mutants]
    assert len(set(made)) == len(made)


def test_the_tests_that_are_asked_are_there(listed: Listed) -> None:
    for mutant in listed.mutants:
        for test in mutant.selection.tests:
            assert test.endswith("]") == ("[" in test), test
            file, *names = test.split("[")[0].split("::")
            text = (ROOT / file).read_text()
            assert all(f" {name}(" in text or f"class {name}:" in text for name in names), test
        assert (ROOT / mutant.selection.folder).is_dir()


def test_a_reason_is_given_for_a_line_that_is_there_and_has_no_mutant(listed: Listed) -> None:
    lines = [line.strip() for line in listed.text.splitlines()]
    assert listed.without.keys() <= set(lines)
    touched = {lines[i - 1] for mutant in listed.mutants for i in mutant.touched(listed.text)}
    assert not listed.without.keys() & touched


@pytest.mark.parametrize("file", WITH_EVERY_LINE)
def test_each_line_that_does_something_has_a_mutant_or_a_reason(file: str) -> None:
    listed = ALL[file]
    lines = listed.text.splitlines()
    touched = {i for mutant in listed.mutants for i in mutant.touched(listed.text)}
    left = sorted(code_lines(file, listed.text) - touched)
    assert [
        f"{i}: {lines[i - 1]}" for i in left if lines[i - 1].strip() not in listed.without
    ] == []


PYTHON = '''"""A docstring."""

import os
from typing import Any, TypeAlias

Shape: TypeAlias = tuple[int, ...]
LIMIT = 3  # of what


class Row(Base, total=False):
    """Another."""

    first: Any
    second: Any = 0.0


@cache
def function(
    x: int,
    y: int = 4,
) -> int:
    """One more."""
    # A comment.
    for i in range(x):
        with open("a"):
            y += (
                i
            )
    else:
        pass
    return y
'''


def test_the_lines_of_python_that_do_something() -> None:
    lines = PYTHON.splitlines()
    found = {lines[i - 1].strip() for i in code_lines("a.py", PYTHON)}
    assert found == {
        "LIMIT = 3  # of what",
        "class Row(Base, total=False):",
        "second: Any = 0.0",
        "@cache",
        "y: int = 4,",
        "for i in range(x):",
        'with open("a"):',
        "y += (",
        "i",
        "return y",
    }


CPP = """// A comment.
#pragma once
#include <atomic>

namespace a {
template <typename T>
class B {
 public:
  NADAM_XLA_INLINE T twice(const T x) {
    if (x > 2) {  // Why.
      return 2 * x;
    } else {
      f();
    }
  }

 private:
  int c_ = 3;
};
}  // namespace a
"""


def test_the_lines_of_cpp_that_do_something() -> None:
    lines = CPP.splitlines()
    found = [lines[i - 1].strip() for i in sorted(code_lines("a.h", CPP))]
    assert found == ["if (x > 2) {  // Why.", "return 2 * x;", "f();", "int c_ = 3;"]


@pytest.mark.parametrize(
    ("old", "new", "touched"),
    [
        ("b = 2", "b = 3", {2}),
        ("a = 1\nb = 2\n", "b = 2\n", {1}),
        ("b = 2\nc = 3", "c = 3\nb = 2", {3}),
        ("a = 1\n", "a = 1\nd = 4\n", set()),
    ],
)
def test_the_lines_that_a_mutant_touches(old: str, new: str, touched: set[int]) -> None:
    assert Mutant("a.py", old, new, Selection(())).touched("a = 1\nb = 2\nc = 3\n") == touched


@pytest.mark.parametrize(
    ("old", "message"), [("a", "2 times"), ("x", "0 times"), ("b = 2", "nothing is changed")]
)
def test_what_is_not_there_once_cannot_be_replaced(old: str, message: str) -> None:
    with pytest.raises(ListError, match=message):
        Mutant("a.py", old, "b = 2", Selection(())).apply("a = 1\na = b\nb = 2\n")


def test_a_list_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('file = "a.py"\ntests = []\n[[mutant]]\nold = "a"\nnew = "b"\nsurvive = "c"\n')
    with pytest.raises(ListError, match=r"a\.toml has survive, which no list has"):
        read(path)


def test_the_parts_of_a_list_are_all_of_it() -> None:
    mutants = [Mutant("a.py", str(i), "", Selection(())) for i in range(10)]
    parts = [every(mutants, 4, first) for first in range(100, 104)]
    assert sorted(mutant.old for part in parts for mutant in part) == [m.old for m in mutants]


def test_tests_of_one_folder_are_first_run_together() -> None:
    a, b = Selection(("t/a.py::x",)), Selection(("t/b.py", "t/a.py::x"))
    other_folder, other_environment = Selection(("u/a.py",)), Selection(("t/a.py",), (("A", "1"),))
    assert run_together([b, other_folder, a, other_environment]) == {
        Selection(("t/a.py::x", "t/b.py")): [a, b],
        other_folder: [other_folder],
        other_environment: [other_environment],
    }


def test_tests_of_two_folders_are_no_selection() -> None:
    with pytest.raises(ListError, match=r"t/a\.py u/a\.py are not of one folder"):
        print(Selection(("t/a.py", "u/a.py")).folder)
