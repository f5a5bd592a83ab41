"""Narrow tensors and variables, stochastic rounding and master weights, without Keras.

The judge is the rule in numpy's float32 on the numbers that are stored, and a codec of which the
package shares no code.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import oracle
import pytest
import storage_oracle as codec
import tensorflow as tf
from compiled import CALL, instructions

from nadam_xla.coefficients import Coefficients, with_random_key
from nadam_xla.tensorflow import nadam_update, raw_ops

SHAPES = [(33, 17), (), (1000,), (2, 0)]
SEED, STEP = 2**32 - 1, 2**16 + 3

MASTERS = {"float32": np.float32, "remainder": np.uint16, "correction": np.uint8}

# Of the parameters, the gradients and both moments.
DTYPES = [
    ("float32", "bfloat16", "bfloat16", "bfloat16"),
    ("bfloat16", "bfloat16", "float32", "float32"),
    ("bfloat16", "float32", "bfloat16", "float16"),
    ("float16", "float16", "float16", "bfloat16"),
    ("bfloat16", "bfloat16", "float64", "float32"),
]


def stored_as(x: np.ndarray, dtype: str) -> np.ndarray:
    return x.astype(codec.BFLOAT16 if dtype == "bfloat16" else dtype)


def leaf(shape: tuple[int, ...], dtypes: tuple[str, ...]) -> list[np.ndarray]:
    """The parameters, gradients and moments."""
    rng = np.random.default_rng(len(shape))
    groups = [rng.normal(size=shape) for _ in range(3)] + [rng.uniform(0.1, 1, size=shape)]
    return [stored_as(np.asarray(x), dtype) for x, dtype in zip(groups, dtypes, strict=True)]


def first_master(params: np.ndarray, master: str) -> np.ndarray:
    """One whose float32 rounds to the parameters, and is another."""
    above = params.astype(np.float32) * np.float32(1.001)
    if master == "float32":
        return np.where(codec.nearest(above, params.dtype) == params, above, params).astype("f")
    bits = 8 * np.dtype(MASTERS[master]).itemsize
    rounded, remainder = codec.split(above if bits == 16 else codec.to_24_bits(above), bits)
    return np.where(rounded == params, remainder, 0).astype(MASTERS[master])


def row() -> np.ndarray:
    return oracle.rows(np.random.default_rng(0), (), "float32")


def stored(x: np.ndarray, dtype: np.dtype, draw: np.ndarray | None) -> np.ndarray:
    if draw is None or dtype not in (codec.BFLOAT16, codec.FLOAT16):
        return codec.nearest(x, dtype)
    return codec.stochastic(x, dtype, draw)


def judged(
    of_leaf: list[np.ndarray], master: np.ndarray | None, number: int, rounding: str
) -> list[np.ndarray]:
    """The new parameters and moments, and the master where there is one."""
    p, g, m, v = of_leaf
    start = p.astype("f")
    if master is not None:
        start = master if master.dtype == np.float32 else codec.joined(p, master)
    new_p, _, new_m, new_v = oracle.rule(row(), start, *(x.astype("f") for x in (g, m, v)))
    of_params = of_mu = of_nu = None
    if rounding == "stochastic":
        of_params, of_mu = (
            codec.draws(p.size, draw, seed=SEED, step=STEP, leaf=number).reshape(p.shape)
            for draw in (codec.OF_PARAMS, codec.OF_STATES)
        )
        of_nu = codec.swapped_bytes(of_mu)
    moments = [stored(new_m, m.dtype, of_mu), stored(new_v, v.dtype, of_nu)]
    if master is None:
        return [stored(new_p, p.dtype, of_params), *moments]
    if master.dtype == np.float32:
        return [codec.nearest(new_p, p.dtype), *moments, new_p]
    bits = 8 * master.dtype.itemsize
    params, remainder = codec.split(
        new_p if bits == 16 else codec.to_24_bits(new_p, of_params), bits
    )
    return [params, *moments, remainder]


def numbers(tensor: Any) -> np.ndarray:
    return np.asarray(tensor.numpy())


def assert_same_bits(tensor: Any, expected: np.ndarray) -> None:
    found = numbers(tensor)
    assert found.dtype == expected.dtype
    assert found.tobytes() == expected.tobytes()


def cases() -> Iterator[tuple[tuple[str, ...], str | None, str]]:
    for dtypes in DTYPES:
        for master in (None, *MASTERS):
            fits = dtypes[0] == "bfloat16" or (dtypes[0] == "float16" and master == "float32")
            if master is None or fits:
                for rounding in ("nearest", "stochastic"):
                    yield dtypes, master, rounding


@pytest.mark.parametrize("jit_compile", [None, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(("dtypes", "master", "rounding"), list(cases()), ids=str)
def test_the_update_is_that_of_float32_stored(
    dtypes: tuple[str, ...], master: str | None, rounding: str, jit_compile: bool | None
) -> None:
    leaves = [leaf(shape, dtypes) for shape in SHAPES]
    masters = [None if master is None else first_master(of[0], master) for of in leaves]
    coefficients = with_random_key(
        Coefficients(*row()), seed=SEED, step=STEP, leaf=np.arange(len(SHAPES))
    )

    def update(*groups: Any) -> Any:
        given = None if master is None else groups[4]
        return nadam_update(coefficients, *groups[:4], master=given, rounding=rounding)

    if jit_compile is not None:
        update = tf.function(update, jit_compile=jit_compile)
    groups = [[tf.constant(x) for x in group] for group in zip(*leaves, strict=True)]
    if master is not None:
        groups.append([tf.constant(x) for x in masters])
    updated = update(*groups)
    for i, (of, own) in enumerate(zip(leaves, masters, strict=True)):
        expected = judged(of, own, i, rounding)
        assert len(updated) == len(expected)
        for group, x in zip(updated, expected, strict=True):
            assert_same_bits(group[i], x)


def test_leaves_with_and_without_masters_go_together() -> None:
    dtypes = [("bfloat16", "bfloat16", "float32", "float32"), ("float32",) * 4] * 2
    leaves = [leaf((5,), each) for each in dtypes]
    masters = [first_master(leaves[0][0], "remainder"), None, None, None]
    groups = [list(group) for group in zip(*leaves, strict=True)]
    updated = nadam_update(Coefficients(*row()), *groups, master=masters)
    for i, (of, own) in enumerate(zip(leaves, masters, strict=True)):
        for group, x in zip(updated, judged(of, own, i, "nearest"), strict=False):
            assert_same_bits(group[i], x)
    assert updated[3][1:] == [None, None, None]


def test_what_no_kernel_knows_is_widened() -> None:
    dtype = tf.dtypes.experimental.float8_e4m3fn
    p, g, m, v = (tf.cast(x, dtype) for x in leaf((9,), ("float32",) * 4))
    updated = nadam_update(Coefficients(*row()), [p], [g], [m], [v])
    wide = [tf.cast(x, "float32").numpy() for x in (p, g, m, v)]
    new_p, _, new_m, new_v = oracle.rule(row(), *wide)
    for group, expected in zip(updated, (new_p, new_m, new_v), strict=True):
        assert group[0].dtype == dtype
        np.testing.assert_array_equal(
            tf.cast(group[0], "float32"), tf.cast(tf.cast(expected, dtype), "float32")
        )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rounding": "up"}, ValueError, "rounding is 'up'"),
        ({"rounding": "stochastic"}, ValueError, "the coefficient leaf is a scalar; where"),
        ({"master": [None]}, ValueError, "master has 1 tensors; it must have 2"),
        ({"master": [None, tf.zeros(3)]}, ValueError, r"master\[1\] has the shape \(3,\)"),
        (
            {"master": [None, tf.zeros(2, "float64")]},
            TypeError,
            r"master\[1\] has the dtype float64; it must be one of float32, uint16, uint8",
        ),
        (
            {"params": [tf.zeros(2)] * 2, "master": [tf.zeros(2), None]},
            TypeError,
            r"master\[0\] .* cannot be the master of params\[0\], which has the dtype float32",
        ),
        (
            {"params": [tf.zeros(2, "float16")] * 2, "master": [tf.zeros(2, "uint16"), None]},
            TypeError,
            "a remainder completes a bfloat16",
        ),
    ],
)
def test_what_does_not_fit_is_named(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    groups = {name: [tf.zeros(2)] * 2 for name in ("grads", "mu", "nu")}
    groups["params"] = [tf.zeros(2, "bfloat16")] * 2
    with pytest.raises(error, match=message):
        nadam_update(Coefficients(*row()), **{**groups, **change})


# ---- the raw ops ---------------------------------------------------------------------------------

SCALARS = {
    "momentum": 0.9,
    "next_momentum": 0.9,
    "momentum_product": 0.9,
    "beta2_power": 0.999,
    "lr": 1e-2,
    "beta1": 0.9,
    "beta2": 0.999,
    "epsilon": 1e-8,
}

STORED = [
    (("bfloat16", "bfloat16", "float32", "float32"), None),
    (("bfloat16", "bfloat16", "bfloat16", "bfloat16"), None),
    (("bfloat16", "bfloat16", "bfloat16", "bfloat16"), "remainder"),
    (("bfloat16", "float32", "float32", "bfloat16"), "correction"),
    (("float16", "float16", "float32", "float32"), "float32"),
]

Leaves = dict[str, list[Any]]


def variables(dtypes: tuple[str, ...], master: str | None, shape: tuple[int, ...]) -> Leaves:
    leaves = [leaf(shape, dtypes) for _ in range(3)]
    var, grad, m, v = (list(group) for group in zip(*leaves, strict=True))
    masters = [] if master is None else [tf.Variable(first_master(p, master)) for p in var]
    of_rule = {"var": var, "m": m, "v": v}
    return {
        **{name: [tf.Variable(x) for x in group] for name, group in of_rule.items()},
        "grad": [tf.constant(x) for x in grad],
        **({"master": masters} if masters else {}),
    }


def held(leaves: Leaves) -> list[np.ndarray]:
    return [numbers(x) for name, group in leaves.items() if name != "grad" for x in group]


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize(("dtypes", "master"), STORED, ids=str)
def test_many_variables_are_updated_as_one_by_one_and_as_tensors(
    dtypes: tuple[str, ...], master: str | None, rounding: str
) -> None:
    key = {"rounding": rounding, "seed": SEED, "step": STEP}
    together, alone, tensors = (variables(dtypes, master, (33, 17)) for _ in range(3))
    raw_ops.ResourceMultiApplyNadam(**together, **SCALARS, **key)
    new: list[Any] = []
    for i in range(3):
        raw_ops.ResourceApplyNadam(
            **{name: group[i] for name, group in alone.items()}, **SCALARS, **key, leaf=i
        )
        new.append(
            raw_ops.ApplyNadam(
                **{name: group[i] for name, group in tensors.items()}, **SCALARS, **key, leaf=i
            )
        )
        assert new[-1]._fields == (("var", "m", "v") + (() if master is None else ("master",)))
    names = [name for name in together if name != "grad"]
    of_tensors = [numbers(getattr(x, name)) for name in names for x in new]
    for x, y, z in zip(held(together), held(alone), of_tensors, strict=True):
        assert x.tobytes() == y.tobytes() == z.tobytes()
    before = held(variables(dtypes, master, (33, 17)))
    assert all(x.tobytes() != y.tobytes() for x, y in zip(held(together), before, strict=True))


# What XLA does not make of memory: names for it, and the call itself.
NO_PASS = {"parameter", "get-tuple-element", "tuple", "custom-call", "bitcast", "constant"}


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize(("dtypes", "master"), STORED, ids=str)
def test_nothing_but_the_call_touches_a_whole_leaf(
    dtypes: tuple[str, ...], master: str | None, rounding: str
) -> None:
    leaves = variables(dtypes, master, (64, 64))
    grads = leaves.pop("grad")

    @tf.function(jit_compile=True)
    def step(grads: list[Any], number: Any) -> None:
        raw_ops.ResourceMultiApplyNadam(
            **leaves, grad=grads, **SCALARS, rounding=rounding, seed=SEED, step=number
        )

    text = step.experimental_get_compiler_ir(grads, tf.constant(3))(stage="optimized_hlo")
    assert text.count(CALL) == 1
    smallest = min(x.nbytes for x in held(leaves))
    passes = {i.opcode for i in instructions(text) if i.bytes >= smallest} - NO_PASS
    assert passes == set()
    aliases = text.split("entry_computation_layout")[0].count("may-alias")
    assert aliases == len(held(leaves)), "each variable is updated in place"
    assert not re.search(r"f32\[64,64\]", text) or "float32" in (*dtypes, master)


def test_a_step_has_random_numbers_of_its_own() -> None:
    def updated(**key: Any) -> bytes:
        leaves = variables(("bfloat16",) * 4, None, (1000,))
        raw_ops.ResourceMultiApplyNadam(**leaves, **SCALARS, rounding="stochastic", **key)
        return leaves["var"][0].numpy().tobytes()

    base = updated(step=1)
    assert updated(step=1, seed=0) == base
    assert updated(step=tf.constant(1, tf.int64)) == base
    assert updated(step=2) != base
    assert updated(step=1, seed=1) != base


NARROW: Callable[[], Any] = lambda: tf.Variable(tf.zeros(4, "bfloat16"))  # noqa: E731


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rounding": "stochastic"}, ValueError, "step is None; where rounding is stochastic"),
        ({"rounding": "up", "step": 1}, ValueError, "rounding is 'up'"),
        ({"rounding": "stochastic", "step": 0.5}, TypeError, "step is 0.5; it must be a whole"),
        ({"rounding": "stochastic", "step": 1, "seed": 2**32}, ValueError, "seed is 4294967296"),
        ({"rounding": "stochastic", "step": [1, 2]}, ValueError, r"step has the shape \(2,\)"),
        ({"master": tf.zeros(4)}, TypeError, "master is .*; it must be a tf.Variable"),
        ({"master": tf.Variable(tf.zeros(3))}, ValueError, "master has the shape"),
        (
            {"var": tf.Variable(tf.zeros(4)), "master": tf.Variable(tf.zeros(4))},
            TypeError,
            "cannot be the master of var, which has the dtype float32",
        ),
        (
            {"m": tf.Variable(tf.zeros(4, "int8"))},
            TypeError,
            "m has the dtype int8; it must be floating",
        ),
        ({"v": None}, TypeError, "v is None; it must be a tf.Variable or the handle of one"),
    ],
)
def test_the_raw_op_names_what_is_wrong(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments = {"var": NARROW(), "m": NARROW(), "v": NARROW(), "grad": tf.ones(4, "bfloat16")}
    with pytest.raises(error, match=message):
        raw_ops.ResourceApplyNadam(**{**arguments, **change, **SCALARS})


def test_a_master_is_given_once() -> None:
    master = tf.Variable(tf.zeros(4))
    given = {name: [NARROW(), NARROW()] for name in ("var", "m", "v")}
    with pytest.raises(ValueError, match=r"master\[1\] and master\[0\] are the same variable"):
        raw_ops.ResourceMultiApplyNadam(
            **given, grad=[tf.ones(4, "bfloat16")] * 2, master=[master, master], **SCALARS
        )
