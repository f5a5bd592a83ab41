"""Whatever optax puts around an optimizer goes around ours, and trains as it does around optax's.

The rows are run with both. What differs by design stands in ``DIFFERENCES``, and is asserted.
"""

import importlib
import inspect
import operator
import pkgutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from training import PARAMS, assert_close, gradients, tree

from nadam_xla.jax import NadamState, nadam, nadamw, scale_by_nadam

Maker = Callable[..., Any]


class Pair(NamedTuple):
    """The maker of one of our optimizers, and of the one of optax's that it replaces."""

    ours: Maker
    theirs: Maker


# With a decay that is felt in every step.
PAIRS: dict[str, Pair] = {
    "adam": Pair(partial(nadam, nesterov=False), optax.adam),
    "adamw": Pair(
        partial(nadamw, weight_decay=0.3, nesterov=False), partial(optax.adamw, weight_decay=0.3)
    ),
    "nadam": Pair(nadam, optax.nadam),
    "nadamw": Pair(partial(nadamw, weight_decay=0.3), partial(optax.nadamw, weight_decay=0.3)),
}
WITHOUT_DECAY = ("adam", "nadam")  # these need no parameters


# What is trained: each step pulls the parameters towards another target. The fewer leaves, the less
# there is to compile.


def only(names: Iterable[str], tree: Any) -> Any:
    return {name: tree[name] for name in names}


def complex_of(real: Any, imaginary: Any) -> Any:
    """Complex leaves, and a real one among them."""
    both = jax.tree.map(lambda x, y: x + 1j * y, real, imaginary)
    return {**both, "scale": real["scale"]}


STEPS = 9
LEAVES = ("scale", "empty", "deep")
START = only(LEAVES, PARAMS)
TARGETS = gradients(STEPS)
WITH_NAN = [
    {**target, "scale": target["scale"] * jnp.nan} if t % 4 == 2 else target
    for t, target in enumerate(TARGETS)
]
EXAMPLES = [  # three targets for each step
    jax.tree.map(lambda *x: jnp.stack(x), *(tree(3 * t + i) for i in range(3)))
    for t in range(1, 1 + STEPS)
]
COMPLEX_START = complex_of(START, only(LEAVES, tree(1)))
COMPLEX_TARGETS = [complex_of(target, TARGETS[-t]) for t, target in enumerate(TARGETS)]

SCHEDULE = optax.warmup_cosine_decay_schedule(0.0, 0.05, 3, STEPS)
PREFIX = {"scale": True, "empty": True, "deep": False}
LABELS = jax.tree.map(lambda chosen: "some" if chosen else "others", PREFIX)


def is_matrix(params: Any) -> Any:
    return jax.tree.map(lambda x: x.ndim > 1, params)


def kind_of_leaf(params: Any) -> Any:
    return jax.tree.map(lambda x: "some" if x.ndim > 1 else "others", params)


def loss(params: Any, target: Any) -> jax.Array:
    """Half the squared distance, of complex numbers too."""

    def distance(p: jax.Array, goal: jax.Array) -> jax.Array:
        return 0.5 * jnp.sum(jnp.real((p - goal) * jnp.conj(p - goal)))

    return reduce(operator.add, jax.tree.leaves(jax.tree.map(distance, params, target)))


def gradient(params: Any, target: Any) -> Any:
    """Of the loss, uphill; of complex numbers, JAX has the conjugate."""
    return jax.tree.map(jnp.subtract, params, target)


def moved(updates_and_state: tuple[Any, Any], params: Any) -> tuple[Any, Any]:
    updates, state = updates_and_state
    return optax.apply_updates(params, updates), state


def plain(tx: Any, params: Any, state: Any, target: Any) -> tuple[Any, Any]:
    return moved(tx.update(gradient(params, target), state, params), params)


def without_params(tx: Any, params: Any, state: Any, target: Any) -> tuple[Any, Any]:
    return moved(tx.update(gradient(params, target), state), params)


def with_value(tx: Any, params: Any, state: Any, target: Any) -> tuple[Any, Any]:
    """With extra arguments: one that some wrappers read, and a tree like the parameters."""
    grads, value = gradient(params, target), loss(params, target)
    return moved(tx.update(grads, state, params, value=value, tags=grads), params)


def with_grad_fn(tx: Any, params: Any, state: Any, target: Any) -> tuple[Any, Any]:
    def at(elsewhere: Any, _: int) -> Any:
        return gradient(elsewhere, target)

    return moved(tx.update(at(params, 0), state, params, grad_fn=at), params)


def at_the_fast_ones(tx: Any, params: Any, state: Any, target: Any) -> tuple[Any, Any]:
    return moved(tx.update(gradient(params.fast, target), state, params), params)


def of_examples(tx: Any, params: Any, state: Any, targets: Any) -> tuple[Any, Any]:
    grads = jax.vmap(gradient, (None, 0))(params, targets)
    return moved(tx.update(grads, state, params), params)


def in_microbatches(tx: Any, params: Any, state: Any, targets: Any) -> tuple[Any, Any]:
    def of_batch(params: Any, targets: Any) -> Any:
        grads = jax.vmap(gradient, (None, 0))(params, targets)
        return jax.tree.map(lambda g: g.sum(0), grads)

    grads = optax.microbatch(of_batch, argnums=1, microbatch_size=1)(params, targets)
    return moved(tx.update(grads, state, params), params)


class Row(NamedTuple):
    """One use of a wrapper.

    Attributes:
        wrap: makes the transformation from a maker of the optimizer in it.
        step: takes one step of training with it.
        targets: one for each step, of which those leaves are taken that the parameters have.
        start: makes the parameters.
        pairs: the names of those that it is run with; none: see ``ROWS``.
    """

    wrap: Callable[[Maker], Any]
    step: Callable[[Any, Any, Any, Any], tuple[Any, Any]] = plain
    targets: Sequence[Any] = TARGETS
    start: Callable[[], Any] = lambda: START
    pairs: tuple[str, ...] = ()


def complex_row(wrap: Callable[[Maker], Any], **rest: Any) -> Row:
    return Row(wrap, targets=COMPLEX_TARGETS, **{"start": lambda: COMPLEX_START, **rest})


def only_complex() -> Any:
    return only(["deep"], COMPLEX_START)


def multi_steps(*args: Any, **rest: Any) -> Any:
    return optax.MultiSteps(*args, **rest).gradient_transformation()


def adversary(make: Maker) -> Any:
    return optax.chain(optax.contrib.normalize(), make(0.05))


def injected_by_the_old_name(make: Maker) -> Any:
    with warnings.catch_warnings(action="ignore"):  # it is deprecated
        return optax.inject_stateful_hyperparams(make)(1e-2, b1=optax.linear_schedule(0.5, 0.9, 5))


class RateOfLosses(optax.schedules.StatefulSchedule):
    """The rate shrinks as the losses add up."""

    def init(self) -> jax.Array:
        return jnp.float32(0.0)

    def update(self, state: jax.Array, **extra_args: Any) -> jax.Array:
        return state + extra_args["value"]

    def __call__(self, state: jax.Array, **extra_args: Any) -> jax.Array:
        return 0.05 / (1.0 + 0.01 * state)


def measures() -> dict[str, Any]:
    norm = optax.tree_utils.tree_norm
    return {"norm": norm, "mean": optax.measure_with_ema(norm, 0.9)}


def of_early_steps(step: Any, **_: Any) -> Any:
    return step < 5


def of_low_losses(step: Any, value: Any, **_: Any) -> Any:
    return value < 100.0


def aggregating() -> Any:
    return optax.experimental.aggregating


# The first row of a wrapper is its plainest.
MATRIX: dict[str, dict[str, Row]] = {
    "optax.chain": {
        "clipped before": Row(lambda make: optax.chain(optax.clip_by_global_norm(1.0), make(1e-2))),
        "scaled after": Row(lambda make: optax.chain(make(SCHEDULE), optax.scale(0.5))),
        "chains in it": Row(
            lambda make: optax.chain(
                optax.chain(optax.zero_nans(), optax.trace(0.5)),
                optax.chain(make(1e-2), optax.ema(0.5), optax.keep_params_nonnegative()),
            ),
            targets=WITH_NAN,
        ),
        "twice": Row(lambda make: optax.chain(make(-1.0), make(1e-2))),
        "extra arguments": Row(lambda make: optax.chain(optax.clip(0.5), make(1e-2)), with_value),
        "no parameters": Row(
            lambda make: optax.chain(optax.clip(0.5), make(1e-2)),
            without_params,
            pairs=WITHOUT_DECAY,
        ),
        "complex": complex_row(
            lambda make: optax.chain(optax.clip_by_global_norm(1.0), make(SCHEDULE)),
            pairs=tuple(PAIRS),
        ),
        "complex, other numbers": complex_row(
            lambda make: optax.chain(make(1e-2, b1=0.8, b2=0.9, eps_root=1e-4))
        ),
        "complex, with its mu_dtype": complex_row(
            lambda make: optax.chain(make(1e-2, mu_dtype=jnp.complex64)), start=only_complex
        ),
    },
    "optax.named_chain": {
        "clipped": Row(lambda make: optax.named_chain(("c", optax.clip(0.1)), ("n", make(1e-2)))),
    },
    "optax.MultiSteps": {
        "mean": Row(lambda make: multi_steps(make(1e-2), 3)),
        "sum": Row(lambda make: multi_steps(make(1e-2), 2, use_grad_mean=False)),
        "more and more": Row(lambda make: multi_steps(make(SCHEDULE), lambda step: 1 + step)),
        "but the infinite": Row(
            lambda make: multi_steps(make(1e-2), 2, should_skip_update_fn=optax.skip_not_finite),
            targets=WITH_NAN,
        ),
        "but the large": Row(
            lambda make: multi_steps(
                make(1e-2),
                2,
                should_skip_update_fn=partial(optax.skip_large_updates, max_squared_norm=600.0),
            ),
        ),
    },
    "optax.masked": {
        "by a function": Row(lambda make: optax.masked(make(1e-2), is_matrix)),
        "by a prefix": Row(lambda make: optax.masked(make(SCHEDULE), PREFIX)),
        "extra arguments": Row(
            lambda make: optax.masked(make(1e-2), PREFIX, mask_compatible_extra_args=True),
            with_value,
        ),
        "complex": complex_row(lambda make: optax.masked(make(1e-2), is_matrix)),
    },
    "optax.partition": {
        "by a function": Row(
            lambda make: optax.partition(
                {"some": make(1e-2), "others": make(0.05, b1=0.5)}, kind_of_leaf
            )
        ),
        "by a prefix": Row(
            lambda make: optax.partition({"some": make(SCHEDULE), "others": make(1e-2)}, LABELS)
        ),
        "extra arguments": Row(
            lambda make: optax.partition(
                {"some": make(1e-2), "others": optax.sgd(0.1)},
                LABELS,
                mask_compatible_extra_args=True,
            ),
            with_value,
        ),
        "complex": complex_row(
            lambda make: optax.partition({"some": make(1e-2), "others": make(0.05)}, LABELS)
        ),
    },
    "optax.multi_transform": {
        "some are left": Row(
            lambda make: optax.multi_transform(
                {"some": make(1e-2), "others": optax.set_to_zero()}, kind_of_leaf
            )
        ),
    },
    "optax.apply_if_finite": {
        "some are not": Row(lambda make: optax.apply_if_finite(make(1e-2), 3), targets=WITH_NAN),
        "too many are not": Row(
            lambda make: optax.apply_if_finite(make(1e-2), 0), targets=WITH_NAN
        ),
        "complex": complex_row(lambda make: optax.apply_if_finite(make(1e-2), 3)),
    },
    "optax.conditionally_mask": {
        "early steps": Row(lambda make: optax.conditionally_mask(make(1e-2), of_early_steps)),
        "low losses": Row(
            lambda make: optax.conditionally_mask(
                make(1e-2), of_low_losses, forward_extra_args=True
            ),
            with_value,
        ),
    },
    "optax.conditionally_transform": {
        "early steps": Row(
            lambda make: optax.chain(
                optax.scale(-0.1), optax.conditionally_transform(make(-1e-2), of_early_steps)
            )
        ),
    },
    "optax.flatten": {
        "one vector": Row(lambda make: optax.flatten(make(1e-2))),
        "complex": complex_row(lambda make: optax.flatten(make(1e-2)), start=only_complex),
    },
    "optax.inject_hyperparams": {
        "numbers": Row(lambda make: optax.inject_hyperparams(make)(1e-2, eps_root=1e-8)),
        "schedules": Row(
            lambda make: optax.inject_hyperparams(make)(
                SCHEDULE,
                b1=optax.linear_schedule(0.5, 0.9, 5),
                b2=optax.linear_schedule(0.9, 0.99, 5),
            )
        ),
        "a stateful schedule": Row(
            lambda make: optax.inject_hyperparams(make)(RateOfLosses()), with_value
        ),
        "static arguments": Row(
            lambda make: optax.inject_hyperparams(
                make, static_args=("learning_rate", "b1"), hyperparam_dtype=jnp.float32
            )(SCHEDULE)
        ),
        "a maker of chains": Row(
            lambda make: optax.inject_hyperparams(
                lambda rate, norm: optax.chain(optax.clip_by_global_norm(norm), make(rate))
            )(SCHEDULE, norm=optax.linear_schedule(1.0, 2.0, 5))
        ),
        "complex": complex_row(
            lambda make: optax.inject_hyperparams(make, hyperparam_dtype=jnp.float32)(1e-2)
        ),
        # By default the hyperparameters have the dtype of the parameters.
        "complex, numbers too": complex_row(
            lambda make: optax.inject_hyperparams(make)(1e-2), start=only_complex
        ),
    },
    "optax.inject_stateful_hyperparams": {"schedules": Row(injected_by_the_old_name)},
    "optax.transforms.freeze": {
        "after it": Row(lambda make: optax.chain(make(1e-2), optax.transforms.freeze(PREFIX))),
    },
    "optax.transforms.selective_transform": {
        "by a prefix": Row(
            lambda make: optax.transforms.selective_transform(make(1e-2), freeze_mask=PREFIX)
        ),
    },
    "optax.lookahead": {
        f"reset_state={reset}": Row(
            lambda make, reset=reset: optax.lookahead(make(1e-2), 3, 0.5, reset_state=reset),
            at_the_fast_ones,
            start=lambda: optax.LookaheadParams.init_synced(START),
        )
        for reset in (False, True)
    },
    "optax.with_extra_args_support": {
        "one without": Row(
            lambda make: optax.with_extra_args_support(optax.GradientTransformation(*make(1e-2))),
            with_value,
        ),
    },
    "optax.monitor": {
        "after it, and it measures": Row(
            lambda make: optax.chain(make(1e-2), optax.monitor({**measures(), "next": make(0.05)}))
        ),
    },
    "optax.snapshot": {
        "after it": Row(
            lambda make: optax.chain(make(1e-2), optax.snapshot("norm", optax.tree_utils.tree_norm))
        ),
    },
    "optax.microbatch": {
        "the gradients": Row(
            lambda make: make(1e-2),
            in_microbatches,
            EXAMPLES,
            lambda: only(["scale", "deep"], START),
        ),
    },
    "optax.contrib.schedule_free": {
        "a number": Row(lambda make: optax.contrib.schedule_free(make(1e-2, b1=0.0), 1e-2)),
        "a schedule": Row(
            lambda make: optax.contrib.schedule_free(make(SCHEDULE, b1=0.0), SCHEDULE, b1=0.95)
        ),
        "a rate of 1": Row(lambda make: optax.contrib.schedule_free(make(1.0, b1=0.0), 1.0)),
    },
    "optax.contrib.sam": {
        "both": Row(lambda make: optax.contrib.sam(make(1e-2), adversary(make), 3)),
        "opaque": Row(
            lambda make: optax.contrib.sam(
                make(1e-2), adversary(make), reset_state=False, opaque_mode=True
            ),
            with_grad_fn,
        ),
    },
    "optax.contrib.mechanize": {
        # It begins with a scale of 1e-6, with which nothing would show in a few steps.
        "a rate of 1": Row(lambda make: optax.contrib.mechanize(make(1.0), s_init=1e-2)),
    },
    "optax.contrib.split_real_and_imaginary": {
        "real": Row(lambda make: optax.contrib.split_real_and_imaginary(make(1e-2))),
        "complex": complex_row(lambda make: optax.contrib.split_real_and_imaginary(make(1e-2))),
    },
    "optax.contrib.reduce_on_plateau": {
        "after it": Row(
            lambda make: optax.chain(
                make(1e-2), optax.contrib.reduce_on_plateau(patience=1, cooldown=1)
            ),
            with_value,
        ),
    },
    "optax.contrib.differentially_private_aggregate": {
        "before it": Row(
            lambda make: optax.chain(
                optax.contrib.differentially_private_aggregate(1.0, 0.1, 0), make(1e-2)
            ),
            of_examples,
            EXAMPLES,
            lambda: only(["deep"], START),  # the noise of each leaf takes long to compile
        ),
    },
    # These hand on no parameters, so that nothing in them can decay.
    "optax.contrib.scale_by_galore": {
        "rank 2": Row(
            lambda make: optax.contrib.scale_by_galore(2, 4, base_optimizer=make(1e-2)),
            start=lambda: only(["kernel", "bias"], PARAMS),
            pairs=WITHOUT_DECAY,
        ),
    },
    "optax.contrib.galore": {
        "rank 2": Row(
            lambda make: optax.contrib.galore(
                SCHEDULE, 2, 4, base_optimizer=make(-1.0), weight_decay=0.1
            ),
            start=lambda: only(["kernel", "bias"], PARAMS),
            pairs=WITHOUT_DECAY,
        ),
    },
    "optax.experimental.aggregating.process": {
        "after it": Row(
            lambda make: aggregating().process(
                optax.identity(), aggregating().average_incrementally_updates(0, 2), make(1e-2)
            ),
            of_examples,
            EXAMPLES,
        ),
    },
    "optax.experimental.aggregating.add_mean_variance_to_opt": {
        "every step": Row(
            lambda make: aggregating().add_mean_variance_to_opt(make(1e-2)), of_examples, EXAMPLES
        ),
    },
}

EXCLUDED = {
    "optax.lbfgs": "what it takes is a line search, which needs the loss itself",
    "optax.contrib.sophia": "what it takes estimates the diagonal of the Hessian",
}

# What the oldest optax that we support does not have.
NEWER = {
    "optax.monitor",
    "optax.snapshot",
    "optax.microbatch",
    "optax.contrib.scale_by_galore",
    "optax.contrib.galore",
    "optax.experimental.aggregating.process",
    "optax.experimental.aggregating.add_mean_variance_to_opt",
}


def exported(name: str) -> Any:
    """What the installed optax has by this name, or None."""
    return reduce(lambda found, part: getattr(found, part, None), name.split(".")[1:], optax)


# By wrapper and name. All four optimizers go through the first row of a wrapper, and through the
# others the one with both momentum and decay.
ROWS: dict[tuple[str, str], Row] = {
    (wrapper, name): row._replace(pairs=row.pairs or (("nadamw",) if i else tuple(PAIRS)))
    for wrapper, rows in MATRIX.items()
    if exported(wrapper) is not None
    for i, (name, row) in enumerate(rows.items())
}
EVERY_ROW = pytest.mark.parametrize("row", [pytest.param(row, id=", ".join(row)) for row in ROWS])
EVERY_CASE = pytest.mark.parametrize(
    ("row", "pair"),
    [
        pytest.param(key, pair, id=", ".join((*key, pair)))
        for key, row in ROWS.items()
        for pair in row.pairs
    ],
)
OTHER_EPSILON = ("ours", "another epsilon")


class Run(NamedTuple):
    """What came of a row, by the side and the name of the pair: ``("ours", "adam")``."""

    transformations: dict[tuple[str, str], Any]
    params: dict[tuple[str, str], Any]
    states: dict[tuple[str, str], Any]
    step: Any


@cache
def run(key: tuple[str, str]) -> Run:
    """Both sides and all pairs in one program, for nearly all of the time goes to compiling."""
    row = ROWS[key]
    makers = {
        (side, name): getattr(PAIRS[name], side) for side in Pair._fields for name in row.pairs
    }
    makers[OTHER_EPSILON] = partial(PAIRS[row.pairs[0]].ours, eps=0.05)
    transformations = {lane: row.wrap(make) for lane, make in makers.items()}

    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def step(params: Any, states: Any, target: Any) -> Any:
        new = {
            lane: row.step(transformation, params[lane], states[lane], target)
            for lane, transformation in transformations.items()
        }
        return {lane: p for lane, (p, _) in new.items()}, {lane: s for lane, (_, s) in new.items()}

    params = {lane: row.start() for lane in makers}
    states = {lane: transformations[lane].init(params[lane]) for lane in makers}
    for t in range(STEPS):
        params, states = step(params, states, target_of(row, t))
    return Run(transformations, params, states, step)


def target_of(row: Row, t: int) -> Any:
    start = row.start()
    return only(start if isinstance(start, dict) else LEAVES, row.targets[t])


def numbers(state: Any) -> list[Any]:
    """The floating-point leaves: a stock optimizer with a schedule counts its steps once more."""
    leaves = jax.tree.leaves(state)
    return [x for x in leaves if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]


def dtypes(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.dtype, tree)


def assert_same(result: Run, ours: tuple[str, str], theirs: tuple[str, str]) -> None:
    assert dtypes(result.params[ours]) == dtypes(result.params[theirs])
    assert_close(result.params[ours], result.params[theirs])
    assert_close(numbers(result.states[ours]), numbers(result.states[theirs]))


@EVERY_CASE
def test_it_trains_as_with_optax_s(row: tuple[str, str], pair: str) -> None:
    assert_same(run(row), ("ours", pair), ("theirs", pair))
    assert "NadamState" in str(jax.tree.structure(run(row).states["ours", pair])), "ours ran"


@EVERY_ROW
def test_every_row_would_notice_another_optimizer(row: tuple[str, str]) -> None:
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_same(run(row), OTHER_EPSILON, ("theirs", ROWS[row].pairs[0]))


@EVERY_ROW
def test_no_step_compiles_again(row: tuple[str, str]) -> None:
    # But where the first step changes the types in the wrapper's own state, as some optax's do.
    once = row[0] not in {"optax.monitor", "optax.contrib.reduce_on_plateau"}
    assert run(row).step._cache_size() <= (1 if once else 2)


class TestStateUtilities:
    @EVERY_CASE
    def test_they_find_the_same(self, row: tuple[str, str], pair: str) -> None:
        utilities = optax.tree_utils

        def found(side: str, key: str) -> list[Any]:
            state = run(row).states[side, pair]
            return [value for _, value in utilities.tree_get_all_with_path(state, key)]

        for name in ("mu", "nu"):
            assert len(found("ours", name)) == len(found("theirs", name)) > 0
            assert_close(found("ours", name), found("theirs", name))
        states = found("ours", "NadamState")
        assert len(states) == len(found("theirs", "ScaleByAdamState"))
        if len(states) == 1:
            assert utilities.tree_get(run(row).states["ours", pair], "mu") is states[0].mu

    @EVERY_CASE
    def test_the_same_of_the_state_is_like_the_parameters(
        self, row: tuple[str, str], pair: str
    ) -> None:
        def labels(side: str) -> Any:
            labelled = optax.tree_utils.tree_map_params(
                run(row).transformations[side, pair],
                lambda x: f"like {x.shape}",
                run(row).states[side, pair],
                transform_non_params=lambda _: None,
            )
            return jax.tree.leaves(labelled)

        # Its init cannot take the placeholder, or returns less than update does.
        if row[0] in {"optax.flatten", "optax.monitor"}:
            for side in Pair._fields:
                with pytest.raises(ValueError, match=r"concatenate|pytree|Dict key mismatch"):
                    labels(side)
        else:
            assert labels("ours") == labels("theirs") != []

    @EVERY_ROW
    def test_what_is_set_is_gone_on_from(self, row: tuple[str, str]) -> None:
        def changed(state: Any) -> Any:
            utilities = optax.tree_utils
            for name, factor in (("mu", -2.0), ("nu", 3.0)):
                path, moments = utilities.tree_get_all_with_path(state, name)[0]
                new = jax.tree.map(lambda x, factor=factor: factor * x, moments)
                state = utilities.tree_set(
                    state, lambda at, _, path=path: at == path, **{name: new}
                )
            return state

        before = run(row)
        states = {lane: changed(state) for lane, state in before.states.items()}
        params, states = before.step(before.params, states, target_of(ROWS[row], 0))
        after = before._replace(params=params, states=states)
        for pair in ROWS[row].pairs:
            assert_same(after, ("ours", pair), ("theirs", pair))


@pytest.mark.parametrize("pair", PAIRS)
def test_a_state_is_made_of_shapes_alone(pair: str) -> None:
    shapes = jax.eval_shape(lambda: START)
    make = PAIRS[pair].ours
    jax.tree.map(np.testing.assert_array_equal, make(1e-2).init(shapes), make(1e-2).init(START))


@pytest.mark.parametrize("wrapper", [key for key in ROWS if "galore" in key[0]])
@pytest.mark.parametrize("side", Pair._fields)
def test_where_no_parameters_are_handed_on_a_decay_is_refused_by_both(
    wrapper: tuple[str, str], side: str
) -> None:
    transformation = ROWS[wrapper].wrap(getattr(PAIRS["nadamw"], side))
    params = only(["kernel", "bias"], PARAMS)
    with pytest.raises(ValueError, match="param"):
        jax.eval_shape(transformation.update, params, transformation.init(params), params)


def all_exported() -> Iterator[tuple[str, Any]]:
    """All that optax exports that can be called, by its public name."""
    for package in pkgutil.iter_modules(optax.__path__):
        if package.ispkg and not package.name.startswith("_"):
            importlib.import_module(f"optax.{package.name}")
    modules: list[tuple[str, Any]] = [("optax", optax)]
    while modules:
        module_name, module = modules.pop()
        for short_name, value in vars(module).items():
            name = f"{module_name}.{short_name}"
            if short_name.startswith("_"):
                continue
            if not inspect.ismodule(value):
                if callable(value):
                    yield name, value
            elif value.__name__.startswith(f"{module_name}.") and "._src" not in value.__name__:
                modules.append((name, value))


def takes_an_optimizer(function: Any) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a type, such as optax.Schedule
        return False
    return any("GradientTransformation" in str(p.annotation) for p in parameters)


def test_all_that_takes_an_optimizer_is_in_the_matrix() -> None:
    found = {name: value for name, value in all_exported() if takes_an_optimizer(value)}
    known = [*MATRIX, *EXCLUDED]
    assert set(EXCLUDED) <= set(found), "nothing is left out that is not there"
    assert {name for name in known if exported(name) is None} <= NEWER, "the names are right"
    known_ids = {id(exported(name)) for name in known}  # many are exported by several names
    assert {name for name, value in found.items() if id(value) not in known_ids} == set()


def the_state_is_one_tuple() -> None:
    state, theirs = nadam(1e-2).init(START), optax.nadam(1e-2).init(START)
    assert isinstance(state, NadamState)
    assert [type(part).__name__ for part in theirs] == ["ScaleByAdamState", "EmptyState"]
    with pytest.raises(TypeError, match=r"state is a tuple.*optax's.*state_from_optax"):
        nadam(1e-2).update(START, theirs, START)


def a_schedule_has_no_count() -> None:
    get = optax.tree_utils.tree_get
    assert get(nadam(SCHEDULE).init(START), "count") == 0
    with pytest.raises(KeyError, match="multiple values"):
        get(optax.nadam(SCHEDULE).init(START), "count")


def narrow_parameters_have_wide_moments() -> None:
    leaf = jnp.ones(3, jnp.bfloat16)
    for pair in PAIRS.values():
        ours, theirs = (make(1e-2).init(leaf) for make in pair)
        assert ours.mu.dtype == ours.nu.dtype == jnp.float32
        assert theirs[0].mu.dtype == theirs[0].nu.dtype == jnp.bfloat16


def without_parameters_a_narrow_change_is_wide() -> None:
    leaf = jnp.ones(3, jnp.bfloat16)
    ours, theirs = nadam(1e-2), optax.nadam(1e-2)
    assert ours.update(leaf, ours.init(leaf))[0].dtype == jnp.float32
    assert ours.update(leaf, ours.init(leaf), leaf)[0].dtype == jnp.bfloat16
    assert theirs.update(leaf, theirs.init(leaf))[0].dtype == jnp.bfloat16


def integers_are_refused() -> None:
    params = {"weights": jnp.ones(2), "steps": jnp.arange(2)}
    for pair in PAIRS.values():
        with pytest.raises(TypeError, match=r"^params\['steps'\] has the dtype int32"):
            pair.ours(1e-2).init(params)
        pair.theirs(1e-2).init(params)
    floats = {"weights": jnp.ones(2), "steps": jnp.ones(2)}
    with pytest.raises(TypeError, match=r"^grads\['steps'\] has the dtype int32"):
        nadam(1e-2).update(params, nadam(1e-2).init(floats), floats)


def second_moments_are_real() -> None:
    state, theirs = (make(1e-2).init(COMPLEX_START) for make in PAIRS["nadam"])
    assert dtypes(state.mu) == dtypes(theirs[0].mu) == dtypes(theirs[0].nu)
    assert state.nu["deep"]["w"].dtype == jnp.float32


def no_imaginary_part_is_lost() -> None:
    leaf, real = jnp.ones(3, jnp.complex64), jnp.ones(3)
    with pytest.raises(TypeError, match="complex gradients need complex parameters"):
        nadam(1e-2).update(leaf, nadam(1e-2).init(real), real)
    with pytest.raises(TypeError, match="first moments of complex parameters are complex"):
        nadam(1e-2, mu_dtype=jnp.float32).init(leaf)


def nothing_is_broadcast() -> None:
    params, grads = jnp.ones(3), jnp.float32(1)
    with pytest.raises(ValueError, match=r"grads has the shape \(\)"):
        nadam(1e-2).update(grads, nadam(1e-2).init(params), params)
    assert optax.nadam(1e-2).update(grads, optax.nadam(1e-2).init(params))[0].shape == (3,)


def numbers_have_ranges() -> None:
    for name in ("b1", "b2"):
        for value in (-0.1, 1.0, 1.5):
            for pair in PAIRS.values():
                with pytest.raises(ValueError, match=f"{name} is {value}; it must be at least 0"):
                    pair.ours(1e-2, **{name: value})
                pair.theirs(1e-2, **{name: value})
    for name in ("eps", "eps_root"):
        with pytest.raises(ValueError, match=f"{name} is -0.1; it must not be negative"):
            nadam(1e-2, **{name: -0.1})
    with pytest.raises(ValueError, match="learning_rate is nan"):
        nadam(float("nan"))


def a_rate_is_one_number() -> None:
    params, rates = jnp.ones(3), jnp.array([0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match=r"learning_rate has the shape \(3,\)"):
        nadam(rates)
    instead = optax.chain(scale_by_nadam(), optax.scale_by_learning_rate(rates))
    theirs = optax.nadam(rates)
    assert_close(
        instead.update(params, instead.init(params))[0],
        theirs.update(params, theirs.init(params))[0],
    )


def no_narrow_decay_rate() -> None:
    leaf = jnp.ones(3, jnp.bfloat16)
    with pytest.raises(TypeError, match=r"b2 is a bfloat16, in which 0\.999 is 1"):
        optax.inject_hyperparams(nadam)(1e-2).init(leaf)
    theirs = optax.inject_hyperparams(optax.nadam)(1e-2)
    assert jnp.isnan(theirs.update(leaf, theirs.init(leaf), leaf)[0]).all()


def no_slope_where_there_is_no_second_moment() -> None:
    def of_change(make: Maker, grads: Any) -> Any:
        change = make(1e-2).update(grads, make(1e-2).init(grads), grads)[0]
        return jnp.sum(change)

    zeros = jnp.zeros(3)
    slope = jax.jit(jax.grad(of_change, argnums=1), static_argnums=0)
    assert jnp.isfinite(slope(nadam, zeros)).all()
    assert jnp.isnan(slope(optax.nadam, zeros)).all()


def rounding_grows_at_a_rate_of_1() -> None:
    """Where the target is reached, the direction is that of a rounding error, and 1 a large step.

    Optax's own two ways to write the same are as far from each other.
    """
    wrap, target = optax.contrib.schedule_free, only(LEAVES, TARGETS[0])
    transformations = (
        wrap(nadamw(1.0, b1=0.0, nesterov=False), 1.0),
        wrap(optax.adamw(1.0, b1=0.0), 1.0),
        optax.contrib.schedule_free_adamw(1.0, weight_decay=1e-4),
    )

    @jax.jit
    def trained(steps: int) -> Any:
        def step(_: Any, carry: Any) -> Any:
            return [plain(tx, *old, target) for tx, old in zip(transformations, carry, strict=True)]

        begun = [(START, tx.init(START)) for tx in transformations]
        return [
            (params, optax.contrib.schedule_free_eval_params(state, params))
            for params, state in jax.lax.fori_loop(0, steps, step, begun)
        ]

    ours, *theirs = trained(100)
    for way in theirs:
        assert_close(ours, way)
    ours, *theirs = trained(1000)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_close(*theirs, atol=1e-2)
    for _, evaluated in (ours, *theirs):
        assert_close(evaluated, target, atol=1e-2)


def counts_are_reached() -> None:
    state = optax.inject_hyperparams(nadam)(1e-2).init(START)
    reset = optax.tree_utils.tree_set(state, count=jnp.int32(7))
    assert reset.count == reset.inner_state.count == 7


DIFFERENCES: dict[str, Callable[[], None]] = {
    "The state is one NadamState, where optax has a tuple of states.": the_state_is_one_tuple,
    "A schedule counts with the moments, where optax's has a count of its own.": (
        a_schedule_has_no_count
    ),
    "tree_set reaches the count behind another one, where optax's tuple may hide it.": (
        counts_are_reached
    ),
    "The moments of bfloat16 parameters are float32.": narrow_parameters_have_wide_moments,
    "Without parameters, the change of narrow ones is float32.": (
        without_parameters_a_narrow_change_is_wide
    ),
    "Integers are refused, by init and by the steps; the leaf is named.": integers_are_refused,
    "The second moments of complex parameters are real.": second_moments_are_real,
    "Where optax drops an imaginary part, ours refuses.": no_imaginary_part_is_lost,
    "Gradients have the shapes of their parameters; nothing is broadcast.": nothing_is_broadcast,
    "Decay rates outside [0, 1), a negative epsilon and a rate of NaN are refused.": (
        numbers_have_ranges
    ),
    "A rate for each element is scale_by_learning_rate's, in a chain.": a_rate_is_one_number,
    "A b2 that is injected in bfloat16 is refused, where optax trains to NaN.": (
        no_narrow_decay_rate
    ),
    "The derivative where a second moment is zero is finite, where optax's is NaN.": (
        no_slope_where_there_is_no_second_moment
    ),
    "Schedule-free steps at a rate of 1 differ by rounding, which grows once they have arrived.": (
        rounding_grows_at_a_rate_of_1
    ),
}


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_it_differs_by_design(difference: str) -> None:
    DIFFERENCES[difference]()
