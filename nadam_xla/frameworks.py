"""What is said where a framework that a part of this package needs is missing or does not fit."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any


def needed(module: str, oldest: tuple[int, ...] = (), *, by: str, extra: str) -> Any:
    """The module of a framework, imported. What its import raises by itself is left as it is.

    Args:
        module: as it is imported, and as pip names it.
        oldest: the oldest version that will do; none: that is asked elsewhere.
        by: the part of this package that needs it.
        extra: of this package, which brings it.

    Raises:
        ModuleNotFoundError: it is not installed.
        ImportError: it is older.
    """
    what = f"{module} {_dotted(oldest)} or later" if oldest else module
    cure = f"pip install 'nadam-xla[{extra}]' brings it"
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise ModuleNotFoundError(
            f"{by} needs {what}, and there is none: {cure}", name=module
        ) from error
    told = _version_of(found)
    if () < _numbers(told) < oldest:
        raise ImportError(f"{by} needs {what}, and this is {told}: {cure}")
    return found


@contextmanager
def in_versions(module: str, tested: str) -> Iterator[None]:
    """Where names of a framework are imported that another version of it may not have.

    Args:
        module: of the framework, imported already.
        tested: the versions that have them, in words.

    Raises:
        ImportError: one is missing; the message says which version this is.
    """
    try:
        yield
    except (ImportError, AttributeError) as error:
        if not _is_of(module, error):
            raise
        found = _version_of(import_module(module))
        raise ImportError(
            f"this is {module} {found}, and nadam_xla is tested with {tested}: {error}"
        ) from error


def _is_of(module: str, error: ImportError | AttributeError) -> bool:
    """Whether it is a part of the framework that an error misses."""
    if isinstance(error, ImportError):
        name = error.name or ""
    else:
        name = error.obj.__name__ if isinstance(error.obj, ModuleType) else ""
    return name == module or name.startswith(f"{module}.")


def _version_of(module: ModuleType) -> str:
    """As the module tells it, or else pip; in words where neither does."""
    told = getattr(module, "__version__", None)
    if told is not None:
        return str(told)
    with suppress(PackageNotFoundError):
        return version(module.__name__)
    return "of no known version"


def _numbers(version: str) -> tuple[int, ...]:
    """The release, without what marks it as one before or after; empty where there is none."""
    release = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, release[0].split("."))) if release else ()


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
