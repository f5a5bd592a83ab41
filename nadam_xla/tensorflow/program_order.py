"""The operations of a graph that is traced, as far as they stand before the update."""

from collections.abc import Iterable, Sequence
from typing import Any

from nadam_xla.program_order import ProgramOrder, Value

_TUPLE = "IdentityN"
# Operations that XLA may see through, each result to the operand of its number.
VIEWS = frozenset(
    (
        "BroadcastTo",
        "Cast",
        "ExpandDims",
        "Identity",
        _TUPLE,
        "PreventGradient",
        "ReadVariableOp",
        "Reshape",
        "Squeeze",
        "StopGradient",
        "Transpose",
    )
)
# Operations that read no more than the shape.
_OF_SHAPES = frozenset(
    ("OnesLike", "Rank", "Shape", "ShapeN", "Size", "VariableShape", "ZerosLike")
)
ARGUMENT = "Placeholder"  # of the function, or what it captures
# XLA puts their operations in their place.
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")


def add_operations(order: ProgramOrder, graph: Any) -> None:
    """Adds those of a graph, as far as it has them yet, and of the functions that it calls."""
    operations = graph.get_operations()
    has_calls = any(operation.type in _CALLS for operation in operations)
    functions = _Functions(order, graph.as_graph_def().library.function if has_calls else ())
    for operation in operations:
        operands, results = ([x.name for x in xs] for xs in (operation.inputs, operation.outputs))
        if operation.type in _CALLS:
            functions.add(operation.get_attr("f").name, operands, results, scope=operation.name)
        elif operation.type != ARGUMENT:
            _add(order, operation.type, operands, results)


def _add(
    order: ProgramOrder, type_: str, operands: Sequence[Value], results: Sequence[Value]
) -> None:
    if type_ in VIEWS:
        order.add_views(operands, results)
    else:
        order.add(() if type_ in _OF_SHAPES else operands, results)


class _Functions:
    """Adds the operations of functions, which TensorFlow keeps as protocol buffers."""

    def __init__(self, order: ProgramOrder, functions: Iterable[Any]) -> None:
        self._order = order
        self._by_name = {function.signature.name: function for function in functions}

    def add(
        self, name: str, operands: Sequence[Value], results: Sequence[Value], scope: str
    ) -> None:
        """Adds those of a function that is called.

        Args:
            name: the function's.
            operands: what it is called with.
            results: what it returns there.
            scope: tells the values of this call from those of any other.
        """
        function = self._by_name.get(name)
        if function is None:  # TensorFlow's own, of no graph: what it reads is never seen as read
            self._order.add(operands, ())
            return
        types = {node.name: node.op for node in function.node_def}

        def value(reference: str) -> Value:
            """An argument, by its name, or ``node:output:number``."""
            node, *place = reference.split(":")
            has_several = types.get(node) in (*_CALLS, _TUPLE)
            return (scope, node, place[-1] if has_several else "0")

        arguments = [value(argument.name) for argument in function.signature.input_arg]
        self._order.add_views(operands, arguments)
        for node in function.node_def:
            given = [value(x) for x in node.input if not x.startswith("^")]
            several = len(node.attr["T" if node.op == _TUPLE else "Tout"].list.type)
            made = [(scope, node.name, str(i)) for i in range(several or 1)]
            if node.op in _CALLS:
                self.add(node.attr["f"].func.name, given, made, scope=f"{scope}/{node.name}")
            else:
                _add(self._order, node.op, given, made)
        returned = (function.ret[result.name] for result in function.signature.output_arg)
        self._order.add_views([value(x) for x in returned], results)
