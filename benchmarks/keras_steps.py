"""Keras's optimizer.apply on this process's backend, against stock and TensorFlow's fused Adam."""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

import nadam_xla.keras
from benchmarks.records import MILLISECONDS, OURS, Record, records_of
from benchmarks.shapes import Shapes, elements, transformer_blocks
from nadam_xla.diagnosis.interleave import interleave

TURNS = 9
STEPS = 4
BACKEND = keras.backend.backend()
CASES: dict[str, Shapes] = {
    "4x(2048,2048)": [(2048, 2048)] * 4,
    "transformer, 108 leaves": transformer_blocks(),
    "20x[(256,256),(256,)]": [(256, 256), (256,)] * 20,
}
COMPILED = "jit_compile"
OPTIMIZERS = {OURS: nadam_xla.keras.Nadam, "stock": keras.optimizers.Nadam}


def measure() -> Iterator[list[Record]]:
    """The records of each case, in each way in which the backend runs a step."""
    ways = {"tensorflow": TENSORFLOW_WAYS, "jax": {"stateless_apply, jitted": jax_contender}}[
        BACKEND
    ]
    for case, shapes in CASES.items():
        grads = grads_of(shapes)
        for way, contender in ways.items():
            contenders = {n: contender(o(), shapes, grads, STEPS) for n, o in OPTIMIZERS.items()}
            if BACKEND == "tensorflow":
                contenders["ResourceApplyAdam"] = resource_apply_adam(grads, STEPS)
            if way == COMPILED:
                contenders["empty step"] = contender(EmptyStep(), shapes, grads, STEPS)
            yield records_of(
                f"Keras on {BACKEND}, {way}",
                case,
                elements(shapes),
                interleave(contenders, TURNS),
                scale=MILLISECONDS / STEPS,
            )


class EmptyStep:
    """Assigns to each variable of a step its own value, which compiled moves no data."""

    def build(self, variables: list[Any]) -> None:
        moments = [keras.Variable(np.zeros(v.shape, "float32")) for v in [*variables, *variables]]
        self.variables = [*variables, *moments]
        self.iterations = keras.Variable(0)

    def apply(self, grads: list[Any]) -> None:
        del grads
        for variable in self.variables:
            variable.assign(variable.value)
        self.iterations.assign_add(1)


def grads_of(shapes: Shapes) -> list[Any]:
    rng = np.random.default_rng(0)
    return [ops.convert_to_tensor(rng.standard_normal(s, np.float32)) for s in shapes]


def variables_of(shapes: Shapes) -> list[Any]:
    return [keras.Variable(np.ones(s, "float32")) for s in shapes]


def tensorflow_contender(
    wrap: Callable[[Callable[..., None]], Callable[..., None]],
) -> Callable[..., Callable[[], None]]:
    def contender(
        optimizer: Any, shapes: Shapes, grads: list[Any], steps: int
    ) -> Callable[[], None]:
        variables = variables_of(shapes)
        optimizer.build(variables)

        def apply(grads: list[Any]) -> None:
            optimizer.apply(grads)

        step = wrap(apply)

        def run() -> None:
            for _ in range(steps):
                step(grads)
            optimizer.iterations.numpy()  # waits

        return run

    return contender


def resource_apply_adam(grads: list[Any], steps: int) -> Callable[[], None]:
    import tensorflow as tf  # noqa: PLC0415 - this backend's alone

    triples = [tuple(tf.Variable(tf.zeros_like(g)) for _ in range(3)) for g in grads]

    @tf.function
    def step(grads: list[Any]) -> None:
        for (var, m, v), grad in zip(triples, grads, strict=True):
            tf.raw_ops.ResourceApplyAdam(
                var=var.handle,
                m=m.handle,
                v=v.handle,
                beta1_power=0.9,
                beta2_power=0.999,
                lr=1e-3,
                beta1=0.9,
                beta2=0.999,
                epsilon=1e-7,
                grad=grad,
                use_nesterov=True,
            )

    def run() -> None:
        for _ in range(steps):
            step(grads)
        triples[0][0].numpy()

    return run


def jax_contender(
    optimizer: Any, shapes: Shapes, grads: list[Any], steps: int
) -> Callable[[], None]:
    import jax  # noqa: PLC0415 - this backend's alone

    from benchmarks.donation import carrying  # noqa: PLC0415

    variables = variables_of(shapes)
    optimizer.build(variables)

    def apply(trainable: list[Any], state: list[Any], grads: list[Any]) -> Any:
        return optimizer.stateless_apply(state, grads, trainable)

    step = jax.jit(apply, donate_argnums=(0, 1))
    carry = jax.tree.map(
        jax.numpy.copy, ([v.value for v in variables], [v.value for v in optimizer.variables])
    )

    return carrying(step, carry, [(grads,)] * steps)


def _tensorflow_ways() -> dict[str, Callable[..., Callable[[], None]]]:
    if BACKEND != "tensorflow":
        return {}
    import tensorflow as tf  # noqa: PLC0415 - this backend's alone

    return {
        "eager": tensorflow_contender(lambda f: f),
        "tf.function": tensorflow_contender(tf.function),
        COMPILED: tensorflow_contender(lambda f: tf.function(f, jit_compile=True)),
    }


TENSORFLOW_WAYS = _tensorflow_ways()
CASES_MEASURED = len(CASES) * (len(TENSORFLOW_WAYS) or 1)
