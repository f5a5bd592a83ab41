"""``python tests/soak/soak.py``: trains for long, with changing shapes and rebuilt models.

After each round, when the models are gone and the framework's caches are cleared as a user would
clear them, it measures what the process holds. What is flat with ours is flat; what grows is told
from the framework's own growth by the same training with stock's optimizer, in a process beside it.
"""

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

FRAMEWORKS = ("jax", "tensorflow")
OPTIMIZERS = ("ours", "stock")
WIDTHS = (48, 64, 128, 200)
STEPS = 4

# By how much more than with stock's optimizer a round may let each grow. What is kept of a round
# would be more: a thread, a file, an array, a program, or some hundred objects.
MAY_GROW = {
    "threads": 0.2,
    "files": 0.2,
    "arrays": 0.2,
    "executables": 0.2,
    "objects": 20,
    "heap": 30_000,
}

# A graph that calls a function which XLA compiles leaves that function's nodes in TensorFlow, about
# 2 KB each, even where nothing is compiled anew. With stock's optimizer there is none in these
# models; where all is compiled (jit_compile=True), each leaves more.
KEPT_BY_TENSORFLOW = {"jax": 0, "tensorflow": 800_000}

Measured = dict[str, int]
Round = Callable[[int], None]


# ---- what a process holds ------------------------------------------------------------------------


class _Mallinfo2(ctypes.Structure):
    """Of glibc: the third but last is what is allocated in its heaps, the fifth what is mapped."""

    _fields_ = [(name, ctypes.c_size_t) for name in "abcdefghij"]


def heap_in_use() -> int:
    """Bytes that are allocated and not freed, however they lie in memory."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _Mallinfo2
    found = mallinfo2()
    return int(found.h + found.e)


def measured(framework: str) -> Measured:
    gc.collect()
    found = {
        "heap": heap_in_use(),
        "resident": 1024 * int(_status("VmRSS")),
        "threads": len(os.listdir("/proc/self/task")),
        "files": len(os.listdir("/proc/self/fd")),
        "objects": len(gc.get_objects()),
    }
    if framework == "jax":
        import jax  # noqa: PLC0415
        from jax.extend.backend import get_backend  # noqa: PLC0415

        found["arrays"] = len(jax.live_arrays())
        found["executables"] = len(get_backend().live_executables())
    return found


def _status(name: str) -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{name}:"))


# ---- what is trained -----------------------------------------------------------------------------


def jax_round(whose: str) -> Round:
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415
    import optax  # noqa: PLC0415

    def optimizers() -> list[Any]:
        """Stock's has no storages, so it is the same as often."""
        if whose == "stock":
            return [optax.nadam(1e-3)] * 3
        from nadam_xla.jax import nadam  # noqa: PLC0415

        narrow: dict[str, Any] = {
            "mu_dtype": "bfloat16",
            "nu_dtype": "bfloat16",
            "rounding": "stochastic",
        }
        codes: dict[str, Any] = {"mu_dtype": "blockwise8", "nu_dtype": "blockwise8"}
        return [nadam(1e-3), nadam(1e-3, max_norm=1.0, **narrow), nadam(1e-3, **codes)]

    def train(tx: Any, width: int) -> None:
        def loss(params: Any, x: jax.Array) -> jax.Array:
            return ((jnp.tanh(x @ params["w"] + params["b"]) @ params["w"].T - x) ** 2).mean()

        def step(params: Any, state: Any, x: jax.Array) -> Any:
            grads = jax.grad(loss)(params, x)
            if whose == "ours":
                return tx.apply(grads, state, params)
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        params = {"w": jnp.ones((width, 2 * width)) / width, "b": jnp.zeros(2 * width)}
        state = tx.init(params)
        in_place = jax.jit(step, donate_argnums=(0, 1))
        for i in range(STEPS):
            params, state = in_place(params, state, jnp.ones((4, width)) * i)
        # And once without compiling the step.
        jax.block_until_ready(step(params, state, jnp.ones((4, width))))

    def one(width: int) -> None:
        for tx in optimizers():
            train(tx, width)
        jax.clear_caches()

    return one


def tensorflow_round(whose: str) -> Round:
    import keras  # noqa: PLC0415
    import tensorflow as tf  # noqa: PLC0415

    make: Any = keras.optimizers.Nadam
    if whose == "ours":
        from nadam_xla.keras import Nadam as make  # noqa: N813, PLC0415

    def train(width: int, **arguments: Any) -> None:
        model = keras.Sequential(
            [
                keras.Input((4,), dtype="int32"),
                keras.layers.Embedding(64, width),
                keras.layers.GlobalAveragePooling1D(),
                keras.layers.Dense(width, "tanh"),
                keras.layers.Dense(3),
            ]
        )
        model.compile(optimizer=make(1e-3, **arguments), loss="mse", jit_compile=False)
        words = np.zeros((8 * STEPS, 4), "int32")
        model.fit(words, np.zeros((len(words), 3), "f"), 8, verbose=0)
        # And eagerly.
        optimizer, variable = make(1e-3, **arguments), tf.Variable(tf.ones((width, width)))
        for _ in range(STEPS):
            optimizer.apply([tf.ones((width, width))], [variable])

    def one(width: int) -> None:
        train(width, **({"sparse": "lazy"} if whose == "ours" else {}))
        keras.utils.clear_session()

    return one


ROUNDS = {"jax": jax_round, "tensorflow": tensorflow_round}


def soak(framework: str, whose: str, minutes: float, rounds: int | None, new_shapes: bool) -> None:
    """Prints what is held after each round, a line of JSON each.

    Args:
        framework: that trains.
        whose: optimizer.
        minutes: that it takes, where no rounds are given.
        rounds: that are made; None: as many as the minutes allow.
        new_shapes: whether no shape comes twice.
    """
    one = ROUNDS[framework](whose)
    until = time.monotonic() + 60 * minutes
    number = 0
    while number < rounds if rounds is not None else time.monotonic() < until:
        one(WIDTHS[0] + number if new_shapes else WIDTHS[number % len(WIDTHS)])
        number += 1
        print(json.dumps(measured(framework)), flush=True)


# ---- what is said of it --------------------------------------------------------------------------


def growth(rounds: Sequence[Measured]) -> dict[str, float]:
    """Of each that is measured, by how much it grows a round, once it is warm.

    The first third of the rounds warms up. Between the two others, medians are compared: what one
    round leaves behind for the next one does not show. Each third has all shapes alike.
    """
    third = len(rounds) // 3 // len(WIDTHS) * len(WIDTHS)
    if third == 0:
        raise ValueError(f"{len(rounds)} rounds were made; it takes {3 * len(WIDTHS)} at least")
    middle, last = rounds[-2 * third : -third], rounds[-third:]
    return {
        name: (median(r[name] for r in last) - median(r[name] for r in middle)) / third
        for name in rounds[0]
    }


def growths(rounds: dict[str, list[Measured]]) -> list[str]:
    """What grows with ours and not with stock's, in words."""
    found = []
    for framework in FRAMEWORKS:
        ours, stock = (growth(rounds[f"{framework}, {whose}"]) for whose in OPTIMIZERS)
        for what, a_round in ours.items():
            if what not in MAY_GROW:
                continue
            kept = KEPT_BY_TENSORFLOW[framework] if what == "heap" else 0
            if a_round > max(stock[what], 0) + MAY_GROW[what] + kept:
                found.append(
                    f"{framework}: {what} grow by {a_round:,.1f} a round, and with stock's"
                    f" optimizer by {stock[what]:,.1f}"
                )
    return found


def beside_one_another(arguments: Sequence[str]) -> dict[str, list[Measured]]:
    """The rounds of each framework with each optimizer, in processes of their own."""
    on_tensorflow = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2", "XLA_FLAGS": ""}
    processes = {
        f"{framework}, {whose}": subprocess.Popen(
            [sys.executable, __file__, *arguments, "--framework", framework, "--optimizer", whose],
            env=os.environ | (on_tensorflow if framework == "tensorflow" else {}),
            stdout=subprocess.PIPE,
            text=True,
        )
        for framework in FRAMEWORKS
        for whose in OPTIMIZERS
    }
    found = {}
    for name, process in processes.items():
        output, _ = process.communicate()
        if process.returncode != 0:
            raise RuntimeError(f"{name}: the process ended with {process.returncode}")
        found[name] = [json.loads(line) for line in output.splitlines()]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rounds", type=int, help="so many, however long they take")
    parser.add_argument("--new-shapes", action="store_true", help="no shape comes twice")
    parser.add_argument("--framework", choices=FRAMEWORKS, help="this one alone, in this process")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="ours")
    given = parser.parse_args()
    if given.framework is not None:
        soak(given.framework, given.optimizer, given.minutes, given.rounds, given.new_shapes)
        return
    rounds = beside_one_another(sys.argv[1:])
    for name, made in rounds.items():
        print(f"{name}: {len(made)} rounds")
        for what, a_round in growth(made).items():
            warm, last = made[len(made) // 3][what], made[-1][what]
            print(f"  {what:12} {warm:>14,} warm, {last:>14,} at the end, {a_round:+,.1f} a round")
    sys.exit("\n".join(growths(rounds)) or 0)


if __name__ == "__main__":
    main()
