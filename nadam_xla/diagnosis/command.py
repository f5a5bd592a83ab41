"""The command line."""

import argparse
import io
import json
import os
import sys

from nadam_xla.diagnosis.diagnosis import diagnose
from nadam_xla.diagnosis.report import report

_DESCRIPTION = """
Says what is installed here, which update JAX, TensorFlow and Keras run on each device and why, what
the allocator does to large steps, and how fast a step is.
"""


def main() -> None:
    """Prints the diagnosis. It fails for nothing but arguments that it does not know."""
    parser = argparse.ArgumentParser(prog="python -m nadam_xla", description=_DESCRIPTION)
    parser.add_argument("--json", action="store_true", help="print JSON, for a bug report")
    parser.add_argument(
        "--no-measure", action="store_true", help="leave out the measurement, and its 700 MiB"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="give up a framework that has not answered by then (default: %(default)g)",
    )
    arguments = parser.parse_args()
    if sys.stderr.isatty():
        print("Asking JAX, TensorFlow and Keras, each in a process of its own ...", file=sys.stderr)
    diagnosis = diagnose(measures=not arguments.no_measure, seconds=arguments.timeout)
    _print(json.dumps(diagnosis, indent=2) if arguments.json else report(diagnosis))


def _print(text: str) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):  # errors may be in any language
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        print(text, flush=True)
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
