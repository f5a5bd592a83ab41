"""The main job, shown: a network learns handwritten digits with stock Nadam and with ours.

Twice: in one jitted JAX step (optax.nadam against nadam_xla.jax.nadam), and in model.fit of Keras
on TensorFlow (keras.optimizers.Nadam against nadam_xla.keras.Nadam). Data: scikit-learn's bundled
load_digits. Prints a table, saves a plot of the four loss curves, and exits with 1 if a pair of
curves drifts apart.
"""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import jax.numpy as jnp
import keras
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import optax
import tensorflow as tf
from tqdm import tqdm

import nadam_xla.jax
import nadam_xla.keras
from examples.digits_network import (
    BATCH,
    WIDTHS,
    Digits,
    initial_params,
    load,
    logits,
    mean_loss,
)
from nadam_xla.diagnosis.interleave import Turns, interleave

LEARNING_RATE = 2e-4
EPSILON = 1e-7
TIMED_STEPS = 40
LARGEST_LOSS_DIFFERENCE = 1e-4  # relative


@dataclass(frozen=True)
class Run:
    """What one training gave."""

    losses: np.ndarray
    accuracy: float
    params: list[np.ndarray]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("demo-output"))
    output = parser.parse_args().output
    digits = load()
    initial = initial_params()

    runs = {
        "JAX, optax.nadam": train_jax(digits, initial, "optax.nadam"),
        "JAX, nadam_xla": train_jax(digits, initial, "nadam_xla"),
        "Keras, keras Nadam": train_keras(digits, initial, "keras Nadam"),
        "Keras, nadam_xla": train_keras(digits, initial, "nadam_xla"),
    }
    stock_and_ours = [
        ("JAX, optax.nadam", "JAX, nadam_xla", time_jax(digits, initial)),
        ("Keras, keras Nadam", "Keras, nadam_xla", time_keras(digits, initial)),
    ]
    worst = report(runs, stock_and_ours)
    plot(runs, output / "digits.png")
    print(f"\nlargest relative loss difference within a pair: {worst:.1e}")
    if worst > LARGEST_LOSS_DIFFERENCE:
        print(f"the curves do not coincide: more than {LARGEST_LOSS_DIFFERENCE:.0e}")
        return 1
    return 0


# ---- JAX -----------------------------------------------------------------------------------------


def jax_optimizer(name: str) -> tuple[Any, Callable[..., tuple[Any, Any]]]:
    """The optimizer and its step, ``(grads, state, params) -> (params, state)``."""
    if name == "nadam_xla":
        ours = nadam_xla.jax.nadam(LEARNING_RATE, eps=EPSILON)
        return ours, ours.apply
    stock = optax.nadam(LEARNING_RATE, eps=EPSILON)

    def step(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        updates, state = stock.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return stock, step


def train_jax(digits: Digits, initial: list[np.ndarray], name: str) -> Run:
    optimizer, optimizer_step = jax_optimizer(name)

    def step(params: Any, state: Any, x: jax.Array, y: jax.Array) -> tuple[Any, Any, jax.Array]:
        loss, grads = jax.value_and_grad(mean_loss)(params, x, y)
        params, state = optimizer_step(grads, state, params)
        return params, state, loss

    compiled = jax.jit(step, donate_argnums=(0, 1))
    params = [jnp.array(p) for p in initial]
    state = optimizer.init(params)
    losses = []
    with tqdm(digits.batches(), desc=f"JAX    {name:12}") as progress:
        for x, y in progress:
            params, state, loss = compiled(params, state, x, y)
            losses.append(float(loss))
            progress.set_postfix(loss=f"{losses[-1]:.4f}")
    predicted = jnp.argmax(logits(params, digits.test_x), axis=1)
    accuracy = float((predicted == digits.test_y).mean())
    return Run(np.array(losses), accuracy, [np.asarray(p) for p in params])


def time_jax(digits: Digits, initial: list[np.ndarray]) -> Turns:
    """The optimizer alone: one donated call a step, on this network's gradients."""
    x, y = digits.batches()[0]
    grads = jax.jit(jax.grad(mean_loss))([jnp.array(p) for p in initial], x, y)

    def contender(name: str) -> Callable[[], None]:
        optimizer, step = jax_optimizer(name)
        # JAX pairs donated arguments with results of the same shape in their order, so the
        # parameters come first in both.
        compiled = jax.jit(lambda params, state: step(grads, state, params), donate_argnums=(0, 1))
        params = [jnp.array(p) for p in initial]
        state = optimizer.init(params)

        def run() -> None:
            nonlocal params, state
            params, state = jax.block_until_ready(compiled(params, state))

        return run

    pair = {"stock": contender("optax.nadam"), "ours": contender("nadam_xla")}
    return interleave(pair, TIMED_STEPS)


# ---- Keras on TensorFlow -------------------------------------------------------------------------


def keras_optimizer(name: str) -> keras.optimizers.Optimizer:
    nadam = nadam_xla.keras.Nadam if name == "nadam_xla" else keras.optimizers.Nadam
    return nadam(LEARNING_RATE, epsilon=EPSILON)


def keras_model(initial: list[np.ndarray], name: str) -> keras.Model:
    hidden = [keras.layers.Dense(width, activation="silu") for width in WIDTHS[1:-1]]
    model = keras.Sequential([keras.Input((WIDTHS[0],)), *hidden, keras.layers.Dense(WIDTHS[-1])])
    model.set_weights(initial)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras_optimizer(name), loss=loss)
    return model


class BatchLosses(keras.callbacks.Callback):
    """Keeps the loss of each batch (Keras would report the mean so far) and shows progress."""

    def __init__(self, name: str, steps: int) -> None:
        super().__init__()
        self.losses: list[float] = []
        self.progress = tqdm(total=steps, desc=f"Keras  {name:12}")

    def on_train_batch_begin(self, batch: int, logs: dict[str, float]) -> None:
        del batch, logs
        self.model.reset_metrics()

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        del batch
        self.losses.append(logs["loss"])
        self.progress.set_postfix(loss=f"{logs['loss']:.4f}", refresh=False)
        self.progress.update()

    def on_train_end(self, logs: dict[str, float]) -> None:
        del logs
        self.progress.close()


def train_keras(digits: Digits, initial: list[np.ndarray], name: str) -> Run:
    model = keras_model(initial, name)
    batches = digits.batches()
    recorder = BatchLosses(name, len(batches))
    x, y = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[recorder])
    predicted = model.predict(digits.test_x, verbose=0).argmax(axis=1)
    losses = np.array(recorder.losses)
    return Run(losses, float((predicted == digits.test_y).mean()), model.get_weights())


def time_keras(digits: Digits, initial: list[np.ndarray]) -> Turns:
    """The optimizer alone, compiled as model.fit compiles it, on this network's gradients."""
    x, y = digits.batches()[0]

    def contender(name: str) -> Callable[[], None]:
        model = keras_model(initial, name)
        with tf.GradientTape() as tape:
            loss = model.compute_loss(y=tf.constant(y), y_pred=model(x))
        grads = tape.gradient(loss, [v.value for v in model.trainable_variables])
        model.optimizer.build(model.trainable_variables)
        compiled = tf.function(model.optimizer.apply, jit_compile=True)

        def run() -> None:
            compiled(grads)
            model.optimizer.iterations.numpy()  # waits for the step

        return run

    pair = {"stock": contender("keras Nadam"), "ours": contender("nadam_xla")}
    return interleave(pair, TIMED_STEPS)


# ---- report --------------------------------------------------------------------------------------


def report(runs: dict[str, Run], stock_and_ours: list[tuple[str, str, Turns]]) -> float:
    """Prints the table; returns the largest relative loss difference within a pair."""
    print(
        "\n| run | final loss | test accuracy | optimizer, ms a step | speed-up (quartiles)"
        " | largest parameter difference | largest relative loss difference |"
    )
    print("|---|---|---|---|---|---|---|")
    worst = 0.0
    for stock, ours, timings in stock_and_ours:
        ratio, low, high = timings.ratio("stock", "ours")
        pairs = zip(runs[stock].params, runs[ours].params, strict=True)
        parameter_difference = max(float(np.abs(a - b).max()) for a, b in pairs)
        difference = np.abs(runs[stock].losses - runs[ours].losses) / runs[stock].losses
        worst = max(worst, float(difference.max()))
        comparisons = {
            stock: "| 1 | | |",
            ours: f"| {ratio:.2f} ({low:.2f} to {high:.2f}) | {parameter_difference:.1e}"
            f" | {difference.max():.1e} |",
        }
        for name, kind in ((stock, "stock"), (ours, "ours")):
            run = runs[name]
            print(
                f"| {name} | {run.losses[-1]:.5f} | {run.accuracy:.4f}"
                f" | {timings.median(kind) * 1e3:.2f} {comparisons[name]}"
            )
    return worst


def plot(runs: dict[str, Run], path: Path) -> None:
    mpl.use("Agg")
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, layout="constrained")
    for axis, framework in zip(axes, ("JAX", "Keras"), strict=True):
        pair = {name: run for name, run in runs.items() if name.startswith(framework)}
        for (name, run), style in zip(
            pair.items(), ({"lw": 4, "alpha": 0.4}, {"lw": 1.2, "color": "black"}), strict=True
        ):
            axis.semilogy(np.arange(1, len(run.losses) + 1), run.losses, label=name, **style)
        axis.set(title=f"{framework}: handwritten digits", xlabel="step")
        axis.legend()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("training loss of the batch")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    print(f"\nloss curves: {path}")


if __name__ == "__main__":
    sys.exit(main())
