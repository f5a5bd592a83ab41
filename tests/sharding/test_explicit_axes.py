"""Meshes whose axes are explicit, so that shardings are part of the types: they are stock's."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiled import CALL, collectives, text_of
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from nadam_xla.coefficients import Coefficients
from nadam_xla.jax import nadam, nadam_update, nadamw, sum_squares

TX = nadam(0.1)
MESH = {"pop": 4, "x": 2}


@pytest.fixture
def mesh() -> jax.sharding.Mesh:
    return jax.make_mesh(tuple(MESH.values()), tuple(MESH), axis_types=(AxisType.Explicit,) * 2)


@pytest.fixture
def entered(mesh: jax.sharding.Mesh) -> Iterator[jax.sharding.Mesh]:
    with jax.set_mesh(mesh):
        yield mesh


def rates(spec: P) -> jax.Array:
    return jax.device_put(jnp.linspace(1e-3, 0.5, 8), spec)


def tree(*layout: P) -> dict[str, jax.Array]:
    values = {
        "kernel": jnp.linspace(-1.0, 1.0, 32).reshape(4, 8),
        "bias": jnp.linspace(1.0, 2.0, 4),
        "scale": jnp.ones([]),
    }
    return jax.device_put(values, dict(zip(values, (*layout, *[P()] * 3), strict=False)))


def change(tx: optax.GradientTransformation, params: Any, grads: Any) -> Any:
    """The change after the second step, and the moments."""
    _, state = tx.update(grads, tx.init(params), params)
    updates, state = tx.update(grads, state, params)
    return updates, *(optax.tree_utils.tree_get(state, name) for name in ("mu", "nu"))


def assert_alike(ours: Any, stock: Any) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(stock)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(stock), strict=True):
        assert str(jax.typeof(a)) == str(jax.typeof(b))
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


HYPERPARAMETERS = {
    "rate": (nadam, optax.nadam, lambda make, value: make(value)),
    "b1": (nadam, optax.nadam, lambda make, value: make(1e-2, b1=value)),
    "b2": (nadam, optax.nadam, lambda make, value: make(1e-2, b2=value)),
    "eps": (nadam, optax.nadam, lambda make, value: make(1e-2, eps=value)),
    "decay": (nadamw, optax.nadamw, lambda make, value: make(1e-2, weight_decay=value)),
    "decay of some": (
        nadamw,
        optax.nadamw,
        lambda make, value: make(
            1e-2, weight_decay=value, mask={"kernel": True, "bias": False, "scale": True}
        ),
    ),
    "schedule": (
        nadam,
        optax.nadam,
        lambda make, value: make(optax.linear_schedule(value, 0.0, 10)),
    ),
}


WHOLE, CUT = (), (P(None, "x"), P("x"))


@pytest.mark.parametrize(
    ("hyperparameter", "layout"),
    [*((name, WHOLE) for name in HYPERPARAMETERS), ("rate", CUT), ("decay of some", CUT)],
)
@pytest.mark.usefixtures("entered")
class TestPopulationOfACutHyperparameter:
    def test_types_and_values(self, hyperparameter: str, layout: tuple[P, ...]) -> None:
        ours, stock, of = HYPERPARAMETERS[hyperparameter]
        params = tree(*layout)
        results = [
            jax.jit(jax.vmap(lambda value: change(of(make, value), params, params)))(  # noqa: B023
                rates(P("pop"))
            )
            for make in (ours, stock)
        ]
        assert_alike(*results)
        assert jax.typeof(results[0][0]["bias"]).sharding.spec[0] == "pop"

    def test_one_call_and_no_collective(self, hyperparameter: str, layout: tuple[P, ...]) -> None:
        ours, _, of = HYPERPARAMETERS[hyperparameter]
        tx, params = of(ours, 0.1), tree(*layout)

        def member(value: jax.Array) -> Any:
            return of(ours, value).update(params, tx.init(params), params)[0]

        text = text_of(jax.vmap(member), rates(P("pop")))
        assert text.count(CALL) == 1
        assert not collectives(text)


@pytest.mark.usefixtures("entered")
class TestPopulations:
    @pytest.mark.parametrize(
        ("outer", "inner"),
        [(P("pop"), P()), (P(), P("pop")), (P("x"), P("pop")), (P("pop"), P("x"))],
    )
    def test_nested(self, outer: P, inner: P) -> None:
        def grid(make: Callable[..., Any]) -> Any:
            def member(rate: jax.Array, b1: jax.Array) -> Any:
                return change(make(rate, b1=b1), tree(), tree())

            over_b1 = jax.vmap(member, (None, 0))
            return jax.jit(jax.vmap(over_b1, (0, None)))(rates(outer), rates(inner))

        assert_alike(grid(nadam), grid(optax.nadam))

    def test_gradients_cut_along_the_population(self) -> None:
        grads = jax.device_put(jnp.linspace(-1.0, 1.0, 32).reshape(8, 4), P("pop"))

        def population(make: Callable[..., Any]) -> Any:
            def member(grads: jax.Array) -> Any:
                return change(make(0.1), {"w": jnp.ones(4)}, {"w": grads})

            return jax.jit(jax.vmap(member))(grads)

        assert_alike(population(nadam), population(optax.nadam))

    @pytest.mark.parametrize(
        "over",
        [
            "rate",
            pytest.param(
                "b1",
                marks=pytest.mark.skipif(
                    jax.__version_info__ < (0, 9),
                    reason="JAX 0.8 does not differentiate a cut power, of stock's either",
                ),
            ),
        ],
    )
    def test_hypergradients(self, over: str) -> None:
        def slopes(make: Callable[..., Any]) -> Any:
            def sizes(values: jax.Array) -> jax.Array:
                def member(value: jax.Array) -> Any:
                    chosen = {"learning_rate": 0.1, "b1": 0.9, "eps_root": 1e-3}
                    chosen["learning_rate" if over == "rate" else over] = value
                    return change(make(**chosen), jnp.ones(4), jnp.ones(4))

                return sum(jnp.sum(x) for x in jax.tree.leaves(jax.vmap(member)(values)))

            return jax.jit(jax.grad(sizes))(rates(P("pop")))

        assert_alike(slopes(nadam), slopes(optax.nadam))

    def test_what_stock_refuses_is_refused(self) -> None:
        """Members that lie on other devices than the parts of each."""
        params = tree(P("pop"))
        with pytest.raises(TypeError, match="contradict each other"):
            jax.vmap(lambda rate: nadam(rate).update(params, nadam(rate).init(params)))(
                rates(P("pop"))
            )

    def test_sums_of_squares(self) -> None:
        leaves = [jnp.ones(4), jax.device_put(jnp.ones((4, 2)), P(None, "x"))]

        def member(rate: jax.Array) -> Any:
            return sum_squares([leaf * rate for leaf in leaves] + leaves)

        sums = jax.jit(jax.vmap(member))(rates(P("pop")))
        for total, leaf in zip(sums, [4.0, 8.0], strict=False):
            assert jax.typeof(total).sharding.spec == P("pop")
            np.testing.assert_allclose(total, leaf * np.linspace(1e-3, 0.5, 8) ** 2, rtol=1e-6)
        nested = jax.vmap(jax.vmap(lambda a, b: sum_squares([a, b, leaves[0]])), (None, 0))
        square = jax.device_put(jnp.ones((3, 8)), P(None, "pop"))
        for total, expected in zip(
            nested(rates(P("pop")), square), [np.linspace(1e-3, 0.5, 8) ** 2, 1, 4], strict=True
        ):
            np.testing.assert_allclose(total, np.broadcast_to(expected, (3, 8)), rtol=1e-6)

    def test_a_row_for_each_leaf_may_be_cut(self) -> None:
        table = np.full((2, len(Coefficients._fields)), 0.1, np.float32)
        table[:, -1] = 0  # not skipped
        leaves = [jnp.ones(4), jnp.ones(8)]
        rows = jax.device_put(table, P("x"))
        results = jax.jit(nadam_update)(rows, leaves, leaves, leaves, leaves)
        expected = nadam_update(table, leaves, leaves, leaves, leaves)
        assert_alike(results, expected)


@pytest.mark.usefixtures("entered")
def test_a_step_that_is_exported_has_a_rate_of_its_schedule() -> None:
    """There is no call in it, for it must run on any devices, and the rate is one of its values."""
    tx = nadam(lambda count: 0.1 / (1 + count))
    params, grads = tree(P("pop"), P("pop")), tree(P("pop"), P("pop"))
    step = jax.jit(tx.apply)
    program = jax.export.export(step)(grads, tx.init(params), params)
    assert "@nadam" not in program.mlir_module()
    assert_alike(program.call(grads, tx.init(params), params), step(grads, tx.init(params), params))


def test_a_population_on_a_mesh_that_is_not_entered(mesh: jax.sharding.Mesh) -> None:
    cut = jax.device_put(np.linspace(1e-3, 0.5, 8), NamedSharding(mesh, P("pop")))
    params = np.ones(4, np.float32)

    def population(make: Callable[..., Any]) -> Any:
        return jax.vmap(lambda rate: change(make(rate), params, params)[0])

    for run in (lambda f: f, jax.jit):
        assert_alike(run(population(nadam))(cut), run(population(optax.nadam))(cut))


@pytest.mark.usefixtures("entered")
class TestLayoutsOfALeaf:
    """Where the arrays of a leaf are cut in unlike ways, types and errors are those of stock."""

    def step(self, make: Callable[..., Any], *, whole_step: bool) -> Callable[..., Any]:
        tx = make(0.1)

        def step(params: Any, grads: Any, moments: Any) -> Any:
            state = optax.tree_utils.tree_set(tx.init(params), mu=moments, nu=moments)
            if whole_step and hasattr(tx, "apply"):
                first, state = tx.apply(grads, state, params)
            else:
                first, state = tx.update(grads, state, params)
                first = optax.apply_updates(params, first) if whole_step else first
            return first, *(optax.tree_utils.tree_get(state, name) for name in ("mu", "nu"))

        return jax.jit(step)

    @pytest.mark.parametrize("whole_step", [False, True], ids=["update", "apply"])
    @pytest.mark.parametrize(
        "specs",
        [
            (P(), P(), P("pop")),  # ZeRO-1
            (P(None, "x"), P(None, "x"), P("pop", "x")),  # ZeRO-1 over tensor-parallel
            (P("pop"), P(), P()),
            (P(), P("pop"), P()),
            (P("pop"), P("pop"), P()),
            (P("pop", "x"), P(None, "x"), P("pop")),
        ],
    )
    def test_types_and_values(self, specs: tuple[P, ...], whole_step: bool) -> None:
        arguments = [tree(spec) for spec in specs]
        makes = [nadamw, optax.nadamw]
        results = [self.step(make, whole_step=whole_step)(*arguments) for make in makes]
        assert_alike(*results)

    @pytest.mark.parametrize(
        ("specs", "message"),
        [
            (
                (P("x"), P("x"), P("pop")),
                r"state.mu\['kernel'\] has the sharding .*'pop'.*, and params\['kernel'\] .*'x'",
            ),
            ((P("pop"), P("x"), P()), r"grads\['kernel'\] has the sharding .*'x'"),
            ((P(), P("pop"), P(None, "pop")), r"state.mu\['kernel'\] .* and grads\['kernel'\]"),
            (
                (P(None, ("pop", "x")), P(None, "pop"), P()),
                r"jax.sharding.reshard makes them alike",
            ),
        ],
    )
    def test_contradictions_are_refused_by_their_path(
        self, specs: tuple[P, ...], message: str
    ) -> None:
        arguments = [tree(spec) for spec in specs]
        with pytest.raises(Exception, match="shard"):
            self.step(optax.nadam, whole_step=True)(*arguments)
        for whole_step in (False, True):
            with pytest.raises(TypeError, match=message):
                self.step(nadam, whole_step=whole_step)(*arguments)

    def test_gradients_whose_parts_are_not_summed_are_refused_by_their_path(self) -> None:
        x = jax.device_put(jnp.ones((8, 8)), P(None, "pop"))
        y = jax.device_put(jnp.ones((8, 4)), P("pop"))
        params = {"w": jnp.ones((8, 4))}

        def step(x: jax.Array, y: jax.Array) -> Any:
            grads = {"w": jnp.matmul(x, y, out_sharding=P(unreduced={"pop"}))}
            return TX.apply(grads, TX.init(params), params)

        with pytest.raises(TypeError, match=r"grads\['w'\] is unreduced over .*\['pop'\]"):
            jax.jit(step)(x, y)
