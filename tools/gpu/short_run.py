"""A short JAX program with both calls, for compute-sanitizer; it checks what they give.

All that the kernels read comes from the host, by copies that the tools see, so that they take
nothing for uninitialised that a kernel of XLA's has written.
"""

import sys

import jax
import numpy as np

from nadam_xla.jax import nadam_update, sum_squares
from tools.gpu.layout import SOURCES

sys.path.append(str(SOURCES / "tests"))
import oracle

LENGTHS = (1, 3, 64, 4097, 20_000)


def main() -> None:
    """Runs the update, with arguments kept and donated, and the sums of squares."""
    rng = np.random.default_rng(0)
    row = oracle.rows(rng, (len(LENGTHS),), "float32")
    params, grads, mu, nu = (
        [rng.uniform(size=n).astype(np.float32) for n in LENGTHS] for _ in range(4)
    )
    expected = [
        oracle.rule(row[i], *leaf) for i, leaf in enumerate(zip(params, grads, mu, nu, strict=True))
    ]
    on_device = [jax.device_put(x) for x in (row, params, grads, mu, nu)]

    def step(params: list, mu: list, nu: list, grads: list, row: jax.Array) -> tuple:
        return nadam_update(row, params, grads, mu, nu)

    for donated in ((), (0, 1, 2)):
        row_, params_, grads_, mu_, nu_ = on_device
        results = jax.jit(step, donate_argnums=donated)(params_, mu_, nu_, grads_, row_)
        for i, (new_params, _, new_mu, new_nu) in enumerate(expected):
            for result, value in zip(results, (new_params, new_mu, new_nu), strict=True):
                np.testing.assert_array_equal(result[i], value)
    for total, leaf in zip(jax.jit(sum_squares)(grads), grads, strict=True):
        np.testing.assert_allclose(total, np.sum(leaf.astype(np.float64) ** 2), rtol=1e-6)
    print(f"{jax.default_backend()}: the update and the sums of squares are right")


if __name__ == "__main__":
    main()
