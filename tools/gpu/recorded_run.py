"""A JAX program whose steps XLA may record in a command buffer, which is a CUDA graph.

It runs them again and again over changing values, in one memory and in others, and compares each
result with the oracle, bit for bit. Nothing is run before, so the kernels are first met while XLA
records. Prints a line for each kind of run.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from nadam_xla.jax import nadam_update
from tools.gpu.layout import SOURCES

sys.path.append(str(SOURCES / "tests"))
import oracle

LENGTHS = (1, 64, 4097)
STEPS = 50
CALLS = 8

Groups = list[list[np.ndarray]]


def expected_after(rows: np.ndarray, groups: Groups, grads: list[list[np.ndarray]]) -> Groups:
    """Parameters and moments after a step with each row and each list of gradients."""
    params, mu, nu = groups
    for row, of_step in zip(rows, grads, strict=True):
        leaves = [oracle.rule(row, *leaf) for leaf in zip(params, of_step, mu, nu, strict=True)]
        params, mu, nu = ([leaf[i] for leaf in leaves] for i in (0, 2, 3))
    return [params, mu, nu]


def require_equal(results: object, expected: Groups) -> None:
    """Every bit."""
    for result, value in zip(jax.tree.leaves(results), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(result, value)


def main() -> None:
    """Calls and loops."""
    rng = np.random.default_rng(0)

    def draw() -> list[np.ndarray]:
        return [rng.uniform(size=n).astype(np.float32) for n in LENGTHS]

    def step(params: list, mu: list, nu: list, grads: list, row: jax.Array) -> tuple:
        # What surrounds the call belongs into the same graph, as in a training step.
        halved = [0.5 * g for g in grads]
        return nadam_update(row * 1.0, params, halved, mu, nu)

    doubled, rows = [draw() for _ in range(CALLS)], oracle.rows(rng, (CALLS,), "float32")
    grads = [[np.float32(0.5) * g for g in of_step] for of_step in doubled]

    for name, donated in (("donated", (0, 1, 2)), ("kept", ())):
        groups = [draw() for _ in range(3)]
        compiled = jax.jit(step, donate_argnums=donated)
        carried = jax.tree.map(jnp.asarray, groups)
        kept = []  # while they are held, the next results lie elsewhere
        for of_step, row in zip(doubled, rows, strict=True):
            carried = compiled(*carried, of_step, row)
            if not donated:
                kept.append(carried)
        require_equal(carried, expected_after(rows, groups, grads))
        print(f"{CALLS} calls, arguments {name}: right")

    groups, (of_loop,) = [draw() for _ in range(3)], [draw()]
    row = rows[0]

    @jax.jit
    def loop(params: list, mu: list, nu: list, grads: list, row: jax.Array) -> tuple:
        return jax.lax.fori_loop(
            0, STEPS, lambda _, carry: step(*carry, grads, row), (params, mu, nu)
        )

    halved = [np.float32(0.5) * g for g in of_loop]
    for _ in range(2):
        results = loop(*groups, of_loop, row)
        groups = expected_after(np.stack([row] * STEPS), groups, [halved] * STEPS)
        require_equal(results, groups)
    print(f"a loop of {STEPS} steps, run twice: right")


if __name__ == "__main__":
    main()
