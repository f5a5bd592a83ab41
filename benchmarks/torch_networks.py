"""The networks whose whole training steps are measured, in PyTorch."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import nn


class Network(NamedTuple):
    """Something to train."""

    module: nn.Module
    inputs: torch.Tensor
    targets: torch.Tensor


def dense(depth: int, width: int) -> Network:
    layers = [x for _ in range(depth) for x in (nn.Linear(width, width, bias=False), nn.Tanh())]
    return Network(nn.Sequential(*layers), torch.randn(64, width), torch.randn(64, width))


def transformer() -> Network:
    """Twelve blocks of width 512, normalized before each part."""
    block = nn.TransformerEncoderLayer(
        512, 8, 2048, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    module = nn.TransformerEncoder(block, 12, nn.LayerNorm(512), enable_nested_tensor=False)
    return Network(module, torch.randn(8, 128, 512), torch.randn(8, 128, 512))


class _Block(nn.Module):
    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, width, 3, stride, padding=1, bias=False),
            nn.GroupNorm(8, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.GroupNorm(8, width),
        )
        self.shortcut = nn.Sequential()
        if before != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, width, 1, stride, bias=False), nn.GroupNorm(8, width)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def residual() -> Network:
    """The leaves of ResNet-18, with groups normalized in place of batches."""
    stem = [nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.GroupNorm(8, 64), nn.ReLU()]
    blocks, before = [], 64
    for width in (64, 128, 256, 512):
        blocks += [_Block(before, width, 1 if width == 64 else 2), _Block(width, width, 1)]
        before = width
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10)]
    module = nn.Sequential(*stem, *blocks, *head)
    return Network(module, torch.randn(16, 3, 32, 32), torch.randn(16, 10))


NETWORKS: dict[str, Callable[[], Network]] = {
    "12 dense layers of 1024, batch 64": partial(dense, 12, 1024),
    "40 dense layers of 512, batch 64": partial(dense, 40, 512),
    "4 dense layers of 2048, batch 64": partial(dense, 4, 2048),
    "transformer, 12 layers of 512, unrolled": transformer,
    "ResNet-18, 16 images of 32x32": residual,
}
