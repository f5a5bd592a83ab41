"""``python -m nadam_xla.diagnosis.probe NAME FILE``: a probe's process.

A probe is a few stages, each a module with a function ``find_out``, which writes into the facts
what it has found. Stages import what they ask at their head, so an import that raises is a stage
that fails: it is the last then, and its error is one of the facts. FILE holds the facts after each
stage, so that they are not lost where the next one ends the process.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from nadam_xla.diagnosis.errors import in_words
from nadam_xla.diagnosis.facts import BLANK_FRAMEWORK, BLANK_MEASUREMENT, BLANK_NATIVE


class Probe(NamedTuple):
    """What is asked in one process."""

    blank: Mapping[str, Any]
    """The facts as long as nothing is known."""

    stages: Sequence[str]
    """Modules of this package."""


PROBES = {
    "native": Probe(BLANK_NATIVE, ["instruction_sets", "native_modules"]),
    "jax": Probe(BLANK_FRAMEWORK, ["jax_devices", "jax_paths", "jax_large_step"]),
    "tensorflow": Probe(
        BLANK_FRAMEWORK, ["tensorflow_devices", "tensorflow_paths", "tensorflow_large_step"]
    ),
    "keras": Probe(BLANK_FRAMEWORK, ["keras_backend", "keras_paths"]),
    "measurement in jax": Probe(BLANK_MEASUREMENT, ["jax_measurement"]),
    "measurement in keras": Probe(BLANK_MEASUREMENT, ["keras_measurement"]),
}


def main() -> None:
    """Runs the stages, and leaves without what frameworks do at an exit."""
    name, file = sys.argv[1:]
    facts = dict(PROBES[name].blank)
    for stage in PROBES[name].stages:
        try:
            import_module(f"nadam_xla.diagnosis.{stage}").find_out(facts)
        except Exception as error:
            facts["error"] = in_words(error)
        _write(facts, Path(file))
        if facts["error"] is not None:
            break
    os._exit(0)


def _write(facts: Mapping[str, Any], file: Path) -> None:
    unfinished = file.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(facts))
    unfinished.replace(file)


if __name__ == "__main__":
    main()
