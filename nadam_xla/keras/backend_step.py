"""Which backend runs the fused step, if one does.

``serves(optimizer, trainable_variables)`` tells whether it can update these variables now;
``step(optimizer, grads, trainable_variables)`` updates them. Under ``eagerly()`` a variable is
assigned at once, even where a graph is being traced; under ``after(tensors)`` it is assigned once
these are there.
"""

import keras

if keras.backend.backend() == "tensorflow":
    from nadam_xla.keras.tensorflow_step import after, eagerly, serves, step
elif keras.backend.backend() == "jax":
    from nadam_xla.keras.jax_step import after, eagerly, serves, step
else:
    from nadam_xla.keras.no_step import after, eagerly, serves, step

__all__ = ["after", "eagerly", "serves", "step"]
