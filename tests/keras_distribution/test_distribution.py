"""Keras on JAX with keras.distribution: ours against stock, and against one device."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import compiled as program
import jax
import keras
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from keras_models import assert_all_close, batches_of_words, compiled, embedding, fit

from nadam_xla.keras import Nadam

Stock = keras.optimizers.Nadam
Make = Callable[..., Any]  # an optimizer: Nadam or Stock

# By the last parts of the paths of the variables; what is not named here is whole on each device.
LAYOUTS: dict[str, dict[str, tuple[str | None, ...]]] = {
    "model parallel": {
        "words/embeddings": ("model", None),
        "b/kernel": ("model", None),
    },
    "cut along both axes": {
        "words/embeddings": ("model", "batch"),
        "b/kernel": ("batch", None),
    },
}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "norm, decay, average and accumulation": {
        "global_clipnorm": 0.1,
        "weight_decay": 0.1,
        "use_ema": True,
        "gradient_accumulation_steps": 2,
    },
}


def distribution_of(kind: str) -> Any:
    if kind == "data parallel":
        return keras.distribution.DataParallel()
    mesh = keras.distribution.DeviceMesh((2, 4), ("batch", "model"))
    layouts = keras.distribution.LayoutMap(mesh)
    for path, axes in LAYOUTS[kind].items():
        layouts[f".*{path}"] = axes
    return keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")


@pytest.fixture(params=["data parallel", *LAYOUTS])
def distribution(request: pytest.FixtureRequest) -> Iterator[Any]:
    with distribution_of(request.param).scope():
        yield request.param


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_losses_and_layouts_are_those_of_stock(distribution: str, arguments: str) -> None:
    def train(make: Make) -> tuple[list[float], keras.Model]:
        model = compiled(embedding(), make(1e-2, **ARGUMENTS[arguments]))
        return fit(model, data=batches_of_words), model

    (ours, model), (stock, stock_model) = train(Nadam), train(Stock)
    np.testing.assert_allclose(ours, stock, rtol=1e-5)
    assert_all_close(model.get_weights(), stock_model.get_weights())

    optimizer = model.optimizer
    assert layouts(optimizer.variables) == layouts(stock_model.optimizer.variables)
    for moments in (optimizer._momentums, optimizer._velocities):
        assert layouts(moments) == layouts(model.trainable_variables)
    cut = [v.path for v in optimizer._momentums if any(v.value.sharding.spec)]
    assert len(cut) == len(LAYOUTS.get(distribution, {}))
    assert {len(v.value.devices()) for v in optimizer.variables} == {8}

    keras.distribution.set_distribution(None)
    alone, _ = train(Nadam)
    np.testing.assert_allclose(ours, alone, rtol=1e-5)


def layouts(variables: list[keras.Variable]) -> list[Any]:
    return [v.value.sharding for v in variables]


@pytest.mark.parametrize("arguments", ARGUMENTS)
@pytest.mark.usefixtures("distribution")
def test_the_training_step_moves_no_more_between_devices_than_that_of_stock(
    arguments: str,
) -> None:
    ours, stock = (
        text_of_train_step(compiled(embedding(), make(1e-2, **ARGUMENTS[arguments])))
        for make in (Nadam, Stock)
    )
    assert ours.count(program.CALL) == 1
    moved, allowed = program.collectives(ours), program.collectives(stock)
    assert moved, "the gradients, at least, are summed"
    for kind, (_, size) in moved.items():
        assert size <= allowed[kind][1], kind
    assert program.copied_bytes(ours) <= program.copied_bytes(stock)


def text_of_train_step(model: keras.Model) -> str:
    """The optimized HLO of what ``fit`` compiles."""
    model.optimizer.build(model.trainable_variables)
    model.evaluate(*batches_of_words()[0], verbose=0)  # makes the variables of the metrics
    distribution = keras.distribution.distribution()
    batch = [
        jax.device_put(x, distribution.get_data_layout(x.shape).backend_layout)
        for x in batches_of_words()[0]
    ]
    groups = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    state = tuple([v.value for v in group] for group in groups)
    layouts = jax.tree.map(lambda x: x.sharding, state)
    step = jax.jit(model.train_step, donate_argnums=0, out_shardings=(None, layouts))
    return step.lower(state, batch).compile().as_text()


def test_variables_in_bfloat16_train_with_whole_moments_in_their_layout() -> None:
    with distribution_of("model parallel").scope():
        keras.config.set_dtype_policy("bfloat16")
        try:
            model = compiled(embedding(), Nadam(1e-2))
        finally:
            keras.config.set_dtype_policy("float32")
        losses = fit(model, data=batches_of_words)
        assert losses[-1] < losses[0]
        moment = model.optimizer._momentums[0].value
        assert moment.dtype == "float32"
        assert moment.sharding.spec == P("model", None)


NARROW = {
    "stochastic": {"momentum_dtype": "bfloat16", "rounding": "stochastic"},
    "remainder": {"master": "remainder"},
    "float32": {"master": "float32", "use_ema": True, "ema_overwrite_frequency": 5},
}


@pytest.mark.parametrize("choice", NARROW)
@pytest.mark.usefixtures("distribution")
def test_masters_and_narrow_moments_lie_as_their_variables_and_copies_agree(choice: str) -> None:
    keras.config.set_dtype_policy("bfloat16")
    try:
        model = compiled(embedding(), Nadam(1e-2, **NARROW[choice]))
    finally:
        keras.config.set_dtype_policy("float32")
    losses = fit(model, data=batches_of_words)
    assert losses[-1] < losses[0]
    optimizer, variables = model.optimizer, model.trainable_variables
    groups = [optimizer._momentums, optimizer._velocities]
    if optimizer.master is not None:
        groups.append(optimizer._masters)
    for group in groups:
        assert layouts(group) == layouts(variables)
    for variable in [*variables, *(v for group in groups for v in group)]:
        copies: dict[str, set[bytes]] = {}
        for shard in variable.value.addressable_shards:
            copies.setdefault(str(shard.index), set()).add(np.asarray(shard.data).tobytes())
        assert all(len(held) == 1 for held in copies.values()), variable.path


CODES = {"momentum_dtype": "blockwise8", "velocity_dtype": "blockwise8"}


def test_codes_and_scales_lie_as_their_variable(distribution: str) -> None:
    """A block is 256 columns, so that each device has whole ones."""
    model = compiled(embedding(512), Nadam(1e-2, **CODES))
    losses = fit(model, data=batches_of_words)
    expected = fit(compiled(embedding(512), Nadam(1e-2)), data=batches_of_words)
    np.testing.assert_allclose(losses, expected, rtol=0.05)
    optimizer, (words, *_) = model.optimizer, model.trainable_variables
    moments = [optimizer._momentums[0], optimizer._velocities[0]]
    assert [str(v.dtype) for v in moments] == ["int8", "uint8"]
    scales = [optimizer._momentum_scales[0], optimizer._velocity_scales[0]]
    assert [tuple(v.shape) for v in scales] == [(32, 2)] * 2
    assert layouts([*moments, *scales]) == layouts([words]) * 4
    for variable in [*moments, *scales]:
        copies: dict[str, set[bytes]] = {}
        for shard in variable.value.addressable_shards:
            copies.setdefault(str(shard.index), set()).add(np.asarray(shard.data).tobytes())
        assert all(len(held) == 1 for held in copies.values()), variable.path
    assert any(words.value.sharding.spec) == (distribution != "data parallel")


def test_a_step_of_moments_in_codes_moves_nothing_but_what_that_of_float32_does() -> None:
    with distribution_of("cut along both axes").scope():
        codes, plain = (
            text_of_train_step(compiled(embedding(512), Nadam(1e-2, **choice)))
            for choice in (CODES, {})
        )
    assert codes.count(program.CALL) == 2, "one for leaves in codes, one for others"
    assert program.collectives(codes) == program.collectives(plain)


@pytest.mark.parametrize("makes", [(Nadam, Stock), (Stock, Nadam)], ids=["to stock", "to ours"])
def test_files_go_from_many_devices_to_one(tmp_path: Path, makes: tuple[Make, Make]) -> None:
    saved_by, loaded_by = makes
    with distribution_of("model parallel").scope():
        model = compiled(embedding(), saved_by(1e-2))
        fit(model, epochs=1, data=batches_of_words)
        model.save_weights(tmp_path / "run.weights.h5")
        expected = fit(model, epochs=1, data=batches_of_words)
    loaded = compiled(embedding(), loaded_by(1e-2))
    loaded.optimizer.build(loaded.trainable_variables)
    loaded.load_weights(tmp_path / "run.weights.h5")
    assert int(loaded.optimizer.iterations) == len(batches_of_words())
    losses = fit(loaded, epochs=1, data=batches_of_words)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
