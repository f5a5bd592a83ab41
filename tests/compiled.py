"""What a compiled program consists of."""

import re
from typing import Any

import jax

CALL = 'custom_call_target="nadam_xla_update_v1"'


def text_of(function: Any, *arguments: Any, donate: tuple[int, ...] = ()) -> str:
    """The optimized HLO of the function."""
    return jax.jit(function, donate_argnums=donate).lower(*arguments).compile().as_text()


def calls_in(function: Any, *arguments: Any) -> int:
    return text_of(function, *arguments).count(CALL)


def copies_of_arrays(text: str) -> int:
    """Copies of what is not a scalar."""
    return len(re.findall(r"= (?:\w+\[\d[\d,]*\]\S* copy|\(\w+\[\d.* copy-start)\(", text))


def entry_of(text: str) -> str:
    """The program itself, without the bodies of its loops and branches."""
    return text[text.index("\nENTRY ") :]


def aliased_results(text: str) -> int:
    """Results of the program that take the memory of an argument."""
    header = text.split("\n", maxsplit=1)[0]
    return len(re.findall(r"(?:may|must)-alias\)", header))
