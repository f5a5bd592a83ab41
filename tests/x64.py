"""JAX's 64-bit mode for the length of a block; newer versions of JAX have it in another place."""

import jax
import jax.experimental

enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
