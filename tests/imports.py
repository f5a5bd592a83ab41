"""What a statement imports, seen in a process of its own."""

from processes import output_of


def newly_imported(statement: str, frameworks: tuple[str, ...], after: str = "pass") -> list[str]:
    """Those of the frameworks that the statement imports, once ``after`` has run."""
    code = f"""
import sys
{after}
before = set(sys.modules)
{statement}
print(*(set(sys.modules) - before).intersection({frameworks!r}))
"""
    return output_of(code).split()
