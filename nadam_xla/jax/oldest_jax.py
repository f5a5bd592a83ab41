"""Refuses a JAX that is missing or too old, before anything is imported that it may lack."""

from nadam_xla.frameworks import needed

OLDEST_JAX = (0, 8, 2)
OLDEST_OPTAX = (0, 2, 5)

jax = needed("jax", by="nadam_xla.jax", extra="jax")

# JAX 0.7.2 to 0.8.1 keep a product's right-hand side, as XNNPACK packed it, by its address. Where
# they use XNNPACK, the loss after a step in place is silently that of the old parameters.
if jax.__version_info__ < OLDEST_JAX:
    raise ImportError(
        f"nadam_xla needs JAX {'.'.join(map(str, OLDEST_JAX))} or later, and this is"
        f" {jax.__version__}: on some CPUs it goes on multiplying by the parameters that a step"
        " has overwritten in place"
    )

needed("optax", OLDEST_OPTAX, by="nadam_xla.jax", extra="jax")
