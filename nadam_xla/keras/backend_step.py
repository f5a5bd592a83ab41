"""Which backend runs the fused step, if one does.

``why_not(optimizer, trainable_variables)`` gives the reason why it cannot update these variables
now, or None where it can; ``path_of_fused_step()`` tells what it runs then;
``step(optimizer, grads, trainable_variables, hyperparameters)`` updates them. ``to_tensor`` reads a
variable. ``is_sparse(grad)`` tells whether a gradient has some rows of its variable alone.
``either(condition, if_true, if_false)`` gives the list of tensors that one of these
functions makes, and computes nothing of the other. Under ``eagerly()`` a variable is assigned at
once, even where a graph is being traced; under ``after(tensors)`` it is assigned once these are
there. ``layout_of_scales(shape, layout)`` is the layout of the scales of a moment in codes that has
this shape and this layout; None where none is given. What is decorated by ``as_written`` is run by
Python alone, as Keras itself is, even where the backend rewrites the code that it traces.
"""

import keras

if keras.backend.backend() == "tensorflow":
    from nadam_xla.keras.tensorflow_step import (
        after,
        as_written,
        eagerly,
        either,
        is_sparse,
        layout_of_scales,
        path_of_fused_step,
        step,
        to_tensor,
        why_not,
    )
elif keras.backend.backend() == "jax":
    from nadam_xla.keras.jax_step import (
        either,
        is_sparse,
        layout_of_scales,
        path_of_fused_step,
        step,
        to_tensor,
        why_not,
    )
    from nadam_xla.keras.python_order import after, as_written, eagerly
else:
    from nadam_xla.keras.no_step import (
        either,
        is_sparse,
        layout_of_scales,
        path_of_fused_step,
        step,
        to_tensor,
        why_not,
    )
    from nadam_xla.keras.python_order import after, as_written, eagerly

__all__ = [
    "after",
    "as_written",
    "eagerly",
    "either",
    "is_sparse",
    "layout_of_scales",
    "path_of_fused_step",
    "step",
    "to_tensor",
    "why_not",
]
