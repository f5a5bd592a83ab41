"""The first import of JAX in this process must be this one: see its first lines."""

import absent_devices  # noqa: F401
