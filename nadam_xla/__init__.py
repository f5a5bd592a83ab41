"""The Nadam optimizer step as one fused, in-place XLA custom call.

``nadam_xla.jax`` (an optax-shaped optimizer and the primitive beneath it), ``nadam_xla.keras`` (a
drop-in for ``keras.optimizers.Nadam``) and ``nadam_xla.tensorflow`` (raw ops) each import their own
framework; this package itself imports none.
"""

from importlib.metadata import version as _version

from nadam_xla.update_path import UpdatePath

__all__ = ["UpdatePath", "__version__"]
__version__ = _version("nadam-xla")
