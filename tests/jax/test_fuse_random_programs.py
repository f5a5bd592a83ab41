"""Whatever a user's program makes of a change, fusing it alters no number: bit for bit.

Each program updates a few leaves and then does something with each leaf's change: it adds it as
``optax.apply_updates`` does, or keeps it, logs it, adds it twice, to another parameter, to an
average, inside of a branch, a loop or a function of its own, and uses the old parameter after all.
Products are exact here: what XLA:CPU compiles into one loop it contracts, ``a * b + c`` is rounded
once, and which operations share a loop is its own choice.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import given, settings
from hypothesis import strategies as st

from nadam_xla.jax import explain_updates, fuse_updates, nadam, nadamw

SHAPE = (3, 2)
Values = tuple[jax.Array, jax.Array, jax.Array]  # a leaf, its change, and another leaf

# What becomes of one change: everything that the program returns of it.
USES: dict[str, Callable[[Values], Any]] = {
    "added": lambda v: v[0] + v[1],
    "added from the left": lambda v: v[1] + v[0],
    "added in a function": lambda v: jax.jit(jnp.add)(v[0], v[1]),
    "added in a function that keeps it": lambda v: jax.jit(lambda p, u: (p + u, u))(v[0], v[1]),
    "added in a branch": lambda v: jax.lax.cond(
        v[2].sum() > 0, lambda p, u: p + u, lambda p, u: p - u, v[0], v[1]
    ),
    "added in a loop": lambda v: jax.lax.fori_loop(0, 2, lambda _, p: p + v[1], v[0]),
    "added twice": lambda v: (v[0] + v[1]) + v[1],
    "added to two": lambda v: (v[0] + v[1], v[2] + v[1]),
    "added to another": lambda v: v[2] + v[1],
    "added to a product": lambda v: 0.3 * v[0] + v[1],
    "added to itself": lambda v: v[1] + v[1],
    "added to a number": lambda v: v[1] + 1.0,
    "added to a row": lambda v: v[0][:1] + v[1],
    "added to an integer": lambda v: jnp.arange(2) + v[1],
    "added, and the old one used": lambda v: (v[0] + v[1], jnp.sum(v[0] ** 2), v[0]),
    "added, and what was new used": lambda v: jnp.tanh(v[0] + v[1]) * v[0],
    "added and logged": lambda v: (v[0] + v[1], jnp.linalg.norm(v[1])),
    "added and kept": lambda v: (v[0] + v[1], v[1]),
    "added after scaling": lambda v: v[0] + 0.5 * v[1],
    "added in bfloat16": lambda v: v[0].astype(jnp.bfloat16) + v[1].astype(jnp.bfloat16),
    "taken away": lambda v: v[0] - v[1],
    "kept": lambda v: v[1],
    "forgotten": lambda v: v[0],
    "a scalar of it added": lambda v: v[0] + v[1][0, 0],
    "transposed": lambda v: (v[0].T + v[1].T).T,
    "barred": lambda v: v[0] + jax.lax.optimization_barrier(v[1]),
}


@dataclass(frozen=True)
class Program:
    uses: tuple[str, ...]
    decay: float
    mask: bool
    gives_params: bool
    wrapper: str
    around: str


PROGRAMS = st.builds(
    Program,
    uses=st.lists(st.sampled_from(list(USES)), min_size=1, max_size=4).map(tuple),
    decay=st.sampled_from([0.0, 0.3]),
    mask=st.booleans(),
    gives_params=st.booleans(),
    wrapper=st.sampled_from(["none", "chain", "apply_if_finite", "jit", "two updates"]),
    around=st.sampled_from(["none", "jit", "scan", "cond", "remat", "vmap"]),
)

# Where the update with a change and the sum of both might round or sign otherwise.
SPECIAL = st.sampled_from([0.0, -0.0, 1.0, -1e-30, 1e30, 3e38, np.inf, -np.inf, np.nan, 1e-45])


def optimizer(program: Program) -> Any:
    def mask(tree: Any) -> Any:
        return [i % 2 == 0 for i, _ in enumerate(tree)]

    if program.decay:
        tx = nadamw(0.1, weight_decay=program.decay, mask=mask if program.mask else None)
    else:
        tx = nadam(0.1)
    if program.wrapper == "chain":
        return optax.chain(optax.clip(0.5), tx)
    if program.wrapper == "apply_if_finite":
        return optax.apply_if_finite(tx, 2)
    if program.wrapper == "two updates":
        return optax.chain(tx, nadam(0.01))
    return tx


def step_of(program: Program) -> Callable[..., Any]:
    tx = optimizer(program)
    update = jax.jit(tx.update) if program.wrapper == "jit" else tx.update
    needs_params = program.decay > 0 or program.gives_params

    def step(params: Any, state: Any, grads: Any) -> Any:
        changes, state = update(grads, state, params if needs_params else None)
        others = [*params[1:], *params[:1]]
        values = zip(program.uses, params, changes, others, strict=True)
        return [USES[use]((p, u, other)) for use, p, u, other in values], state

    return {
        "none": lambda: step,
        "jit": lambda: jax.jit(step),
        "scan": lambda: in_scan(step),
        "cond": lambda: (
            lambda *given: jax.lax.cond(
                given[0][0].sum() > 0, step, lambda p, s, g: step(p, s, p), *given
            )
        ),
        "remat": lambda: jax.checkpoint(step),
        "vmap": lambda: jax.vmap(step, in_axes=(0, None, 0)),
    }[program.around]()


def in_scan(step: Callable[..., Any]) -> Callable[..., Any]:
    def loop(params: Any, state: Any, grads: Any) -> Any:
        def body(state: Any, scale: Any) -> Any:
            results, state = step(params, state, [g * scale for g in grads])
            return state, results

        return jax.lax.scan(body, state, jnp.array([1.0, 2.0]))

    return loop


def leaf(numbers: st.SearchStrategy[float], batch: int) -> st.SearchStrategy[np.ndarray]:
    size = batch * 6
    return st.lists(numbers, min_size=size, max_size=size).map(
        lambda values: np.array(values, np.float32).reshape((batch, *SHAPE) if batch > 1 else SHAPE)
    )


@settings(max_examples=40, deadline=None)
@given(program=PROGRAMS, data=st.data())
def test_random_programs(program: Program, data: st.DataObject) -> None:
    batch = 2 if program.around == "vmap" else 1
    numbers = st.one_of(SPECIAL, st.floats(-2, 2, width=32))
    leaves = st.lists(leaf(numbers, batch), min_size=len(program.uses), max_size=len(program.uses))
    params, grads = (
        [jnp.asarray(x) for x in data.draw(leaves, label=name)] for name in ("params", "grads")
    )
    step = step_of(program)
    state = optimizer(program).init([jnp.zeros(SHAPE)] * len(params))
    expected = jax.jit(step)(params, state, grads)
    found = jax.jit(fuse_updates(step))(params, state, grads)
    explain_updates(step)(params, state, grads)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        # A branch that rejects the step adds zeros, and XLA leaves such additions out: minus zero
        # and subnormal numbers, which its sums make zero, stay what they are.
        tiny = program.wrapper != "apply_if_finite"
        np.testing.assert_array_equal(bits(one, tiny=tiny), bits(other, tiny=tiny))


def bits(x: Any, *, tiny: bool) -> np.ndarray:
    """All NaNs are one: which of them a sum gives is the processor's choice.

    With ``tiny``, zeros have signs, and subnormal numbers are no zeros.
    """
    x = np.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    if not tiny:
        x = np.where(np.abs(x) < np.float32(jnp.finfo(x.dtype).tiny), x.dtype.type(0), x)
    return np.where(np.isnan(x), np.nan, x).view(f"u{x.dtype.itemsize}")


def test_some_of_them_are_fused() -> None:
    """Else the test above would compare a program with itself."""
    for use in USES:
        program = Program((use,), 0.3, False, True, "none", "none")
        params = [jnp.ones(SHAPE)]
        given = params, optimizer(program).init(params), params
        (report,) = explain_updates(step_of(program))(*given)
        is_sum = use in (
            "added",
            "added from the left",
            "added in a function",
            "added to another",  # which is itself, where there is one leaf
            "added, and the old one used",
            "added, and what was new used",
        )
        assert report.returns_params == is_sum, use
