"""Which lines of a file do something, so that one could be wrong in them."""

import ast
import re
from collections.abc import Iterator

# Of C++: what only says how the rest is to be read. The further lines of a signature, a list must
# name.
_SAYS_NOTHING = re.compile(
    r"#|template <|namespace |(public|private|protected):$|} else {$"
    r"|(struct|class|enum class) .*{$|(NADAM_XLA_INLINE|static constexpr) .*[{,]$"
)
_HAS_CODE = re.compile(r"\w")


def code_lines(file: str, text: str) -> set[int]:
    """The lines, counted from 1, that do something.

    Args:
        file: its name; a Python file's ends in ``.py``, all others are C++.
        text: what it holds.
    """
    lines = text.splitlines()
    found = set(_of_python(text)) if file.endswith(".py") else set(_of_cpp(lines))
    without_comment = "#" if file.endswith(".py") else "//"
    return {i for i in found if _HAS_CODE.search(lines[i - 1].split(without_comment)[0])}


def _of_cpp(lines: list[str]) -> Iterator[int]:
    for number, line in enumerate(lines, start=1):
        code = line.split("//")[0].strip()
        if code and not _SAYS_NOTHING.match(code):
            yield number


def _of_python(text: str) -> Iterator[int]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            yield from _lines(*node.decorator_list, *node.keywords)
        elif isinstance(node, ast.FunctionDef):
            defaults = (*node.args.defaults, *filter(None, node.args.kw_defaults))
            yield from _lines(*node.decorator_list, *defaults)
        elif isinstance(node, ast.stmt) and not _only_names_things(node):
            blocks = ("body", "orelse", "finalbody", "handlers")
            parts = ast.iter_child_nodes(node)
            inner = [x for name in blocks for x in getattr(node, name, [])]
            if inner:
                yield from _lines(*(part for part in parts if part not in inner))
            else:
                yield from _lines(node)


def _lines(*nodes: ast.AST) -> Iterator[int]:
    for node in nodes:
        first = getattr(node, "lineno", None)
        if first is not None:
            yield from range(first, node.end_lineno + 1)  # type: ignore[attr-defined]
        else:  # that of a loop or of a context
            yield from _lines(*ast.iter_child_nodes(node))


def _only_names_things(node: ast.stmt) -> bool:
    """Imports, docstrings, types, and arguments that are not used."""
    if isinstance(node, ast.AnnAssign):
        is_type = isinstance(node.annotation, ast.Name) and node.annotation.id == "TypeAlias"
        return is_type or node.value is None
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    return isinstance(node, ast.Import | ast.ImportFrom | ast.Pass | ast.Delete)
