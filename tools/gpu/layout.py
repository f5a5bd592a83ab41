"""Where things lie: the sources, and what is built from them, which git ignores."""

import os
import sys
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[2]
BUILT = SOURCES / "build" / "gpu-check"
SITE = BUILT / "site"  # nadam_xla, installed
CMAKE = BUILT / "cmake"
ON_DEVICE = BUILT / "on_device"
LOGS = BUILT / "logs"
CACHES = BUILT / "caches"

# Safe path: Python must find the package that was built, not the sources in its folder.
PYTHON = (sys.executable, "-P")

# The GPU is shared by processes that come one after the other, and JAX must not fall back to the
# CPU where it cannot have it.
_inherited = os.environ.get("PYTHONPATH")
ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join(filter(None, map(str, (SITE, SOURCES, _inherited or "")))),
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "CUDA_CACHE_PATH": str(CACHES / "cuda"),
    "TRITON_CACHE_DIR": str(CACHES / "triton"),
    "TORCHINDUCTOR_CACHE_DIR": str(CACHES / "inductor"),
    "JAX_PLATFORMS": "cuda,cpu",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}
