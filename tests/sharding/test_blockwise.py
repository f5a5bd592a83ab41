"""Moments in codes of eight bits on a mesh: scales lie with their codes, and blocks stay whole."""

from dataclasses import dataclass
from typing import Any

import compiled as program
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from nadam_xla.coefficients import Coefficients, with_random_key
from nadam_xla.jax import nadam, nadam_update
from nadam_xla.jax.blockwise import Blockwise, quantized

BF16 = jnp.dtype(jnp.bfloat16)


@dataclass(frozen=True)
class Layout:
    """A mesh, the shape of a leaf, and the specs of its parameters and of its moments."""

    axes: dict[str, int]
    shape: tuple[int, ...]
    params: P
    moments: P

    @property
    def mesh(self) -> Any:
        types = (AxisType.Auto,) * len(self.axes)
        return jax.make_mesh(tuple(self.axes.values()), tuple(self.axes), axis_types=types)

    def shardings(self) -> tuple[NamedSharding, NamedSharding]:
        return NamedSharding(self.mesh, self.params), NamedSharding(self.mesh, self.moments)


ONE, TWO = {"data": 8}, {"data": 4, "model": 2}
WITHOUT_COLLECTIVES = {
    "replicated": Layout(ONE, (16, 512), P(), P()),
    "rows": Layout(ONE, (16, 512), P("data"), P("data")),
    "ragged rows": Layout(ONE, (16, 300), P("data"), P("data")),
    "columns": Layout(ONE, (4, 4096), P(None, "data"), P(None, "data")),
    "both": Layout(TWO, (16, 1024), P("data", "model"), P("data", "model")),
    "one axis": Layout(ONE, (8192,), P("data"), P("data")),
}
WITHOUT_COLLECTIVES["two axes together"] = Layout(
    TWO, (4, 4096), P(None, ("data", "model")), P(None, ("data", "model"))
)
ZERO1 = Layout(ONE, (16, 512), P(), P("data"))
# A device would hold a part of a block; the axis is gathered, and the results are right.
GATHERED = {
    "half blocks": Layout(ONE, (16, 1024), P(None, "data"), P(None, "data")),
    "rows that end inside": Layout(TWO, (8, 600), P(None, "model"), P(None)),
    "both axes, half blocks": Layout(TWO, (16, 768), P("data", "model"), P("data")),
}


def row(shard: int = 0) -> Coefficients:
    """Powers of two, so that no contraction rounds otherwise."""
    coefficients = Coefficients(1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.25, 1.0)
    return with_random_key(coefficients, seed=7, step=3, leaf=0.0)._replace(shard=float(shard))


def numbers(seed: int, shape: tuple[int, ...]) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def arrays(shape: tuple[int, ...]) -> tuple[Any, ...]:
    params, grads = (numbers(i, shape).astype(BF16) for i in (0, 1))
    mu, nu = quantized(numbers(2, shape), "mu"), quantized(jnp.square(numbers(3, shape)), "nu")
    return params, grads, mu, nu


def step(*leaf: Any) -> Any:
    return nadam_update(row(), *leaf)


class Compiled:
    """A step on a layout's mesh, and its results."""

    def __init__(self, layout: Layout, *, gathers_scales: bool = False) -> None:
        params, moments = layout.shardings()
        scales = NamedSharding(layout.mesh, P(*layout.moments[:-1])) if gathers_scales else moments
        of_moment = Blockwise(moments, scales)
        given = arrays(layout.shape)
        shardings = (params, moments, of_moment, of_moment)
        placed = jax.tree.map(jax.device_put, given, shardings)
        outs = (params, of_moment, of_moment)
        stepped = jax.jit(step, donate_argnums=(0, 2, 3), out_shardings=outs)
        self.text = stepped.lower(*placed).compile().as_text()
        self.results = stepped(*placed)


def local(x: jax.Array, index: Any, shape: tuple[int, ...]) -> jax.Array:
    """The part that belongs to that of codes of this shape."""
    if x.shape == shape:
        return x[index]
    *leading, last = index
    start, stop, _ = last.indices(shape[-1])
    return x[(*leading, slice(start // 256, -(-stop // 256)))]


def expected_shards(layout: Layout, mesh_axes: tuple[str, ...]) -> list[tuple[Any, Any]]:
    """For each shard, its place and what the update of it alone would be."""
    given, mesh = arrays(layout.shape), layout.mesh
    places = NamedSharding(mesh, layout.moments).devices_indices_map(layout.shape)
    found = []
    for device, index in places.items():
        where = dict(zip(mesh.axis_names, np.argwhere(mesh.devices == device)[0], strict=True))
        number = 0
        for axis in mesh_axes:
            number = number * mesh.shape[axis] + int(where[axis])
        leaf = jax.tree.map(lambda x, index=index: local(x, index, layout.shape), given)
        found.append((index, nadam_update(row(shard=number), *leaf)))
    return found


@pytest.mark.parametrize("name", WITHOUT_COLLECTIVES)
class TestWithoutCollectives:
    def test_nothing_is_sent_or_copied_and_all_is_in_place(self, name: str) -> None:
        text = Compiled(WITHOUT_COLLECTIVES[name]).text
        assert not program.collectives(text)
        assert program.copied_bytes(text) == 0
        assert program.aliased_results(text) == set(range(5))
        assert text.count(program.CALL) == 1

    def test_each_shard_is_what_it_would_be_alone(self, name: str) -> None:
        layout = WITHOUT_COLLECTIVES[name]
        axes = tuple(
            axis
            for entry in layout.moments
            if entry is not None
            for axis in ((entry,) if isinstance(entry, str) else entry)
        )
        results = Compiled(layout).results
        for index, expected in expected_shards(layout, axes):
            found = jax.tree.map(lambda x, index=index: local(x, index, layout.shape), results)
            jax.tree.map(np.testing.assert_array_equal, found, expected)


def trained_from_zeros(layouts: dict[str, Layout]) -> tuple[str, dict[str, Any]]:
    """What two steps are compiled to, whose moments begin inside, and the first moments."""
    tx = nadam(1e-2, mu_dtype="blockwise8", nu_dtype="blockwise8")
    params = {
        name: jax.device_put(jnp.ones(layout.shape), layout.shardings()[0])
        for name, layout in layouts.items()
    }

    def train(params: Any) -> Any:
        start, state = params, tx.init(params)
        for _ in range(2):
            params, state = tx.apply(start, state, params)
        return params, state

    compiled = jax.jit(train).lower(params).compile()
    return compiled.as_text(), compiled(params)[1].mu


def test_scales_that_nobody_has_placed_lie_with_their_codes() -> None:
    shapes = {"both": (16, 4096), "columns": (4, 2048), "rows": (8, 2048)}
    specs = {"both": P("data", "model"), "columns": P(None, ("data", "model")), "rows": P("data")}
    layouts = {name: Layout(TWO, shapes[name], specs[name], P()) for name in shapes}
    text, moments = trained_from_zeros(layouts)
    assert not program.collectives(text)
    for name, moment in moments.items():
        assert moment.codes.sharding.spec == moment.scales.sharding.spec == specs[name]


def test_scales_of_blocks_that_are_gathered_are_never_cut() -> None:
    """Each leaf's codes are gathered, and computed with on each device: nothing is added up."""
    columns, model = P(None, ("data", "model")), P(None, "model")
    layouts = {
        "a": Layout(TWO, (8, 768), columns, P()),
        "b": Layout(TWO, (8, 600), model, P()),
        "c": Layout(TWO, (8, 768), columns, P()),
    }
    text, moments = trained_from_zeros(layouts)
    assert set(program.collectives(text)) == {"all-gather"}
    for moment in moments.values():
        assert moment.scales.sharding.is_fully_replicated


def test_zero1_gathers_the_parameters_alone() -> None:
    compiled = Compiled(ZERO1)
    collectives = program.collectives(compiled.text)
    assert set(collectives) == {"all-gather"}
    assert collectives["all-gather"][1] <= 4 * 16 * 512
    for index, expected in expected_shards(ZERO1, ("data",)):
        found = jax.tree.map(lambda x, index=index: local(x, index, (16, 512)), compiled.results)
        jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("name", GATHERED)
def test_half_blocks_are_gathered_and_right(name: str) -> None:
    layout = GATHERED[name]
    results = Compiled(layout, gathers_scales=True).results
    axes = ("data",) if layout.moments[0] == "data" else ()
    rows = Layout(layout.axes, layout.shape, P(*layout.moments[:1]), P(*layout.moments[:1]))
    for index, expected in expected_shards(rows, axes):
        found = jax.tree.map(lambda x, index=index: local(x, index, layout.shape), results)
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_shard_map() -> None:
    """There a device knows what it holds by the axes over which types vary."""
    layout = WITHOUT_COLLECTIVES["rows"]
    cut = P("data")
    of_moment = Blockwise(cut, cut)
    mapped = jax.shard_map(
        step,
        mesh=layout.mesh,
        in_specs=(cut, cut, of_moment, of_moment),
        out_specs=(cut, of_moment, of_moment),
    )
    results = jax.jit(mapped)(*arrays(layout.shape))
    for index, expected in expected_shards(layout, ("data",)):
        found = jax.tree.map(lambda x, index=index: local(x, index, layout.shape), results)
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_population_on_a_mesh_is_its_members() -> None:
    mesh = WITHOUT_COLLECTIVES["rows"].mesh

    def of_seed(seed: jax.Array, *leaf: Any) -> Any:
        return nadam_update(with_random_key(row(), seed=seed, step=1, leaf=0.0), *leaf)

    members = jax.tree.map(
        lambda x: jnp.stack([jnp.roll(x, i) for i in range(8)]), arrays((8, 512))
    )
    cut = NamedSharding(mesh, P("data"))
    seeds = jnp.arange(8)
    found = jax.jit(jax.vmap(of_seed))(*jax.device_put((seeds, *members), cut))
    for i in range(8):
        alone = jax.jit(of_seed)(seeds[i], *jax.tree.map(lambda x, i=i: x[i], members))
        jax.tree.map(lambda a, b, i=i: np.testing.assert_array_equal(a[i], b), found, alone)


def test_explicit_axes_are_refused() -> None:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    cut = NamedSharding(mesh, P("data"))
    leaf = jax.tree.map(lambda x: jax.device_put(x, cut), arrays((16, 512)))
    with jax.set_mesh(mesh), pytest.raises(TypeError, match="codes of eight bits on explicit axes"):
        jax.jit(step)(*leaf)
