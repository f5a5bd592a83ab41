"""The Keras optimizer."""

from typing import Any

import keras

from nadam_xla.coefficients import check_decay_rate, check_not_negative
from nadam_xla.keras import backend_step

_NARROW = ("bfloat16", "float16")


@keras.saving.register_keras_serializable(package="nadam_xla")
class Nadam(keras.optimizers.Nadam):  # type: ignore[misc]  # Keras has no types
    """Takes the place of ``keras.optimizers.Nadam``: same arguments, variables and files, faster.

    On the TensorFlow backend (eagerly, in ``tf.function``, compiled) and on the JAX backend, on the
    CPU, a step updates all variables and moments in place, in one pass over memory. On other
    backends and devices, and under a ``tf.distribute`` strategy, it is the parent's own update.

    The optimizer's variables of model variables narrower than float32 are kept in float32: in
    bfloat16, where stock Keras turns the model into NaN at the first step, ``beta_2`` rounds to 1.

    Args:
        learning_rate: a float, a ``keras.optimizers.schedules.LearningRateSchedule``, or a callable
            without arguments.
        beta_1: the decay rate of the first moment, in [0, 1).
        beta_2: the decay rate of the second moment, in [0, 1).
        epsilon: added to the denominator; not negative.
        weight_decay: as in ``keras.optimizers.Optimizer``, like all that follow.
        clipnorm: see there.
        clipvalue: see there.
        global_clipnorm: see there.
        use_ema: see there.
        ema_momentum: see there.
        ema_overwrite_frequency: see there.
        loss_scale_factor: see there.
        gradient_accumulation_steps: see there.
        name: see there.
        **kwargs: none is known; Keras names those that it does not accept.

    Raises:
        ValueError: a number is out of its range.

    Source: Dozat 2016, with Keras's momentum schedule ``beta_1 * (1 - 0.5 * 0.96**t)``.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: Any = 0.9,
        beta_2: Any = 0.999,
        epsilon: Any = 1e-7,
        weight_decay: Any = None,
        clipnorm: Any = None,
        clipvalue: Any = None,
        global_clipnorm: Any = None,
        use_ema: Any = False,
        ema_momentum: Any = 0.99,
        ema_overwrite_frequency: Any = None,
        loss_scale_factor: Any = None,
        gradient_accumulation_steps: Any = None,
        name: Any = None,
        **kwargs: Any,
    ) -> None:
        check_decay_rate("beta_1", beta_1)
        check_decay_rate("beta_2", beta_2)
        check_not_negative("epsilon", epsilon)
        super().__init__(
            learning_rate=learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            weight_decay=weight_decay,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            name=name,
            **kwargs,
        )

    def build(self, var_list: list[Any]) -> None:
        """Creates the optimizer's variables, as the parent does; see the class for their dtypes."""
        if self.built:
            return
        super().build(var_list)
        if self._u_product.dtype in _NARROW:  # type: ignore[has-type]
            narrow = self._u_product  # type: ignore[has-type]
            self._u_product = keras.Variable(1.0, dtype="float32", trainable=False)
            self._untrack_variable(narrow)

    def add_variable(
        self,
        shape: Any,
        initializer: Any = "zeros",
        dtype: Any = None,
        aggregation: Any = "none",
        layout: Any = None,
        name: Any = None,
    ) -> Any:
        """Adds a variable to the optimizer, in float32 where a narrower float is asked for."""
        if dtype is not None and keras.backend.standardize_dtype(dtype) in _NARROW:
            dtype = "float32"
        return super().add_variable(shape, initializer, dtype, aggregation, layout, name)

    def _backend_update_step(
        self, grads: list[Any], trainable_variables: list[Any], learning_rate: Any
    ) -> None:
        if backend_step.serves(trainable_variables):
            backend_step.step(self, grads, trainable_variables, learning_rate)
        else:
            _refuse_bfloat16(trainable_variables)
            super()._backend_update_step(grads, trainable_variables, learning_rate)


def _refuse_bfloat16(trainable_variables: list[Any]) -> None:
    """The parent's update would make them NaN: in bfloat16, ``1 - beta_2`` is zero."""
    for variable in trainable_variables:
        if keras.backend.standardize_dtype(variable.dtype) == "bfloat16":
            raise TypeError(
                f"the variable {getattr(variable, 'path', variable.name)} is bfloat16; only the"
                " fused update can train it, on the TensorFlow and JAX backends, on the CPU and"
                " without a tf.distribute strategy. Elsewhere use float32 variables, for instance"
                " with the dtype policy mixed_bfloat16"
            )
