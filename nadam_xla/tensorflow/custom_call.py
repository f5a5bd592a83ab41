"""A custom call of XLA's in a TensorFlow graph: a StableHLO module that holds nothing else."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from nadam_xla.tensorflow import runtime

Shape = tuple[int, ...]

# The version of the XlaCallModule op's protocol that knows typed custom calls and platforms.
_CALL_MODULE_VERSION = 9

_ELEMENTS = {"float32": "f32", "float64": "f64"}


def custom_call(
    target: str,
    operands: Sequence[Any],
    result_shapes: Sequence[Shape],
    dtype: str,
    *,
    aliases: Mapping[int, int] | None = None,
    backend_config: str = "",
) -> list[Any]:
    """The results of the target, all of one dtype with the operands.

    Args:
        target: under which the handler is registered with TensorFlow's XLA.
        operands: tensors of static shape.
        result_shapes: of each result.
        dtype: of every operand and result, float32 or float64.
        aliases: for results that take an operand's memory, the operand of each.
        backend_config: the handler's attributes, in MLIR's notation.
    """
    module = _module(
        target,
        tuple(tuple(x.shape.as_list()) for x in operands),
        tuple(result_shapes),
        _ELEMENTS[dtype],
        tuple((aliases or {}).items()),
        backend_config,
    )
    return list(
        runtime.call_module(
            operands,
            version=_CALL_MODULE_VERSION,
            module=module,
            Tout=[dtype] * len(result_shapes),
            Sout=list(result_shapes),
            platforms=("CPU",),
        )
    )


@lru_cache(maxsize=1024)
def _module(
    target: str,
    operand_shapes: tuple[Shape, ...],
    result_shapes: tuple[Shape, ...],
    element: str,
    aliases: tuple[tuple[int, int], ...],
    backend_config: str,
) -> str:
    def tensor_type(shape: Shape) -> str:
        return "tensor<" + "".join(f"{size}x" for size in shape) + element + ">"

    operand_types = [tensor_type(shape) for shape in operand_shapes]
    types = ", ".join(tensor_type(shape) for shape in result_shapes)
    operand_aliases = ", ".join(
        "#stablehlo.output_operand_alias<"
        f"output_tuple_indices = [{result if len(result_shapes) > 1 else ''}],"
        f" operand_index = {operand}, operand_tuple_indices = []>"
        for result, operand in aliases
    )
    operands = [f"%arg{i}" for i in range(len(operand_types))]
    parameters = ", ".join(f"{a}: {t}" for a, t in zip(operands, operand_types, strict=True))
    single = len(result_shapes) == 1
    results = "%new" if single else ", ".join(f"%new#{i}" for i in range(len(result_shapes)))
    bound = "%new" if single else f"%new:{len(result_shapes)}"
    return f"""
module @nadam_xla {{
  func.func public @main({parameters}) -> ({types}) {{
    {bound} = stablehlo.custom_call @{target}({", ".join(operands)}) {{
      api_version = 4 : i32,
      backend_config = {{{backend_config}}},
      output_operand_aliases = [{operand_aliases}]
    }} : ({", ".join(operand_types)}) -> ({types})
    return {results} : {types}
  }}
}}
"""
