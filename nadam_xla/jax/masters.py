"""Master weights: what is kept beside parameters that are narrower than float32."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import keystr

from nadam_xla.calls import compute_dtype
from nadam_xla.jax.checks import PyTree, check_structure, describe
from nadam_xla.jax.dtypes import is_complex
from nadam_xla.storage import MASTER_DTYPES, MASTERS, Master, why_no_master


def initial_masters(params: PyTree, master: Master) -> PyTree:
    """The masters of parameters that no step has changed yet; None of those that need none.

    Raises:
        TypeError: a parameter is narrower than float32, and cannot have such a master.
    """

    def of_leaf(path: Any, param: Any) -> Any:
        if not _needs_master(param):
            return None
        reason = why_no_master(master, str(jnp.result_type(param)))
        if reason is not None:
            raise TypeError(f"params{keystr(path)} is {describe(param)}: {reason}")
        if master == "float32":
            return jnp.asarray(param, jnp.float32)
        return jnp.zeros_like(param, dtype=MASTER_DTYPES[master])

    return jax.tree_util.tree_map_with_path(of_leaf, params)


def check_masters(name: str, masters: PyTree, params: PyTree, master: Master | None = None) -> None:
    """Checks that each parameter has a master that can be one of it, or none.

    Args:
        name: of the masters.
        masters: a tree of the parameters' structure, with None where there is none.
        params: the parameters.
        master: of which kind they must be; None: of any, and any may be missing.

    Raises:
        ValueError: the trees differ in structure or shapes.
        TypeError: a master is not one of its parameter, or of another kind, or missing.
    """
    placed = jax.tree.map(lambda x: 0 if x is None else x, masters, is_leaf=lambda x: x is None)
    check_structure(name, placed, "params", params)
    treedef: Any = jax.tree.structure(params)
    paths = jax.tree_util.tree_leaves_with_path(params)
    for (path, param), leaf in zip(paths, treedef.flatten_up_to(masters), strict=True):
        at = f"{name}{keystr(path)}"
        _check_master(at, leaf, f"params{keystr(path)}", param, master)


def _check_master(at: str, leaf: Any, param_at: str, param: Any, master: Master | None) -> None:
    of = f"{param_at}, which is {describe(param)}"
    if leaf is None:
        if master is not None and _needs_master(param):
            raise TypeError(f"{at} is None; it must be the master of {of}")
        return
    kinds = [kind for kind in MASTERS if MASTER_DTYPES[kind] == jnp.result_type(leaf)]
    fits = bool(kinds) and _needs_master(param)
    if not fits or why_no_master(kinds[0], str(jnp.result_type(param))) is not None:
        raise TypeError(f"{at} is {describe(leaf)}; it cannot be the master of {of}")
    if master is not None and kinds[0] != master:
        raise TypeError(
            f"{at} is {describe(leaf)}, of master={kinds[0]!r}, and the optimizer has"
            f" master={master!r}"
        )
    if jnp.shape(leaf) != jnp.shape(param):
        raise ValueError(f"{at} has the shape {jnp.shape(leaf)}; it must be that of {of}")


def _needs_master(param: Any) -> bool:
    dtype = jnp.result_type(param)
    return not is_complex(dtype) and str(dtype) != compute_dtype(str(dtype))
