"""All facts together, from this process and from the probes'."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import cast

from nadam_xla import __version__
from nadam_xla.diagnosis import system
from nadam_xla.diagnosis.facts import (
    BLANK_MEASUREMENT,
    SCHEMA,
    Diagnosis,
    Framework,
    Measurement,
    Native,
)
from nadam_xla.diagnosis.processes import answer_of


def diagnose(*, measures: bool, seconds: float) -> Diagnosis:
    """What can be said of this installation; what cannot is said there too, and nothing raises.

    Args:
        measures: whether to measure steps, which takes some seconds and 700 MiB.
        seconds: how long each probe may take.
    """
    ask = partial(answer_of, seconds=seconds)
    with ThreadPoolExecutor() as pool:
        native, jax, tensorflow, keras = pool.map(ask, ("native", "jax", "tensorflow", "keras"))
    diagnosis: Diagnosis = {
        "schema": SCHEMA,
        "nadam_xla": __version__,
        "system": system.system(),
        "packages": system.installed(),
        "environment": system.environment(),
        "native": cast("Native", native),
        "jax": cast("Framework", jax),
        "tensorflow": cast("Framework", tensorflow),
        "keras": cast("Framework", keras),
        "measurement": None,
    }
    if measures:  # alone, when no probe is at work
        diagnosis["measurement"] = _measurement(diagnosis, seconds)
    return diagnosis


def _measurement(diagnosis: Diagnosis, seconds: float) -> Measurement:
    if diagnosis["jax"]["error"] is None:
        return cast("Measurement", answer_of("measurement in jax", seconds))
    keras = diagnosis["keras"]
    if keras["error"] is None and keras["backend"] == "tensorflow":
        return cast("Measurement", answer_of("measurement in keras", seconds))
    return {**BLANK_MEASUREMENT, "error": "neither JAX nor Keras on TensorFlow can be used here"}
