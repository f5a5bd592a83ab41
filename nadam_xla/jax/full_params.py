"""From float32 parameters to narrow ones with masters, and back."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import keystr
from jax.typing import DTypeLike

from nadam_xla.jax.checks import PyTree, describe
from nadam_xla.jax.masters import check_masters
from nadam_xla.jax.stored_numbers import REMAINDER_BITS, joined, split
from nadam_xla.storage import MASTER_DTYPES, Master, check_master, why_no_master


def narrow_params(
    params: PyTree, dtype: DTypeLike = jnp.bfloat16, *, master: Master
) -> tuple[PyTree, PyTree]:
    """Narrow parameters and their master weights, which go on from float32 ones.

    ::

        params, masters = narrow_params(float32_params, master="remainder")
        state = nadam(1e-3, master="remainder").init(params)._replace(master=masters)

    Args:
        params: a pytree of float32 arrays.
        dtype: of the narrow ones: bfloat16 or float16.
        master: the kind of master weights, as :func:`nadam` takes it.

    Returns:
        The narrow parameters, each the nearest of its float32, and the masters. Together they are
        the float32 ones; with ``"correction"`` those rounded to 24 bits.

    Raises:
        ValueError: ``master`` is none of the kinds.
        TypeError: parameters of this dtype cannot have such masters, or a leaf is not float32.
    """
    check_master(master)
    reason = why_no_master(master, str(jnp.dtype(dtype)))
    if reason is not None:
        raise TypeError(f"dtype is {jnp.dtype(dtype)}: {reason}")
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if jnp.result_type(leaf) != jnp.float32:
            raise TypeError(f"params{keystr(path)} is {describe(leaf)}; it must be float32")

    def divided(leaf: Any) -> tuple[jax.Array, jax.Array]:
        wide = jnp.asarray(leaf)
        if master == "float32":
            # A copy: parameters and state may be donated together.
            return wide.astype(dtype), jnp.array(wide, copy=True)
        return split(wide, MASTER_DTYPES[master], None)

    leaves = jax.tree.leaves(params)
    treedef: Any = jax.tree.structure(params)
    pairs = [divided(leaf) for leaf in leaves]
    return treedef.unflatten([p for p, _ in pairs]), treedef.unflatten([m for _, m in pairs])


def full_params(params: PyTree, masters: PyTree) -> PyTree:
    """The parameters as their master weights have them, which is what a step goes on from.

    Args:
        params: the parameters, of any floating dtypes.
        masters: ``state.master``.

    Returns:
        A tree of float32 arrays. A parameter that has no master is there as it is.

    Raises:
        ValueError: the trees differ in structure or shapes.
        TypeError: a master is not one of its parameter.
    """
    check_masters("masters", masters, params)

    def of_leaf(param: Any, master: Any) -> Any:
        if master is None:
            return param
        return joined(param, master) if master.dtype in REMAINDER_BITS else master

    leaves = jax.tree.leaves(params)
    treedef: Any = jax.tree.structure(params)
    pairs = zip(leaves, treedef.flatten_up_to(masters), strict=True)
    return treedef.unflatten([of_leaf(*pair) for pair in pairs])
