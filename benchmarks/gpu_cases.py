"""What is measured on a GPU: the lists of leaves, the precisions, the contenders."""

from collections.abc import Callable, Mapping

from benchmarks.shapes import Shapes, transformer_blocks

LARGEST = "1x(16384,16384)"
TRANSFORMER = "transformer, 108 leaves"
SMALL = "1000x[(256,256),(256,)]"
TINY = "1000x(64,)"

CASES: Mapping[str, Callable[[], Shapes]] = {
    LARGEST: lambda: [(16384, 16384)],
    TRANSFORMER: transformer_blocks,
    TINY: lambda: [(64,)] * 1000,
    SMALL: lambda: [(256, 256), (256,)] * 1000,
}

# Of the time; a step of thousands of leaves takes long to compile.
WEIGHTS = {LARGEST: 1, TRANSFORMER: 1, TINY: 2, SMALL: 4}

# Mixed: parameters and gradients in bfloat16. In JAX the moments are float32, ours and optax's;
# PyTorch keeps them in the parameters' type.
PRECISIONS = {"float32": "float32", "mixed": "bfloat16"}

OURS_LOOP = "nadam_xla, compiled loop"
XLA_LOOP = "optax.nadam by XLA, compiled loop"
OURS_CALL = "nadam_xla, a call a step"
XLA_CALL = "optax.nadam by XLA, a call a step"
COPY = "device-to-device copy"
TORCH_FOREACH = "torch NAdam, foreach"
TORCH_GRAPH = "torch NAdam, capturable, in a CUDA graph"
TORCH_COMPILED = "torch NAdam, compiled"
TORCH_FUSED = "torch Adam, fused"

UPDATES = (
    OURS_LOOP,
    XLA_LOOP,
    OURS_CALL,
    XLA_CALL,
    TORCH_FOREACH,
    TORCH_GRAPH,
    TORCH_COMPILED,
    TORCH_FUSED,
)
AGAINST = {  # what a contender's time is compared with
    OURS_LOOP: OURS_LOOP,
    XLA_LOOP: OURS_LOOP,
    OURS_CALL: OURS_CALL,
    XLA_CALL: OURS_CALL,
    TORCH_FOREACH: OURS_CALL,
    TORCH_GRAPH: OURS_LOOP,
    TORCH_COMPILED: OURS_CALL,
    TORCH_FUSED: OURS_CALL,
}
