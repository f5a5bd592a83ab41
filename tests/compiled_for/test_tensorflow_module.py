"""The module that TensorFlow gets, compiled beside a convolution for a GPU that is not there."""

import dataclasses
import re
from importlib.util import find_spec
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import pytest
import tensorflow as tf
from absent_devices import mesh_of
from compiled import CALL
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import stablehlo
from jax.interpreters import mlir
from jax.sharding import NamedSharding, PartitionSpec

from nadam_xla.coefficients import Coefficients
from nadam_xla.tensorflow import nadam_update

if find_spec("jax_cuda13_plugin") is None:
    pytest.skip("`make test-absent-devices` installs jax_cuda13_plugin", allow_module_level=True)

KERNEL = (3, 3, 8, 16)
TABLE = (1, 1, len(Coefficients._fields))


def module_of_update() -> str:
    """Its text, for one leaf."""
    row = Coefficients(*[tf.constant(0.5)] * len(Coefficients._fields))
    leaf = tf.ones(KERNEL)
    update = tf.function(nadam_update).get_concrete_function(row, *[[leaf]] * 4)
    (call,) = (op for op in update.graph.get_operations() if op.type == "XlaCallModule")
    text: str = call.get_attr("module").decode()
    return text


def line_of_call(module: str) -> str:
    """The call in a step whose gradient is a convolution's, compiled for an A100."""

    def stand_in(table: jax.Array, *leaves: jax.Array) -> list[jax.Array]:
        total = jnp.sum(table) + sum(map(jnp.sum, leaves))
        return [x + total for x in leaves[:3]]

    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in (TABLE, *[KERNEL] * 4)]
    exported = jax.export.export(jax.jit(stand_in), platforms=["cuda"])(*shapes)
    with mlir.make_ir_context():
        parsed = ir.Module.parse(module)
        version = stablehlo.get_current_version()
        serialized = stablehlo.serialize_portable_artifact(parsed, version)
    call = dataclasses.replace(exported, mlir_module_serialized=serialized).call

    def step(w: jax.Array, mu: jax.Array, nu: jax.Array, table: jax.Array, x: jax.Array) -> Any:
        def loss(w: jax.Array) -> jax.Array:
            names = ("NHWC", "HWIO", "NHWC")
            y = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=names)
            return jnp.sum(y**2)

        return call(table, w, jax.grad(loss)(w), mu, nu)

    layout = NamedSharding(mesh_of("A100"), PartitionSpec())
    arguments = [
        jax.ShapeDtypeStruct(s, jnp.float32, sharding=layout)
        for s in (KERNEL, KERNEL, KERNEL, TABLE, (4, 16, 16, 8))
    ]
    traced = jax.jit(step, donate_argnums=(0, 1, 2)).trace(*arguments)
    text = traced.lower(lowering_platforms=("cuda",)).compile().as_text()
    (line,) = (line for line in text.splitlines() if CALL in line)
    return line


def gradient_of(line: str) -> str:
    """By what the call's third operand is made."""
    operands = re.search(r"custom-call\((.*?)\), custom_call_target", line)
    assert operands is not None
    return operands[1].split(", ")[2]


def test_the_gradient_of_a_convolution_is_laid_row_by_row() -> None:
    line = line_of_call(module_of_update())
    assert "bitcast" not in gradient_of(line), "another weight's gradient for each"
    row_by_row = "f32[3,3,8,16]{3,2,1,0}"
    expected = ", ".join([f"f32[1,1,{len(Coefficients._fields)}]{{2,1,0}}", *[row_by_row] * 4])
    assert f"operand_layout_constraints={{{expected}}}" in line


def test_without_its_layouts_it_would_not_be() -> None:
    module = re.sub(r"(operand|result)_layouts = \[.*\],\n", "", module_of_update())
    assert "layouts" not in module
    assert "bitcast" in gradient_of(line_of_call(module))
