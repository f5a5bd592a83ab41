"""A custom call of XLA's in a TensorFlow graph: a StableHLO module that holds nothing else."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

import tensorflow as tf

from nadam_xla.platforms import NAMES
from nadam_xla.tensorflow import module_text, runtime
from nadam_xla.tensorflow.module_text import Tensor

Gradient = Callable[..., list[Any]]

# The version of the XlaCallModule op's protocol that knows typed custom calls and platforms.
_CALL_MODULE_VERSION = 9

_gradients: dict[str, Gradient] = {}


def custom_call(
    target: str,
    operands: Sequence[Any],
    results: Sequence[Tensor],
    *,
    aliases: Mapping[int, int] | None = None,
    attributes: Mapping[str, bool | int] | None = None,
) -> list[Any]:
    """The results of the target, on whichever of ``runtime.PLATFORMS`` the graph runs.

    Args:
        target: under which the handler is registered with TensorFlow's XLA.
        operands: tensors of static shape, or of known rank where the results' shapes do not depend
            on it; of a dtype that is floating, or that of codes or of master weights.
        results: the shape and the dtype of each.
        aliases: for each operand whose memory a result may take, that result.
        attributes: the handler's.
    """
    module = _module(
        target,
        tuple(map(tensor_of, operands)),
        tuple(results),
        tuple((aliases or {}).items()),
        tuple((attributes or {}).items()),
        on_several=takes_platform(),
    )
    return call_module(module, operands, results)


def call_module(module: str, operands: Sequence[Any], results: Sequence[Tensor]) -> list[Any]:
    """The results of a module, which holds calls of our targets.

    Args:
        module: its text.
        operands: tensors.
        results: the shape and the dtype of each.
    """
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


def takes_platform() -> bool:
    """Whether a module is told by its first argument which of ``runtime.PLATFORMS`` it is on."""
    return len(runtime.PLATFORMS) > 1


def tensor_of(x: Any) -> Tensor:
    """What a module's text says of a tensor, whose rank is known."""
    return tuple(x.shape.as_list()), x.dtype.name


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
    operands: tuple[Tensor, ...],
    results: tuple[Tensor, ...],
    aliases: tuple[tuple[int, int], ...],
    attributes: tuple[tuple[str, bool | int], ...],
    *,
    on_several: bool,
) -> str:
    named = {f"%arg{i}": operand for i, operand in enumerate(operands)}
    call = module_text.custom_call(
        "%new", target, named, results, aliases=dict(aliases), attributes=dict(attributes)
    )
    return module_text.module(
        named,
        results,
        call,
        module_text.values_of("%new", len(results)),
        platform="%platform" if on_several else None,
    )
