"""These tests see two CPUs, so they need a process in which TensorFlow has not started yet."""

import two_cpus

two_cpus.start("tests/distribute")
