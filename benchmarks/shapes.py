"""The lists of leaves that the benchmarks update."""

import math
from collections.abc import Callable, Mapping

Shapes = list[tuple[int, ...]]


def transformer_blocks(layers: int = 12, width: int = 512) -> Shapes:
    """Nine leaves a layer: attention, two dense layers and the scales of two norms."""
    block: Shapes = [
        (width, 3 * width),
        (3 * width,),
        (width, width),
        (width, 4 * width),
        (4 * width,),
        (4 * width, width),
        (width,),
        (width,),
        (width,),
    ]
    return block * layers


def real_transformer() -> Shapes:
    """The base model of "Attention Is All You Need", as PyTorch builds it."""
    import torch  # noqa: PLC0415 - heavy, and only this case needs it

    return [tuple(p.shape) for p in torch.nn.Transformer(device="meta").parameters()]


def resnet50() -> Shapes:
    """The trainable variables of ResNet-50 (He et al. 2015): leaves of many sizes."""
    blocks, width, channels = (3, 4, 6, 3), 64, 64
    shapes: Shapes = [(7, 7, 3, 64), (64,), (64,)]
    for count in blocks:
        for block in range(count):
            convolutions = [(1, channels, width), (3, width, width), (1, width, 4 * width)]
            if block == 0:
                convolutions.append((1, channels, 4 * width))  # the shortcut
            for kernel, before, after in convolutions:
                shapes += [(kernel, kernel, before, after), (after,), (after,)]
            channels = 4 * width
        width *= 2
    return [*shapes, (2048, 1000), (1000,)]


CASES: Mapping[str, Callable[[], Shapes]] = {
    "4096x4096": lambda: [(4096, 4096)],
    "transformer, 108 leaves": transformer_blocks,
    "200x[(256,256),(256,)]": lambda: [(256, 256), (256,)] * 200,
    "200x[(64,64),(64,)]": lambda: [(64, 64), (64,)] * 200,
    "200x(64,)": lambda: [(64,)] * 200,
    "ResNet-50": resnet50,
    "Transformer base": real_transformer,
}


def elements(shapes: Shapes) -> int:
    """How many numbers the leaves hold."""
    return sum(math.prod(shape) for shape in shapes)
