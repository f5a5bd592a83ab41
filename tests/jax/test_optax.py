"""What can be done with optax.nadam can be done with ours, and gives the same."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import pytest
from training import PARAMS, assert_close, counted_step, gradients, train
from x64 import enable_x64

from nadam_xla.jax import NadamState, nadam, nadamw, scale_by_nadam

GRADS = gradients(24)
SCHEDULE = optax.warmup_cosine_decay_schedule(0.0, 0.02, 5, len(GRADS))
Maker = Callable[..., optax.GradientTransformation]


def is_matrix(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.ndim > 1, tree)


def kind_of_leaf(tree: Any) -> Any:
    return jax.tree.map(lambda x: "matrix" if x.ndim > 1 else "vector", tree)


PREFIX = {"kernel": True, "bias": False, "scale": True, "empty": True, "deep": False}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(nadam, optax.adam), (nadamw, optax.adamw), (scale_by_nadam, optax.scale_by_adam)],
)
def test_the_arguments_are_optax_s_and_more_by_keyword(ours: Any, theirs: Any) -> None:
    def arguments(function: Any, *kinds: Any) -> dict[str, Any]:
        parameters = inspect.signature(function).parameters
        return {name: p.default for name, p in parameters.items() if p.kind in kinds}

    positional, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    assert list(arguments(ours, positional).items()) == list(arguments(theirs, positional).items())
    assert arguments(ours, keyword).keys() >= arguments(theirs, keyword).keys()


SAME: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "positional arguments": (
        lambda: nadam(1e-2, 0.8, 0.95, 1e-6, 1e-9, jnp.float32),
        lambda: optax.nadam(1e-2, 0.8, 0.95, 1e-6, 1e-9, jnp.float32),
    ),
    "positional arguments, w": (
        lambda: nadamw(1e-2, 0.8, 0.95, 1e-6, 1e-9, None, 0.1, is_matrix),
        lambda: optax.nadamw(1e-2, 0.8, 0.95, 1e-6, 1e-9, None, 0.1, is_matrix),
    ),
    "Adam": (lambda: nadam(SCHEDULE, nesterov=False), lambda: optax.adam(SCHEDULE)),
    "AdamW": (
        lambda: nadamw(1e-2, weight_decay=0.1, nesterov=False),
        lambda: optax.adamw(1e-2, weight_decay=0.1),
    ),
    "mask that is a prefix": (
        lambda: nadamw(1e-2, weight_decay=0.1, mask=PREFIX),
        lambda: optax.nadamw(1e-2, weight_decay=0.1, mask=PREFIX),
    ),
    "mask for all": (
        lambda: nadamw(1e-2, weight_decay=0.1, mask=False),
        lambda: optax.nadam(1e-2),
    ),
    "scheduled weight decay": (
        lambda: nadamw(SCHEDULE, weight_decay=optax.linear_schedule(0.5, 0.0, 20)),
        lambda: optax.inject_hyperparams(optax.nadamw)(
            SCHEDULE, weight_decay=optax.linear_schedule(0.5, 0.0, 20)
        ),
    ),
    "injected, but for the mask": (
        lambda: optax.inject_hyperparams(nadamw, static_args="mask")(1e-2, mask=is_matrix),
        lambda: optax.inject_hyperparams(optax.nadamw, static_args="mask")(1e-2, mask=is_matrix),
    ),
    "l2": (
        lambda: nadam(1e-2, l2=0.1),
        lambda: optax.chain(optax.add_decayed_weights(0.1), optax.nadam(1e-2)),
    ),
    "l2 with a mask": (
        lambda: nadam(1e-2, l2=0.1, mask=is_matrix),
        lambda: optax.chain(optax.add_decayed_weights(0.1, is_matrix), optax.nadam(1e-2)),
    ),
    "l2 for Adam": (
        lambda: nadam(1e-2, l2=0.1, nesterov=False),
        lambda: optax.chain(optax.add_decayed_weights(0.1), optax.adam(1e-2)),
    ),
    "scale_by_nadam": (
        lambda: optax.chain(scale_by_nadam(b1=0.8), optax.scale_by_learning_rate(SCHEDULE)),
        lambda: optax.nadam(SCHEDULE, b1=0.8),
    ),
    "scale_by_nadam as Adam": (
        lambda: optax.chain(scale_by_nadam(nesterov=False), optax.scale(-1e-2)),
        lambda: optax.adam(1e-2),
    ),
    "scale_by_nadam before a trust ratio": (
        lambda: optax.chain(scale_by_nadam(), optax.scale_by_trust_ratio(), optax.scale(-1e-2)),
        lambda: optax.chain(
            optax.scale_by_adam(nesterov=True), optax.scale_by_trust_ratio(), optax.scale(-1e-2)
        ),
    ),
}


@pytest.mark.parametrize("case", SAME)
def test_the_same_arguments_give_the_same_run(case: str) -> None:
    ours, theirs = SAME[case]
    assert_close(train(ours(), GRADS)[0], train(theirs(), GRADS)[0])


@pytest.mark.parametrize("case", ["l2 with a mask", "Adam", "scheduled weight decay"])
def test_apply_gives_it_too(case: str) -> None:
    ours, theirs = SAME[case]
    assert_close(train(ours(), GRADS, apply=True)[0], train(theirs(), GRADS)[0])


WRAPPERS: dict[str, Callable[[Maker], Any]] = {
    "chain": lambda nadam: optax.chain(optax.clip_by_global_norm(1.0), nadam(SCHEDULE)),
    "named_chain": lambda nadam: optax.named_chain(("clip", optax.clip(0.1)), ("n", nadam(1e-2))),
    "chain, scaled after": lambda nadam: optax.chain(nadam(1e-2), optax.scale(0.5)),
    "MultiSteps": lambda nadam: optax.MultiSteps(nadam(1e-2), 4).gradient_transformation(),
    "masked": lambda nadam: optax.masked(nadam(1e-2), is_matrix),
    "masked by a prefix": lambda nadam: optax.masked(nadam(1e-2), PREFIX),
    "partition": lambda nadam: optax.partition(
        {"matrix": nadam(1e-2), "vector": nadam(SCHEDULE, b1=0.5)}, kind_of_leaf
    ),
    "multi_transform": lambda nadam: optax.multi_transform(
        {"matrix": nadam(1e-2), "vector": optax.set_to_zero()}, kind_of_leaf
    ),
    "flatten": lambda nadam: optax.flatten(nadam(1e-2)),
    "inject_hyperparams": lambda nadam: optax.inject_hyperparams(nadam)(1e-2, eps_root=1e-8),
    "inject_hyperparams, schedules": lambda nadam: optax.inject_hyperparams(nadam)(
        SCHEDULE, b1=optax.linear_schedule(0.5, 0.95, 20), b2=optax.linear_schedule(0.9, 0.99, 20)
    ),
    "inject_hyperparams, static": lambda nadam: optax.inject_hyperparams(
        nadam, static_args=("b1", "b2", "learning_rate")
    )(SCHEDULE),
    "all at once": lambda nadam: optax.apply_if_finite(
        optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.masked(optax.inject_hyperparams(nadam)(SCHEDULE), is_matrix),
        ),
        max_consecutive_errors=3,
    ),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_every_wrapper_gives_the_same_run(wrapper: str) -> None:
    params, state = train(WRAPPERS[wrapper](nadam), GRADS)
    expected, _ = train(WRAPPERS[wrapper](optax.nadam), GRADS)
    assert_close(params, expected)
    assert "NadamState" in str(jax.tree.structure(state)), "ours ran"


def test_apply_if_finite_leaves_out_the_steps_that_are_not() -> None:
    bad = jax.tree.map(lambda g: g.at[...].set(jnp.nan), GRADS[0])
    given = [bad if t % 3 == 1 else g for t, g in enumerate(GRADS)]
    params, state = train(optax.apply_if_finite(nadam(1e-2), 5), given)
    expected, _ = train(optax.nadam(1e-2), [g for t, g in enumerate(GRADS) if t % 3 != 1])
    assert_close(params, expected)
    assert state.total_notfinite == len(GRADS) // 3


def test_injected_momentum_decay_and_decays_follow_the_oracle() -> None:
    tx = optax.inject_hyperparams(nadamw)(SCHEDULE, weight_decay=0.1, momentum_decay=0.004)
    params, state = train(tx, GRADS)
    assert state.hyperparams["momentum_decay"] == jnp.float32(0.004)
    expected = jax.tree.map(
        lambda p, *grads: oracle.nadam(
            p,
            grads,
            learning_rate=lambda count: float(SCHEDULE(count)),
            weight_decay=0.1,
            momentum_decay=0.004,
        ),
        PARAMS,
        *GRADS,
    )
    assert_close(params, expected)


NUMBERS: dict[str, tuple[Any, dict[str, float], dict[str, float]]] = {
    "nadam": (
        nadam,
        {"learning_rate": 1e-2, "b1": 0.9, "b2": 0.999, "eps": 1e-8, "eps_root": 0.0, "l2": 0.0},
        {"learning_rate": 3e-2, "b1": 0.7, "b2": 0.9, "eps": 1e-3, "eps_root": 1e-4, "l2": 0.1},
    ),
    "nadamw": (
        nadamw,
        {"learning_rate": 1e-2, "weight_decay": 0.0, "momentum_decay": 0.004},
        {"learning_rate": 3e-2, "weight_decay": 0.1, "momentum_decay": 1.0},
    ),
}


@pytest.mark.parametrize("maker", NUMBERS)
@pytest.mark.parametrize("step", ["update", "apply"])
def test_another_value_of_a_traced_hyperparameter_does_not_recompile(maker: str, step: str) -> None:
    make, *choices = NUMBERS[maker]
    traces = []

    @jax.jit
    def run(numbers: Any, params: Any, state: Any, grads: Any) -> Any:
        traces.append(1)
        tx = make(**numbers)
        if step == "apply":
            return tx.apply(grads, state, params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for numbers in choices:
        traced = jax.tree.map(jnp.float32, numbers)
        params, state = PARAMS, make(**numbers).init(PARAMS)
        for grads in GRADS[:5]:
            params, state = run(traced, params, state, grads)
        assert_close(params, train(make(**numbers), GRADS[:5])[0])
    assert len(traces) == run._cache_size() == 1


@pytest.mark.parametrize("maker", NUMBERS)
def test_every_injected_hyperparameter_can_be_set_without_recompiling(maker: str) -> None:
    make, before, after = NUMBERS[maker]
    tx = optax.inject_hyperparams(make)(**before)
    step, traces = counted_step(tx)
    params, state = PARAMS, tx.init(PARAMS)
    assert state.hyperparams.keys() >= before.keys()
    for name, value in after.items():
        params, state = step(params, state, GRADS[0])
        state.hyperparams[name] = jnp.float32(value)
    params, state = step(params, state, GRADS[1])
    assert len(traces) == step._cache_size() == 1

    # The last step was made with all the values that were set.
    start = PARAMS, make(**before).init(PARAMS)
    for name in after:
        numbers = {**before, **{k: after[k] for k in list(after)[: list(after).index(name)]}}
        updates, inner = make(**numbers).update(GRADS[0], start[1], start[0])
        start = optax.apply_updates(start[0], updates), inner
    updates, _ = make(**after).update(GRADS[1], start[1], start[0])
    assert_close(params, optax.apply_updates(start[0], updates))


def test_a_hundred_steps_of_all_that_changes_compile_once() -> None:
    tx = optax.apply_if_finite(
        optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.inject_hyperparams(nadamw)(SCHEDULE, b1=0.9, weight_decay=0.1),
        ),
        max_consecutive_errors=100,
    )
    step, traces = counted_step(tx)
    rng = np.random.default_rng(0)
    finite = rng.uniform(size=100) < 0.8
    params, state = PARAMS, tx.init(PARAMS)
    for t in range(100):
        grads = jax.tree.map(lambda g, t=t: g if finite[t] else g * jnp.nan, GRADS[t % len(GRADS)])
        new_b1 = jnp.float32(0.9 - 0.004 * t)
        state = optax.tree_utils.tree_set(state, b1=new_b1)
        params, state = step(params, state, grads)
    assert len(traces) == step._cache_size() == 1
    assert optax.tree_utils.tree_get(state, "NadamState").count == finite.sum()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


class TestState:
    def test_tree_get_finds_what_it_finds_in_optax_s(self) -> None:
        get = optax.tree_utils.tree_get
        _, state = train(optax.chain(optax.clip(1.0), nadam(1e-2)), GRADS)
        _, theirs = train(optax.chain(optax.clip(1.0), optax.nadam(1e-2)), GRADS)
        for name in ("count", "mu", "nu"):
            assert_close(get(state, name), get(theirs, name))
        assert isinstance(get(state, "NadamState"), NadamState)
        injected = optax.inject_hyperparams(nadam)(1e-2).init(PARAMS)
        assert get(injected, "learning_rate") == jnp.float32(1e-2)

    def test_tree_set_resets_what_it_names(self) -> None:
        _, state = train(nadam(1e-2), GRADS)
        assert optax.tree_utils.tree_set(state, count=jnp.int32(0)).count == 0

    @pytest.mark.parametrize(
        "tx",
        [
            nadam(1e-2),
            nadamw(1e-2, mask=is_matrix, momentum_decay=1.0),
            nadamw(1e-2, mask=PREFIX),
            optax.chain(optax.clip(1.0), scale_by_nadam(), optax.scale(-1.0)),
            optax.inject_hyperparams(nadam, hyperparam_dtype=jnp.float32)(1e-2),
        ],
        ids=["nadam", "function as mask", "tree as mask", "chain", "injected"],
    )
    def test_tree_map_params_maps_the_moments_alone(self, tx: Any) -> None:
        labels = jax.tree.map(lambda x: f"like {x.shape}", PARAMS)
        mapped = optax.tree_utils.tree_map_params(
            tx,
            lambda _, label: label,
            tx.init(PARAMS),
            labels,
            transform_non_params=lambda _: "scalar",
        )
        state = optax.tree_utils.tree_get(mapped, "NadamState")
        assert state.mu == state.nu == labels
        assert state.count == "scalar"

    def test_nothing_of_it_is_weakly_typed_or_changes_its_type(self) -> None:
        """So that it can be carried by a loop, and no second step compiles anew."""
        for tx in (nadam(1e-2, momentum_decay=1.0), nadam(jnp.float32(1e-2), b1=jnp.float32(0.9))):
            before = jax.eval_shape(tx.init, PARAMS)
            after = jax.eval_shape(tx.update, PARAMS, before, PARAMS)[1]
            assert jax.tree.map(lambda x: x.weak_type, after) == jax.tree.map(
                lambda x: False, after
            )
            assert before == after

    def test_float64_parameters_carry_a_float64_product(self) -> None:
        with enable_x64(True):
            params = jnp.ones(3, jnp.float64)
            tx = nadam(jnp.float32(1e-2), b1=jnp.float64(0.9), momentum_decay=1.0)
            _, state = tx.update(params, tx.init(params), params)
            assert state.momentum_product.dtype == jnp.float64
            narrow = jnp.ones(3, jnp.float32)
            _, state = tx.update(narrow, tx.init(narrow), narrow)
            assert state.momentum_product.dtype == jnp.float32


class TestSubtrees:
    def same(self, params: Any, grads: Any) -> Any:
        """What both optimizers make of it in a few steps."""
        ours = train(nadam(1e-2), [grads] * 3, params)[0]
        theirs = train(optax.nadam(1e-2), [grads] * 3, params)[0]
        assert jax.tree.structure(ours) == jax.tree.structure(theirs) == jax.tree.structure(params)
        assert_close(ours, theirs)
        return ours

    def test_none_and_empty_subtrees_stay(self) -> None:
        params = {"w": jnp.ones(3), "none": None, "dict": {}, "list": [], "tuple": (None, ())}
        self.same(params, params)

    def test_masked_nodes_stay(self) -> None:
        params = {"w": jnp.ones(3), "frozen": optax.MaskedNode()}
        assert self.same(params, params)["frozen"] == optax.MaskedNode()

    @pytest.mark.parametrize("tx", [nadam(1e-2), nadamw(1e-2), nadamw(1e-2, mask={})])
    def test_no_leaves_at_all(self, tx: Any) -> None:
        state = tx.init({})
        assert tx.update({}, state, {})[0] == {}
        assert tx.apply({}, state, {})[1].count == 1

    def test_a_mask_meets_masked_nodes(self) -> None:
        tx = optax.masked(nadamw(1e-2, weight_decay=0.1, mask=PREFIX), is_matrix)
        judge = optax.masked(optax.nadamw(1e-2, weight_decay=0.1, mask=PREFIX), is_matrix)
        assert_close(train(tx, GRADS)[0], train(judge, GRADS)[0])

    def test_a_traced_mask_does_not_recompile(self) -> None:
        @jax.jit
        def step(mask: Any, params: Any, grads: Any) -> Any:
            tx = nadamw(1e-2, weight_decay=0.1, mask=mask)
            return tx.apply(grads, tx.init(params), params)[0]

        for mask in (is_matrix(PARAMS), jax.tree.map(lambda x: x.ndim < 2, PARAMS)):
            expected = optax.nadamw(1e-2, weight_decay=0.1, mask=mask)
            assert_close(step(mask, PARAMS, GRADS[0]), train(expected, GRADS[:1])[0])
        assert step._cache_size() == 1

    def test_complex_parameters_train_as_pairs_of_real_ones(self) -> None:
        params = jnp.asarray([1 + 2j, 3 - 1j], jnp.complex64)
        split = optax.contrib.split_real_and_imaginary
        ours = train(split(nadam(1e-2)), [params] * 3, params)[0]
        assert_close(ours, train(split(optax.nadam(1e-2)), [params] * 3, params)[0])


class TestNarrowDtypes:
    @pytest.mark.parametrize("mu_dtype", ["bfloat16", "float16", jnp.float32])
    def test_first_moments_are_kept_in_mu_dtype(self, mu_dtype: Any) -> None:
        params, state = train(nadam(1e-2, mu_dtype=mu_dtype), GRADS)
        expected, theirs = train(optax.nadam(1e-2, mu_dtype=mu_dtype), GRADS)
        assert {x.dtype for x in jax.tree.leaves(state.mu)} == {jnp.dtype(mu_dtype)}
        assert {x.dtype for x in jax.tree.leaves(state.nu)} == {jnp.dtype("float32")}
        # Optax multiplies in the narrow dtype, ours in float32; both then round.
        atol = 10 * float(jnp.finfo(mu_dtype).eps) + 2e-6
        wide = jax.tree.map(jnp.float32, (state.mu, theirs[0].mu))
        assert_close(*wide, atol=atol)
        assert_close(params, expected, atol=atol)

    @pytest.mark.parametrize("params", ["float32", "float64"])
    @pytest.mark.parametrize("grads", ["bfloat16", "float16", "float32", "float64"])
    @pytest.mark.parametrize("mu_dtype", [None, "bfloat16"])
    @pytest.mark.parametrize("given", [False, True])
    def test_a_change_has_the_dtype_that_it_has_with_optax(
        self, params: str, grads: str, mu_dtype: Any, given: bool
    ) -> None:
        """But for narrower gradients' sake it is never widened beyond given parameters."""
        with enable_x64(True):
            leaf, grad = jnp.ones(3, params), jnp.ones(3, grads)
            change, expected = (
                tx.update(grad, tx.init(leaf), leaf if given else None)[0]
                for tx in (nadam(1e-2, mu_dtype=mu_dtype), optax.nadam(1e-2, mu_dtype=mu_dtype))
            )
            assert change.dtype == (params if given else expected.dtype)
            np.testing.assert_allclose(change, expected, rtol=1e-2)

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_the_change_of_narrow_parameters_is_narrow_where_they_are_given(
        self, dtype: str
    ) -> None:
        leaf = jnp.ones(3, dtype)
        tx = nadam(1e-2)
        assert tx.update(leaf, tx.init(leaf), leaf)[0].dtype == dtype
        assert tx.update(leaf, tx.init(leaf))[0].dtype == "float32", "as the moments are"

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    @pytest.mark.parametrize("mu_dtype", [None, "bfloat16", "float32"])
    def test_narrow_parameters_follow_the_oracle(self, dtype: str, mu_dtype: Any) -> None:
        params = jnp.linspace(-1, 1, 50).astype(dtype)
        grads = [jnp.sin(params * t).astype(dtype) for t in range(1, 11)]
        tx = nadam(1e-2, mu_dtype=mu_dtype)
        result, state = train(tx, grads, params, apply=True)
        assert result.dtype == dtype
        assert state.nu.dtype == jnp.float32
        assert state.mu.dtype == (mu_dtype or "float32")
        expected = oracle.nadam(np.asarray(params), map(np.asarray, grads), learning_rate=1e-2)
        atol = 10 * float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(np.asarray(result, np.float64), expected, rtol=0, atol=atol)

    def test_hyperparameters_injected_in_bfloat16_are_refused_where_they_would_give_nan(
        self,
    ) -> None:
        params = jnp.ones(3, jnp.bfloat16)
        with pytest.raises(TypeError, match=r"b2 is a bfloat16.*hyperparam_dtype=jnp.float32"):
            optax.inject_hyperparams(nadam)(1e-2).init(params)
        tx = optax.inject_hyperparams(nadam, hyperparam_dtype=jnp.float32)(1e-2)
        updates, _ = tx.update(params, tx.init(params), params)
        assert updates.dtype == jnp.bfloat16
        assert np.isfinite(updates.astype(np.float32)).all()
