"""Keras and its backend."""

import keras

from nadam_xla.diagnosis.facts import Framework
from nadam_xla.diagnosis.memory import allocator


def find_out(found: Framework) -> None:
    """Its version, and its backend."""
    found["version"] = keras.__version__
    found["backend"] = keras.backend.backend()
    found["allocator"] = allocator()
