"""Those of Keras's tests that no Nadam can pass, neither ours nor stock's, and why.

By module and class. A test that has no other backend than one is skipped by itself on the other.
"""

from typing import NamedTuple


class Reason(NamedTuple):
    """Why, and the error that it comes to."""

    text: str
    error: type[Exception]


NUMBERS = Reason(
    "it looks for the numbers, the name or the class of another optimizer", AssertionError
)
ARGUMENTS = Reason(
    "it gives an argument that only another optimizer has, such as momentum or amsgrad", ValueError
)
SPARSE_WRITES = Reason(
    "it asks that only the rows of a sparse gradient be written, as SGD, RMSprop, Adagrad and"
    " Adadelta do; the moments of Nadam move every row",
    AssertionError,
)
SPARSE_IN_A_BRANCH = Reason(
    "it squares a sparse gradient in a branch, which JAX's sparse arrays cannot while they are"
    " traced; it patches the optimizer's methods, so ours takes stock's path as well",
    ValueError,
)

ON_EVERY_BACKEND = {
    "optimizers/optimizer_test.py::OptimizerTest": {
        NUMBERS: [
            "test_callable_learning_rate",
            "test_ema",
            "test_ema_with_model_fit",
            "test_empty_gradients",
            "test_gradient_accumulation",
            "test_optimizer_auto_naming",
            "test_overwrite_with_gradient",
            "test_overwrite_with_gradient_with_gradient_accumulation",
            "test_static_loss_scaling",
        ],
    },
    "optimizers/optimizer_sparse_test.py::OptimizerSparseTest": {
        ARGUMENTS: [
            "test_sparse_correctness_adafactor",
            "test_sparse_correctness_adam_amsgrad",
            "test_sparse_correctness_adamw_amsgrad",
            "test_sparse_correctness_rmsprop_momentum",
            "test_sparse_correctness_rmsprop_momentum_centered",
            "test_sparse_correctness_sgd_momentum",
            "test_sparse_correctness_sgd_momentum_nesterov",
            "test_sparse_gradients_adafactor",
            "test_sparse_gradients_adam_amsgrad",
            "test_sparse_gradients_adamw_amsgrad",
            "test_sparse_gradients_rmsprop_momentum",
            "test_sparse_gradients_rmsprop_momentum_centered",
            "test_sparse_gradients_sgd_momentum",
            "test_sparse_gradients_sgd_momentum_nesterov",
        ],
        SPARSE_WRITES: [
            "test_sparse_gradients_adadelta",
            "test_sparse_gradients_adagrad",
            "test_sparse_gradients_rmsprop",
            "test_sparse_gradients_sgd",
        ],
    },
    "optimizers/loss_scale_optimizer_test.py::LossScaleOptimizerTest": {
        NUMBERS: [
            "test_apply_with_no_vars",
            "test_finite_step_stateful",
            "test_finite_step_stateless",
            "test_finite_step_with_inner_loss_scale_stateful",
            "test_finite_step_with_inner_loss_scale_stateless",
        ],
        ARGUMENTS: ["test_config", "test_deserialization_backwards_compatibility"],
    },
    "optimizers/multi_optimizer_test.py::MultiOptimizerTest": {
        NUMBERS: [
            "test_custom_callable_function",
            "test_gradient_unscaling",
            "test_multi_optimizer_with_model_fit",
            "test_multi_optimizer_wrapped_in_loss_scale_optimizer",
            "test_serialization",
            "test_stateful_apply",
            "test_stateless_apply",
        ],
    },
    "optimizers/schedules/learning_rate_schedule_test.py::TestFitLRSchedulesFlow": {
        NUMBERS: ["test_fit_lr_correctness"],
    },
    "trainers/trainer_test.py::TestTrainer": {
        NUMBERS: [
            "test_fit_flow_eager",
            "test_fit_flow_graph_fn",
            "test_fit_flow_jit",
            "test_fit_flow_steps_per_epoch_eager",
            "test_fit_flow_steps_per_epoch_graph_fn",
            "test_fit_flow_steps_per_epoch_jit",
            "test_loss_weights",
            "test_nested_inputs",
            "test_on_batch_methods_eager",
            "test_on_batch_methods_graph_fn",
            "test_on_batch_methods_jit",
        ],
    },
}

ON_JAX = {
    "optimizers/optimizer_sparse_test.py::OptimizerSparseTest": {
        SPARSE_IN_A_BRANCH: ["test_sparse_gradients_loss_scale_optimizer_sgd"],
    },
}

ON_TENSORFLOW = {
    "optimizers/optimizer_sparse_test.py::OptimizerSparseTest": {
        SPARSE_WRITES: ["test_sparse_gradients_loss_scale_optimizer_sgd"],
    },
    "trainers/trainer_test.py::TestTrainer": {
        SPARSE_WRITES: [
            "test_fit_sparse_jax_eager",
            "test_fit_sparse_jax_graph",
            "test_fit_sparse_scipy_eager",
            "test_fit_sparse_scipy_graph",
            "test_fit_sparse_tf_eager",
            "test_fit_sparse_tf_graph",
        ],
    },
    "backend/tensorflow/optimizer_distribute_test.py::OptimizerDistributeTest": {
        NUMBERS: ["test_ema", "test_gradient_accumulation"],
        ARGUMENTS: ["test_config", "test_correctness_with_golden", "test_single_step0"],
    },
}


def cannot_apply(backend: str) -> dict[str, Reason]:
    """By a test's id, below Keras's sources, the reason."""
    tables = [ON_EVERY_BACKEND, {"jax": ON_JAX, "tensorflow": ON_TENSORFLOW}[backend]]
    return {
        f"keras/src/{group}::{name}": reason
        for table in tables
        for group, reasons in table.items()
        for reason, names in reasons.items()
        for name in names
    }
