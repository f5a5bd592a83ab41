"""The Keras optimizer."""

from typing import Any

import keras
from keras import ops

from nadam_xla.blockwise import scales_shape
from nadam_xla.keras import backend_step, masters
from nadam_xla.keras.arguments import check_arguments
from nadam_xla.keras.averages import average, left_behind, overwrite, overwrite_if_due
from nadam_xla.keras.convention import momentum_product, momentum_product_after
from nadam_xla.keras.copies import reduced, take_up_values
from nadam_xla.keras.fallback import (
    fused_hyperparameters,
    refuse_what_only_the_fused_update_can,
    warn_once,
    why_not_parents,
)
from nadam_xla.keras.hooks import overridden, replaced_methods
from nadam_xla.keras.reason import Reason
from nadam_xla.keras.row_gradients import Sparse, check_sparse
from nadam_xla.keras.scales import add_scales, check_stored
from nadam_xla.keras.step_hyperparameters import StepHyperparameters
from nadam_xla.keras.storage_choice import SCALES, StorageChoice
from nadam_xla.storage import NARROW, Master, Rounding


@keras.saving.register_keras_serializable(package="nadam_xla")
class Nadam(keras.optimizers.Nadam):  # type: ignore[misc]  # Keras has no types
    """Takes the place of ``keras.optimizers.Nadam``: same arguments, variables and files, faster.

    On the TensorFlow backend (eagerly, in ``tf.function``, compiled) and on the JAX backend, on the
    CPU and on GPUs for which there are CUDA kernels, a step updates all variables and moments in
    place, in one pass over memory. Under ``tf.distribute``'s MirroredStrategy and
    MultiWorkerMirroredStrategy each replica does so; as in stock Keras, each clips its own
    gradients before they are summed. On other backends and devices, and under another strategy, it
    is the parent's own update.

    The optimizer's variables of model variables narrower than float32 are kept in float32, unless
    other dtypes are given: in bfloat16, where stock Keras turns the model into NaN at the first
    step, ``beta_2`` rounds to 1. It is computed in float32 in any case, and nothing is converted
    outside of the one pass.

    Args:
        learning_rate: a float, a ``keras.optimizers.schedules.LearningRateSchedule``, or a callable
            without arguments.
        beta_1: the decay rate of the first moment, in [0, 1): a float, a constant tensor, or a
            callable without arguments.
        beta_2: the decay rate of the second moment, in [0, 1): a float, a constant tensor, or a
            callable without arguments.
        epsilon: added to the denominator; a float, not negative.
        weight_decay: a float or None. Each step also takes this times the learning rate times the
            variable away from it (Loshchilov & Hutter 2019), but for variables that
            ``exclude_from_weight_decay`` names.
        clipnorm: a float or None. A gradient whose L2 norm is larger is scaled down to this norm.
        clipvalue: a float or None. Each element of a gradient is limited to this magnitude.
        global_clipnorm: a float or None. All gradients are scaled down together, to this L2 norm of
            all their elements, where it is larger. Of the three, at most one may be given.
        use_ema: whether the optimizer keeps an exponential moving average of each variable. It is
            updated in the same pass, but where gradients accumulate, the variable is narrower than
            float32 or some of its rows alone are updated: there by a pass after it.
        ema_momentum: the decay rate of the averages, in [0, 1].
        ema_overwrite_frequency: an int or None. After every so many steps the variables take the
            averages' values; None: at the end of ``fit`` alone.
        loss_scale_factor: a float, not 0, or None. The gradients are divided by it; ``scale_loss``
            multiplies the loss by it.
        gradient_accumulation_steps: an int, 2 or more, or None. Only every so many steps the
            variables are updated, by the mean of the gradients since the last update.
        name: of the optimizer; None: ``"nadam"``.
        momentum_dtype: the dtype in which the first moments are kept: ``"float32"``, ``"float64"``,
            ``"bfloat16"`` or ``"float16"``; None: that of the variable, float32 where it is
            narrower. ``"blockwise8"``: as a code of 8 bits for each number, int8, and a float32
            for each 256 neighbours along the last axis, in a variable of its own; of variables of
            at least 4096 elements and 64 along the last axis, but not of float64 ones; of others as
            with None. This argument and those below are given by name; a configuration has those
            that are not at their defaults, and stock does not know them.
        velocity_dtype: the dtype in which the second moments are kept, likewise; their codes are
            uint8. Rounded to the nearest, a bfloat16 one stops moving, for it changes by less than
            half its last place: round stochastically.
        rounding: how what is stored as bfloat16 or float16 is rounded: ``"nearest"``; or
            ``"stochastic"``, up or down by chance, so that on the average nothing is lost. Codes
            always are rounded so.
        seed: of those chances, a whole number of 32 bits. They depend on it, on the number of the
            step, counted from 1, and on the number of the variable among those that the optimizer
            is built for; and on nothing else. On a mesh the parts of a variable have their own.
        master: what is kept beside variables that are bfloat16 or float16, and updated with them,
            so that changes add up that they are too coarse for; None: nothing. ``"float32"``: a
            copy of full precision; ``"remainder"``: of bfloat16 variables the 16 bits that they
            lack, as uint16, with which they are just that copy; ``"correction"``: the first 8 of
            those bits, as uint8. They are the optimizer's variables, the last of them. Where others
            than the optimizer have written to the model, call :meth:`refresh_masters`.
        sparse: what a gradient does that has some rows of its variable alone, as that of an
            embedding has (``tf.IndexedSlices``; on JAX what ``jax.experimental.sparse`` calls
            BCOO). ``"dense"``: what the same gradient does with zeros in all other rows, as in
            stock. ``"lazy"``: those rows alone are updated, and all others are neither read nor
            written: their moments and their weight decay stand still until they occur again. It
            goes neither with ``gradient_accumulation_steps`` nor with ``"blockwise8"``.
        **kwargs: none is known; Keras names those that it does not accept.

    Raises:
        TypeError: what should be a number is none, a string for instance.
        ValueError: a number is out of its range; a dtype, rounding, master or ``sparse`` is
            unknown; ``sparse="lazy"`` is together with what it does not go with.

    A subclass may override what it may override in stock. Where that is a method that the fused
    step takes the place of, each step is the parent's own update, which calls it; so it is where
    :attr:`fused` is False. That update keeps no masters, knows no codes, rounds to the nearest and
    updates every row: where it would have to do otherwise, it is refused.

    Source: Dozat 2016, with Keras's momentum schedule ``beta_1 * (1 - 0.5 * 0.96**t)``.
    """

    fused: bool = True
    """Whether steps are fused where they can be. Set it to False for the parent's own update, made
    of nothing but TensorFlow's or JAX's operations: for a program that is to run where nadam_xla is
    not. It is an attribute of this object alone; files and copies are without it."""

    # Whether the parent, in its own update, has already put this step's momentum into the product.
    _product_has_this_step = False

    # One for each variable that it was built for, or None; None where there are no master weights.
    _masters: Any = None

    # Likewise, of the moments in codes of eight bits.
    _momentum_scales: Any = None
    _velocity_scales: Any = None

    # The dtype of a variable that is being added, where it is not that of its reference.
    _dtype_of_added: str | None = None

    # Whether the variable that is being added holds the scales of one with the shape asked for.
    _adds_scales = False

    # What the variables of a copy are to be, from when it is made until it is built.
    _copied_values: Any = None

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
        *,
        momentum_dtype: Any = None,
        velocity_dtype: Any = None,
        rounding: Rounding = "nearest",
        seed: int = 0,
        master: Master | None = None,
        sparse: Sparse = "dense",
        **kwargs: Any,
    ) -> None:
        arguments = {
            "learning_rate": learning_rate,
            "beta_1": beta_1,
            "beta_2": beta_2,
            "epsilon": epsilon,
            "weight_decay": weight_decay,
            "clipnorm": clipnorm,
            "clipvalue": clipvalue,
            "global_clipnorm": global_clipnorm,
            "use_ema": use_ema,
            "ema_momentum": ema_momentum,
            "ema_overwrite_frequency": ema_overwrite_frequency,
            "loss_scale_factor": loss_scale_factor,
            "gradient_accumulation_steps": gradient_accumulation_steps,
            "name": name,
        }
        check_arguments(arguments)
        storage = StorageChoice(
            momentum_dtype=momentum_dtype,
            velocity_dtype=velocity_dtype,
            rounding=rounding,
            seed=seed,
            master=master,
        )
        check_sparse(sparse, gradient_accumulation_steps, storage)
        super().__init__(**arguments, **kwargs)
        self._storage = storage
        self._sparse: Sparse = sparse

    def build(self, var_list: list[Any]) -> None:
        """Creates the optimizer's variables, as the parent does; see the class for their dtypes.

        Behind them stand the scales of first moments in codes, those of second moments, and the
        master weights, each in the order of the model's variables that have one.

        Raises:
            TypeError: a variable cannot have a master of the kind that was chosen.
            RuntimeError: a master is to begin at a variable that has no value yet, in a function of
                TensorFlow's that makes both.
            ValueError: this is a copy of an optimizer that was built for other variables.
        """
        if self.built:
            return
        check_sparse(self._sparse, self.gradient_accumulation_steps, self._storage)
        masters.check_variables(self, var_list)
        super().build(var_list)
        added = {f"_{name}": scales for name, scales in add_scales(self, var_list).items()}
        added["_masters"] = masters.add_masters(self, var_list)
        for name, variables in added.items():
            if variables is not None:  # else there is no attribute that a checkpoint would keep
                setattr(self, name, variables)
        self._keeps_product = any(v is self._u_product for v in self.variables)
        if self._copied_values is not None:
            take_up_values(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled and copied with its state, which the copy takes up when it is built."""
        return reduced(self)

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets an attribute; a variable that is set is tracked."""
        # The parent gives it the first variable's dtype. Once tracked it could not be replaced, for
        # tf.train.Checkpoint refuses a list of variables from which one was taken.
        if name == "_u_product" and value.dtype in NARROW:
            value = keras.Variable(1.0, dtype="float32", trainable=False)
        super().__setattr__(name, value)

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
        if self._dtype_of_added is not None:
            dtype = self._dtype_of_added
        elif dtype is not None and keras.backend.standardize_dtype(dtype) in NARROW:
            dtype = "float32"
        if self._adds_scales:
            layout = backend_step.layout_of_scales(tuple(shape), layout)
            shape = scales_shape(tuple(shape))
        return super().add_variable(shape, initializer, dtype, aggregation, layout, name)

    def add_variable_from_reference(
        self, reference_variable: Any, name: Any = None, initializer: Any = "zeros"
    ) -> Any:
        """Adds a variable to the optimizer, with the shape and the place of one of the model's.

        It has its dtype, but float32 in the place of narrower floats, and moments those that were
        chosen. Scales have its shape but for the last axis, which has one for each block.
        """
        self._dtype_of_added = self._storage.dtype_of_added(name, reference_variable)
        self._adds_scales = name in SCALES
        try:
            return super().add_variable_from_reference(reference_variable, name, initializer)
        finally:
            self._dtype_of_added, self._adds_scales = None, False

    @property
    def momentum_dtype(self) -> str | None:
        """What was chosen for the first moments; here and below it is a constant."""
        return self._storage.momentum_dtype

    @property
    def velocity_dtype(self) -> str | None:
        """What was chosen for the second moments."""
        return self._storage.velocity_dtype

    @property
    def rounding(self) -> Rounding:
        """How what is narrower than float32 is rounded."""
        return self._storage.rounding

    @property
    def seed(self) -> int:
        """Of the random numbers by which is rounded."""
        return self._storage.seed

    @property
    def master(self) -> Master | None:
        """The kind of the master weights."""
        return self._storage.master

    @property
    def sparse(self) -> Sparse:
        """What a gradient does that has some rows of its variable alone."""
        return self._sparse

    def load_own_variables(self, store: Any) -> None:
        """Takes the optimizer's variables from a file, as the parent does.

        Those of another number are skipped, with a warning. The model's are loaded then all the
        same, and their masters begin at them.

        Raises:
            ValueError: they were saved with another choice of what is in codes, or of masters.
        """
        has_all = len(store.keys()) == len(self.variables)
        if has_all:
            check_stored(self, store)
        super().load_own_variables(store)
        if not has_all:
            self.refresh_masters()

    def refresh_masters(self) -> None:
        """Makes the master weights those of the model's variables as they stand now.

        To be called where others than the optimizer have written to variables that have masters,
        for the next step begins at the masters: with ``master="float32"`` it would undo that.
        """
        if self._masters is not None:
            masters.renew(self._trainable_variables, self._masters)

    @property
    def beta_1(self) -> Any:
        """The decay rate of the first moment, as it stands now.

        It may be set to whatever the argument may be.
        """
        return _value(self._beta_1)

    @beta_1.setter
    def beta_1(self, value: Any) -> None:
        self._beta_1 = value

    @property
    def beta_2(self) -> Any:
        """The decay rate of the second moment, likewise."""
        return _value(self._beta_2)

    @beta_2.setter
    def beta_2(self, value: Any) -> None:
        self._beta_2 = value

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this optimizer again; callables by Keras's serialization.

        Those that stock does not know are there where they are not at their defaults.
        """
        betas = {"beta_1": _config_of(self._beta_1), "beta_2": _config_of(self._beta_2)}
        sparse = {} if self._sparse == "dense" else {"sparse": self._sparse}
        return {**super().get_config(), **betas, **self._storage.config(), **sparse}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "Nadam":
        """The optimizer of which ``get_config`` gave this."""
        betas = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects)
            for name in ("beta_1", "beta_2")
            if isinstance(config.get(name), dict)
        }
        made: Nadam = super().from_config({**config, **betas}, custom_objects)
        return made

    @backend_step.as_written  # type: ignore[untyped-decorator,unused-ignore]
    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Updates the variables, as the parent's method does, in one fused pass.

        Args:
            grads: a gradient for each variable; None for those that are not to be updated. With
                an empty list nothing happens.
            trainable_variables: those that the optimizer was built for, or some of them, in the
                order of ``grads``; None: all. On the first call they build the optimizer.

        Raises:
            TypeError: a variable or a gradient is not of a floating dtype; a hyperparameter is no
                number.
            ValueError: there are more gradients than variables or fewer; one has a wrong shape; a
                variable is unknown; every gradient is None.
            NotImplementedError: a fused step cannot run here, and the parent's own update would
                not keep up with the master weights, or knows no codes of eight bits, or would
                round otherwise than was chosen, or update every row where ``sparse`` is "lazy".
        """
        grads = list(grads)
        if not grads:  # as the parent: nothing is trainable, and no step is made
            return
        variables = self._known_variables(trainable_variables)
        if trainable_variables is not None and len(variables) != len(grads):
            raise ValueError(f"apply got {len(grads)} gradients and {len(variables)} variables")
        if self.built and not self._keeps_product:
            self._restore_product()
        given = self._fused_hyperparameters(grads, variables)
        if given is None:
            super().apply(grads, trainable_variables)
            return
        with keras.name_scope(self.name, caller=self):
            grads, variables = self._filter_empty_gradients(grads, variables)
            grads, variables = self._overwrite_variables_directly_with_gradients(grads, variables)
            if grads:
                backend_step.step(self, grads, variables, given)
                if self.use_ema:
                    pairs = zip(grads, variables, strict=True)
                    whole = [variable for grad, variable in pairs if not self._is_lazy(grad)]
                    self._update_model_variables_moving_average(left_behind(self, whole))
                    overwrite_if_due(self, self._trainable_variables)
                for variable in variables:
                    if variable.constraint is not None:
                        masters.overwrite(self, variable, variable.constraint(variable))
        # A step whose batch is missing, at the end of the data, breaks off and must not count.
        with backend_step.after(grads):
            self._iterations.assign_add(1)

    def _fused_hyperparameters(
        self, grads: list[Any], variables: list[Any]
    ) -> StepHyperparameters | None:
        """Those of a fused step, or None where it is the parent's own update."""
        if len(grads) != len(variables):
            return None
        pairs = [
            (grad, variable)
            for grad, variable in zip(grads, variables, strict=True)
            if grad is not None and not self._overwrite_variable_with_gradient(variable)
        ]
        updated = [variable for _, variable in pairs]
        given = fused_hyperparameters(self, updated, METHODS)
        if isinstance(given, Reason):
            refused = why_not_parents(self, updated, [grad for grad, _ in pairs])
            if refused is not None:
                raise NotImplementedError(f"{refused}; {given.text}")
            warn_once(given)
            return None
        return given

    def _is_lazy(self, grad: Any) -> bool:
        """Whether this gradient updates its rows alone."""
        return self._sparse == "lazy" and backend_step.is_sparse(grad)

    def _restore_product(self) -> None:
        """Gives the momentum product the value that it has after the updates made so far.

        A ``LossScaleOptimizer`` builds its inner optimizer where Keras tracks nothing that is set.
        So stock's product is not in its state: it is not saved, and on JAX it stays 1.
        """
        dtype = self._u_product.dtype
        self._u_product.assign(momentum_product_after(self.iterations, self.beta_1, dtype))

    def _known_variables(self, trainable_variables: Any) -> list[Any]:
        """Those to update, the optimizer being built for them if it is not built yet."""
        if trainable_variables is None:
            return list(self._trainable_variables) if self.built else []
        variables = list(trainable_variables)
        if not self.built:
            with keras.name_scope(self.name, caller=self):
                self.build(variables)
        self._check_variables_are_known(variables)
        return variables

    @property
    def _averages_in_step(self) -> bool:
        """Whether the fused step updates the averages of the variables that it updates.

        Stock updates them in steps that accumulate gradients too, while the variables stay.
        """
        accumulates = self.gradient_accumulation_steps
        return bool(self.use_ema and not accumulates and overridden(self, AVERAGING) is None)

    def _update_model_variables_moving_average(self, trainable_variables: list[Any]) -> None:
        average(self, trainable_variables)

    def _overwrite_model_variables_with_average_value(self, trainable_variables: list[Any]) -> None:
        overwrite(self, trainable_variables)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates one variable and its moments as this step would; ``apply`` does so for all.

        No clipping, no weight decay; the count of iterations and the momentum product stay as they
        are. It is the parent's own update: stock's, called like this, finds a momentum product
        without this step's momentum, and divides by zero at the first step.

        Args:
            gradient: of the variable's shape.
            variable: one that the optimizer was built for.
            learning_rate: a scalar.

        Raises:
            TypeError: the variable is bfloat16.
            NotImplementedError: the variable has a master or a moment in codes, or is to be rounded
                stochastically; or the gradient is sparse, and ``sparse`` is "lazy".
        """
        refuse_what_only_the_fused_update_can(self, [variable], [gradient])
        if self._product_has_this_step:
            super().update_step(gradient, variable, learning_rate)
            return
        before = ops.convert_to_tensor(self._u_product)
        self.assign(self._u_product, momentum_product(before, self.beta_1, self.iterations))
        super().update_step(gradient, variable, learning_rate)
        self.assign(self._u_product, before)

    def _backend_update_step(
        self, grads: list[Any], trainable_variables: list[Any], learning_rate: Any
    ) -> None:
        refuse_what_only_the_fused_update_can(self, trainable_variables, grads)
        self._product_has_this_step = True
        try:
            super()._backend_update_step(grads, trainable_variables, learning_rate)
        finally:
            self._product_has_this_step = False


METHODS = replaced_methods(Nadam)
"""Those of our class that the fused step takes the place of."""

_AVERAGING = "_update_model_variables_moving_average"

AVERAGING = {_AVERAGING: getattr(Nadam, _AVERAGING)}
"""Those that it takes the place of where it updates averages."""


def _value(rate: Any) -> Any:
    return rate() if callable(rate) else rate


def _config_of(rate: Any) -> Any:
    if callable(rate):
        return keras.saving.serialize_keras_object(rate)
    return rate if isinstance(rate, (int, float)) else float(ops.convert_to_numpy(rate))
