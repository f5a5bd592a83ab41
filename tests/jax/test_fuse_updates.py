"""`fuse_updates`: the same numbers to the bit, one call, in place, wherever the update stands."""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiled import CALL, aliased_results, copies_of_arrays, text_of
from training import PARAMS, assert_close, gradients, tree
from x64 import enable_x64

from nadam_xla.coefficients import Coefficients
from nadam_xla.jax import (
    explain_updates,
    fuse_updates,
    nadam,
    nadam_update,
    nadamw,
    scale_by_nadam,
)

GRADS = gradients(4)
LEAVES = len(jax.tree.leaves(PARAMS))
Step = Callable[..., Any]


def is_matrix(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.ndim > 1, tree)


def step_of(tx: Any) -> Step:
    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def assert_same_bits(one: Any, other: Any) -> None:
    """Zeros have a sign here; NaN is NaN."""

    def same(x: Any, y: Any) -> None:
        if jnp.issubdtype(x.dtype, jax.dtypes.extended):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)
        numbers = ~np.isnan(np.asarray(x)) if jnp.issubdtype(x.dtype, jnp.floating) else ...
        np.testing.assert_array_equal(np.signbit(x)[numbers], np.signbit(y)[numbers])

    jax.tree.map(same, one, other)


def whole_leaf_sums(text: str) -> int:
    """Sums of arrays in the program's text, fused ones among them."""
    return len(re.findall(r"= f32\[\d[\d,]*\]\S* (?:add|subtract)\(", text))


def assert_one_pass(fun: Step, *arguments: Any, leaves: int = LEAVES) -> None:
    """Every update that is left in the program returns parameters, of so many leaves in all."""
    found = explain_updates(fun)(*arguments)
    assert sum(len(report.leaves) for report in found) == leaves, "\n".join(map(str, found))
    assert all(report.returns_params for report in found), "\n".join(map(str, found))


TRANSFORMATIONS: dict[str, Any] = {
    "nadam": nadam(1e-2),
    "nadamw": nadamw(1e-2, weight_decay=0.1),
    "a decay for some": nadamw(1e-2, weight_decay=0.1, mask=is_matrix),
    "a schedule, l2 and a momentum of its own": nadam(
        optax.linear_schedule(1e-2, 0.0, 4), momentum_decay=0.004, l2=0.1
    ),
    "first moments in bfloat16": nadam(1e-2, mu_dtype=jnp.bfloat16),
    "clipping": optax.chain(optax.clip_by_global_norm(1.0), nadam(1e-2)),
    "all at once": optax.apply_if_finite(
        optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.masked(optax.inject_hyperparams(nadamw)(1e-2), is_matrix),
        ),
        max_consecutive_errors=3,
    ),
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_a_run_gives_the_same_bits(name: str) -> None:
    tx = TRANSFORMATIONS[name]
    step = step_of(tx)
    plain, fused = jax.jit(step), jax.jit(fuse_updates(step))
    one = other = (PARAMS, tx.init(PARAMS))
    for grads in GRADS:
        one, other = plain(*one, grads), fused(*other, grads)
        assert_same_bits(one, other)
    assert fused._cache_size() == 1
    assert_one_pass(step, *one, GRADS[0], leaves=3 if name == "all at once" else LEAVES)


class TestProgram:
    """From the compiled program: one call, in place, no sum beside it."""

    @pytest.mark.parametrize("name", TRANSFORMATIONS.keys() - {"all at once", "clipping"})
    def test_it_is_that_of_apply(self, name: str) -> None:
        tx = TRANSFORMATIONS[name]
        params = jnp.ones((64, 64)), jnp.ones((64, 32))
        state = tx.init(params)

        def applied(params: Any, state: Any, grads: Any) -> Any:
            return tx.apply(grads, state, params)

        given = params, state, params
        text = text_of(fuse_updates(step_of(tx)), *given, donate=(0, 1))
        assert text.count(CALL) == 1
        assert whole_leaf_sums(text) == 0
        assert aliased_results(text) == set(range(len(jax.tree.leaves((params, state)))))
        copied = copies_of_arrays(text_of(applied, *given, donate=(0, 1)))
        assert copies_of_arrays(text) == copied == 0
        text = text_of(step_of(tx), *given, donate=(0, 1))
        assert whole_leaf_sums(text) > 0, "the search must find what is there"

    def test_in_a_loop(self) -> None:
        tx = nadam(1e-2)
        params = jnp.ones((64, 64))

        def loop(params: Any, state: Any, grads: Any) -> Any:
            def body(carry: Any, scale: Any) -> Any:
                return fuse_updates(step_of(tx))(*carry, grads * scale), None

            return jax.lax.scan(body, (params, state), jnp.arange(3.0))[0]

        text = text_of(loop, params, tx.init(params), params, donate=(0, 1))
        assert text.count(CALL) == 1
        assert whole_leaf_sums(text) == copies_of_arrays(text) == 0


def in_loop(step: Step) -> Step:
    def loop(params: Any, state: Any, grads: Any) -> Any:
        def body(carry: Any, scale: Any) -> Any:
            return step(*carry, jax.tree.map(lambda g: g * scale, grads)), None

        return jax.lax.scan(body, (params, state), jnp.arange(1.0, 4.0))[0]

    return loop


def in_while(step: Step) -> Step:
    def loop(params: Any, state: Any, grads: Any) -> Any:
        def body(carry: Any) -> Any:
            count, *trees = carry
            return count + 1, *step(*trees, grads)

        return jax.lax.while_loop(lambda c: c[0] < 3, body, (0, params, state))[1:]

    return loop


def in_branch(step: Step) -> Step:
    def branch(params: Any, state: Any, grads: Any) -> Any:
        return jax.lax.cond(
            jnp.sum(grads["bias"]) < 1e9, lambda t: step(*t, grads), lambda t: t, (params, state)
        )

    return branch


def in_custom_jvp(step: Step) -> Step:
    function = jax.custom_jvp(step)
    function.defjvp(lambda primals, tangents: (step(*primals), step(*tangents)))
    return function


def in_custom_vjp(step: Step) -> Step:
    function = jax.custom_vjp(step)
    function.defvjp(lambda *given: (step(*given), given), lambda given, _: given)
    return function


AROUND: dict[str, Callable[[Step], Step]] = {
    "jit": jax.jit,
    "scan": in_loop,
    "while": in_while,
    "cond": in_branch,
    "remat": jax.checkpoint,
    "custom_jvp": in_custom_jvp,
    "custom_vjp": in_custom_vjp,
    "all of them": lambda step: in_loop(in_branch(jax.jit(jax.checkpoint(step)))),
}


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("name", ["nadam", "a decay for some"])
def test_it_is_found_inside(around: str, name: str) -> None:
    tx = TRANSFORMATIONS[name]
    step = AROUND[around](step_of(tx))
    given = PARAMS, tx.init(PARAMS), GRADS[0]
    assert_one_pass(step, *given)
    assert_same_bits(jax.jit(fuse_updates(step))(*given), jax.jit(step)(*given))


def test_an_update_and_a_sum_in_functions_of_their_own() -> None:
    tx = nadamw(1e-2, weight_decay=0.1)
    update, add = jax.jit(tx.update), jax.jit(optax.apply_updates)

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = update(grads, state, params)
        return add(params, updates), state

    given = PARAMS, tx.init(PARAMS), GRADS[0]
    assert_one_pass(step, *given)
    assert_same_bits(jax.jit(fuse_updates(step))(*given), jax.jit(step)(*given))


def test_parameters_that_come_late_and_updates_without_them() -> None:
    """The call then waits for them; what makes them comes before it."""
    tx = nadam(1e-2)

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state)
        moved = jax.tree.map(jnp.sin, params)
        return optax.apply_updates(moved, updates), state

    given = PARAMS, tx.init(PARAMS), GRADS[0]
    assert_one_pass(step, *given)
    assert_same_bits(jax.jit(fuse_updates(step))(*given), jax.jit(step)(*given))


def test_parameters_that_depend_on_the_update_stay_unfused() -> None:
    tx = nadam(1e-2)

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        moved = jax.tree.map(lambda p, m: p + m, params, state.mu)
        return optax.apply_updates(moved, updates), state

    given = PARAMS, tx.init(PARAMS), GRADS[0]
    (report,) = explain_updates(step)(*given)
    assert not report.returns_params
    assert "what is computed from this update" in report.reasons[0]
    assert_same_bits(jax.jit(fuse_updates(step))(*given), jax.jit(step)(*given))


def test_each_leaf_for_itself() -> None:
    """One leaf's change is logged: the others are in one pass, each with its own decay."""
    tx = nadamw(1e-2, weight_decay=0.5, mask=is_matrix)

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, jnp.linalg.norm(updates["kernel"])

    given = PARAMS, tx.init(PARAMS), GRADS[0]
    one_pass, left = explain_updates(step)(*given)
    assert one_pass.returns_params
    assert len(one_pass.leaves) == LEAVES - 1
    assert left.leaves == ("float32[7,5]",)
    assert left.reasons[0].startswith("its change goes into ")
    assert_same_bits(jax.jit(fuse_updates(step))(*given), jax.jit(step)(*given))


class TestDtypes:
    def test_a_narrow_parameter_is_rounded_as_before(self) -> None:
        params = {"narrow": jnp.ones((3, 4), jnp.bfloat16), "wide": jnp.ones(3)}
        tx = nadamw(1e-2, weight_decay=0.1)
        given = params, tx.init(params), params
        one_pass, left = explain_updates(step_of(tx))(*given)
        assert one_pass.leaves == ("float32[3]",)
        assert left.leaves == ("bfloat16[3,4]",)
        assert "one pass would round once" in str(left)
        assert_same_bits(jax.jit(fuse_updates(step_of(tx)))(*given), jax.jit(step_of(tx))(*given))

    def test_float64(self) -> None:
        with enable_x64(True):
            params = {"double": jnp.ones((3, 4), jnp.float64), "single": jnp.ones(3, jnp.float32)}
            tx = nadamw(1e-2, weight_decay=0.1)
            given = params, tx.init(params), params
            assert_one_pass(step_of(tx), *given, leaves=2)
            assert_same_bits(
                jax.jit(fuse_updates(step_of(tx)))(*given), jax.jit(step_of(tx))(*given)
            )

    def test_gradients_wider_and_narrower_than_the_parameters(self) -> None:
        with enable_x64(True):
            params = {"a": jnp.ones((3, 4), jnp.float32), "b": jnp.ones(3, jnp.float32)}
            grads = {"a": jnp.ones((3, 4), jnp.float64) / 3, "b": jnp.ones(3, jnp.bfloat16) / 3}
            for tx in (nadam(1e-2), nadamw(1e-2, weight_decay=0.1)):
                step, given = step_of(tx), (params, tx.init(params), grads)
                assert_same_bits(jax.jit(fuse_updates(step))(*given), jax.jit(step)(*given))


def test_skipped_leaves_and_signed_zeros() -> None:
    row = jnp.zeros(len(Coefficients._fields)).at[jnp.array([0, 1, 2, 7, 8])].set(1.0)
    params = jnp.array([0.0, -0.0, jnp.inf, -jnp.inf, 1.0, -1.0])

    def step(row: Any, params: Any) -> Any:
        change, mu, nu = nadam_update(
            row, params, params * 0, params * 0, params * 0, returns="change"
        )
        return params + change, mu, nu

    for other in (row, row.at[14].set(1.0), row.at[10].set(0.5)):
        assert_same_bits(jax.jit(fuse_updates(step))(other, params), jax.jit(step)(other, params))
        assert_one_pass(step, other, params, leaves=1)


class TestCalling:
    """How the function is called, and what comes back."""

    def test_arguments_of_every_kind(self) -> None:
        tx = nadam(1e-2)

        def step(
            params: Any, state: Any, /, grads: Any, *, scale: float, activation: Any, flag: bool
        ) -> Any:
            """Says what it does."""
            grads = jax.tree.map(lambda g: activation(g) * scale, grads) if flag else grads
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state, {"name": "a step", "flag": flag}

        fused = fuse_updates(step)
        assert fused.__name__ == "step"
        assert fused.__doc__ == "Says what it does."
        given = PARAMS, tx.init(PARAMS)
        kwargs = {"grads": GRADS[0], "scale": 2.0, "activation": jnp.tanh, "flag": True}
        *arrays, metrics = fused(*given, **kwargs)
        assert metrics == {"name": "a step", "flag": True}
        assert_close(tuple(arrays), step(*given, **kwargs)[:2])

        def of_arrays(*args: Any, **kwargs: Any) -> Any:
            return fused(*args, **kwargs)[:2]

        static = ("scale", "activation", "flag")
        assert_close(jax.jit(of_arrays, static_argnames=static)(*given, **kwargs), tuple(arrays))
        assert_close(
            jax.jit(lambda p, s: functools.partial(fused, **kwargs)(p, s)[:2])(*given),
            tuple(arrays),
        )

    def test_static_arguments_are_known_by_name(self) -> None:
        tx = nadam(1e-2)

        def step(params: Any, state: Any, grads: Any, mode: str) -> Any:
            assert mode == "train"
            return step_of(tx)(params, state, grads)

        compiled = jax.jit(fuse_updates(step), static_argnames="mode", donate_argnums=(0, 1))
        params = jax.tree.map(jnp.copy, PARAMS)
        compiled(params, tx.init(params), GRADS[0], "train")
        assert params["kernel"].is_deleted()

    def test_numpy_arrays_and_closures(self) -> None:
        tx = nadam(1e-2)
        grads = jax.tree.map(np.asarray, GRADS[0])
        state = tx.init(PARAMS)

        @jax.jit
        def outer(params: Any, scale: Any) -> Any:
            step = fuse_updates(
                lambda p: step_of(tx)(p, state, jax.tree.map(lambda g: g * scale, grads))
            )
            return step(params)

        doubled = jax.tree.map(lambda g: g * 2, GRADS[0])
        assert_close(outer(PARAMS, 2.0), jax.jit(step_of(tx))(PARAMS, state, doubled))
        assert_close(
            fuse_updates(step_of(tx))(jax.tree.map(np.asarray, PARAMS), state, grads),
            step_of(tx)(PARAMS, state, GRADS[0]),
        )

    def test_results_that_pass_through(self) -> None:
        def step(params: Any, key: Any) -> Any:
            return params, params, None, key, 3

        key = jax.random.key(0)
        one, other, none, same_key, number = fuse_updates(step)(PARAMS, key)
        assert none is None
        assert number == 3
        assert_same_bits((one, other, same_key), (PARAMS, PARAMS, key))

    def test_constants_come_back_as_arrays(self) -> None:
        fused = fuse_updates(lambda p: (p * 2, jnp.asarray(0.1), jnp.asarray(True), jnp.arange(2)))
        expected = jnp.float32(2), jnp.asarray(0.1), jnp.asarray(True), jnp.arange(2)
        for results in (fused(jnp.float32(1)), jax.jit(fused)(jnp.float32(1))):
            for found, other in zip(results, expected, strict=True):
                assert isinstance(found, jax.Array)
                assert (found.dtype, found.weak_type) == (other.dtype, other.weak_type)
                np.testing.assert_array_equal(found, other)

    def test_programs_among_other_parameters_of_an_operation(self) -> None:
        """Those of a linear solver are a named tuple."""
        matrix = jnp.eye(3) * 2
        solved = fuse_updates(jnp.linalg.solve)(matrix, jnp.ones(3))
        np.testing.assert_allclose(solved, 0.5)

    def test_a_product_that_a_function_makes(self) -> None:
        tx = nadam(1e-2)

        def step(p: Any, state: Any, grads: Any) -> Any:
            change, state = tx.update(grads, state)
            return jax.jit(lambda p: p * 0.3)(p) + change, state

        params = PARAMS["kernel"]
        (report,) = explain_updates(step)(params, tx.init(params), params)
        assert "a product" in report.reasons[0]

    def test_errors_are_those_of_the_function(self) -> None:
        tx = nadam(1e-2)
        with pytest.raises(ValueError, match=r"grads\['kernel'\] has the shape"):
            fuse_updates(step_of(tx))(
                PARAMS, tx.init(PARAMS), {**GRADS[0], "kernel": jnp.ones((5, 7))}
            )

    def test_a_compiled_function_inside_is_compiled_once(self) -> None:
        tx = nadam(1e-2)
        traces = []

        @jax.jit
        def step(params: Any, state: Any, grads: Any) -> Any:
            traces.append(1)
            return step_of(tx)(params, state, grads)

        compiled: list[str] = []

        def listener(name: str, *_: Any, **__: Any) -> None:
            if name == "/jax/core/compile/backend_compile_duration":
                compiled.append(name)

        jax.monitoring.register_event_duration_secs_listener(listener)
        fused = fuse_updates(step)
        one = other = (PARAMS, tx.init(PARAMS))
        for t, grads in enumerate(GRADS):
            before = len(compiled)
            one, other = fused(*one, grads), step(*other, grads)
            assert_same_bits(one, other)
            assert t == 0 or len(compiled) == before
        assert compiled, "the event must be there"
        assert len(traces) == 1

    def test_effects_stay_in_their_order(self, capfd: pytest.CaptureFixture[str]) -> None:
        tx = nadam(1e-2)
        seen: list[str] = []

        def step(params: Any, state: Any, grads: Any) -> Any:
            note = functools.partial(jax.experimental.io_callback, ordered=True)
            note(lambda x: seen.append("before"), None, grads["bias"])
            updates, state = tx.update(grads, state, params)
            note(lambda x: seen.append("between"), None, state.count)
            params = optax.apply_updates(params, updates)
            note(lambda x: seen.append("after"), None, params["bias"])
            jax.debug.print("count {}", state.count)
            return params, state

        given = PARAMS, tx.init(PARAMS), GRADS[0]
        assert_one_pass(step, *given)
        result = jax.jit(fuse_updates(step))(*given)
        jax.block_until_ready(result)
        jax.effects_barrier()
        assert seen == ["before", "between", "after"]
        assert "count 1" in capfd.readouterr().out
        assert_same_bits(result, jax.jit(step_of(tx))(*given))


class TestTransformations:
    def test_grad_through_a_fused_step(self) -> None:
        tx = nadamw(1e-2, weight_decay=0.1)

        def loss(step: Step, rate: Any) -> Any:
            state = tx.init(PARAMS)
            params, _ = step(PARAMS, state, jax.tree.map(lambda g: g * rate, GRADS[0]))
            return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))

        fused, plain = fuse_updates(step_of(tx)), step_of(tx)
        assert_close(
            jax.grad(functools.partial(loss, fused))(2.0),
            jax.grad(functools.partial(loss, plain))(2.0),
        )
        outside = jax.grad(fuse_updates(functools.partial(loss, plain)))(2.0)
        assert_close(outside, jax.grad(functools.partial(loss, plain))(2.0))

    @pytest.mark.parametrize("inside", [False, True])
    def test_vmap(self, inside: bool) -> None:
        tx = nadamw(1e-2, weight_decay=0.1)
        many = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[tree(seed) for seed in range(3)])
        state = jax.vmap(tx.init)(many)
        step = step_of(tx)
        fused = fuse_updates(jax.vmap(step)) if inside else jax.vmap(fuse_updates(step))
        expected = jax.jit(jax.vmap(step))(many, state, many)
        assert_same_bits(jax.jit(fused)(many, state, many), expected)
        assert_one_pass(fused, many, state, many)

    def test_a_population_of_rates(self) -> None:
        def step(rate: Any, params: Any, state: Any, grads: Any) -> Any:
            return step_of(nadam(rate))(params, state, grads)

        rates = jnp.array([1e-3, 1e-2])
        many = jax.tree.map(lambda x: jnp.stack([x, x]), PARAMS)
        state = jax.vmap(nadam(1e-2).init)(many)
        mapped = jax.vmap(step)
        assert_same_bits(
            jax.jit(fuse_updates(mapped))(rates, many, state, many),
            jax.jit(mapped)(rates, many, state, many),
        )
        assert_one_pass(mapped, rates, many, state, many)

    def test_export(self) -> None:
        tx = nadam(1e-2)
        given = PARAMS, tx.init(PARAMS), GRADS[0]
        ours = jax.export.DisabledSafetyCheck.custom_call("nadam_xla_update_v2")
        export = jax.export.export(jax.jit(fuse_updates(step_of(tx))), disabled_checks=[ours])
        exported = export(*given)
        assert_same_bits(exported.call(*given), jax.jit(step_of(tx))(*given))

    def test_twice(self) -> None:
        tx = nadam(1e-2)
        given = PARAMS, tx.init(PARAMS), GRADS[0]
        twice = fuse_updates(fuse_updates(step_of(tx)))
        assert_same_bits(jax.jit(twice)(*given), jax.jit(step_of(tx))(*given))


class TestReport:
    def test_what_it_says(self) -> None:
        tx = nadam(1e-2)

        @jax.jit
        def step(params: Any, state: Any, grads: Any) -> Any:
            updates, state = tx.update(grads, state, params)
            return jax.tree.map(lambda p, u: p - u, params, updates), state

        def run(params: Any, state: Any, grads: Any) -> Any:
            return jax.lax.cond(
                grads["bias"][0] > 0,
                lambda: step(params, state, grads),
                lambda: fuse_updates(step_of(tx))(params, state, grads),
            )

        shapes = jax.eval_shape(lambda *given: given, PARAMS, tx.init(PARAMS), GRADS[0])
        fused, left = explain_updates(run)(*shapes)
        assert fused.returns_params
        assert (fused.where, left.where) == (("cond",), ("cond", "jit step"))
        assert not left.returns_params
        lines = str(left).splitlines()
        assert "inside cond > jit step: 5 leaves, not fused" in lines[0]
        assert "test_fuse_updates.py" in lines[0]
        assert lines[1] == (
            "  5 of them (float32[5], float32[2,3,4], float32[0,3], ...): its change goes into sub"
        )

    def test_a_change_that_is_returned(self) -> None:
        tx = scale_by_nadam()
        (report,) = explain_updates(jax.jit(tx.update))(PARAMS, tx.init(PARAMS), PARAMS)
        assert set(report.reasons) == {"the function returns its change"}

    def test_a_function_without_updates(self) -> None:
        assert explain_updates(lambda x: x + 1)(1.0) == []
