"""What rewrites a user's program so that optax's protocol costs no pass of its own.

It stands above the optimizers and knows the primitive alone. Programs are ``jax.extend.core``'s:
``block`` knows makers and users of values, ``additions`` which of them an update can take in,
``fused_call`` the update that takes them, ``boundaries`` brings together what a ``jit`` or a
``cond`` keeps apart; ``weaving`` moves an update into the ``scan`` that makes its gradients, of
which ``scans`` makes another, and ``splicing`` puts equations into a block. ``rewriting`` does all
of it everywhere, ``transformation`` is what users call, and ``report`` tells them why not.
"""

from nadam_xla.jax.fusion.report import UpdateReport
from nadam_xla.jax.fusion.transformation import explain_updates, fuse_updates

__all__ = ["UpdateReport", "explain_updates", "fuse_updates"]
