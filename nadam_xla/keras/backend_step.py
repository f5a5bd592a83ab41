"""Which backend runs the fused step, if one does.

``serves(trainable_variables)`` tells whether these variables can be updated by it now;
``step(optimizer, grads, trainable_variables)`` updates them.
"""

import keras

if keras.backend.backend() == "tensorflow":
    from nadam_xla.keras.tensorflow_step import serves, step
elif keras.backend.backend() == "jax":
    from nadam_xla.keras.jax_step import serves, step
else:
    from nadam_xla.keras.no_step import serves, step

__all__ = ["serves", "step"]
