"""The text of the StableHLO modules that a TensorFlow graph carries."""

from collections.abc import Mapping, Sequence

Shape = tuple[int | None, ...]
"""None for a size that is known when the graph is compiled, for the operands that it then has."""

Tensor = tuple[Shape, str]
"""The shape, the dtype."""

_ELEMENTS = {
    "bfloat16": "bf16",
    "float16": "f16",
    "float32": "f32",
    "float64": "f64",
    "int8": "i8",
    "int32": "i32",
    "int64": "i64",
    "uint8": "ui8",
    "uint16": "ui16",
}


def type_of(tensor: Tensor) -> str:
    """The tensor's type."""
    shape, dtype = tensor
    sizes = "".join(f"{'?' if size is None else size}x" for size in shape)
    return f"tensor<{sizes}{_ELEMENTS[dtype]}>"


def types_of(tensors: Sequence[Tensor]) -> str:
    """The types of several."""
    return ", ".join(type_of(tensor) for tensor in tensors)


def values_of(name: str, count: int) -> str:
    """The results, so many, of the operation that was bound to the name."""
    return name if count == 1 else ", ".join(f"{name}#{i}" for i in range(count))


def custom_call(
    name: str,
    target: str,
    operands: Mapping[str, Tensor],
    results: Sequence[Tensor],
    *,
    aliases: Mapping[int, int] | None = None,
    attributes: Mapping[str, bool | int] | None = None,
    shapes: Mapping[str, Tensor] | None = None,
) -> str:
    """The operation that calls a target.

    Args:
        name: that its results are bound to.
        target: under which the handler is registered.
        operands: by the names of their values.
        results: what it returns.
        aliases: for each operand whose memory a result may take, that result.
        attributes: the handler's.
        shapes: where a size of a result is None, for each of the results a vector of whole numbers,
            its shape. The handler is not given them.
    """
    shapes = shapes or {}
    config = ", ".join(
        f"{key} = {str(value).lower()}" + ("" if isinstance(value, bool) else " : i64")
        for key, value in (attributes or {}).items()
    )
    taken = ", ".join(
        "#stablehlo.output_operand_alias<"
        f"output_tuple_indices = [{result if len(results) > 1 else ''}],"
        f" operand_index = {operand}, operand_tuple_indices = []>"
        for operand, result in (aliases or {}).items()
    )
    places = ", ".join(str(len(operands) + i) for i in range(len(shapes)))
    of_shapes = (
        f"indices_of_shape_operands = dense<[{places}]> : tensor<{len(shapes)}xi64>,"
        if shapes
        else ""
    )
    given = {**operands, **shapes}
    bound = name if len(results) == 1 else f"{name}:{len(results)}"
    return f"""
    {bound} = stablehlo.custom_call @{target}({", ".join(given)}) {{
      api_version = 4 : i32,
      backend_config = {{{config}}},
      {of_shapes}
      operand_layouts = [{_row_by_row(list(given.values()))}],
      result_layouts = [{_row_by_row(results)}],
      output_operand_aliases = [{taken}]
    }} : ({types_of(list(given.values()))}) -> ({types_of(results)})"""


def module(
    operands: Mapping[str, Tensor],
    results: Sequence[Tensor],
    body: str,
    returned: str,
    *,
    platform: str | None = None,
) -> str:
    """The module of one function.

    Args:
        operands: by the names of their values. Sizes that are None become known when the graph is
            compiled.
        results: what it returns.
        body: the operations.
        returned: the values.
        platform: the name of one operand more, the first: the number of the platform that the
            module is compiled for. It is there where there are several.
    """
    parameters = [f"{name}: {type_of(operand)}" for name, operand in operands.items()]
    if platform is not None:
        parameters.insert(0, f"{platform}: tensor<i32>")
    types = types_of(results)
    is_open = any(size is None for shape, _ in operands.values() for size in shape)
    # Read by TensorFlow, which then sets in the sizes that the operands have.
    attributes = "attributes {jax.uses_shape_polymorphism = true} " if is_open else ""
    return f"""
module @nadam_xla {attributes}{{
  func.func public @main({", ".join(parameters)}) -> ({types}) {{
    {body}
    return {returned} : {types}
  }}
}}
"""


# Without layouts XLA hands over each operand as it lies: on a GPU the gradients of convolutions and
# of transposed products are not row by row.
def _row_by_row(tensors: Sequence[Tensor]) -> str:
    orders = (list(reversed(range(len(shape)))) for shape, _ in tensors)
    return ", ".join(f"dense<{order or ''}> : tensor<{len(order)}xindex>" for order in orders)
