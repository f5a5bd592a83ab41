"""`python -m benchmarks.moment_codes`: how the 8 bits of a moment are best used.

Measures each candidate of ``codes_of_8_bits`` outside of the kernels, in jnp: a moment is read,
updated in float32, and stored again, at every step.

- **errors**: of the step, where the moments were stored so at every step of a real training, beside
  the same moments in float64. Both are given the gradients of the float32 training.
- **staleness**: of a second moment after 100,000 steps at b2 = 0.999, while its gradients grow and
  shrink by factors of a thousand.
- **training**: the last losses of trainings with both moments stored so.

Prints tables, and keeps the numbers as JSON in the output folder.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from benchmarks.codes_of_8_bits import FIRST, SECOND, Code
from benchmarks.learning_tasks import TASKS, Task

B1, B2, EPS = 0.9, 0.999, 1e-8
CHOSEN = {"mu": "mu-law, 4 bits of mantissa", "nu": "logarithmic, 3 bits of mantissa"}
KEPT = Path(__file__).parents[1] / "docs" / "performance" / "moment_codes.json"
CODES = {"mu": FIRST, "nu": SECOND}
LEAST_COLUMNS, LEAST_SIZE = 64, 4096
STALENESS_STEPS = 100_000
TRAINED, STEPS, SEEDS = "characters", 500, 3
ROUNDINGS = ("nearest", "stochastic")


class Moments(NamedTuple):
    mu: Any
    nu: Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("bench-output"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / KEPT.name
    measured: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for part in arguments.parts:
        measured[part] = []
        for row in tqdm(PARTS[part](), desc=part):
            measured[part].append(row)
            save(measured, path)
    print("\n\n".join(tables(measured).values()))


def save(measured: Mapping[str, list[dict[str, Any]]], path: Path) -> None:
    """Writes what was measured, a line for each row."""
    parts = []
    for part, rows in measured.items():
        lines = ",\n  ".join(json.dumps(row) for row in rows)
        parts.append(f'"{part}": [\n  {lines}\n]')
    path.write_text("{" + ",\n".join(parts) + "}\n")


def tables(measured: Mapping[str, list[dict[str, Any]]]) -> dict[str, str]:
    """A Markdown table for each part that was measured."""
    made = {"errors": of_errors, "staleness": of_staleness, "training": of_training}
    return {part: made[part](rows) for part, rows in measured.items()}


def of_errors(rows: list[dict[str, Any]]) -> str:
    columns = [(task, how) for task in ("characters", "digits") for how in ROUNDINGS]
    cells: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
    for row in rows:
        name, column = named(row["code"])
        cell = f"{100 * row['mean leaf']:.1f} ({100 * row['worst leaf']:.1f})"
        cells.setdefault((row["moment"], name), {})[row["task"], column] = cell
    head = ["moment", "code", *(", ".join(column) for column in columns)]
    body = [[*key, *(of.get(column, "") for column in columns)] for key, of in cells.items()]
    return markdown(head, body)


def of_staleness(rows: list[dict[str, Any]]) -> str:
    measures = ("mean of nu", "error of sqrt(nu)", "least sqrt(nu)")
    cells: dict[tuple[str, str, str], dict[bool, list[str]]] = {}
    for row in rows:
        key = (*named(row["code"]), f"{row['b2']:g}")
        cells.setdefault(key, {})[row["at once"]] = [number(row[name]) for name in measures]
    head = ["code", "rounding", "b2", *(f"{name}, at once" for name in measures), *measures]
    return markdown(head, [[*key, *of[True], *of[False]] for key, of in cells.items()])


def number(x: float) -> str:
    return f"{x:.3f}" if x < 10 else f"{x:,.0f}"


def of_training(rows: list[dict[str, Any]]) -> str:
    """Of the seeds the mean, and the lowest and the highest."""

    def cell(x: Sequence[float]) -> str:
        return f"{np.mean(x):.4f} ({min(x):.4f} to {max(x):.4f})"

    head = ["first and second moments", "training loss", "validation loss"]
    body = [[r["codes"], cell(r["training"]), cell(r["validation"])] for r in rows]
    return markdown(head, body)


def named(candidate: str) -> tuple[str, str]:
    """The code, and how it is rounded."""
    code, rounding = candidate.split("; ")
    how, _, more = rounding.partition(", ")
    return (f"{code}; {more}" if more else code), how


def markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def candidates(moment: str) -> Iterator[tuple[str, Code]]:
    """Each code of one of the moments, by what a table calls it."""
    for name, levels in CODES[moment].items():
        yield f"{name}; nearest", Code(levels, is_stochastic=False)
        yield f"{name}; stochastic", Code(levels, is_stochastic=True)
    chosen = CODES[moment][CHOSEN[moment]]
    yield f"{CHOSEN[moment]}; stochastic, 8 drawn bits", Code(chosen, True, drawn_bits=8)
    yield f"{CHOSEN[moment]}; stochastic, blocks of 128", Code(chosen, True, block=128)


def is_quantized(x: Any) -> bool:
    return x.ndim > 0 and x.shape[-1] >= LEAST_COLUMNS and x.size >= LEAST_SIZE


# The error of the step.


def errors() -> Iterator[dict[str, Any]]:
    for name, steps in {"characters": 1000, "digits": 110}.items():
        grads = recorded_gradients(TASKS[name](), steps)
        for moment in ("mu", "nu"):
            for called, code in candidates(moment):
                worst = {"task": name, "moment": moment, "code": called}
                yield worst | errors_of_code(grads, moment, code)


def recorded_gradients(task: Task, steps: int) -> list[np.ndarray]:
    """Of each step of a training in float32, those of the leaves that are quantized.

    Of a large leaf the first rows.
    """
    rate = optax.warmup_cosine_decay_schedule(0.0, task.learning_rate, steps // 10, steps)
    tx = optax.nadam(rate, B1, B2, EPS)
    params = jax.tree.map(jnp.asarray, task.initial_params(0))

    def step(carry: Any, pick: jax.Array) -> Any:
        params, state = carry
        grads = jax.grad(task.loss)(params, task.batch(pick))
        updates, state = tx.update(grads, state, params)
        kept = [g[: max(1, 65536 // g[0].size)] for g in jax.tree.leaves(grads) if is_quantized(g)]
        return (optax.apply_updates(params, updates), state), kept

    _, grads = jax.jit(partial(jax.lax.scan, step))((params, tx.init(params)), task.picks(0, steps))
    return [np.asarray(g) for g in grads]


def errors_of_code(grads: list[np.ndarray], moment: str, code: Code) -> dict[str, float]:
    """The errors of the last step, relative to it; the worst leaf's."""
    of_leaves = [step_error(g, moment, code, seed) for seed, g in enumerate(grads)]
    norms, largest = zip(*of_leaves, strict=True)
    return {
        "mean leaf": float(np.mean(norms)),
        "worst leaf": float(max(norms)),
        "largest": float(max(largest)),
    }


def step_error(grads: np.ndarray, moment: str, code: Code, seed: int) -> tuple[float, float]:
    """Of the step with one moment stored so: the norm of its error, of that of the step; and the
    largest error of an element, of the largest element of the step."""
    given = jnp.asarray(grads)

    def follow(carry: Any, of_step: tuple[jax.Array, jax.Array]) -> Any:
        g, key = of_step
        x = carry + ((1 - B1) * (g - carry) if moment == "mu" else (1 - B2) * (g * g - carry))
        return code.stored(x, jax.random.bits(key, x.shape)), None

    keys = jax.random.split(jax.random.key(seed, impl="rbg"), len(grads))
    stored, _ = jax.jit(partial(jax.lax.scan, follow))(jnp.zeros_like(given[0]), (given, keys))
    exact = exact_moments(grads)
    moments = exact._replace(**{moment: np.asarray(stored, np.float64)})
    right = step_of(exact, grads[-1], len(grads))
    error = step_of(moments, grads[-1], len(grads)) - right
    ratio = np.linalg.norm(error) / np.linalg.norm(right)
    return float(ratio), float(abs(error).max() / abs(right).max())


def exact_moments(grads: np.ndarray) -> Moments:
    mu = np.zeros(grads.shape[1:])
    nu = np.zeros(grads.shape[1:])
    for g in grads.astype(np.float64):
        mu += (1 - B1) * (g - mu)
        nu += (1 - B2) * (g * g - nu)
    return Moments(mu, nu)


def step_of(moments: Moments, grad: np.ndarray, count: int) -> np.ndarray:
    """Nadam's, as optax has it, at a learning rate of 1."""
    mu = B1 * moments.mu / (1 - B1 ** (count + 1)) + (1 - B1) * grad / (1 - B1**count)
    return mu / (np.sqrt(moments.nu / (1 - B2**count)) + EPS)


# Staleness.


def staleness() -> Iterator[dict[str, Any]]:
    for called, code in candidates("nu"):
        for b2 in (0.999, 0.9999) if code.is_stochastic else (0.999,):
            for at_once in (True, False):
                of = {"code": called, "b2": b2, "at once": at_once}
                yield of | stale(code, b2, at_once=at_once)


def stale(code: Code, b2: float, *, at_once: bool, blocks: int = 4) -> dict[str, float]:
    """What becomes of a second moment beside one in float64.

    The gradients of a block have magnitudes of their own. All grow and shrink by factors of a
    thousand once in 20,000 steps: all at once, or each at a time of its own.
    """
    elements = blocks * code.block
    rng = np.random.default_rng(0)
    own = np.exp(0.75 * rng.normal(size=elements))
    table = jnp.asarray(own * rng.normal(size=(1009, elements)), jnp.float32)
    phases = np.zeros(elements) if at_once else rng.uniform(size=elements)
    places = jnp.arange(elements, dtype=jnp.uint32)

    def step(carry: Any, i: jax.Array) -> Any:
        stored, exact = carry
        size = 10.0 ** (-1.5 * jnp.cos(2 * jnp.pi * (i / 20_000 + phases)))
        g = size.astype(jnp.float32) * table[i % len(table)]
        square = g.astype(jnp.float64) ** 2
        exact = exact + (1 - b2) * (square - exact)
        new = stored + jnp.float32(1 - b2) * (square.astype(jnp.float32) - stored)
        return (code.stored(new, hashed(i, places)), exact), None

    def interval(carry: Any, steps: jax.Array) -> Any:
        carry, _ = jax.lax.scan(step, carry, steps)
        return carry, jnp.sqrt(carry[0] / carry[1])

    with jax.enable_x64(True):
        steps = jnp.arange(STALENESS_STEPS).reshape(-1, 500)
        start = jnp.zeros(elements, jnp.float32), jnp.full(elements, 1e-300, jnp.float64)
        _, ratios = jax.jit(partial(jax.lax.scan, interval))(start, steps)
        of_roots = np.asarray(ratios)[len(ratios) // 5 :]
    return {
        "mean of nu": float((of_roots**2).mean()),
        "error of sqrt(nu)": float(np.sqrt(((of_roots - 1) ** 2).mean())),
        "least sqrt(nu)": float(of_roots.min()),
        "greatest sqrt(nu)": float(of_roots.max()),
    }


def hashed(step: jax.Array, places: jax.Array) -> jax.Array:
    """Random numbers that cost little: those of MurmurHash3's last steps, twice."""
    x = places + step.astype(jnp.uint32) * jnp.uint32(0x9E3779B9)
    for _ in range(2):
        x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
        x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
        x = x ^ (x >> 16)
    return x


# Training.


def training() -> Iterator[dict[str, Any]]:
    task = TASKS[TRAINED]()
    for called, codes in trained():
        losses = [learn(task, codes, STEPS, seed) for seed in range(SEEDS)]
        training, validation = zip(*losses, strict=True)
        yield {"codes": called, "training": training, "validation": validation}


def trained() -> Iterator[tuple[str, Mapping[str, Code]]]:
    """Both moments stored by codes of one family, each at its best rounding and at the other."""
    chosen = FIRST[CHOSEN["mu"]]
    families = {
        "mu-law of 4 and logarithmic of 3 bits": (
            chosen,
            SECOND["logarithmic, 3 bits of mantissa"],
        ),
        "softsign and square root": (FIRST["softsign"], SECOND["square root"]),
        "dynamic trees": (FIRST["dynamic tree"], SECOND["dynamic tree"]),
        "mu-law and logarithmic of 4 bits": (chosen, SECOND["logarithmic, 4 bits of mantissa"]),
        "mu-law and tapered": (chosen, SECOND["tapered, 4 and 3 bits of mantissa"]),
        "linear and square root": (FIRST["linear"], SECOND["square root"]),
    }
    yield "float32", {}
    for is_stochastic in (True, False):
        for family, codes in families.items():
            rounding = "stochastic" if is_stochastic else "nearest"
            pair = (Code(levels, is_stochastic) for levels in codes)
            yield f"{family}; {rounding}", dict(zip(("mu", "nu"), pair, strict=True))


def learn(task: Task, codes: Mapping[str, Code], steps: int, seed: int) -> tuple[float, float]:
    """The mean training loss of the last interval, and the validation loss behind it."""
    run = trainer(task, tuple(codes.items()), steps)
    params = jax.tree.map(jnp.asarray, task.initial_params(seed))
    losses, params = run(params, task.picks(seed, steps), seed)
    return float(losses[-task.interval :].mean()), float(
        jax.jit(task.loss)(params, task.validation)
    )


_TRAINERS: dict[Any, Callable[..., Any]] = {}


def trainer(task: Task, codes: tuple[tuple[str, Code], ...], steps: int) -> Callable[..., Any]:
    """Compiled once for all seeds."""
    key = task.name, codes, steps
    if key not in _TRAINERS:
        _TRAINERS[key] = jax.jit(partial(train, task, dict(codes), steps))
    return _TRAINERS[key]


def train(
    task: Task, codes: Mapping[str, Code], steps: int, params: Any, picks: jax.Array, seed: Any
) -> Any:
    rate = optax.warmup_cosine_decay_schedule(0.0, task.learning_rate, steps // 10, steps)
    tx = optax.nadam(rate, B1, B2, EPS)
    root = jax.random.key(seed, impl="rbg")

    def kept(x: jax.Array, key: jax.Array, moment: str) -> jax.Array:
        return (
            codes[moment].stored(x, jax.random.bits(key, x.shape))
            if moment in codes and is_quantized(x)
            else x
        )

    def step(carry: Any, of_step: tuple[jax.Array, jax.Array]) -> Any:
        params, state = carry
        pick, i = of_step
        loss, grads = jax.value_and_grad(task.loss)(params, task.batch(pick))
        updates, (adam, *others) = tx.update(grads, state, params)
        keys = jax.random.split(jax.random.fold_in(root, i), 2 * len(jax.tree.leaves(params)))
        treedef = jax.tree.structure(params)
        of_mu, of_nu = (treedef.unflatten(list(k)) for k in (keys[::2], keys[1::2]))
        adam = adam._replace(
            mu=jax.tree.map(partial(kept, moment="mu"), adam.mu, of_mu),
            nu=jax.tree.map(partial(kept, moment="nu"), adam.nu, of_nu),
        )
        return (optax.apply_updates(params, updates), (adam, *others)), loss

    (params, _), losses = jax.lax.scan(step, (params, tx.init(params)), (picks, jnp.arange(steps)))
    return losses, params


PARTS: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
    "errors": errors,
    "staleness": staleness,
    "training": training,
}

if __name__ == "__main__":
    main()
