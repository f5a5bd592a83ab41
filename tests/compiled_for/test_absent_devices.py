"""Whole steps as XLA compiles them for GPUs and TPUs that are not there, beside optax's."""

import re
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from absent_devices import GPUS, LEAF, TPUS, Program, compiled_for, layouts_of, mesh_of
from compiled import CALL

from nadam_xla.jax import nadam

for package in ("jax_cuda13_plugin", "libtpu"):
    if find_spec(package) is None:
        pytest.skip(f"`make test-absent-devices` installs {package}", allow_module_level=True)

BYTES_OF_CALL = 2**23  # of gradients, on a GPU: from so many on, no more leaves join a call


@pytest.fixture(scope="module", params=[*GPUS, *TPUS])
def pairs(request: pytest.FixtureRequest) -> dict[str, tuple[Program, Program]]:
    """By layout, ours and optax's, for the devices of a name."""
    name: str = request.param
    mesh = mesh_of(name)
    found = {}
    for layout, specs in layouts_of(mesh).items():
        ours = compiled_for(name, nadam(1e-3), specs, mesh=mesh)
        stock = compiled_for(name, optax.nadam(1e-3), specs, mesh=mesh)
        found[f"{name}, {layout}"] = (ours, stock)
    return found


def test_temporary_memory_is_stocks_and_two_calls_gradients(pairs: Any) -> None:
    for case, (ours, stock) in pairs.items():
        allowed = 2 * (BYTES_OF_CALL + LEAF) if ours.calls else 0
        assert ours.temporary <= stock.temporary + allowed, case


def test_tpus_move_no_more_bytes_than_for_stock(pairs: Any) -> None:
    for case, (ours, stock) in pairs.items():
        if not ours.calls:
            assert ours.moved <= stock.moved, case


@pytest.mark.parametrize("name", TPUS)
def test_nor_does_the_update_alone_on_a_tpu(name: str) -> None:
    mesh = mesh_of(name)
    for specs in layouts_of(mesh).values():
        ours, stock = (
            compiled_for(name, tx, specs, mesh=mesh, loss=None)
            for tx in (nadam(1e-3), optax.nadam(1e-3))
        )
        assert ours.moved <= stock.moved
        assert ours.temporary <= stock.temporary


def test_no_leaf_is_copied_that_stock_does_not_copy(pairs: Any) -> None:
    for case, (ours, stock) in pairs.items():
        assert ours.copies <= (0 if ours.calls else stock.copies), case


def test_the_collectives_are_those_of_stock(pairs: Any) -> None:
    for case, (ours, stock) in pairs.items():
        assert ours.collectives == stock.collectives, case


def test_gpus_get_calls_of_some_megabytes_and_tpus_none(pairs: Any) -> None:
    for case, (ours, stock) in pairs.items():
        assert stock.calls == 0
        assert ours.calls == (0 if case.split(",")[0] in TPUS else 6), case


def calls_of(text: str) -> Iterator[tuple[str, str]]:
    """Of each call its results with their layouts, and its line."""
    for line in text.splitlines():
        if CALL in line:
            results = re.match(r".*? = (\(.*?\)) custom-call\(", line)
            assert results is not None
            yield results[1], line


def is_row_by_row(shape: str) -> bool:
    """Whether the minor dimensions come last: ``f32[3,3,8,16]{3,2,1,0}``."""
    found = re.fullmatch(r"\w+\[([\d,]*)\](?:\{([\d,]*)\S*\})?", shape)
    assert found is not None, shape
    rank = len(found[1].split(",")) if found[1] else 0
    order = [int(i) for i in (found[2] or "").split(",") if i]
    return order == sorted(order, reverse=True) and len(order) == rank


def convolution_and_attention(params: Any, x: jax.Array) -> jax.Array:
    """Whose gradients a GPU makes in layouts of its own."""
    kernel, q, k, v, w = params
    x = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    heads = [jnp.einsum("btc,chd->bhtd", x, projection) for projection in (q, k, v)]
    scores = jax.nn.softmax(jnp.einsum("bhtd,bhsd->bhts", *heads[:2]))
    y = jnp.einsum("bhts,bhsd->bthd", scores, heads[2]).reshape(*x.shape)
    return jnp.sum((y @ w.T) ** 2)


@pytest.mark.parametrize("name", ["H100", "A100", "T4"])
def test_every_operand_and_result_of_a_call_lies_row_by_row(name: str) -> None:
    shapes = [(3, 3, 8, 64), *[(64, 4, 16)] * 3, (64, 64)]
    params = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    program = compiled_for(
        name, nadam(1e-3), loss=convolution_and_attention, params=params, x=(8, 16, 16, 8)
    )
    calls = list(calls_of(program.text))
    assert calls
    for results, line in calls:
        constraints = re.search(r"operand_layout_constraints=\{(.*?\})\}", line)
        assert constraints is not None
        shapes_found = re.findall(r"\w+\[[\d,]*\](?:\{[\d,]*\S*?\})?", constraints[1] + results)
        assert len(shapes_found) >= 1 + 7 * len(shapes) // len(calls)
        assert all(map(is_row_by_row, shapes_found)), line
        aliased = line.split("output_to_operand_aliasing=", 1)[1]
        assert len(re.findall(r"\{\d+\}: \(\d+, \{\}\)", aliased)) == len(
            re.findall(r"f32\[", results)
        )
