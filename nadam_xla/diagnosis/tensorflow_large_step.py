"""A step of TensorFlow's with a large temporary block."""

import tensorflow as tf

from nadam_xla.diagnosis.facts import Framework
from nadam_xla.diagnosis.memory import SIDE, large_step


def find_out(found: Framework) -> None:
    """Its page faults, where steps run on the CPU."""
    if tf.config.list_logical_devices("GPU"):
        return
    params, rows = tf.Variable(tf.ones((SIDE, SIDE))), tf.ones((8, SIDE))

    @tf.function(jit_compile=True)
    def step() -> None:
        """The whole gradient has to be there before any of it is used."""
        grads = tf.matmul(rows, rows, transpose_a=True)
        params.assign_sub(grads / tf.norm(grads))

    found["large_step"] = large_step(step)
