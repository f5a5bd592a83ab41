"""Saved runs that go on in a fresh process, ours from stock's files and stock from ours."""

import copy
import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import keras_saving
import numpy as np
import pytest
from keras import ops
from keras_models import BACKEND, assert_all_close, compiled, dense, fit, numpy_of
from processes import output_of

from nadam_xla.keras import Nadam

Run = keras_saving.Run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def uninterrupted(folder: Path) -> dict[str, Run]:
    return {whose: keras_saving.keep(whose, folder / whose) for whose in ("ours", "stock")}


@pytest.fixture(scope="module")
def continued(uninterrupted: dict[str, Run], folder: Path) -> dict[str, Run]:
    """All runs in one process, for a framework takes long to import."""
    del uninterrupted  # has written the files
    code = "import sys, keras_saving; keras_saving.go_on(sys.argv[1])"
    return json.loads(output_of(code, folder).splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(("kept_by", "whose", "kind"), keras_saving.runs())
def test_a_fresh_process_goes_on_as_if_nothing_had_happened(
    uninterrupted: dict[str, Run], continued: dict[str, Run], kept_by: str, whose: str, kind: str
) -> None:
    if BACKEND == "torch" and whose != kept_by:
        pytest.skip("Keras's own Nadam for torch multiplies its momentum product twice a step")
    run, expected = continued[f"{kept_by}, {whose}, {kind}"], uninterrupted[kept_by]
    rtol = 1e-6 if whose == kept_by else 1e-5
    np.testing.assert_allclose(run["losses"], expected["losses"], rtol=rtol)
    assert_all_close(run["weights"], expected["weights"], rtol=10 * rtol)


@pytest.mark.parametrize("kept_by", [Nadam, keras.optimizers.Nadam], ids=["ours", "stock"])
def test_a_run_in_a_loss_scale_optimizer_goes_on(tmp_path: Path, kept_by: Any) -> None:
    """Around stock, the momentum product is not in the file; ours needs none to go on."""

    def model_of(make: Any) -> keras.Model:
        wrapped = keras.optimizers.LossScaleOptimizer(make(1e-2), initial_scale=8.0)
        return compiled(dense(), wrapped)

    kept = model_of(kept_by)
    fit(kept, epochs=1)
    kept.save_weights(tmp_path / "run.weights.h5")
    loaded = model_of(Nadam)
    loaded.optimizer.build(loaded.trainable_variables)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # that state is skipped
        loaded.load_weights(tmp_path / "run.weights.h5")
    assert_all_close(numpy_of(loaded.optimizer.variables), numpy_of(kept.optimizer.variables))
    losses = fit(loaded, epochs=1)
    if kept_by is Nadam:
        np.testing.assert_allclose(losses, fit(kept, epochs=1), rtol=1e-6)


# ---- copies of optimizers ------------------------------------------------------------------------

WAYS_TO_COPY: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "deep copy": copy.deepcopy,
    "copy of a copy": lambda x: copy.deepcopy(pickle.loads(pickle.dumps(x))),
}


@pytest.mark.parametrize("way", WAYS_TO_COPY)
def test_a_copied_model_goes_on_and_leaves_the_other_alone(way: str) -> None:
    model = compiled(dense(), Nadam(1e-2, weight_decay=0.1))
    fit(model, epochs=1)
    copied = WAYS_TO_COPY[way](model)
    assert type(copied.optimizer) is Nadam
    before = numpy_of(model.optimizer.variables)
    losses = fit(copied, epochs=1)
    assert_all_close(numpy_of(model.optimizer.variables), before)
    np.testing.assert_allclose(losses, fit(model, epochs=1), rtol=1e-6)


@pytest.mark.parametrize("way", WAYS_TO_COPY)
def test_a_copied_optimizer_goes_on_where_it_is_built_again(way: str) -> None:
    optimizer = Nadam(1e-2, use_ema=True, gradient_accumulation_steps=2)
    variable = keras.Variable(np.ones(3, "f"))
    for step in range(5):
        optimizer.apply([ops.ones(3) * step], [variable])
    copied = WAYS_TO_COPY[way](optimizer)
    assert not copied.built
    assert int(copied.iterations) == int(optimizer.iterations) == 2
    other = keras.Variable(variable)
    for step in range(5):
        optimizer.apply([ops.ones(3) - step], [variable])
        copied.apply([ops.ones(3) - step], [other])
    assert_all_close(numpy_of(copied.variables), numpy_of(optimizer.variables))
    assert_all_close(numpy_of([other]), numpy_of([variable]))


def test_stock_loses_the_state_of_a_copied_optimizer() -> None:
    optimizer = keras.optimizers.Nadam(1e-2)
    optimizer.apply([ops.ones(3)], [keras.Variable(np.ones(3, "f"))])
    with pytest.warns(UserWarning, match="Skipping variable loading for optimizer"):
        assert int(copy.deepcopy(optimizer).iterations) == 0


def test_a_copy_that_was_never_built_may_be_built_for_anything() -> None:
    copied = copy.deepcopy(Nadam(0.02, beta_1=0.8))
    assert (float(copied.learning_rate), copied.beta_1) == (pytest.approx(0.02), 0.8)
    fit(compiled(dense(), copied), epochs=1)


def test_a_copy_cannot_be_built_for_other_variables() -> None:
    optimizer = Nadam(1e-2)
    optimizer.build([keras.Variable(np.ones(3, "f"))])
    copied = copy.deepcopy(optimizer)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"shapes .*\(3,\).*; it cannot be built for others"):
            copied.build([keras.Variable(np.ones(4, "f"))])
    fresh = Nadam.from_config(optimizer.get_config())
    fit(compiled(dense(), fresh), epochs=1)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="for graphs that build what they use")
def test_a_copied_optimizer_takes_up_its_state_once_in_a_graph() -> None:
    import tensorflow as tf  # noqa: PLC0415

    optimizer, model = Nadam(1e-2), dense()
    gradients = [tf.ones(v.shape) for v in model.trainable_variables]
    for _ in range(3):
        optimizer.apply(gradients, model.trainable_variables)
    copied = copy.deepcopy(optimizer)
    step = tf.function(lambda: copied.apply(gradients, model.trainable_variables))
    for iterations in range(4, 7):
        step()
        assert int(copied.iterations) == iterations
