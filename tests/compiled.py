"""What a compiled program consists of."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_BYTES = {"s8": 1, "pred": 1, "u8": 1, "u16": 2, "bf16": 2, "f16": 2}
_BYTES |= {"s32": 4, "u32": 4, "f32": 4, "s64": 8, "f64": 8}
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^ +(?:ROOT )?%?[\w.-]+ = (?P<type>\(.*?\)|\S+) (?P<opcode>[\w-]+)\(")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
_FUSED = re.compile(r" fusion\(.*calls=%?([\w.-]+)")

CALL = 'custom_call_target="nadam_xla_update_v2"'


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


@dataclass(frozen=True)
class Instruction:
    """One instruction: what it does, and the bytes of its results."""

    opcode: str
    bytes: int


def instructions(text: str) -> Iterator[Instruction]:
    """The instructions that touch memory: those in the body of a fusion do not."""
    fused = set(_FUSED.findall(text))
    computation = ""
    for line in text.splitlines():
        if start := _COMPUTATION.match(line):
            computation = start[1]
        elif (found := _INSTRUCTION.match(line)) and computation not in fused:
            yield Instruction(found["opcode"], _bytes(found["type"]))


def collectives(text: str) -> dict[str, tuple[int, int]]:
    """The number and the bytes (of the results) of the collectives of each kind."""
    numbers: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for instruction in instructions(text):
        if instruction.opcode.removesuffix("-start") in COLLECTIVES:
            assert not instruction.opcode.endswith("-start"), "asynchronous ones are not read yet"
            numbers[instruction.opcode] += 1
            sizes[instruction.opcode] += instruction.bytes
    return {kind: (numbers[kind], sizes[kind]) for kind in numbers}


def copied_bytes(text: str) -> int:
    """The bytes of all copies."""
    return sum(i.bytes for i in instructions(text) if i.opcode in ("copy", "copy-start"))


def aliased_results(text: str) -> set[int]:
    """The results of the program that take the memory of an argument."""
    if "input_output_alias={" not in text:
        return set()
    aliases = text.split("input_output_alias={", 1)[1].split(
        "entry_computation_layout", maxsplit=1
    )[0]
    return {int(result) for result in re.findall(r"\{(\d+)\}: \(", aliases)}


def _bytes(type_: str) -> int:
    return sum(
        _BYTES[dtype] * math.prod(int(n) for n in dims.split(",") if n)
        for dtype, dims in _ARRAY.findall(type_)
    )
