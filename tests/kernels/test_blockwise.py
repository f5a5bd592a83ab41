"""Moments in codes of eight bits with a scale for each block: the custom call, bit for bit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import blockwise_oracle as blockwise
import jax
import numpy as np
import oracle
import pytest
import storage_oracle as stored
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import output_of
from update_call import K, Leaf, row, update, with_key
from x64 import enable_x64

import nadam_xla.jax  # noqa: F401 - registers the handler
from nadam_xla import _native

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
BF16, F16 = stored.BFLOAT16, stored.FLOAT16
MOMENTS = {"mu": blockwise.encoded_signed, "nu": blockwise.encoded_unsigned}
BOTH = ("mu", "nu")

# A row of whole blocks, one of a part of a block, and rows that end inside of one at any place.
SHAPES = [(1024,), (3, 256), (7, 100), (5, 300), (2, 3, 513), (4, 64), (1, 1), (9, 255), (3, 1285)]


def numbers(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Of many magnitudes, and of either sign."""
    return (rng.normal(size=shape) * 10.0 ** rng.uniform(-5, 2, shape)).astype(np.float32)


def leaf_of(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    dtypes: Mapping[str, np.dtype] | None = None,
    quantized: tuple[str, ...] = BOTH,
) -> dict[str, np.ndarray]:
    dtypes = dtypes or {}
    x = {name: numbers(rng, shape) for name in ("params", "grads", "mu")}
    x["nu"] = np.square(numbers(rng, shape))
    leaf = {name: array.astype(dtypes.get(name, F32)) for name, array in x.items()}
    for name in quantized:
        leaf[name], leaf[f"{name}_scales"] = MOMENTS[name](x[name])
    return leaf


def moment_of(leaf: Leaf, name: str) -> np.ndarray:
    if f"{name}_scales" in leaf:
        return blockwise.decoded(blockwise.Blockwise(leaf[name], leaf[f"{name}_scales"]))
    return leaf[name].astype(np.float32)


def expected_of(
    of_row: np.ndarray, of: Leaf, *, stochastic: bool = False, **key: int
) -> dict[str, np.ndarray]:
    """The results, of parameters without a master."""
    wide = [of["params"].astype(np.float32), of["grads"].astype(np.float32)]
    params, change, *moments = oracle.rule(of_row, *wide, *(moment_of(of, n) for n in BOTH))
    shape = of["grads"].shape
    draws = blockwise.draws_of(shape, **key)
    drawn = stored.draws(int(np.prod(shape)), stored.OF_STATES, **key).reshape(shape)
    of_states = {"mu": drawn, "nu": stored.swapped_bytes(drawn)}
    results = {"params": params, "change": change}
    for name, x in zip(BOTH, moments, strict=True):
        if f"{name}_scales" in of:
            results[name], results[f"{name}_scales"] = MOMENTS[name](x, draws[name])
        elif stochastic and of[name].dtype in (BF16, F16):
            results[name] = stored.stochastic(x, of[name].dtype, of_states[name])
        else:
            results[name] = stored.nearest(x, of[name].dtype)
    of_params = stored.draws(int(np.prod(shape)), stored.OF_PARAMS, **key).reshape(shape)
    if stochastic and of["params"].dtype in (BF16, F16):
        results["params"] = stored.stochastic(params, of["params"].dtype, of_params)
    else:
        results["params"] = stored.nearest(params, of["params"].dtype)
    return results


def assert_same(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    for name, result in found.items():
        np.testing.assert_array_equal(result, expected[name], err_msg=name)


def table_of(rng: np.random.Generator, leaves: int = 1, **key: int) -> np.ndarray:
    table = oracle.with_parts_off(rng, oracle.rows(rng, (1, leaves), "float32"))
    return with_key(table, **key)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("quantized", [BOTH, ("mu",), ("nu",)], ids=str)
def test_codes_and_scales_are_the_oracles(
    quantized: tuple[str, ...], shape: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(1)
    leaf = leaf_of(rng, shape, quantized=quantized)
    table = table_of(rng, seed=5, step=70_001)
    (found,) = update(table, [leaf])
    assert_same(found, expected_of(table[0, 0], leaf, seed=5, step=70_001))


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize(
    "dtypes",
    [
        {"params": BF16, "grads": BF16},
        {"params": F16, "grads": BF16, "mu": BF16},
        {"params": BF16, "grads": F16, "nu": BF16},
        {"params": F32, "grads": BF16, "nu": F16},
        {"params": F32, "grads": F64, "mu": F64},
    ],
    ids=str,
)
def test_any_storage_of_the_other_streams(dtypes: dict[str, np.dtype], stochastic: bool) -> None:
    rng = np.random.default_rng(2)
    quantized = tuple(name for name in BOTH if name not in dtypes)
    with enable_x64(True):
        for shape in [(3, 512), (5, 300), (3, 127)]:
            leaf = leaf_of(rng, shape, dtypes, quantized)
            table = table_of(rng, seed=6)
            (found,) = update(table, [leaf], stochastic=stochastic)
            expected = expected_of(table[0, 0], leaf, stochastic=stochastic, seed=6)
            assert_same(found, expected)


@pytest.mark.parametrize("returns", ["params", "change"])
@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize(
    ("params", "master"),
    [(BF16, F32), (F16, F32), (BF16, np.dtype(np.uint16)), (BF16, np.dtype(np.uint8))],
    ids=str,
)
def test_masters_are_as_beside_moments_in_float32(
    params: np.dtype, master: np.dtype, stochastic: bool, returns: str
) -> None:
    """What the parameters and masters become does not depend on how the new moments are stored."""
    rng = np.random.default_rng(3)
    change = F32 if returns == "change" else None
    for shape in [(2, 512), (5, 300)]:
        leaf = leaf_of(rng, shape, {"params": params, "grads": BF16})
        leaf["master"] = (
            leaf["params"].astype(np.float32) * np.float32(1 + 2.0**-12)
            if master == F32
            else rng.integers(0, 2 ** (8 * master.itemsize), shape, master)
        )
        table = table_of(rng, seed=8)
        (found,) = update(table, [leaf], stochastic=stochastic, change=change)
        wide = {name: leaf[name] for name in ("params", "grads", "master")}
        wide |= {name: moment_of(leaf, name) for name in BOTH}
        (expected,) = update(table, [wide], stochastic=stochastic, change=change)
        for name in BOTH:
            draws = blockwise.draws_of(shape, seed=8)[name]
            expected[name], expected[f"{name}_scales"] = MOMENTS[name](expected[name], draws)
        assert_same(found, expected)


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize("stochastic", [False, True])
def test_the_change_leads_to_the_same_parameters(stochastic: bool, dtype: np.dtype) -> None:
    rng = np.random.default_rng(4)
    for shape in [(2, 512), (5, 300)]:
        leaf = leaf_of(rng, shape, {"params": dtype})
        table = table_of(rng, seed=2)
        (found,) = update(table, [leaf], stochastic=stochastic)
        (changed,) = update(table, [leaf], change=F32, stochastic=stochastic)
        if dtype == F32 or stochastic:
            after = leaf["params"].astype(np.float32) + changed["change"]
            np.testing.assert_array_equal(after, found["params"].astype(np.float32))
        for name in ("mu", "nu", "mu_scales", "nu_scales"):
            np.testing.assert_array_equal(changed[name], found[name])


def test_without_parameters() -> None:
    rng = np.random.default_rng(5)
    leaf = leaf_of(rng, (5, 300))
    table = table_of(rng, seed=2)
    table[..., 10:12] = 0
    (expected,) = update(table, [leaf], change=F32)
    del leaf["params"]
    (found,) = update(table, [leaf], change=F32)
    assert_same(found, expected)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 3), max_size=2),
    columns=st.integers(1, 1100),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_shape(shape: list[int], columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    leaf = leaf_of(rng, (*shape, columns), {"params": BF16})
    table = table_of(rng, seed=seed)
    (found,) = update(table, [leaf])
    assert_same(found, expected_of(table[0, 0], leaf, seed=seed))


def test_several_leaves_that_many_threads_share() -> None:
    rng = np.random.default_rng(6)
    shapes = [(300, 1000), (64,), (1, 70_000), (1000, 100), (0, 64), (3, 0)]
    leaves = [leaf_of(rng, shape, {"params": BF16, "grads": BF16}) for shape in shapes]
    table = table_of(rng, len(leaves) + 2, seed=9)
    found = update(table, leaves, first_row=2)
    for i, (of_leaf, leaf) in enumerate(zip(found, leaves, strict=True)):
        assert_same(of_leaf, expected_of(table[0, 2 + i], leaf, seed=9, leaf=2 + i))


def test_entries_of_a_batch_are_what_they_are_alone() -> None:
    rng = np.random.default_rng(7)
    for shape in [(3, 1000), (3, 5, 300), (3, 4, 256)]:
        leaf = leaf_of(rng, shape)
        table = np.concatenate([table_of(rng, seed=seed) for seed in (1, 2, 1)])
        (found,) = update(table, [leaf])
        for entry in range(3):
            alone = {name: x[entry] for name, x in leaf.items()}
            (expected,) = update(table[entry][None], [alone])
            assert_same({name: x[entry] for name, x in found.items()}, expected)


def test_in_place() -> None:
    """The results take the memory of their operands, as XLA honours it inside of a program."""
    rng = np.random.default_rng(8)
    leaf = leaf_of(rng, (40, 1000), {"params": BF16, "grads": BF16})
    table = table_of(rng, seed=3)
    (expected,) = update(table, [leaf])
    names = [name for name in leaf if name != "grads"]
    order = ["params", "grads", "mu", "nu", "mu_scales", "nu_scales"]
    attributes = {
        "streams": np.int64(0b1111 | 3 << 17),
        "returns_change": np.bool_(False),
        "first_row": np.int64(0),
    }
    types = [jax.ShapeDtypeStruct(leaf[n].shape, leaf[n].dtype) for n in order if n != "grads"]
    aliases = {1: 0, 3: 1, 4: 2, 5: 3, 6: 4}

    def step(*operands: Any) -> Any:
        call = jax.ffi.ffi_call("nadam_xla_update_v2", types, input_output_aliases=aliases)
        return call(table, *operands, **attributes)

    donated = (0, 2, 3, 4, 5)
    operands = [jax.numpy.array(leaf[name]) for name in order]
    places = [operands[i].unsafe_buffer_pointer() for i in donated]
    results = jax.jit(step, donate_argnums=donated)(*operands)
    assert [x.unsafe_buffer_pointer() for x in results] == places
    assert_same(dict(zip(names, map(np.asarray, results), strict=True)), expected)


def one_block(moment: str, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The codes and scales of these numbers, set as the new moment."""
    zero = np.zeros_like(values)
    leaf = {"params": zero, "grads": values, "mu": zero, "nu": zero}
    of_row = row(b1=0, one_minus_b1=1)
    if moment == "nu":
        # The new second moment is the old one, which is decoded from float32.
        leaf |= {"grads": zero, "nu": values}
        of_row = row()
        leaf["mu"], leaf["mu_scales"] = blockwise.encoded_signed(zero)
        (found,) = update(with_key(of_row[None, None]), [leaf])
        wide = found["nu"]
        np.testing.assert_array_equal(wide, values)
        leaf["grads"] = np.sqrt(values)
        of_row = row(b2=0, one_minus_b2=1)
    leaf[moment], leaf[f"{moment}_scales"] = MOMENTS[moment](zero)
    (found,) = update(with_key(of_row[None, None]), [leaf])
    return found[moment], found[f"{moment}_scales"]


class TestBlocksOfAllSorts:
    """What becomes of one block does not touch its neighbours."""

    @pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("place", [256, 300, 511])
    def test_a_number_that_is_not_finite_makes_its_block_nan(self, place: int, bad: float) -> None:
        rng = np.random.default_rng(9)
        leaf = leaf_of(rng, (2, 768))
        table = table_of(rng)
        clean = update(table, [leaf])[0]
        leaf["grads"][1, place] = bad
        table[..., 13] = 0  # no clipping
        clean = update(table, [{**leaf, "grads": np.nan_to_num(leaf["grads"], posinf=0)}])[0]
        found = update(table, [leaf])[0]
        for name in BOTH:
            is_bad = np.isnan(found[f"{name}_scales"])
            np.testing.assert_array_equal(is_bad, [[False] * 3, [False, True, False]])
            assert not found[name][1, 256:512].any()
            decoded = moment_of(found, name)
            assert np.isnan(decoded[1, 256:512]).all()
            for good in (np.s_[0], np.s_[1, :256], np.s_[1, 512:]):
                np.testing.assert_array_equal(found[name][good], clean[name][good])
        again = update(table, [{**leaf, **found, "grads": np.zeros_like(leaf["grads"])}])[0]
        assert np.isnan(again["nu_scales"][1, 1])

    def test_zeros_have_the_scale_zero(self) -> None:
        zero = np.zeros(700, np.float32)
        for name in BOTH:
            codes, scales = one_block(name, zero)
            assert not codes.any()
            assert not scales.any()

    @pytest.mark.parametrize("huge", [3e38, np.finfo(np.float32).max, 2.0**126, 1.0, 2.0**-55])
    def test_one_huge_value_leaves_the_others_above_zero(self, huge: float) -> None:
        values = np.full(256, huge * 1e-20, np.float32)
        values[7] = huge
        codes, scales = blockwise.encoded_unsigned(values)
        leaf = leaf_of(np.random.default_rng(0), (256,), quantized=("nu",))
        leaf |= {"nu": codes, "nu_scales": scales, "grads": np.zeros(256, np.float32)}
        (found,) = update(with_key(row()[None, None]), [leaf])
        np.testing.assert_array_equal(found["nu"], codes)
        np.testing.assert_array_equal(found["nu_scales"], scales)
        assert (moment_of(found, "nu") > 0).all()
        assert (codes[:7] == 1).all()

    def test_what_is_smaller_than_the_smallest_scale_is_not_zero(self) -> None:
        values = np.full(256, 2.0**-125, np.float32)
        zero = np.zeros_like(values)
        leaf = {"params": zero, "grads": zero, "mu": zero, "nu": zero}
        leaf["nu"], leaf["nu_scales"] = blockwise.encoded_unsigned(values)
        (found,) = update(with_key(row()[None, None]), [leaf])
        assert (found["nu_scales"] == np.float32(2.0**-90)).all()
        assert (found["nu"] == 1).all()


def test_a_skipped_leaf_keeps_every_bit() -> None:
    rng = np.random.default_rng(10)
    for shape in [(300, 1000), (5, 100)]:
        leaf = leaf_of(rng, shape, {"params": BF16})
        leaf["nu_scales"].flat[1] = np.nan
        table = table_of(rng)
        table[..., 14] = 1
        (found,) = update(table, [leaf])
        for name, result in found.items():
            np.testing.assert_array_equal(result.view(np.uint8), leaf[name].view(np.uint8))
        (found,) = update(table, [leaf], change=F32)
        assert not found["change"].any()


def test_codes_are_unbiased() -> None:
    """The mean over a million draws is the number, within four standard errors."""
    n = 2**20
    rng = np.random.default_rng(11)
    for number in rng.uniform(0.001, 0.99, 4).astype(np.float32):
        grads = np.full((n // 256, 256), number)
        grads[:, 0] = 1
        zero = np.zeros_like(grads)
        leaf = {"params": zero, "grads": grads, "mu": zero, "nu": zero}
        for name in BOTH:
            leaf[name], leaf[f"{name}_scales"] = MOMENTS[name](zero)
        of_row = row(b1=0, one_minus_b1=1, b2=0, one_minus_b2=1)
        (found,) = update(with_key(of_row[None, None], seed=12), [leaf])
        for name, exact in (("mu", float(number)), ("nu", float(np.square(number)))):
            x = moment_of(found, name)[:, 1:].astype(np.float64)
            assert len(np.unique(x)) <= 2
            error = x.std() / np.sqrt(x.size)
            assert abs(x.mean() - exact) <= 4 * error + 1e-6 * exact
        ups = [(found[name] != found[name].min())[:, 1:].ravel() for name in BOTH]
        assert abs(np.corrcoef(*ups)[0, 1]) < 4 / np.sqrt(n) + 2.0**-8


def test_the_bits_do_not_depend_on_instruction_set_or_threads(tmp_path: Path) -> None:
    """A process for each choice, for they are made once in a process."""
    program = """
import sys
import numpy as np

sys.path.insert(0, sys.argv[2])
import test_blockwise as t

rng = np.random.default_rng(12)
shapes = [(300, 1000), (7, 100), (1, 70_000), (40, 256)]
leaves = [t.leaf_of(rng, s, {"params": t.BF16, "grads": t.BF16}) for s in shapes]
found = t.update(t.table_of(rng, len(leaves), seed=1), leaves, stochastic=True)
named = {f"{name}{i}": x for i, leaf in enumerate(found) for name, x in leaf.items()}
np.savez(sys.argv[1], **{name: x.view(np.uint8) for name, x in named.items()})
"""
    found = []
    sets = _native.available_instruction_sets()
    for isa, threads in [*((isa, "2") for isa in sets), (sets[-1], "1"), (sets[-1], "7")]:
        path = tmp_path / f"{isa}{threads}.npz"
        environment = {"NADAM_XLA_MAX_ISA": isa, "NPROC": threads}
        output_of(program, path, Path(__file__).parent, environment=environment)
        found.append(np.load(path))
    for other in found[1:]:
        for name in found[0]:
            np.testing.assert_array_equal(other[name], found[0][name], err_msg=name)


class TestRefusals:
    """Each names what is wrong."""

    @staticmethod
    def refused(message: str, *, table: np.ndarray | None = None, n: int = 1, **o: Any) -> None:
        leaf = leaf_of(np.random.default_rng(0), (3, 300)) | o
        given = np.zeros((1, n, K), np.float32) if table is None else table
        with pytest.raises(jax.errors.JaxRuntimeError, match=f"nadam_xla_update_v2: .*{message}"):
            update(given, [leaf] * n)

    def test_codes_of_another_dtype(self) -> None:
        codes = np.zeros((3, 300), np.uint8)
        self.refused(r"mu\[0\] is U8\[3,300\]; with mu_scales beside it, it must be S8", mu=codes)
        self.refused(r"nu\[0\] is F32\[3,300\]; with nu_.*must be U8", nu=codes.astype(F32))

    def test_codes_without_scales(self) -> None:
        leaf = leaf_of(np.random.default_rng(0), (3, 300))
        del leaf["mu_scales"]
        with pytest.raises(jax.errors.JaxRuntimeError, match=r"mu\[0\] is S8\[3,300\]; it must be"):
            update(np.zeros((1, 1, K), np.float32), [leaf])

    @pytest.mark.parametrize("shape", [(3, 1), (3, 3), (6,), (2, 2), (3, 2, 1)])
    def test_scales_of_another_shape(self, shape: tuple[int, ...]) -> None:
        message = r"mu_scales\[0\] is F32\[.*\]; it must be F32 and have the shape \[3,300\] of"
        self.refused(message, mu_scales=np.zeros(shape, np.float32))

    def test_scales_of_another_dtype(self) -> None:
        self.refused(r"nu_scales\[0\] is BF16\[3,2\]; it must", nu_scales=np.zeros((3, 2), BF16))

    def test_scalars(self) -> None:
        leaf = {name: np.zeros((), F32) for name in ("params", "grads", "mu", "nu_scales")}
        leaf["nu"] = np.zeros((), np.uint8)
        with pytest.raises(jax.errors.JaxRuntimeError, match="it must have a last axis"):
            update(np.zeros((1, 1, K), np.float32), [leaf])

    def test_rows_without_a_key(self) -> None:
        message = r"where moments have scales it must be \[batch, 2 or more, 23\]"
        self.refused(message, table=np.zeros((1, 1, K), np.float32), n=2)
        self.refused("where moments have scales it", table=np.zeros((1, 1, 15), np.float32))

    def test_coefficients_in_float64(self) -> None:
        with enable_x64(True):
            table = np.zeros((1, 1, K))
            self.refused("coefficients is F64; where moments have scales it must", table=table)
