"""How many kernels a step starts on the GPU, as a profiler sees them.

XLA runs no command buffers while it is profiled, so every kernel is seen; those of a CUDA graph of
PyTorch's are seen one by one, too.
"""

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OURS = ("update_kernel",)  # parts of the names of our kernels
NOT_KERNELS = ("Memcpy", "Memset", "memcpy", "memset")

Tracer = Callable[[Callable[[], None]], "Counter[str]"]


@dataclass(frozen=True)
class Launches:
    """Kernels a step: all, and ours among them."""

    all: float
    ours: float


def launches_a_step(
    run: Callable[[], None], steps: int, tracers: Iterable[Tracer]
) -> Launches | None:
    """What the first of the tracers that sees any kernel counts; None where none does."""
    for tracer in tracers:
        try:
            kernels = tracer(run)
        except Exception as error:  # a profiler that is not there makes nothing else fail
            print(f"{tracer.__name__}: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        if kernels:
            ours = sum(n for name, n in kernels.items() if any(part in name for part in OURS))
            return Launches(kernels.total() / steps, ours / steps)
    return None


def seen_by_jax(run: Callable[[], None]) -> Counter[str]:
    """The kernels that JAX's profiler sees, by name."""
    import jax  # noqa: PLC0415 - the other tracer needs none

    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    options.host_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            run()
        (path,) = Path(folder).rglob("*.xplane.pb")
        return kernels_of_profile(jax.profiler.ProfileData.from_file(str(path)))


def kernels_of_profile(profile: Any) -> Counter[str]:
    """Those of a ``jax.profiler.ProfileData``: what runs on the streams of the GPUs."""
    return Counter(
        event.name
        for plane in profile.planes
        if plane.name.startswith("/device:GPU")
        for line in plane.lines
        if line.name.startswith("Stream")
        for event in line.events
        if not event.name.startswith(NOT_KERNELS)
    )


def seen_by_torch(run: Callable[[], None]) -> Counter[str]:
    """The kernels that PyTorch's profiler sees, by name; those of other libraries among them."""
    import torch  # noqa: PLC0415 - the other tracer needs none

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            run()
        profile.export_chrome_trace(str(path))
        return kernels_of_chrome_trace(json.loads(path.read_text()))


def kernels_of_chrome_trace(trace: dict[str, Any]) -> Counter[str]:
    return Counter(
        event["name"] for event in trace.get("traceEvents", ()) if event.get("cat") == "kernel"
    )
