"""Runs the Python blocks of docs/jax.md as tests, on eight devices: ``pytest docs``.

What stands before the first section runs again at the head of each: sections share nothing else.
"""

import os
import re
from collections.abc import Iterator

# Before JAX counts its devices.
FLAG = "--xla_force_host_platform_device_count=8"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAG}"

from sybil import Document, Example, Region, Sybil  # noqa: E402
from sybil.parsers.markdown import PythonCodeBlockParser  # noqa: E402

SECTION = re.compile(r"^## .+$", re.MULTILINE)


def sections(document: Document) -> Iterator[Region]:
    for heading in SECTION.finditer(document.text):
        yield Region(heading.start(), heading.end(), heading.group(), start_section)


def start_section(example: Example) -> None:
    document = example.document
    document.namespace.clear()
    for block in PythonCodeBlockParser()(document):
        if block.end < SECTION.search(document.text).start():
            exec(block.parsed, document.namespace)


pytest_collect_file = Sybil(
    parsers=[sections, PythonCodeBlockParser()], patterns=["jax.md"]
).pytest()
