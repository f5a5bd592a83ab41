"""For backends on which operations run, or are traced, in the order in which Python comes to them.

That is what the step asks for, so there is nothing to do. TensorFlow has its own ways.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


@contextmanager
def eagerly() -> Iterator[None]:
    """A variable that is assigned here is assigned at once."""
    yield


@contextmanager
def after(tensors: Sequence[Any]) -> Iterator[None]:
    """What is assigned here is assigned once these tensors are there."""
    del tensors
    yield


def as_written(function: Function) -> Function:
    """The function: its code is not rewritten when it is traced."""
    return function
