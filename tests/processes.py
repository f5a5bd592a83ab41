"""Python in a process of its own."""

import os
import subprocess
import sys

WATCHDOG_S = 300


def output_of(code: str, *arguments: object, devices: int = 1) -> str:
    """What the code prints, run with this many JAX devices and the modules that are found here.

    Raises:
        AssertionError: the process failed; the message is what it wrote to its standard error.
    """
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    result = subprocess.run(
        # Safe path: the code finds the package where this process does, not in its own folder.
        [sys.executable, "-P", "-c", code, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=WATCHDOG_S,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout
