"""Ways in which a model with its optimizer is kept, and another one made of what was kept.

Each is given the model, what makes a model like it of an optimizer, and a folder to write to.
"""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
from keras_models import BACKEND

Make = Callable[[Any], keras.Model]


def _twin(model: keras.Model, make: Make) -> keras.Model:
    """A new one with a built optimizer of the same configuration."""
    other = make(type(model.optimizer).from_config(model.optimizer.get_config()))
    other.optimizer.build(other.trainable_variables)
    return other


def _from_weights(model: keras.Model, make: Make, folder: Path) -> keras.Model:
    model.save_weights(folder / "run.weights.h5")
    other = _twin(model, make)
    other.load_weights(folder / "run.weights.h5")
    return other


def _from_model(model: keras.Model, _: Make, folder: Path) -> keras.Model:
    model.save(folder / "run.keras")
    return keras.models.load_model(folder / "run.keras")


def checkpoint(of: keras.Model) -> Any:
    """TensorFlow's, of a model and its optimizer."""
    import tensorflow as tf  # noqa: PLC0415

    return tf.train.Checkpoint(model=of, optimizer=of.optimizer)


def _from_checkpoint(model: keras.Model, make: Make, folder: Path) -> keras.Model:
    path = checkpoint(model).save(folder / "checkpoint")
    other = _twin(model, make)
    checkpoint(other).restore(path).assert_consumed()
    return other


WAYS: dict[str, Callable[[keras.Model, Make, Path], keras.Model]] = {
    "weights": _from_weights,
    "whole model": _from_model,
    "pickle": lambda model, _make, _folder: pickle.loads(pickle.dumps(model)),
    "deep copy": lambda model, _make, _folder: copy.deepcopy(model),
}
if BACKEND == "tensorflow":
    WAYS["checkpoint"] = _from_checkpoint
