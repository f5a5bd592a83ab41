"""The networks whose whole training steps are measured, in JAX."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


class Network(NamedTuple):
    """Something to train."""

    params: Any
    loss: Callable[[Any, jax.Array, jax.Array], jax.Array]  # of parameters, inputs, targets
    inputs: np.ndarray
    targets: np.ndarray
    steps: int  # of a turn: so many that it lasts long enough to be timed

    def parameters(self) -> int:
        """How many there are."""
        return sum(x.size for x in jax.tree.leaves(self.params))


def dense(depth: int, width: int, batch: int = 64) -> Network:
    """Layers without biases: the backward pass is next to nothing but two products a layer."""
    rng = np.random.default_rng(0)
    kernels = [
        jnp.asarray(rng.standard_normal((width, width), np.float32) / width**0.5)
        for _ in range(depth)
    ]

    def loss(kernels: list[jax.Array], x: jax.Array, y: jax.Array) -> jax.Array:
        for kernel in kernels:
            x = jnp.tanh(x @ kernel)
        return jnp.mean((x - y) ** 2)

    x, y = (rng.standard_normal((batch, width), np.float32) for _ in range(2))
    return Network(kernels, loss, x, y, steps=8)


def scanned_dense(depth: int, width: int, batch: int = 64) -> Network:
    """The layers of :func:`dense` in one stack."""
    layers = dense(depth, width, batch)

    def loss(kernels: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
        x, _ = jax.lax.scan(lambda x, kernel: (jnp.tanh(x @ kernel), None), x, kernels)
        return jnp.mean((x - y) ** 2)

    return layers._replace(params=jnp.stack(layers.params), loss=loss, steps=2)


def transformer(*, scanned: bool, remat: bool = False) -> Network:
    """Twelve blocks of width 512 over 8 sequences of 128."""
    module = _Transformer(scanned, remat)
    x, y = (np.random.default_rng(0).standard_normal((8, 128, 512), np.float32) for _ in range(2))
    return _of_module(module, x, y, steps=1)


def residual() -> Network:
    """The leaves of ResNet-18, with groups normalized in place of batches, on 16 small images."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((16, 32, 32, 3), np.float32)
    targets = rng.standard_normal((16, 10), np.float32)
    return _of_module(_Residual(), images, targets, steps=2)


def _of_module(module: nn.Module, x: np.ndarray, y: np.ndarray, steps: int) -> Network:
    def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.mean((module.apply(params, x) - y) ** 2)

    return Network(jax.jit(module.init)(jax.random.key(0), x), loss, x, y, steps)


class _Block(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, _: None = None) -> tuple[jax.Array, None]:
        h = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=8)(h, h)
        h = nn.Dense(4 * x.shape[-1])(nn.LayerNorm()(x))
        return x + nn.Dense(x.shape[-1])(nn.gelu(h)), None


class _Transformer(nn.Module):
    scanned: bool
    remat: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.scanned:
            block = nn.remat(_Block, prevent_cse=False) if self.remat else _Block
            blocks = nn.scan(block, {"params": 0}, split_rngs={"params": True}, length=12)
            x, _ = blocks()(x, None)
        else:
            for _ in range(12):
                x, _ = _Block()(x)
        return nn.LayerNorm()(x)


class _ResidualBlock(nn.Module):
    width: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        strides = (self.stride, self.stride)
        h = nn.Conv(self.width, (3, 3), strides, use_bias=False)(x)
        h = nn.Conv(self.width, (3, 3), use_bias=False)(nn.relu(nn.GroupNorm(8)(h)))
        if x.shape != h.shape:
            x = nn.Conv(self.width, (1, 1), strides, use_bias=False)(x)
        return nn.relu(x + nn.GroupNorm(8)(h))


class _Residual(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.GroupNorm(8)(nn.Conv(64, (3, 3), use_bias=False)(x)))
        for width in (64, 128, 256, 512):
            x = _ResidualBlock(width, stride=1 if width == 64 else 2)(x)
            x = _ResidualBlock(width, stride=1)(x)
        return nn.Dense(10)(jnp.mean(x, (1, 2)))


NETWORKS: dict[str, Callable[[], Network]] = {
    "12 dense layers of 1024, batch 64": partial(dense, 12, 1024),
    "40 dense layers of 512, batch 64": partial(dense, 40, 512),
    "4 dense layers of 2048, batch 64": partial(dense, 4, 2048),
    "transformer, 12 layers of 512, unrolled": partial(transformer, scanned=False),
    "transformer, 12 layers of 512, scanned": partial(transformer, scanned=True),
    "ResNet-18, 16 images of 32x32": residual,
}
