"""Killed at any moment, a training goes on from the last whole checkpoint, bit for bit.

An uninterrupted training says of each step which bits are right. Each life of one that is killed
over and over must find them where it goes on, and make them from there.
"""

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
from nursery import BY_TENSORFLOW, Life, nursery

PROGRAMS = Path(__file__).parent


class Uninterrupted:
    """What a training is after each of its steps, as digests of all its bits."""

    def __init__(self, life: Life) -> None:
        (begun, *lines) = map(str.split, life.printed())
        self.digests = {int(step): digest for _, step, digest in lines}
        self.start = begun[2]
        self.steps = list(self.digests)

    def __getitem__(self, step: int) -> str:
        return self.digests[step] if step else self.start


def lived(life: Life, expected: Uninterrupted, dies: Callable[[int], bool] | None) -> int:
    """The step from which a life went on; it dies where it is told so, or else lives to the end.

    Args:
        life: that has just begun.
        expected: of its steps.
        dies: of the step that was made last, 0 at first: whether the life is to be killed now.
    """
    went_on_from, made, killed = None, None, False
    for line in life:
        what, step, digest = line.split()
        made = int(step)
        assert digest == expected[made], f"{line}: other bits than of the uninterrupted training"
        if what == "resumed":
            went_on_from = made
        if dies is not None and not killed and dies(made):
            life.kill()
            killed = True
    assert life.status == (-9 if killed else 0), life.said()
    assert killed or made == expected.steps[-1]
    assert went_on_from is not None
    return went_on_from


def seen(is_there: Callable[[], bool], is_over: Callable[[], bool]) -> bool:
    """Waits closely for what is there for a moment; False where the moment has passed unseen."""
    while not is_there():
        if is_over():
            return False
        time.sleep(0.0003)
    return True


# ---- Orbax ---------------------------------------------------------------------------------------

EVERY, STEPS = 3, 12


def whole(folder: Path) -> int:
    """The last step of which there is a whole checkpoint; Orbax renames one once it is."""
    names = os.listdir(folder) if folder.exists() else []
    return max((int(name) for name in names if name.isdigit()), default=0)


def unfinished(folder: Path) -> bool:
    return any(not name.isdigit() for name in os.listdir(folder))


def test_jax_goes_on_from_orbaxs_last_whole_checkpoint(tmp_path: Path) -> None:
    """In float32, narrow with stochastic rounding and masters, in codes of 8 bits, and by rows."""
    folder = tmp_path / "killed"

    def during_a_checkpoint(made: int) -> bool:
        is_kept = made > 0 and made % EVERY == 0
        return is_kept and seen(lambda: unfinished(folder), lambda: whole(folder) == made)

    def between_steps(made: int) -> bool:
        return whole(folder) > 1 and made % EVERY != 0

    moments = [lambda made: made == 0, during_a_checkpoint, between_steps, during_a_checkpoint]
    with nursery(PROGRAMS / "train_jax.py", "jax") as born:

        def life(where: Path) -> Life:
            return born(folder=str(where), steps=STEPS, every=EVERY)

        expected = Uninterrupted(life(tmp_path / "whole"))
        for moment in [*moments, None]:
            last_whole = whole(folder)
            assert lived(life(folder), expected, moment) == last_whole
            if moment is during_a_checkpoint:
                assert unfinished(folder), "it was killed too late"


# ---- Keras ---------------------------------------------------------------------------------------

EPOCHS = 5
BATCHES = 4  # of an epoch, each a step


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "storage"), [("tensorflow", "narrow"), ("jax", "codes")])
def test_keras_goes_on_from_its_last_whole_backup(
    backend: str, storage: str, tmp_path: Path
) -> None:
    """Of two, for Keras writes one in place: what it was writing when it was killed is lost."""
    folder = tmp_path / "killed"
    latest = folder / "latest.weights.h5"

    def during_a_backup(made: int) -> bool:
        if made == 0 or not latest.exists():  # of the first one there is no other
            return False
        before, until = latest.stat().st_mtime_ns, time.monotonic() + 5
        return seen(lambda: latest.stat().st_mtime_ns != before, lambda: time.monotonic() > until)

    environment = BY_TENSORFLOW | {"KERAS_BACKEND": backend}
    with nursery(PROGRAMS / "train_keras.py", "keras", environment=environment) as born:

        def life(where: Path) -> Life:
            return born(way="fit", folder=str(where), storage=storage, epochs=EPOCHS, double=True)

        expected = Uninterrupted(life(tmp_path / "whole"))
        went_on_from = [lived(life(folder), expected, lambda made: made == 0)]
        torn = 0
        for _ in range(2):
            went_on_from.append(lived(life(folder), expected, during_a_backup))
            torn += not is_whole(latest)
        went_on_from.append(lived(life(folder), expected, None))
    assert torn, "each backup was whole before it was killed"
    assert went_on_from == sorted(went_on_from)
    assert went_on_from[-1] > 0


def is_whole(file: Path) -> bool:
    try:
        h5py.File(file).close()
    except OSError:
        return False
    return True


@pytest.mark.slow
def test_tensorflow_goes_on_from_its_last_whole_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "killed"

    def last() -> int:
        """The number of the last checkpoint: a file names it, and is replaced once it is whole."""
        state = folder / "checkpoint"
        text = state.read_text() if state.exists() else ""
        found = re.search(r'^model_checkpoint_path: "ckpt-(\d+)"', text)
        return int(found[1]) if found else 0

    def during_a_checkpoint(made: int) -> bool:
        number = made // BATCHES
        return number > 1 and seen(
            lambda: bool(list(folder.glob(f"ckpt-{number}*"))), lambda: last() == number
        )

    moments = [lambda made: made > 0, during_a_checkpoint, during_a_checkpoint, None]
    with nursery(PROGRAMS / "train_keras.py", "keras", environment=BY_TENSORFLOW) as born:

        def life(where: Path) -> Life:
            return born(way="loop", folder=str(where), storage="narrow", epochs=EPOCHS)

        expected = Uninterrupted(life(tmp_path / "whole"))
        for moment in moments:
            last_whole = BATCHES * last()
            assert lived(life(folder), expected, moment) == last_whole
