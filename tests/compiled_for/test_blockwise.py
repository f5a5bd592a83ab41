"""A step with moments in codes of eight bits, for GPUs that are not there."""

import re
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from absent_devices import DEPTH, WIDTH, compiled_for, dense, dense_params, layouts_of, mesh_of
from compiled import CALL, aliased_results
from jax.sharding import PartitionSpec as P

from nadam_xla.jax import nadam

if find_spec("jax_cuda13_plugin") is None:
    pytest.skip("`make test-absent-devices` installs jax_cuda13_plugin", allow_module_level=True)

IN_CODES = nadam(1e-3, mu_dtype="blockwise8", nu_dtype="blockwise8")
ALIAS = re.compile(r"\{\d+\}: \(\d+, \{\}\)")


def narrow_dense(params: Any, x: jax.Array) -> jax.Array:
    return dense(params, x.astype(jnp.bfloat16)).astype(jnp.float32)


@pytest.mark.parametrize(("name", "specs"), [("H100", (P(), P())), ("8 x H100", (P("d"), P("d")))])
def test_codes_are_updated_where_they_are_and_no_moment_is_ever_float32(
    name: str, specs: tuple[P, P]
) -> None:
    params = [jax.ShapeDtypeStruct(p.shape, jnp.bfloat16) for p in dense_params()]
    mesh = mesh_of(name)
    assert specs in layouts_of(mesh).values()
    program = compiled_for(name, IN_CODES, specs, mesh=mesh, loss=narrow_dense, params=params)
    calls = [line for line in program.text.splitlines() if CALL in line]
    assert calls
    # Parameters, both moments and their scales.
    aliased = [line.split("output_to_operand_aliasing=")[1] for line in calls]
    assert sum(len(ALIAS.findall(line)) for line in aliased) == 5 * DEPTH
    assert len(aliased_results(program.text)) >= 5 * DEPTH
    of_leaf = rf"\[{WIDTH // mesh.size},{WIDTH}\]"
    assert not re.search(rf"f32{of_leaf}", program.text)
    assert not re.search(rf"[su]8{of_leaf}\S* copy", program.text)
