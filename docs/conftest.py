"""Runs the Python blocks of the documentation as tests. The folder of a page says where:

- ``pytest docs/jax docs/*.md``: on JAX, on eight devices;
- ``KERAS_BACKEND=... pytest docs/keras``: once for each backend. A section whose heading ends with
  a backend, ``(TensorFlow)`` or ``(JAX)``, runs on that one alone, all others on both;
- ``KERAS_BACKEND=tensorflow pytest docs/tensorflow``.

What stands before the first section of a folder's index, and then what does so on the page itself,
runs again at the head of each section: sections share nothing else.
"""

import os
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

# Before JAX counts its devices.
FLAG = "--xla_force_host_platform_device_count=8"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAG}"

import pytest  # noqa: E402
from sybil import Document, Example, Region, Sybil  # noqa: E402
from sybil.parsers.markdown import PythonCodeBlockParser  # noqa: E402

SECTION = re.compile(r"^## (?P<title>.+?)(?: \((?P<backend>.+)\))?$", re.MULTILINE)
BACKENDS = {"TensorFlow": "tensorflow", "JAX": "jax"}


def examples(document: Document) -> Iterator[Region]:
    """The sections that run in this process, and their blocks."""
    runs_here = sections_that_run(Path(document.path))
    headings = list(SECTION.finditer(document.text))
    ends = [heading.start() for heading in headings] + [len(document.text)]
    if not headings and blocks(document):
        yield Region(0, len(document.text), None, start_section)
    for heading, end in zip(headings, ends[1:], strict=True):
        if runs_here(heading["backend"]):
            yield Region(heading.start(), heading.end(), heading["title"], start_section)
            yield from within(blocks(document), heading.end(), end)


def start_section(example: Example) -> None:
    document = example.document
    document.namespace.clear()
    page = Path(document.path)
    index = page.with_name("index.md")
    for path in dict.fromkeys([index, page] if index.exists() else [page]):
        text = path.read_text()
        heading = SECTION.search(text)
        end = heading.start() if heading else len(text)
        for block in within(blocks(Document(text, str(path))), 0, end):
            exec(block.parsed, document.namespace)


def blocks(document: Document) -> list[Region]:
    return list(PythonCodeBlockParser()(document))


def within(found: list[Region], start: int, end: int) -> Iterator[Region]:
    return (block for block in found if start <= block.start < end)


def sections_that_run(page: Path) -> Callable[[str | None], bool]:
    """Which sections of the page do so here, by the backend that the heading names."""
    return on_this_backend if page.parent.name == "keras" else lambda backend: True


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
            f"Keras's backend is {backend}; docs/keras runs on {list(BACKENDS.values())}: set"
            " KERAS_BACKEND to one after the other"
        )
    if backend == "tensorflow":
        import two_cpus  # noqa: PLC0415

        two_cpus.start("docs/keras")
    return backend


pytest_collect_file = Sybil(parsers=[examples], patterns=["*.md"]).pytest()
