"""The networks whose whole training steps are measured, in Keras."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import keras
from keras import layers


class Network(NamedTuple):
    """Something to train."""

    build: Callable[[], keras.Model]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    batch: int
    batches: int  # of a fit
    turns: int
    # TensorFlow's ways; on a machine without another device than CPUs, "auto" is False.
    compiled_in: tuple[Any, ...] = ("auto", True, False)


def dense(depth: int, width: int) -> keras.Model:
    hidden = [layers.Dense(width, activation="tanh") for _ in range(depth)]
    return keras.Sequential([keras.Input((width,)), *hidden])


def transformer() -> keras.Model:
    """Twelve blocks of width 512, normalized before each part."""
    inputs = x = keras.Input((128, 512))
    for _ in range(12):
        h = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(num_heads=8, key_dim=64)(h, h)])
        h = layers.Dense(4 * 512, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(512)(h)])
    return keras.Model(inputs, layers.LayerNormalization()(x))


def residual() -> keras.Model:
    """The leaves of ResNet-18, with groups normalized in place of batches."""

    def convolution(x: Any, width: int, size: int, stride: int = 1) -> Any:
        kernel = layers.Conv2D(width, size, stride, padding="same", use_bias=False)
        return layers.GroupNormalization(8)(kernel(x))

    inputs = keras.Input((32, 32, 3))
    x = layers.ReLU()(convolution(inputs, 64, 3))
    for width in (64, 128, 256, 512):
        for stride in (1 if width == 64 else 2, 1):
            h = layers.ReLU()(convolution(x, width, 3, stride))
            h = convolution(h, width, 3)
            if x.shape != h.shape:
                x = convolution(x, width, 1, stride)
            x = layers.ReLU()(layers.Add()([x, h]))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def _dense(depth: int, width: int) -> Network:
    build = partial(dense, depth, width)
    return Network(build, (width,), (width,), batch=64, batches=12, turns=9)


NETWORKS = {
    "12 dense layers of 1024, batch 64": _dense(12, 1024),
    "40 dense layers of 512, batch 64": _dense(40, 512),
    "4 dense layers of 2048, batch 64": _dense(4, 2048),
    "transformer, 12 layers of 512": Network(
        transformer, (128, 512), (128, 512), batch=8, batches=2, turns=4, compiled_in=(True, False)
    ),
    "ResNet-18, 16 images of 32x32": Network(
        residual, (32, 32, 3), (10,), batch=16, batches=3, turns=4, compiled_in=(True, False)
    ),
}
