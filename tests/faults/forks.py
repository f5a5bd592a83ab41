"""Steps beside forks: loaders whose workers are forked, and a step in a forked child itself."""

import hashlib
import os
import signal
import time
import warnings
from functools import partial
from typing import Any

import numpy as np

WIDTH, BATCH, EXAMPLES, EPOCHS = 512, 8, 64, 3
PATIENCE_S = 60


def loaders() -> None:
    """Trains with examples that this process makes, and with those of forked workers."""
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415
    from torch.utils.data import DataLoader  # noqa: PLC0415

    from nadam_xla.jax import nadam  # noqa: PLC0415

    # JAX says that a child must not use it. These do not.
    warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called", category=RuntimeWarning)
    examples = np.random.default_rng(0).normal(size=(EXAMPLES, WIDTH)).astype("float32")
    tx = nadam(1e-2)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, x: Any) -> Any:
        grads = jax.grad(lambda w: jnp.mean((jnp.tanh(x @ w) - x) ** 2))(params)
        return tx.apply(grads, state, params)

    def trained(workers: int) -> str:
        params = jnp.eye(WIDTH) / 2
        state = tx.init(params)
        for _ in range(EPOCHS):  # each forks workers of its own, beside steps that are running
            how = {"multiprocessing_context": "fork"} if workers else {}
            for x in DataLoader(list(examples), BATCH, num_workers=workers, **how):
                params, state = step(params, state, x.numpy())
        leaves = jax.tree.leaves((params, state))
        return hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in leaves)).hexdigest()

    for workers in (0, 2):
        print(trained(workers), flush=True)


def child() -> None:
    """An update of a leaf of many chunks, in a child that has none of the pool's threads."""
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415

    from nadam_xla.jax import nadam  # noqa: PLC0415

    warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called", category=RuntimeWarning)
    tx = nadam(1e-2)
    params = jnp.linspace(-1, 1, 1_000_000)
    state, step = tx.init(params), jax.jit(tx.apply)
    expected = np.asarray(step(params, state, params)[0])
    time.sleep(0.1)  # the pool's threads fall asleep
    pid = os.fork()
    if pid == 0:
        signal.alarm(PATIENCE_S)
        found = np.asarray(step(params, state, params)[0])
        os._exit(0 if (found == expected).all() else 1)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def main(what: str) -> None:
    {"loaders": loaders, "child": child}[what]()
