"""Runs Keras's own tests, out of its wheel, with ``nadam_xla.keras.Nadam`` for its optimizers.

``KERAS_BACKEND`` chooses the backend; arguments are handed on to pytest::

    KERAS_BACKEND=jax python tests/keras_own/run.py -k overwrite
"""

import os
import subprocess
import sys
from pathlib import Path

import keras

HERE = Path(__file__).parent

# Those that test an optimizer, or that train, keep or watch a model with one.
MODULES = [
    "optimizers/nadam_test.py",
    "optimizers/optimizer_test.py",
    "optimizers/optimizer_sparse_test.py",
    "optimizers/loss_scale_optimizer_test.py",
    "optimizers/multi_optimizer_test.py",
    "optimizers/schedules/learning_rate_schedule_test.py",
    "trainers/trainer_test.py",
    "saving/saving_lib_test.py",
    "callbacks/backup_and_restore_test.py",
    "callbacks/early_stopping_test.py",
    "callbacks/reduce_lr_on_plateau_test.py",
    "distribution/distribution_lib_test.py",
    # It gives TensorFlow a new context, as those of tf.distribute do: they come last.
    "callbacks/swap_ema_weights_test.py",
]
MODULES_OF_BACKEND = {
    "jax": [
        "backend/jax/trainer_test.py",
        "backend/jax/distribution_lib_test.py",
        "backend/jax/jax_multi_process_distribution_test.py",
    ],
    "tensorflow": [
        "backend/tensorflow/distribute_test.py",
        "backend/tensorflow/optimizer_distribute_test.py",
    ],
}


def main(arguments: list[str]) -> int:
    """How many failed of the runs: stock's, of what cannot apply, and ours, of all."""
    return sum(_pytest(nadam, arguments) != 0 for nadam in ("stock", "ours"))


def _pytest(nadam: str, arguments: list[str]) -> int:
    sources = Path(keras.__file__).parent / "src"
    modules = MODULES + MODULES_OF_BACKEND[keras.backend.backend()]
    environment = {
        **os.environ,
        "PYTHONPATH": str(HERE),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",  # on JAX
    }
    config = HERE.parents[1] / "pyproject.toml"
    options = ["-c", str(config), "-p", "substitution", f"--nadam={nadam}"]
    # The ids of the tests begin in the folder that holds Keras, which is no place for a cache.
    options += [f"--rootdir={sources.parents[1]}", "-p", "no:cacheprovider"]
    options += ["--tb=short", "--disable-warnings"]
    paths = [str(sources / module) for module in modules]
    command = [sys.executable, "-P", "-m", "pytest", *options, *paths, *arguments]
    return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
