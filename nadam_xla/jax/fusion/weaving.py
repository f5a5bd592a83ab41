"""The update of scanned layers, moved into the loop that makes their gradients.

The backward pass of a ``scan`` over layers is a ``scan`` that returns the gradients of all layers
as one stack. Where that stack goes nowhere but into an update, the loop updates each layer as soon
as its gradient is there, in the stacks of parameters and moments, which it carries; and the stack
of gradients never exists.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import source_info_util
from jax.extend.core import Jaxpr, JaxprEqn, Literal
from jax.extend.core.primitives import (
    broadcast_in_dim_p,
    convert_element_type_p,
    mul_p,
    reshape_p,
    scan_p,
    squeeze_p,
)

from nadam_xla.jax import entry_lowering
from nadam_xla.jax.entry import STREAMS
from nadam_xla.jax.fusion.additions import is_update, leaves_of, operands_of, returns_change
from nadam_xla.jax.fusion.block import Atom, Block, type_of, with_parts
from nadam_xla.jax.fusion.fused_call import of_some_leaves, rows_of
from nadam_xla.jax.fusion.scans import Woven, carries_of, is_stack, scan_of, woven_scan
from nadam_xla.jax.fusion.splicing import atom_in, renamed, spliced
from nadam_xla.jax.manual_axes import varying_axes
from nadam_xla.streams import of_leaves

entry_lowering.install()

# What may stand between the scan and the update: each acts on every entry in the same way, to the
# bit. Quotients do not: over a whole stack XLA:CPU multiplies by the reciprocal.
_ENTRY_BY_ENTRY = (convert_element_type_p, mul_p)
_RESHAPES = (reshape_p, squeeze_p, broadcast_in_dim_p)


class Origin(NamedTuple):
    """Where a stack of gradients comes from.

    Attributes:
        scan: the equation that makes it.
        result: which of its results it is.
        changes: the equations that it has gone through since, in their order.
    """

    scan: JaxprEqn
    result: int
    changes: list[JaxprEqn]


def woven(jaxpr: Jaxpr) -> Jaxpr:
    """The program, with every update of its own block that can be moved into a scan moved there."""
    while (changed := _with_one_woven(jaxpr)) is not None:
        jaxpr = changed
    return jaxpr


def grads_of(update: JaxprEqn, leaf: int) -> Atom:
    """The gradients of a leaf, of an update that returns parameters."""
    return operands_of(update)["grads"][leaf]


def origin_of(block: Block, update: JaxprEqn, leaf: int) -> Origin | str | None:
    """The scan into which a leaf's update can move.

    None where no scan makes its gradients; in words why it cannot, where one does.
    """
    value = grads_of(update, leaf)
    changes: list[JaxprEqn] = []
    while True:
        maker = block.maker(value)
        if maker is None:
            return None
        if maker.primitive is scan_p:
            break
        operand = _operand_of_change(maker)
        if operand is None:
            scanned = any(is_stack(block, atom) for atom in maker.invars)
            name = maker.primitive.name
            return f"its gradients go through {name} after the scan" if scanned else None
        changes.insert(0, maker)
        value = operand
    if not is_stack(block, value):
        return None
    origin = Origin(maker, maker.outvars.index(value), changes)
    return _obstacle(block, update, leaf, origin) or origin


def _operand_of_change(eqn: JaxprEqn) -> Atom | None:
    """The stack that this equation changes entry by entry; None where it is of another kind."""
    if _reshapes_entries(eqn):
        return eqn.invars[0]
    rank = type_of(eqn.outvars[0]).ndim
    stacks = [atom for atom in eqn.invars if type_of(atom).ndim == rank]
    is_known = eqn.primitive in _ENTRY_BY_ENTRY and len(stacks) == 1 and rank > 0
    if not is_known or isinstance(stacks[0], Literal):
        return None
    scalars = [atom for atom in eqn.invars if atom is not stacks[0]]
    return stacks[0] if all(map(_is_exact_or_unknown, scalars)) else None


def _is_exact_or_unknown(scalar: Atom) -> bool:
    """XLA folds products with constants into one, and where there is a loop between, it does not.

    A power of two rounds nothing.
    """
    return not isinstance(scalar, Literal) or abs(math.frexp(float(scalar.val))[0]) == 0.5


def _scalars_of(eqn: JaxprEqn) -> list[Atom]:
    """What the equation takes beside the stack that it changes."""
    stack = _operand_of_change(eqn)
    return [atom for atom in eqn.invars if atom is not stack]


def _reshapes_entries(eqn: JaxprEqn) -> bool:
    if eqn.primitive not in _RESHAPES or len(eqn.invars) != 1:
        return False
    given, made = type_of(eqn.invars[0]), type_of(eqn.outvars[0])
    keeps_first = bool(given.shape and made.shape and given.shape[0] == made.shape[0])
    return keeps_first and given.size == made.size and eqn.params.get("dimensions") is None


def _obstacle(block: Block, update: JaxprEqn, leaf: int, origin: Origin) -> str | None:
    """What keeps a leaf's update from moving into the scan."""
    scan, _, changes = origin
    scalars = [atom for eqn in changes for atom in _scalars_of(eqn)]
    needed = [update.invars[0], *scalars, *_stacks_of(update, [leaf])]
    if block.needed_after(needed, scan) is None:
        return "its coefficients, parameters or moments are computed from what the scan makes"
    return _other_use(block, origin) or _unknown_kind(update, scan)


def _other_use(block: Block, origin: Origin) -> str | None:
    """Where a stack of gradients goes beside the update."""
    stages = [origin.scan.outvars[origin.result], *(eqn.outvars[0] for eqn in origin.changes)]
    for stage in stages:
        if block.only_user(stage) is None:
            names = [user.primitive.name for user in block.users(stage)]
            names += ["what is returned"] if block.is_returned(stage) else []
            return f"its gradients go into {' and '.join(dict.fromkeys(names))}"
    return None


def _unknown_kind(update: JaxprEqn, scan: JaxprEqn) -> str | None:
    """Updates and scans of which no other scan can be made here."""
    if type_of(update.invars[0]).shape[0] != 1:
        return "it is the update of a population"
    if update.params["streams"] != STREAMS:
        return "its parameters have master weights or averages, or it rounds stochastically"
    if scan.params["jaxpr"].consts or scan.params["length"] == 0:
        return "the scan has constants of its own, or no turns"
    return _unknown_type([type_of(atom) for atom in (*scan.invars, *update.invars)])


def _unknown_type(types: Sequence[Any]) -> str | None:
    """Of arrays, those that a program is traced with anew have a shape and a dtype alone."""
    if not all(isinstance(type_, jax.core.ShapedArray) for type_ in types):
        return "the scan takes what is no array, such as a Ref"
    if any(map(_is_wider_than_here, types)):
        return "the scan computes in 64 bits, and the program around it does not"
    if any(type_.memory_space != jax.memory.Space.Device for type_ in types):
        return "the scan takes arrays from host memory"
    if any(map(varying_axes, types)):
        return "the scan stands in a shard_map that checks how values vary"
    return "it is sharded over explicit axes of a mesh" if any(map(_is_sharded, types)) else None


def _is_wider_than_here(type_: Any) -> bool:
    is_number = jnp.issubdtype(type_.dtype, np.number)
    return bool(is_number and jax.dtypes.canonicalize_dtype(type_.dtype) != type_.dtype)


def _is_sharded(type_: Any) -> bool:
    return any(entry is not None for entry in type_.sharding.spec)


def _stacks_of(update: JaxprEqn, leaves: Sequence[int]) -> list[Atom]:
    """The parameters, first and second moments of these leaves."""
    given = operands_of(update)
    return [given[name][leaf] for name in ("params", "mu", "nu") for leaf in leaves]


def _with_one_woven(jaxpr: Jaxpr) -> Jaxpr | None:
    """The program with the update of one more scan's leaves moved; None where there is none."""
    block = Block(jaxpr)
    for update in block.equations:
        if not is_update(update) or returns_change(update):
            continue
        found = {leaf: origin_of(block, update, leaf) for leaf in range(leaves_of(update))}
        origins = {leaf: origin for leaf, origin in found.items() if isinstance(origin, Origin)}
        if origins:
            scan = next(iter(origins.values())).scan
            own = {leaf: origin for leaf, origin in origins.items() if origin.scan is scan}
            return _moved(jaxpr, block, update, own)
    return None


def _moved(jaxpr: Jaxpr, block: Block, update: JaxprEqn, origins: Mapping[int, Origin]) -> Jaxpr:
    """The program in which the scan updates these leaves."""
    leaves = sorted(origins)
    eqn = origins[leaves[0]].scan
    slicing, table = rows_of(update, leaves)
    scalars = [list(map(_scalars_of, origins[leaf].changes)) for leaf in leaves]
    stacks = _stacks_of(update, leaves)
    equations, names = _woven_scan(block, update, origins, table, stacks, scalars)

    before = block.needed_after([update.invars[0], *stacks, *jax.tree.leaves(scalars)], eqn) or []
    gone = {id(x) for x in (*before, *(x for own in origins.values() for x in own.changes))}
    place = block.place[id(eqn)]
    others = [leaf for leaf in range(leaves_of(update)) if leaf not in origins]
    rest: list[JaxprEqn] = []
    for later in block.equations[place + 1 :]:
        if later is update:
            rest += of_some_leaves(update, others)
        elif id(later) not in gone:
            rest.append(later)
    return with_parts(
        jaxpr,
        eqns=[
            *block.equations[:place],
            *before,
            *slicing,
            *equations,
            *(renamed(later, names) for later in rest),
        ],
        outvars=[atom_in(names, result) for result in block.results],
    )


def _woven_scan(
    block: Block,
    update: JaxprEqn,
    origins: Mapping[int, Origin],
    table: Atom,
    stacks: Sequence[Atom],
    scalars: list[list[list[Atom]]],
) -> tuple[list[JaxprEqn], dict[Any, Atom]]:
    """The equations of the scan that updates, and what stands for the old results."""
    leaves = sorted(origins)
    eqn = origins[leaves[0]].scan
    scan, carries = scan_of(eqn), carries_of(eqn)
    changed = [partial(_changed, origins[leaf].changes) for leaf in leaves]
    read_as = [_leaf_read(block, stack, stacks[: len(leaves)]) for stack in scan.stacks]
    plan = Woven([origins[leaf].result - carries for leaf in leaves], changed, read_as)
    kept = [stack for stack, leaf in zip(scan.stacks, read_as, strict=True) if leaf is None]
    operands = [*scan.consts, *scan.carries, *kept, table, *stacks]

    # As the scan was traced, and under its own name.
    of_user = source_info_util.user_context(
        update.source_info.traceback, name_stack=eqn.source_info.name_stack
    )
    with eqn.ctx.manager, of_user:
        program = jax.make_jaxpr(partial(woven_scan, scan, plan))(
            *jax.tree.map(_abstract, (operands, scalars))
        )
    equations, made = spliced(program.jaxpr, [*operands, *jax.tree.leaves(scalars)])
    gone = {origins[leaf].result for leaf in leaves}
    old = [var for i, var in enumerate(eqn.outvars) if i not in gone]
    old += [update.outvars[i] for i in of_leaves(3, leaves, leaves_of(update))]
    return equations, dict(zip(old, made, strict=True))


def _leaf_read(block: Block, stack: Atom, params: Sequence[Atom]) -> int | None:
    """The leaf whose parameters a stack of the scan is, in whatever shape its entries are."""
    maker = block.maker(stack)
    while maker is not None and _reshapes_entries(maker):
        stack = maker.invars[0]
        maker = block.maker(stack)
    return next((i for i, param in enumerate(params) if block.is_same(stack, param)), None)


def _changed(changes: Sequence[JaxprEqn], grad: Any, scalars: Sequence[Sequence[Any]]) -> Any:
    """The gradient of one entry after what happened to the stack."""
    for eqn, own in zip(changes, scalars, strict=True):
        if _reshapes_entries(eqn):
            grad = grad.reshape(type_of(eqn.outvars[0]).shape[1:])
            continue
        stack, given = _operand_of_change(eqn), iter(own)
        operands = [grad if atom is stack else next(given) for atom in eqn.invars]
        grad = eqn.primitive.bind(*operands, **eqn.params)
    return grad


def _abstract(atom: Atom) -> jax.ShapeDtypeStruct:
    type_ = type_of(atom)
    return jax.ShapeDtypeStruct(type_.shape, type_.dtype, weak_type=type_.weak_type)
