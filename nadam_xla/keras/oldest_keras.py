"""Refuses a Keras that is missing or too old, before anything is imported that it may lack."""

from nadam_xla.frameworks import needed

OLDEST_KERAS = (3, 10)

needed("keras", OLDEST_KERAS, by="nadam_xla.keras", extra="keras")
