"""docs/troubleshooting.md quotes what is said: of ours the source, of others what it provokes."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()

GAP = "\0"  # in a message, what is only known when it is raised
ELLIPSIS = "…"

# Those of others that the page does not provoke, and why not.
NOT_PROVOKED = {
    "Execution of replica 0 failed: …": "it stands before errors on devices that are not here",
    "The TPU is already in use by process …": "it needs a TPU",
    "all CUDA-capable devices are busy or unavailable": "it needs a GPU",
    "failed to legalize operation 'vhlo.custom_call_v1' …": "a conversion takes long",
}


class Quoted(NamedTuple):
    """A heading of the page that quotes a message."""

    message: str
    whose: str | None  # None: ours

    @property
    def pattern(self) -> str:
        return ".*".join(map(re.escape, self.message.split(ELLIPSIS)))

    @property
    def first_words(self) -> str:
        parts = (part.strip(" .:;,") for part in self.message.split(ELLIPSIS))
        return next(part for part in parts if part)


def quoted() -> Iterator[Quoted]:
    for messages, whose in re.findall(r"^### (`.+`)(?: \((.+)\))?$", PAGE, re.MULTILINE):
        for message in re.findall("`([^`]+)`", messages):
            yield Quoted(message, whose or None)


OURS = [q for q in quoted() if q.whose is None]
OTHERS = [q for q in quoted() if q.whose is not None]


def messages_of_python(code: str) -> Iterator[str]:
    """Every string of the code; what is formatted into one is a gap."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else GAP for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def messages_of_cpp(code: str) -> Iterator[str]:
    """The strings of each statement, with gaps between them."""
    parts: list[str] = []
    for token in re.finditer(r'"((?:[^"\\\n]|\\.)*)"|(;)|//.*|#.*', code):
        if token[2]:
            yield GAP.join(parts)
            parts = []
        elif token[1] is not None:
            parts.append(token[1])


def messages() -> set[str]:
    found: set[str] = set()
    for file in (ROOT / "nadam_xla").rglob("*.py"):
        found.update(messages_of_python(file.read_text()))
    for file in (ROOT / "kernels").rglob("*"):
        if file.suffix in {".h", ".cpp", ".cu", ".cuh"}:
            found.update(messages_of_cpp(file.read_text()))
    return found


MESSAGES = messages()


def is_said(quote: Quoted) -> bool:
    return any(re.fullmatch(quote.pattern, message, re.DOTALL) for message in MESSAGES)


@pytest.mark.parametrize("quote", OURS, ids=lambda quote: quote.message)
def test_a_message_that_has_no_name_beside_it_is_one_of_ours(quote: Quoted) -> None:
    assert is_said(quote)


def test_a_message_that_nobody_raises_is_found_out() -> None:
    assert is_said(Quoted("nadam_xla needs JAX … or later, and this is …", None))
    assert not is_said(Quoted("nadam_xla needs JAX … or earlier, and this is …", None))


@pytest.mark.parametrize("quote", OTHERS, ids=lambda quote: quote.message)
def test_a_message_of_others_is_provoked_on_the_page(quote: Quoted) -> None:
    snippets = "".join(re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))
    is_provoked = quote.first_words in snippets.replace("\\", "")  # those of patterns
    assert is_provoked != (quote.message in NOT_PROVOKED)


def test_nothing_is_excused_that_is_not_quoted() -> None:
    assert NOT_PROVOKED.keys() <= {q.message for q in OTHERS}
