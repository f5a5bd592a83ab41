"""The update of one entry of stacks, and of no other, in place: on a CPU, and as on a GPU."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_arrays import stored
from x64 import enable_x64

import nadam_xla.jax  # noqa: F401 - registers the handlers
from nadam_xla import _native_testing as native
from nadam_xla.coefficients import Coefficients

TARGET = "nadam_xla_update_entry_v1"
K = len(Coefficients._fields)


def stacks_of(rng: np.random.Generator, entries: int, shapes: Sequence[tuple[int, ...]]) -> Any:
    """Parameters, gradients of one entry, first and second moments of each leaf."""
    numbers = [[rng.normal(size=(entries, *s)).astype(np.float32) for s in shapes] for _ in "pmv"]
    params, mu, nu = numbers
    grads = [rng.normal(size=s).astype(np.float32) for s in shapes]
    return params, grads, mu, [np.abs(v) for v in nu]


def call(
    index: Any, table: Any, groups: Any, *awaited: Any, aliases: bool = True, first_row: int = 0
) -> Any:
    """The call inside of a program that copies what the caller keeps."""
    params, grads, mu, nu = groups
    n = len(params)
    stacks = [*params, *mu, *nu]
    results = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in stacks]
    places = [*range(2, 2 + n), *range(2 + 2 * n, 2 + 4 * n)]
    update = jax.ffi.ffi_call(
        TARGET,
        results,
        input_output_aliases={place: i for i, place in enumerate(places)} if aliases else None,
    )
    operands = [index, table, *params, *grads, *mu, *nu, *awaited]
    made = jax.jit(lambda *x: update(*x, first_row=np.int64(first_row)))(*operands)
    return made[:n], made[n : 2 * n], made[2 * n :]


def expected(index: int, table: np.ndarray, groups: Any, first_row: int = 0) -> Any:
    params, grads, mu, nu = ([x.copy() for x in group] for group in groups)
    for leaf in range(len(params)):
        entries = params[leaf].shape[0]
        i = min(max(index, 0), entries - 1)
        row = table[0, first_row + leaf if table.shape[1] > 1 else 0]
        new_p, _, new_m, new_v = oracle.rule(
            row, params[leaf][i], grads[leaf], mu[leaf][i], nu[leaf][i]
        )
        params[leaf][i], mu[leaf][i], nu[leaf][i] = new_p, new_m, new_v
    return params, mu, nu


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    entries=st.integers(1, 4),
    index=st.integers(-2, 6) | st.sampled_from([-(2**31), 2**31 - 1]),
    shapes=st.lists(
        st.sampled_from([(), (1,), (3, 5), (0, 2), (70,), (40_000,)]), min_size=1, max_size=3
    ),
    rows=st.sampled_from(["one", "each", "more"]),
    awaits=st.booleans(),
)
def test_that_entry_is_the_oracles_and_all_others_stay(
    seed: int, entries: int, index: int, shapes: Any, rows: str, awaits: bool
) -> None:
    rng = np.random.default_rng(seed)
    groups = stacks_of(rng, entries, shapes)
    n = {"one": 1, "each": len(shapes), "more": len(shapes) + 2}[rows]
    table, first = oracle.rows(rng, (1, n), "float32"), 2 if rows == "more" else 0
    awaited = [np.zeros(3, np.int8)] if awaits else []
    found = call(np.int32(index), table, groups, *awaited, first_row=first)
    for one, other in zip(found, expected(index, table, groups, first), strict=True):
        for x, y in zip(one, other, strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("skip", [0.0, 1.0])
@pytest.mark.parametrize("lengths", [[7], [0, 33, 1], [5000, 31, 32]])
@pytest.mark.parametrize("index", [-1, 0, 2, 9])
def test_as_on_a_gpu(dtype: str, skip: float, lengths: list[int], index: int) -> None:
    rng, entries = np.random.default_rng(0), 3
    table = oracle.rows(rng, (1, len(lengths)), dtype)
    table[..., oracle.SKIP] = skip
    leaves, wanted = [], []
    for leaf, length in enumerate(lengths):
        p, m, v = (rng.normal(size=(entries, length)).astype(dtype) for _ in range(3))
        g, v = rng.normal(size=length).astype(dtype), np.abs(v)
        new = [p.copy(), m.copy(), v.copy()]
        i = min(max(index, 0), entries - 1)
        if not skip:
            new[0][i], _, new[1][i], new[2][i] = oracle.rule(table[0, leaf], p[i], g, m[i], v[i])
        p, m, v = p.ravel(), m.ravel(), v.ravel()
        leaves.append((stored([p, g, m, v]), [p, m, v]))
        wanted.append(new)
    given = [(inputs, stored(outputs)) for inputs, outputs in leaves]
    native.update_as_on_gpu(table.ravel(), 1, len(lengths), False, given, index=index)
    for (_, found), new in zip(leaves, wanted, strict=True):
        for x, y in zip(found, new, strict=True):
            np.testing.assert_array_equal(x, y.ravel())


def f32(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


STACK, ENTRY = f32(3, 2), f32(2)
GOOD = ([STACK], [ENTRY], [STACK], [STACK])
MALFORMED: dict[str, tuple[Any, Any, Any, str]] = {
    "an index of int64": (np.int64(0), f32(1, 1, K), GOOD, r"index is S64\[\]; it must be S32"),
    "several indices": (np.zeros(2, np.int32), f32(1, 1, K), GOOD, r"index is S32\[2\]"),
    "a batch": (np.int32(0), f32(2, 1, K), GOOD, "coefficients has a batch of 2; it must be 1"),
    "a gradient of all entries": (
        np.int32(0),
        f32(1, 1, K),
        ([STACK], [STACK], [STACK], [STACK]),
        r"params\[0\] is F32\[3,2\]; it must be a stack of 3 entries, each of the shape \[3,2\]",
    ),
    "fewer entries in a moment": (
        np.int32(0),
        f32(1, 1, K),
        ([STACK], [ENTRY], [f32(2, 2)], [STACK]),
        r"mu\[0\] is F32\[2,2\]; it must be a stack of 3 entries",
    ),
    "stacks of unlike depth": (
        np.int32(0),
        f32(1, 1, K),
        ([STACK, f32(4, 2)], [ENTRY] * 2, [STACK, f32(4, 2)], [STACK, f32(4, 2)]),
        r"params\[1\] is F32\[4,2\]; it must be a stack of 3 entries",
    ),
    "no stack": (
        np.int32(0),
        f32(1, 1, K),
        ([f32()], [f32()], [f32()], [f32()]),
        r"params\[0\] has the shape \[\]; it must be a stack",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_call_is_an_error_that_names_the_operand(case: str) -> None:
    index, table, groups, message = MALFORMED[case]
    with enable_x64(True):
        given = jax.tree.map(jnp.asarray, (index, table, groups))
        with pytest.raises(Exception, match=f"{TARGET}: .*{message}"):
            jax.block_until_ready(call(*given))


def test_results_elsewhere_are_an_error() -> None:
    """The other entries would have to be copied."""
    with pytest.raises(Exception, match=rf"{TARGET}: the result of params\[0\] is not in its memo"):
        jax.block_until_ready(call(np.int32(0), f32(1, 1, K), GOOD, aliases=False))


def test_no_leaves_is_no_error() -> None:
    assert call(np.int32(0), f32(1, 1, K), ([], [], [], [])) == ([], [], [])
