"""Steps over scanned layers, woven, for GPUs and TPUs that are not there, beside optax's."""

import re
from functools import partial
from importlib.util import find_spec
from typing import Any

import optax
import pytest
from absent_devices import (
    LAYOUTS_OF_STACKS,
    LEAF,
    SCANNED,
    TPUS,
    WHOLE,
    WIDTH,
    Program,
    compiled_for,
    mesh_of,
    scanned,
    scanned_params,
)

from nadam_xla.jax import fuse_updates, nadam

for package in ("jax_cuda13_plugin", "libtpu"):
    if find_spec(package) is None:
        pytest.skip(f"`make test-absent-devices` installs {package}", allow_module_level=True)

ENTRY_CALL = 'custom_call_target="nadam_xla_update_entry_v1"'
Steps = dict[str, tuple[int, Program, Program]]


@pytest.fixture(scope="module", params=["H100", "8 x H100", *TPUS])
def steps(request: pytest.FixtureRequest) -> Steps:
    """By layout the bytes of a device's gradients, and ours and optax's programs."""
    name: str = request.param
    mesh = mesh_of(name)
    found = {}
    for layout, specs in (WHOLE if mesh.size == 1 else LAYOUTS_OF_STACKS).items():
        compiled = partial(
            compiled_for, name, specs=specs, mesh=mesh, loss=scanned, params=scanned_params()
        )
        gradients = SCANNED * LEAF // (mesh.size if layout in ("FSDP", "ZeRO-1") else 1)
        ours = compiled(nadam(1e-3), around=fuse_updates)
        found[f"{name}, {layout}"] = (gradients, ours, compiled(optax.nadam(1e-3)))
    return found


def test_the_stack_of_gradients_is_not_in_temporary_memory(steps: Any) -> None:
    """XLA for TPUs puts one that is cut, or goes into the update at once, elsewhere."""
    for case, (gradients, ours, stock) in steps.items():
        assert ours.temporary <= max(stock.temporary - 0.9 * gradients, LEAF), case


def test_no_stack_is_copied(steps: Any) -> None:
    for case, (_, ours, _) in steps.items():
        copies = re.findall(rf"f32\[{SCANNED},(\d+),{WIDTH}\]\S* copy\(", ours.text)
        assert not {WIDTH, WIDTH // 8, WIDTH // 4} & set(map(int, copies)), case


def test_no_kind_of_collective_more_than_stock(steps: Any) -> None:
    for case, (_, ours, stock) in steps.items():
        assert ours.collectives.keys() <= stock.collectives.keys(), case


def test_one_gpu_updates_the_entry_where_it_lies(steps: Any) -> None:
    for case, (_, ours, _) in steps.items():
        assert ours.text.count(ENTRY_CALL) == (1 if case == "H100, one device" else 0), case
        assert ours.calls == (1 if case.startswith("8 x H100") else 0), case
