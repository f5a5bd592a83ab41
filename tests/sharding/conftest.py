"""These tests see eight devices, so they need a process in which JAX has not started yet."""

import eight_devices

eight_devices.start("tests/sharding")
