"""Stochastic rounding on a mesh: replicas round alike, and shards do not repeat one another."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import compiled as program
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from nadam_xla.jax import nadam, zero1_shardings

SHAPES = {"layer": (64, 48), "bias": (64,), "odd": (7, 5), "scale": ()}


@dataclass(frozen=True, eq=False)
class Layout:
    """A mesh, the specs of the parameters that are cut, and the axis of ZeRO-1's moments."""

    axes: dict[str, int]
    specs: dict[str, P] = field(default_factory=dict)
    zero1: str | None = None

    @property
    def mesh(self) -> Any:
        types = (AxisType.Auto,) * len(self.axes)
        return jax.make_mesh(tuple(self.axes.values()), tuple(self.axes), axis_types=types)

    def params(self) -> dict[str, NamedSharding]:
        return {name: NamedSharding(self.mesh, self.specs.get(name, P())) for name in SHAPES}

    def state(self, tx: Any) -> Any:
        structs = {
            name: jax.ShapeDtypeStruct(SHAPES[name], jnp.bfloat16, sharding=sharding)
            for name, sharding in self.params().items()
        }
        if self.zero1:
            return zero1_shardings(tx, structs, self.mesh, self.zero1)
        whole, layouts = NamedSharding(self.mesh, P()), self.params()
        shapes = jax.eval_shape(tx.init, structs)
        master = None if shapes.master is None else layouts
        return shapes._replace(count=whole, mu=layouts, nu=layouts, master=master)


LAYOUTS = {
    "replicated": Layout({"data": 8}),
    "fsdp": Layout({"data": 8}, {"layer": P("data"), "bias": P("data")}),
    "zero-1": Layout({"data": 8}, zero1="data"),
    "mixed": Layout({"data": 4, "model": 2}, {"layer": P("model", "data"), "bias": P("model")}),
}
OPTIMIZERS = {
    "without masters": nadam(
        1e-2, mu_dtype=jnp.bfloat16, nu_dtype=jnp.bfloat16, rounding="stochastic", seed=3
    ),
    "correction": nadam(
        1e-2,
        mu_dtype=jnp.bfloat16,
        nu_dtype=jnp.bfloat16,
        rounding="stochastic",
        master="correction",
    ),
}


def arrays(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=s), jnp.bfloat16) for name, s in SHAPES.items()}


# Of which the step makes numbers that lie well between two of bfloat16.
PARAM, GRAD = 0.8125, 1.2265625


def of_one_number(number: float) -> dict[str, Any]:
    """Arrays in which what is drawn is all that differs after a step."""
    return {name: jnp.full(s, number, jnp.bfloat16) for name, s in SHAPES.items()}


def step_of(tx: Any, kind: str) -> Callable[..., Any]:
    def apply(params: Any, state: Any, grads: Any) -> Any:
        return tx.apply(grads, state, params)

    def update(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        new = jax.tree.map(lambda p, u: (p.astype(u.dtype) + u).astype(p.dtype), params, updates)
        return new, state

    return {"apply": apply, "update": update}[kind]


class Compiled:
    """A step on a layout's mesh."""

    def __init__(self, layout: Layout, optimizer: str, kind: str = "apply") -> None:
        self.tx = OPTIMIZERS[optimizer]
        self.shardings = layout.params(), layout.state(self.tx)
        self.step = jax.jit(
            step_of(self.tx, kind), donate_argnums=(0, 1), out_shardings=self.shardings
        )
        self.text = self.step.lower(*self.start(arrays(0)), self.put(arrays(1))).compile().as_text()

    def put(self, tree: Any) -> Any:
        return jax.device_put(tree, self.shardings[0])

    def start(self, params: Any) -> Any:
        params = self.put(jax.tree.map(jnp.array, params))
        return params, jax.jit(self.tx.init, out_shardings=self.shardings[1])(params)

    def run(self, params: Any, grads: Any, steps: int = 1) -> Any:
        carry = self.start(params)
        for _ in range(steps):
            carry = self.step(*carry, self.put(grads))
        return carry


@cache
def compiled_step(layout: str, optimizer: str, kind: str = "apply") -> Compiled:
    return Compiled(LAYOUTS[layout], optimizer, kind)


def stored(trees: Any) -> dict[str, list[jax.Array]]:
    """Of each leaf what is rounded stochastically: its parameter or correction, and its moments."""
    params, state = trees
    trees = [params if state.master is None else state.master, state.mu, state.nu]
    return {name: [tree[name] for tree in trees] for name in SHAPES}


def shards_by_place(x: jax.Array) -> dict[str, list[np.ndarray]]:
    """The replicas of each shard."""
    found: dict[str, list[np.ndarray]] = {}
    for shard in x.addressable_shards:
        found.setdefault(str(shard.index), []).append(np.asarray(shard.data))
    return found


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("layout", LAYOUTS)
class TestLayouts:
    def test_replicas_are_alike(self, layout: str, optimizer: str) -> None:
        results = compiled_step(layout, optimizer).run(arrays(0), arrays(1), steps=3)
        for leaf in jax.tree.leaves(results):
            for replicas in shards_by_place(leaf).values():
                for replica in replicas[1:]:
                    np.testing.assert_array_equal(replica, replicas[0])

    def test_shards_have_numbers_of_their_own(self, layout: str, optimizer: str) -> None:
        results = compiled_step(layout, optimizer).run(of_one_number(PARAM), of_one_number(GRAD))
        cut = 0
        for name, leaves in stored(results).items():
            if np.prod(SHAPES[name]) < 64:
                continue
            for leaf in leaves:
                assert len(np.unique(np.asarray(leaf))) == 2, "both neighbours"
                shards = [np.asarray(s[0]).ravel() for s in shards_by_place(leaf).values()]
                cut += len(shards) > 1
                if shards[0].size >= 32:
                    assert len({shard.tobytes() for shard in shards}) == len(shards)
        assert (cut > 0) == (layout != "replicated")

    def test_the_same_layout_gives_the_same_bits(self, layout: str, optimizer: str) -> None:
        once = compiled_step(layout, optimizer).run(arrays(0), arrays(1), steps=3)
        again = Compiled(LAYOUTS[layout], optimizer).run(arrays(0), arrays(1), steps=3)
        jax.tree.map(np.testing.assert_array_equal, again, once)

    def test_each_number_is_a_neighbour_of_that_which_is_rounded(
        self, layout: str, optimizer: str
    ) -> None:
        results = compiled_step(layout, optimizer).run(arrays(0), arrays(1))
        params, grads = (jax.tree.map(lambda x: x.astype(jnp.float32), arrays(i)) for i in (0, 1))
        wide = nadam(1e-2)
        exact = wide.apply(grads, wide.init(params), params)
        pairs = zip(jax.tree.leaves(stored(results)), jax.tree.leaves(stored(exact)), strict=True)
        for found, expected in pairs:
            if found.dtype == jnp.uint8:
                continue
            x = np.asarray(expected, np.float32)
            # The upper half of a float32 is the neighbour nearer to zero.
            inner = (x.view(np.uint32) >> 16).astype(np.uint16)
            of = np.asarray(found).view(np.uint16) - inner.astype(np.int64)
            assert set(np.unique(of)) <= {0, 1}

    def test_nothing_is_sent_or_copied_and_all_is_in_place(
        self, layout: str, optimizer: str
    ) -> None:
        compiled = compiled_step(layout, optimizer)
        found = program.collectives(compiled.text)
        if layout == "zero-1":
            number, size = found.pop("all-gather")
            assert number <= 2
            # The new parameters; XLA for CPUs gathers bfloat16 as float32.
            assert size <= 4 * (64 * 48 + 64)
        assert not found
        assert program.copied_bytes(compiled.text) == 0
        results = len(jax.tree.leaves(compiled.shardings))
        assert program.aliased_results(compiled.text) == set(range(results))
        assert compiled.text.count(program.CALL) == 1

    def test_the_change_leads_to_the_same_parameters(self, layout: str, optimizer: str) -> None:
        applied = compiled_step(layout, optimizer).run(arrays(0), arrays(1), steps=3)
        updated = compiled_step(layout, optimizer, "update").run(arrays(0), arrays(1), steps=3)
        jax.tree.map(np.testing.assert_array_equal, updated, applied)


CUT = {"layer": P("data"), "bias": P("data"), "odd": P(), "scale": P()}


class TestShardMap:
    """There a device knows what it holds by the axes over which types vary."""

    def run(self, params: Any, grads: Any, **options: Any) -> Any:
        mesh, tx = LAYOUTS["fsdp"].mesh, OPTIMIZERS["without masters"]

        @jax.jit
        @partial(
            jax.shard_map,
            mesh=mesh,
            in_specs=(CUT, CUT),
            out_specs=(CUT, CUT, CUT),
            **options,
        )
        def step(params: Any, grads: Any) -> Any:
            params, state = tx.apply(grads, tx.init(params), params)
            return params, state.mu, state.nu

        return step(params, grads)

    def test_what_varies_has_numbers_of_its_own_and_the_rest_is_alike(self) -> None:
        for tree in self.run(of_one_number(PARAM), of_one_number(GRAD)):
            shards = np.asarray(tree["layer"]).reshape(8, -1)
            assert len(np.unique(shards, axis=0)) == 8
            for leaf in tree.values():
                for replicas in shards_by_place(leaf).values():
                    for replica in replicas[1:]:
                        np.testing.assert_array_equal(replica, replicas[0])

    def test_it_equals_what_the_partitioner_makes(self) -> None:
        params, mu, nu = self.run(arrays(0), arrays(1))
        expected, state = compiled_step("fsdp", "without masters").run(arrays(0), arrays(1))
        jax.tree.map(
            np.testing.assert_array_equal, (params, mu, nu), (expected, state.mu, state.nu)
        )

    def test_types_that_tell_of_no_axes_leave_it_to_the_seed(self) -> None:
        for tree in self.run(of_one_number(PARAM), of_one_number(GRAD), check_vma=False):
            assert len(np.unique(np.asarray(tree["layer"]).reshape(8, -1), axis=0)) == 1


def test_leaves_of_two_calls_that_are_whole_have_the_numbers_of_one_device() -> None:
    tx = OPTIMIZERS["without masters"]
    params, grads = ([jnp.full(16, x, jnp.bfloat16)] * 40 for x in (PARAM, GRAD))
    step = jax.jit(tx.apply)
    whole = NamedSharding(LAYOUTS["fsdp"].mesh, P())
    found = step(*jax.device_put((grads, tx.init(params), params), whole))
    jax.tree.map(np.testing.assert_array_equal, found, step(grads, tx.init(params), params))


def test_a_population_on_a_mesh_has_the_numbers_of_its_members_alone() -> None:
    mesh = LAYOUTS["mixed"].mesh
    seeds = jnp.arange(8, dtype=jnp.uint32)

    def train(seed: jax.Array, params: Any, grads: Any) -> Any:
        tx = nadam(1e-2, mu_dtype=jnp.bfloat16, rounding="stochastic", seed=seed)
        return tx.apply(grads, tx.init(params), params)

    params, grads = (
        jnp.asarray(np.random.default_rng(i).normal(size=(8, 96)), jnp.bfloat16) for i in range(2)
    )
    cut = NamedSharding(mesh, P("data"))
    found = jax.jit(jax.vmap(train))(*jax.device_put((seeds, params, grads), cut))
    for i in range(8):
        alone = jax.jit(train)(seeds[i], params[i], grads[i])
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[i], b), found, alone)  # noqa: B023


def test_manual_over_some_axes_xla_partitions_the_arithmetic() -> None:
    """Shards of the manual axis have numbers of their own, and those of the other as on one."""
    mesh, tx = LAYOUTS["mixed"].mesh, OPTIMIZERS["without masters"]
    leaf, grads = (jnp.full((64, 32), x, jnp.bfloat16) for x in (PARAM, GRAD))

    @partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(P("data"),) * 2,
        out_specs=P("data"),
        axis_names={"data"},
    )
    def step(leaf: Any, grads: Any) -> Any:
        return tx.apply(grads, tx.init(leaf), leaf)[0]

    cut = NamedSharding(mesh, P("data", "model"))
    found = jax.jit(step)(*jax.device_put((leaf, grads), cut))
    shards = np.asarray(found).reshape(4, -1)
    assert len(np.unique(shards, axis=0)) == 4
    np.testing.assert_array_equal(jax.jit(step)(leaf, grads), found)


def test_on_explicit_axes_the_numbers_are_those_of_automatic_ones() -> None:
    tx = OPTIMIZERS["without masters"]
    leaf, grads = (jnp.full((64, 32), x, jnp.bfloat16) for x in (PARAM, GRAD))
    found = []
    for kind in (AxisType.Auto, AxisType.Explicit):
        with jax.set_mesh(jax.make_mesh((8,), ("data",), axis_types=(kind,))):
            cut, cut_grads = jax.device_put((leaf, grads), P("data"))
            found.append(jax.jit(tx.apply)(cut_grads, jax.jit(tx.init)(cut), cut)[0])
    np.testing.assert_array_equal(*found)
    shards = np.asarray(found[0]).reshape(8, -1)
    assert len(np.unique(shards, axis=0)) == 8
