"""Which update runs on JAX's devices."""

import jax
import jax.numpy as jnp

from nadam_xla.diagnosis.errors import in_words
from nadam_xla.diagnosis.facts import Framework, ProgramPath
from nadam_xla.diagnosis.jax_devices import devices_by_kind
from nadam_xla.diagnosis.threads import threads_of_xla
from nadam_xla.jax import nadam, update_path
from nadam_xla.native import MODULES


def find_out(found: Framework) -> None:
    """The paths, and what comes of a small step on each kind of device."""
    found["registered"] = list(MODULES)
    for entry, (device, *_) in zip(found["devices"], devices_by_kind(), strict=True):
        entry["update"], entry["reason"] = update_path(device)
        entry["step"] = _step_on(device)
    found["programs"] = [
        _program(partitioned=True, exported=False),
        _program(partitioned=False, exported=True),
        _program(partitioned=True, exported=True),
    ]
    found["threads"] = threads_of_xla()


def _program(*, partitioned: bool, exported: bool) -> ProgramPath:
    update, reason = update_path(partitioned=partitioned, exported=exported)
    return {"partitioned": partitioned, "exported": exported, "update": update, "reason": reason}


def _step_on(device: jax.Device) -> str:
    tx = nadam(1e-3)
    with jax.default_device(device):
        try:
            params = jnp.ones(3)
            jax.block_until_ready(jax.jit(tx.apply)(params, tx.init(params), params))
        except Exception as error:
            return in_words(error)
    return "ran"
