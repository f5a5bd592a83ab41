"""Runs the Python blocks of docs/*.md as tests: ``pytest docs/jax.md docs/scanned_layers.md``, on
eight devices, and ``KERAS_BACKEND=... pytest docs/keras.md``, once for each backend.

What stands before the first section runs again at the head of each: sections share nothing else. A
section of keras.md whose heading ends with a backend, ``(TensorFlow)`` or ``(JAX)``, runs on that
one alone, all others on both.
"""

import os
import re
from collections.abc import Callable, Iterator
from functools import cache

# Before JAX counts its devices.
FLAG = "--xla_force_host_platform_device_count=8"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAG}"

import pytest  # noqa: E402
from sybil import Document, Example, Region, Sybil  # noqa: E402
from sybil.parsers.markdown import PythonCodeBlockParser  # noqa: E402

SECTION = re.compile(r"^## (?P<title>.+?)(?: \((?P<backend>.+)\))?$", re.MULTILINE)
BACKENDS = {"TensorFlow": "tensorflow", "JAX": "jax"}

Selection = Callable[[str | None], bool]  # of sections, by the backend that the heading names


def examples(runs_here: Selection) -> Callable[[Document], Iterator[Region]]:
    """A parser that finds the sections that run here, and their blocks."""

    def parse(document: Document) -> Iterator[Region]:
        blocks = list(PythonCodeBlockParser()(document))
        headings = list(SECTION.finditer(document.text))
        yield from within(blocks, 0, headings[0].start())
        ends = [heading.start() for heading in headings[1:]] + [len(document.text)]
        for heading, end in zip(headings, ends, strict=True):
            if runs_here(heading["backend"]):
                yield Region(heading.start(), heading.end(), heading["title"], start_section)
                yield from within(blocks, heading.end(), end)

    return parse


def start_section(example: Example) -> None:
    document = example.document
    document.namespace.clear()
    first = SECTION.search(document.text).start()
    for block in within(list(PythonCodeBlockParser()(document)), 0, first):
        exec(block.parsed, document.namespace)


def within(blocks: list[Region], start: int, end: int) -> Iterator[Region]:
    return (block for block in blocks if start <= block.start < end)


def on_this_backend(backend: str | None) -> bool:
    """No section is left out on all backends: each runs on a known one, and this is one of them."""
    if backend is not None and backend not in BACKENDS:
        raise pytest.UsageError(
            f"a section's heading names the backend {backend}; it must be one of {list(BACKENDS)}"
        )
    return backend is None or BACKENDS[backend] == backend_of_this_process()


@cache
def backend_of_this_process() -> str:
    import keras  # noqa: PLC0415

    backend: str = keras.backend.backend()
    if backend not in BACKENDS.values():
        raise pytest.UsageError(
            f"Keras's backend is {backend}; docs/keras.md runs on {list(BACKENDS.values())}: set"
            " KERAS_BACKEND to one after the other"
        )
    if backend == "tensorflow":
        import two_cpus  # noqa: PLC0415

        two_cpus.start("docs/keras.md")
    return backend


jax_md = Sybil(parsers=[examples(lambda backend: True)], patterns=["jax.md", "scanned_layers.md"])
keras_md = Sybil(parsers=[examples(on_this_backend)], patterns=["keras.md"])
pytest_collect_file = (jax_md + keras_md).pytest()
