"""The fused update over lists of tensors, as a StableHLO custom call in a TensorFlow graph."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import tensorflow as tf

from nadam_xla.calls import calls
from nadam_xla.coefficients import Coefficients
from nadam_xla.tensorflow import runtime

UPDATE_TARGET = "nadam_xla_update_v1"

# The version of the XlaCallModule op's protocol that knows typed custom calls and platforms.
_CALL_MODULE_VERSION = 9

Tensors = Sequence[Any]


def nadam_update(
    coefficients: Coefficients, params: Tensors, grads: Tensors, mu: Tensors, nu: Tensors
) -> tuple[list[Any], list[Any], list[Any]]:
    """One fused Nadam step: the rule of :class:`nadam_xla.coefficients.Coefficients`.

    Inside ``tf.function(jit_compile=True)``, results that are assigned to the variables that the
    inputs were read from are written in place. Elsewhere the op runs alone and copies.

    Args:
        coefficients: one row of scalars for all tensors.
        params: n floating-point tensors of static shape. float32 and float64 are computed as they
            are; narrower ones are widened to float32 and rounded back.
        grads: the gradients, of the same shapes and any floating dtype. ``tf.IndexedSlices`` are
            made dense, the slices of equal indices summed.
        mu: the first moments, of the same shapes.
        nu: the second moments, of the same shapes.

    Returns:
        The new parameters, first moments and second moments, each with the dtype of what was given.

    Raises:
        NotImplementedError: this TensorFlow's XLA cannot be reached.
        TypeError: a tensor is not of a floating dtype.
        ValueError: a shape is unknown or differs from its parameter's, or the lists in length.
    """
    runtime.check_available()
    groups = {"params": params, "grads": grads, "mu": mu, "nu": nu}
    tensors = {name: [tf.convert_to_tensor(x) for x in group] for name, group in groups.items()}
    _check(tensors)
    results: list[Any] = [None] * len(params)
    for dtype, indices in calls([x.dtype.name for x in tensors["params"]]):
        leaves = [[group[i] for i in indices] for group in tensors.values()]
        updated = _call(coefficients, dtype, leaves)
        kept = (tensors["params"], tensors["mu"], tensors["nu"])
        for i, *new in zip(indices, *updated, strict=True):
            results[i] = [tf.cast(x, group[i].dtype) for x, group in zip(new, kept, strict=True)]
    new_params, new_mu, new_nu = ([r[i] for r in results] for i in range(3))
    return new_params, new_mu, new_nu


def scalar(value: Any, dtype: Any) -> Any:
    """The value in this dtype; ``tf.cast`` would round a Python float to float32 first."""
    return tf.cast(tf.convert_to_tensor(value, dtype_hint=dtype), dtype)


def _check(tensors: dict[str, list[Any]]) -> None:
    params = tensors["params"]
    for name, group in tensors.items():
        if len(group) != len(params):
            raise ValueError(f"{name} has {len(group)} tensors; it must have {len(params)}")
        for i, (x, p) in enumerate(zip(group, params, strict=True)):
            if not x.dtype.is_floating:
                raise TypeError(f"{name}[{i}] has the dtype {x.dtype.name}; it must be floating")
            if not x.shape.is_fully_defined() or x.shape != p.shape:
                raise ValueError(
                    f"{name}[{i}] has the shape {x.shape}; it must be static and that of"
                    f" params[{i}], {p.shape}"
                )


def _call(coefficients: Coefficients, dtype: str, leaves: list[list[Any]]) -> list[list[Any]]:
    """One custom call; ``leaves`` and the results are grouped as its operands and results are."""
    row = tf.stack([scalar(c, dtype) for c in coefficients])
    table = tf.reshape(row, (1, 1, len(coefficients)))
    shapes = tuple(tuple(x.shape.as_list()) for x in leaves[0])
    n = len(shapes)
    results = runtime.call_module(
        [table, *(tf.cast(x, dtype) for group in leaves for x in group)],
        version=_CALL_MODULE_VERSION,
        module=_module(dtype, shapes),
        Tout=[dtype] * (3 * n),
        Sout=list(shapes) * 3,
        platforms=("CPU",),
    )
    return [results[i * n : (i + 1) * n] for i in range(3)]


@lru_cache(maxsize=1024)
def _module(dtype: str, shapes: tuple[tuple[int, ...], ...]) -> str:
    """The StableHLO module that holds nothing but the call, each result aliased to its operand."""
    n = len(shapes)
    element = {"float32": "f32", "float64": "f64"}[dtype]

    def tensor_type(shape: tuple[int, ...]) -> str:
        return "tensor<" + "".join(f"{size}x" for size in shape) + element + ">"

    table = tensor_type((1, 1, len(Coefficients._fields)))
    leaf_types = [tensor_type(shape) for shape in shapes]
    operand_types = [table, *leaf_types * 4]
    result_types = leaf_types * 3
    aliased = [*range(1, 1 + n), *range(1 + 2 * n, 1 + 4 * n)]  # params, mu and nu
    aliases = ", ".join(
        f"#stablehlo.output_operand_alias<output_tuple_indices = [{result}],"
        f" operand_index = {operand}, operand_tuple_indices = []>"
        for result, operand in enumerate(aliased)
    )
    operands = [f"%arg{i}" for i in range(len(operand_types))]
    parameters = ", ".join(f"{a}: {t}" for a, t in zip(operands, operand_types, strict=True))
    results = ", ".join(f"%new#{i}" for i in range(len(result_types)))
    types = ", ".join(result_types)
    return f"""
module @nadam_xla {{
  func.func public @main({parameters}) -> ({types}) {{
    %new:{len(result_types)} = stablehlo.custom_call @{UPDATE_TARGET}({", ".join(operands)}) {{
      api_version = 4 : i32,
      backend_config = {{returns_change = false}},
      output_operand_aliases = [{aliases}]
    }} : ({", ".join(operand_types)}) -> ({types})
    return {results} : {types}
  }}
}}
"""
