"""What does not fit is told while JAX traces, by one exception that names the leaf."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nadam_xla.jax import nadam, nadamw, scale_by_nadam
from nadam_xla.jax.checks import check_alike

PARAMS = {"dense": {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}, "heads": [jnp.ones(4), jnp.ones(5)]}
W, B, HEADS = PARAMS["dense"]["w"], PARAMS["dense"]["b"], PARAMS["heads"]


def dense(**leaves: Any) -> Any:
    return {**PARAMS, "dense": {"w": W, "b": B, **leaves}}


WRONG_TREES = {
    "missing leaf": (
        {**PARAMS, "dense": {"w": W}},
        ValueError,
        r"grads\['dense'\] has no \['b'\], and params\['dense'\] has one",
    ),
    "leaf too many": (
        dense(scale=B),
        ValueError,
        r"grads\['dense'\] has \['scale'\], and params\['dense'\] has none",
    ),
    "missing subtree": ({"heads": HEADS}, ValueError, r"grads has no \['dense'\], and params"),
    "shorter list": ({**PARAMS, "heads": HEADS[:1]}, ValueError, r"grads\['heads'\] has no \[1\]"),
    "tuple for a list": (
        {**PARAMS, "heads": tuple(HEADS)},
        ValueError,
        r"grads\['heads'\] is a tuple, and params\['heads'\] is a list",
    ),
    "leaf for a subtree": (
        {**PARAMS, "dense": W},
        ValueError,
        r"grads\['dense'\] is float32\[2,3\], and params\['dense'\] is a dict",
    ),
    "subtree for a leaf": (
        dense(w={}),
        ValueError,
        r"grads\['dense'\]\['w'\] is a dict, and params\['dense'\]\['w'\] is float32\[2,3\]",
    ),
    "masked node for a leaf": (
        dense(w=optax.MaskedNode()),
        ValueError,
        r"grads\['dense'\]\['w'\] is an optax MaskedNode, and params",
    ),
    "None for a leaf": (
        dense(b=None),
        ValueError,
        r"grads\['dense'\]\['b'\] is None, and params\['dense'\]\['b'\] is float32\[3\]; give zer",
    ),
    "None for everything": (None, ValueError, r"grads is None, and params is a dict"),
    "shape": (
        dense(w=W.T),
        ValueError,
        r"grads\['dense'\]\['w'\] has the shape \(3, 2\); it must be \(2, 3\), like params\['den",
    ),
    "shape that would broadcast": (
        dense(b=jnp.float32(1)),
        ValueError,
        r"grads\['dense'\]\['b'\] has the shape \(\); it must be \(3,\)",
    ),
    "integers": (dense(b=jnp.arange(3)), TypeError, r"grads\['dense'\]\['b'\] has the dtype int32"),
    "booleans": (dense(b=B > 0), TypeError, r"grads\['dense'\]\['b'\] has the dtype bool"),
    "float0": (
        dense(b=np.zeros(3, jax.dtypes.float0)),
        TypeError,
        r"grads\['dense'\]\['b'\] has the dtype .*float0",
    ),
    "complex": (
        dense(b=B * 1j),
        TypeError,
        r"grads\['dense'\]\['b'\] is complex64\[3\], and its first moment float32\[3\]",
    ),
    "function": (
        dense(b=jnp.tanh),
        TypeError,
        r"grads\['dense'\]\['b'\] is a .*; Nadam updates arrays only",
    ),
    "string": (dense(b="b"), TypeError, r"grads\['dense'\]\['b'\] is a str; Nadam"),
}


@pytest.mark.parametrize("case", WRONG_TREES)
@pytest.mark.parametrize("step", ["update", "apply"])
def test_grads_that_do_not_fit(case: str, step: str) -> None:
    grads, error, message = WRONG_TREES[case]
    tx = nadam(1e-2)
    with pytest.raises(error, match=message):
        getattr(tx, step)(grads, tx.init(PARAMS), PARAMS)


def test_it_is_told_while_jax_traces() -> None:
    tx = optax.chain(optax.clip(1.0), nadam(1e-2))
    state = tx.init(PARAMS)
    with pytest.raises(ValueError, match=r"grads\['dense'\]\['w'\] has the shape \(3, 2\)"):
        jax.eval_shape(tx.update, dense(w=W.T), state, PARAMS)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (dense(b=None), r"grads\['dense'\]\['b'\] is float32\[3\], and params\S+ is None"),
        (dense(b=B[:2]), r"grads\['dense'\]\['b'\] has the shape \(3,\); it must be \(2,\)"),
    ],
)
def test_params_that_do_not_fit(params: Any, message: str) -> None:
    tx = nadamw(1e-2)
    with pytest.raises(ValueError, match=message):
        tx.update(PARAMS, tx.init(PARAMS), params)


def test_apply_takes_no_missing_parameters() -> None:
    tx = nadam(1e-2)
    with pytest.raises(ValueError, match="grads is a dict, and params is None"):
        tx.apply(PARAMS, tx.init(PARAMS), None)


def test_without_parameters_the_gradients_are_what_the_state_must_fit() -> None:
    tx = nadam(1e-2)
    with pytest.raises(ValueError, match=r"state.mu\['dense'\] has \['b'\], and grads\['dense'\]"):
        tx.update({**PARAMS, "dense": {"w": W}}, tx.init(PARAMS))


leaves = st.sampled_from([0.0, None, optax.MaskedNode()])
trees = st.recursive(
    leaves,
    lambda trees: (
        st.lists(trees, max_size=2)
        | st.tuples(trees, trees)
        | st.dictionaries(st.sampled_from("abc"), trees, max_size=3)
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(params=trees, grads=trees)
def test_any_two_trees_are_alike_or_the_error_says_where_they_part(params: Any, grads: Any) -> None:
    if jax.tree.structure(params) == jax.tree.structure(grads):
        check_alike({"params": params, "grads": grads})
        return
    with pytest.raises(
        ValueError, match=r"^grads\S* (is|has) .*, and params\S* (is|has) "
    ) as caught:
        check_alike({"params": params, "grads": grads})
    path = re.match(r"grads(\S*)", str(caught.value))[1]  # type: ignore[index]
    at = eval(f"lambda tree: tree{path}")
    assert jax.tree.structure(at(params)) != jax.tree.structure(at(grads))


class Module:
    """A pytree node whose static data is part of the structure."""

    def __init__(self, w: Any, name: str) -> None:
        self.w, self.name = w, name


jax.tree_util.register_dataclass(Module, data_fields=["w"], meta_fields=["name"])


def test_static_data_that_differs() -> None:
    tx = nadam(1e-2)
    params = {"m": Module(W, "one")}
    with pytest.raises(ValueError, match=r"grads\['m'\] is .*two.*, and params\['m'\] is .*one"):
        tx.update({"m": Module(W, "two")}, tx.init(params), params)


class TestInit:
    @pytest.mark.parametrize("make", [nadam, nadamw, lambda _: scale_by_nadam()])
    @pytest.mark.parametrize(
        ("leaf", "message"),
        [
            (jnp.arange(3), r"params\['dense'\]\['b'\] has the dtype int32; .*optax.masked"),
            (jnp.tanh, r"params\['dense'\]\['b'\] is a .*eqx.is_inexact_array"),
            (jax.random.key(0), r"params\['dense'\]\['b'\] has the dtype key"),
        ],
    )
    def test_parameters_that_cannot_be_updated(self, make: Any, leaf: Any, message: str) -> None:
        with pytest.raises(TypeError, match=message):
            make(1e-2).init(dense(b=leaf))

    @pytest.mark.parametrize(
        ("mask", "error", "message"),
        [
            ({"dense": True}, ValueError, r"mask has no \['heads'\], and params has one"),
            ({**PARAMS, "dense": {"w": True}}, ValueError, r"mask\['dense'\] has no \['b'\]"),
            (
                {"dense": {"w": True, "b": None}, "heads": True},
                ValueError,
                r"mask\['dense'\]\['b'\] is None",
            ),
            ({"dense": "w", "heads": True}, TypeError, r"mask\['dense'\] is a str; it must be a b"),
            ({"dense": 1.0, "heads": True}, TypeError, r"mask\['dense'\] is a float; it must"),
            (lambda p: [True], ValueError, r"mask is a list, and params is a dict"),
        ],
    )
    def test_a_mask_that_does_not_fit(
        self, mask: Any, error: type[Exception], message: str
    ) -> None:
        for tx in (nadamw(1e-2, mask=mask), nadam(1e-2, l2=0.1, mask=mask)):
            with pytest.raises(error, match=message):
                tx.init(PARAMS)
            with pytest.raises(error, match=message):
                tx.update(PARAMS, nadam(1e-2).init(PARAMS), PARAMS)


class TestStateOfAnother:
    @pytest.mark.parametrize(
        ("other", "message"),
        [
            (optax.scale_by_adam(), r"optax ScaleByAdamState.*nadam_xla.jax.state_from_optax"),
            (optax.nadam(1e-2), r"state is a tuple; .*nadam_xla.jax.state_from_optax"),
            (optax.nadamw(1e-2), r"nadam_xla.jax.state_from_optax converts it"),
            (optax.sgd(1e-2), r"state is a tuple; it must be the NadamState that init returned$"),
            (optax.identity(), r"state is an optax EmptyState; it must be the NadamState"),
            (
                optax.chain(nadam(1e-2)),
                r"It holds one: a chain's or wrapper's state goes to the ch",
            ),
        ],
    )
    def test_it_is_named(self, other: Any, message: str) -> None:
        state = other.init(PARAMS)
        for step in (nadam(1e-2).update, nadam(1e-2).apply, scale_by_nadam().update):
            with pytest.raises(TypeError) as caught:
                jax.jit(step)(PARAMS, state, PARAMS)
            caught.match(message.replace("$", "(\n|$)"))

    @pytest.mark.parametrize("state", [None, {"count": 0, "mu": PARAMS, "nu": PARAMS}, PARAMS])
    def test_what_is_no_state(self, state: Any) -> None:
        with pytest.raises(TypeError, match=r"state is (None|a dict); it must be the NadamState"):
            nadam(1e-2).update(PARAMS, state, PARAMS)

    def test_that_of_another_convention(self) -> None:
        constant, scheduled = nadam(1e-2), nadam(1e-2, momentum_decay=1.0)
        with pytest.raises(ValueError, match=r"momentum_product is None.*this optimizer has one"):
            scheduled.update(PARAMS, constant.init(PARAMS), PARAMS)
        with pytest.raises(ValueError, match=r"momentum_product is given.*optimizer has none"):
            constant.update(PARAMS, scheduled.init(PARAMS), PARAMS)

    def test_that_of_other_parameters(self) -> None:
        tx = nadam(1e-2)
        with pytest.raises(
            ValueError,
            match=r"state.mu\['dense'\]\['w'\] has the shape \(3, 2\); it must be \(2, 3",
        ):
            tx.update(PARAMS, tx.init(dense(w=W.T)), PARAMS)
        state = tx.init(PARAMS)
        with pytest.raises(TypeError, match=r"state.nu\['dense'\]\['b'\] has the dtype int32"):
            tx.update(PARAMS, state._replace(nu=dense(b=jnp.arange(3))), PARAMS)

    def test_that_of_a_population(self) -> None:
        tx = nadam(1e-2)
        population = jax.vmap(tx.init)(jax.tree.map(lambda x: jnp.stack([x, x]), PARAMS))
        with pytest.raises(TypeError, match=r"state.count is int32\[2\]; it must be an integer sc"):
            tx.update(PARAMS, population, PARAMS)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nadam(jnp.ones(3)), ValueError, r"learning_rate has the shape \(3,\); .*jax.vmap"),
        (lambda: nadam(1e-2, b1=np.ones(2)), ValueError, r"b1 has the shape \(2,\)"),
        (lambda: nadamw(1e-2, weight_decay=jnp.ones(1)), ValueError, "weight_decay has the shape"),
        (lambda: nadam(1e-2, l2=np.nan), ValueError, "l2 is nan; it must be a number"),
        (lambda: scale_by_nadam(b1=1.0), ValueError, "b1 is 1.0"),
        (lambda: nadam(1e-2, mu_dtype="int8"), TypeError, "mu_dtype is 'int8'; it must be a float"),
        (lambda: nadam(1e-2, mask=True), ValueError, "mask is given and l2 is not"),
        (
            lambda: nadam(1e-2, momentum_decay=1.0, nesterov=False),
            ValueError,
            "momentum_decay is given; with nesterov=False it must be None",
        ),
    ],
)
def test_arguments_that_make_no_optimizer(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("make", [lambda: nadam(1e-2, l2=0.1), lambda: nadamw(1e-2)])
def test_decay_needs_the_parameters(make: Any) -> None:
    tx = make()
    with pytest.raises(ValueError, match="decay needs the parameters"):
        tx.update(PARAMS, tx.init(PARAMS))
