"""A custom call of XLA's in a TensorFlow graph: a StableHLO module that holds nothing else."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

import tensorflow as tf

from nadam_xla.platforms import NAMES
from nadam_xla.tensorflow import runtime

Shape = tuple[int, ...]
Result = tuple[Shape, str]  # the shape, the dtype
Gradient = Callable[..., list[Any]]

# The version of the XlaCallModule op's protocol that knows typed custom calls and platforms.
_CALL_MODULE_VERSION = 9

_gradients: dict[str, Gradient] = {}

_ELEMENTS = {
    "bfloat16": "bf16",
    "float16": "f16",
    "float32": "f32",
    "float64": "f64",
    "int8": "i8",
    "uint8": "ui8",
    "uint16": "ui16",
}


def custom_call(
    target: str,
    operands: Sequence[Any],
    results: Sequence[Result],
    *,
    aliases: Mapping[int, int] | None = None,
    attributes: Mapping[str, bool | int] | None = None,
) -> list[Any]:
    """The results of the target, on whichever of ``runtime.PLATFORMS`` the graph runs.

    Args:
        target: under which the handler is registered with TensorFlow's XLA.
        operands: tensors of static shape, and of a dtype that is floating, or that of codes or of
            master weights.
        results: the shape and the dtype of each.
        aliases: for each operand whose memory a result may take, that result.
        attributes: the handler's.
    """
    module = _module(
        target,
        tuple((tuple(x.shape.as_list()), x.dtype.name) for x in operands),
        tuple(results),
        tuple((aliases or {}).items()),
        tuple((attributes or {}).items()),
        takes_platform=len(runtime.PLATFORMS) > 1,
    )
    return list(
        runtime.call_module(
            operands,
            version=_CALL_MODULE_VERSION,
            module=module,
            Tout=[dtype for _, dtype in results],
            Sout=[shape for shape, _ in results],
            platforms=[NAMES[platform].tensorflow_xla for platform in runtime.PLATFORMS],
        )
    )


def differentiate(target: str, gradient: Gradient) -> None:
    """Makes tapes take the gradient of a target's calls from this function.

    Args:
        target: as in :func:`custom_call`.
        gradient: given the op and the gradients of its results, makes those of its operands.
    """
    _gradients[f"@{target}("] = gradient


def _gradient(op: Any, *grads: Any) -> list[Any]:
    module = op.get_attr("module").decode()
    for call, gradient in _gradients.items():
        if call in module:
            return gradient(op, *grads)
    raise LookupError(f"no gradient is defined for the module of the operation {op.name!r}")


# TensorFlow has none for the op. (tf.custom_gradient would do, but that a SavedModel calls it.)
with suppress(KeyError):  # another package has one
    tf.RegisterGradient("XlaCallModule")(_gradient)


@lru_cache(maxsize=1024)
def _module(
    target: str,
    operands: tuple[Result, ...],
    results: tuple[Result, ...],
    aliases: tuple[tuple[int, int], ...],
    attributes: tuple[tuple[str, bool | int], ...],
    *,
    takes_platform: bool,
) -> str:
    """The module's text. One for several platforms is told by its first argument which it is on."""

    def tensor_type(shape: Shape, dtype: str) -> str:
        return "tensor<" + "".join(f"{size}x" for size in shape) + _ELEMENTS[dtype] + ">"

    # Without layouts XLA hands over each operand as it lies: on a GPU the gradients of convolutions
    # and of transposed products are not row by row.
    def row_by_row(shapes: Sequence[Result]) -> str:
        orders = (list(reversed(range(len(shape)))) for shape, _ in shapes)
        return ", ".join(f"dense<{order or ''}> : tensor<{len(order)}xindex>" for order in orders)

    config = ", ".join(
        f"{name} = {str(value).lower()}" + ("" if isinstance(value, bool) else " : i64")
        for name, value in attributes
    )
    operand_types = [tensor_type(*operand) for operand in operands]
    types = ", ".join(tensor_type(*result) for result in results)
    operand_aliases = ", ".join(
        "#stablehlo.output_operand_alias<"
        f"output_tuple_indices = [{result if len(results) > 1 else ''}],"
        f" operand_index = {operand}, operand_tuple_indices = []>"
        for operand, result in aliases
    )
    names = [f"%arg{i}" for i in range(len(operands))]
    parameters = [f"{name}: {type_}" for name, type_ in zip(names, operand_types, strict=True)]
    if takes_platform:
        parameters.insert(0, "%platform: tensor<i32>")
    single = len(results) == 1
    returned = "%new" if single else ", ".join(f"%new#{i}" for i in range(len(results)))
    bound = "%new" if single else f"%new:{len(results)}"
    return f"""
module @nadam_xla {{
  func.func public @main({", ".join(parameters)}) -> ({types}) {{
    {bound} = stablehlo.custom_call @{target}({", ".join(names)}) {{
      api_version = 4 : i32,
      backend_config = {{{config}}},
      operand_layouts = [{row_by_row(operands)}],
      result_layouts = [{row_by_row(results)}],
      output_operand_aliases = [{operand_aliases}]
    }} : ({", ".join(operand_types)}) -> ({types})
    return {returned} : {types}
  }}
}}
"""
