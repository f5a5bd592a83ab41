"""These tests see eight devices, so they need a process in which JAX has not started yet."""

import os

import eight_devices

os.environ["KERAS_BACKEND"] = "jax"  # the only one that keras.distribution supports
eight_devices.start("tests/keras_distribution")
