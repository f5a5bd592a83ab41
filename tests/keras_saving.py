"""A run that is kept, in every kind of file, in its middle; and runs that go on from there.

A fresh process goes on by ``go_on``. Stock Keras does so without nadam_xla being imported, so this
imports it only where ours goes on.
"""

import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
from keras_models import BACKEND, BATCHES, compiled, dense, fit

Run = dict[str, Any]

EPOCHS = 2  # the files are of the end of the first


def optimizer_of(whose: str) -> Any:
    """Ours, or stock's; in the middle of an accumulation when the first epoch ends."""
    if whose == "ours":
        from nadam_xla.keras import Nadam  # noqa: PLC0415

        make = Nadam
    else:
        make = keras.optimizers.Nadam
    steps = 5
    assert BATCHES % steps
    return make(
        keras.optimizers.schedules.CosineDecay(0.02, EPOCHS * BATCHES),
        global_clipnorm=0.5,
        weight_decay=0.01,
        use_ema=True,
        gradient_accumulation_steps=steps,
    )


def keep(whose: str, folder: Path) -> Run:
    """A run that nothing interrupts, and that leaves its files in the folder."""
    folder.mkdir()
    model = compiled(dense(), optimizer_of(whose))
    backup = folder / "backup-of-the-end"

    def write(epoch: int, logs: Any = None) -> None:
        if epoch > 0:
            return
        shutil.copytree(backup, folder / "backup")
        (folder / "model.pickle").write_bytes(pickle.dumps(model))
        if BACKEND == "tensorflow":
            checkpoints_of(model, folder).save()

    callbacks = [
        keras.callbacks.BackupAndRestore(str(backup), delete_checkpoint=False),
        keras.callbacks.ModelCheckpoint(str(folder / "{epoch:02d}.keras")),
        keras.callbacks.ModelCheckpoint(
            str(folder / "{epoch:02d}.weights.h5"), save_weights_only=True
        ),
        keras.callbacks.LambdaCallback(on_epoch_end=write),
    ]
    losses = fit(model, epochs=EPOCHS, callbacks=callbacks)
    return {"losses": losses[1:], "weights": weights_of(model)}


def from_whole_model(whose: str, folder: Path) -> keras.Model:
    """Stock loads a file of ours in our place."""
    in_our_place = {"nadam_xla>Nadam": keras.optimizers.Nadam} if whose == "stock" else None
    return keras.models.load_model(folder / "01.keras", custom_objects=in_our_place)


def from_weights(file: str) -> Callable[[str, Path], keras.Model]:
    def read(whose: str, folder: Path) -> keras.Model:
        model = compiled(dense(), optimizer_of(whose))
        model.optimizer.build(model.trainable_variables)
        model.load_weights(folder / file)
        return model

    return read


def from_pickle(whose: str, folder: Path) -> keras.Model:
    in_our_place = {"nadam_xla>Nadam": keras.optimizers.Nadam} if whose == "stock" else {}
    with keras.saving.custom_object_scope(in_our_place):
        return pickle.loads((folder / "model.pickle").read_bytes())


def from_checkpoint(built: bool) -> Callable[[str, Path], keras.Model]:
    def read(whose: str, folder: Path) -> keras.Model:
        model = compiled(dense(), optimizer_of(whose))
        if built:
            model.optimizer.build(model.trainable_variables)
        assert checkpoints_of(model, folder).restore_or_initialize()
        return model

    return read


def checkpoints_of(model: keras.Model, folder: Path) -> Any:
    import tensorflow as tf  # noqa: PLC0415

    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    return tf.train.CheckpointManager(checkpoint, str(folder / "checkpoints"), max_to_keep=2)


KINDS: dict[str, Callable[[str, Path], keras.Model]] = {
    "whole model": from_whole_model,
    "weights of a whole model": from_weights("01.keras"),
    "weights": from_weights("01.weights.h5"),
    "backup": lambda whose, folder: compiled(dense(), optimizer_of(whose)),
    "pickle": from_pickle,
}
if BACKEND == "tensorflow":
    KINDS["checkpoint, built before"] = from_checkpoint(built=True)
    KINDS["checkpoint, built after"] = from_checkpoint(built=False)

# These have the optimizer's class in them, and of stock's file Keras makes stock's optimizer.
WITH_THE_CLASS = ["whole model", "pickle"]

# Whose files, and who goes on from them; stock first, before ours is imported.
PAIRS = [("ours", "stock"), ("ours", "ours"), ("stock", "ours")]


def runs() -> list[tuple[str, str, str]]:
    """Whose file, who goes on from it, and the kind of the file."""
    return [
        (kept_by, whose, kind)
        for kept_by, whose in PAIRS
        for kind in KINDS
        if kind not in (WITH_THE_CLASS if kept_by == "stock" else ["weights of a whole model"])
    ]


def go_on(folder: str) -> None:
    """Prints, in JSON, how each run of ``runs`` goes on."""
    continued = {}
    for kept_by, whose, kind in runs():
        assert whose == "ours" or "nadam_xla" not in sys.modules
        if whose == "ours":
            import nadam_xla.keras  # noqa: F401, PLC0415
        files = Path(folder) / kept_by
        model = KINDS[kind](whose, files)
        assert type(model.optimizer).__module__.startswith("nadam_xla") == (whose == "ours")
        if kind == "backup":
            copy = files / f"backup for {whose}"
            shutil.copytree(files / "backup", copy)
            callback = keras.callbacks.BackupAndRestore(str(copy))
            losses = fit(model, epochs=EPOCHS, callbacks=[callback])
        else:
            losses = fit(model, epochs=1)
        run = {"losses": losses, "weights": weights_of(model)}
        continued[f"{kept_by}, {whose}, {kind}"] = run
    print(json.dumps(continued))


def weights_of(model: keras.Model) -> list[Any]:
    return [w.tolist() for w in model.get_weights()]
