"""One compiled loop of donated steps: ours against optax.nadam."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.interleave import interleave
from nadam_xla.jax import nadam

STEPS = 20
TURNS = 15
SHAPE = (4096, 4096)

Step = Callable[[Any, Any, Any], tuple[Any, Any]]


def compiled_loop(step: Step, state: Any, params: Any, grads: Any) -> Callable[[], None]:
    """STEPS steps in one call; parameters and state stay donated from call to call."""

    def run(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        return jax.lax.fori_loop(0, STEPS, lambda _, c: step(grads, c[1], c[0]), (params, state))

    compiled = jax.jit(run, donate_argnums=(0, 1))
    carry = (jax.tree.map(jnp.copy, params), state)

    def contender() -> None:
        nonlocal carry
        carry = jax.block_until_ready(compiled(*carry, grads))

    return contender


def main() -> None:
    params = jax.random.normal(jax.random.key(0), SHAPE)
    grads = jax.random.normal(jax.random.key(1), SHAPE)
    ours, theirs = nadam(1e-3), optax.nadam(1e-3)

    def optax_step(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        updates, state = theirs.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    timings = interleave(
        {
            "nadam_xla": compiled_loop(ours.apply, ours.init(params), params, grads),
            "optax": compiled_loop(optax_step, theirs.init(params), params, grads),
        },
        TURNS,
    )
    ratio, low, high = timings.ratio("optax", "nadam_xla")
    print(f"one leaf {SHAPE[0]}x{SHAPE[1]} float32, compiled loop of {STEPS} donated steps")
    for name in timings.seconds:
        milliseconds = timings.median(name) / STEPS * 1e3
        print(f"  {name:10} {milliseconds:6.2f} ms a step (median of {TURNS} turns)")
    print(f"  optax / nadam_xla: {ratio:.2f} (quartiles {low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
