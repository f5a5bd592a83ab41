"""Each array of a leaf in a dtype of its own: what the custom call reads, and what it stores."""

import itertools
from collections.abc import Sequence

import jax
import numpy as np
import oracle
import pytest
import storage_oracle as stored
from update_call import (
    LEAF,
    MU_IS_GRADIENT,
    MU_IS_PARAM,
    PARAM_IS_MU,
    SHARD,
    K,
    Leaf,
    row,
    update,
    with_key,
)
from x64 import enable_x64

import nadam_xla.jax  # noqa: F401 - registers the handler

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
BF16, F16 = stored.BFLOAT16, stored.FLOAT16
NARROW = (BF16, F16)
RULE_STREAMS = ("params", "grads", "mu", "nu")


def leaf_of(rng: np.random.Generator, dtypes: Sequence[np.dtype], *shape: int) -> Leaf:
    numbers = rng.uniform(0.5, 1.5, (4, *shape))
    return {
        name: x.astype(dtype) for name, x, dtype in zip(RULE_STREAMS, numbers, dtypes, strict=True)
    }


def exact(of_row: np.ndarray, leaf: Leaf) -> dict[str, np.ndarray]:
    wide = [leaf[name].astype(np.float64) for name in RULE_STREAMS]
    params, change, mu, nu = oracle.rule(of_row.astype(np.float64), *wide)
    return {"params": params, "change": change, "mu": mu, "nu": nu}


def assert_rounded(found: np.ndarray, number: np.ndarray, tolerance: float) -> None:
    """It is the number rounded, but where that is so near to a boundary."""
    ends = (number * (1 - tolerance), number * (1 + tolerance))
    rounded = np.sort([stored.nearest(end, found.dtype).astype(np.float64) for end in ends], axis=0)
    values = found.astype(np.float64)
    assert np.all((rounded[0] <= values) & (values <= rounded[1]))


@pytest.mark.parametrize("returns", ["params", "change"])
@pytest.mark.parametrize("computed", [F32, F64], ids=str)
def test_every_mixture_of_storages_is_the_exact_result_rounded(
    computed: np.dtype, returns: str
) -> None:
    rng = np.random.default_rng(0)
    mixtures = [
        dtypes
        for dtypes in itertools.product(stored.STORED, repeat=4)
        if computed == F64 or dtypes[0] != F64
    ]
    with enable_x64(True):
        for params in stored.STORED:
            leaves = [leaf_of(rng, dtypes, 77) for dtypes in mixtures if dtypes[0] == params]
            if not leaves:
                continue
            table = oracle.rows(rng, (1, len(leaves)), str(computed))
            change = params if returns == "change" else None
            found = update(table, leaves, change=change)
            for of_row, leaf, results in zip(table[0], leaves, found, strict=True):
                expected = exact(of_row, leaf)
                for name, result in results.items():
                    is_exact = computed == result.dtype == F64
                    assert_rounded(result, expected[name], 1e-13 if is_exact else 1e-6)


@pytest.mark.parametrize("returns", ["params", "change"])
def test_float32_beside_narrow_leaves_has_the_bits_of_the_rule(returns: str) -> None:
    rng = np.random.default_rng(1)
    leaves = [leaf_of(rng, dtypes, 1001) for dtypes in ([F32] * 4, [BF16] * 4, [F32] * 4)]
    table = oracle.rows(rng, (1, 3), "float32")
    found = update(table, leaves, change=F32 if returns == "change" else None)
    for i in (0, 2):
        params, change, mu, nu = oracle.rule(table[0, i], *leaves[i].values())
        expected = {"params": params, "change": change, "mu": mu, "nu": nu}
        for name, result in found[i].items():
            np.testing.assert_array_equal(result, expected[name])


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 127, 128, 129, 4097, 70_001])
def test_narrow_leaves_of_any_length_are_the_rule_in_float32_rounded(length: int) -> None:
    rng = np.random.default_rng(length)
    leaf = leaf_of(rng, [BF16, F16, F16, BF16], length)
    table = oracle.rows(rng, (1, 1), "float32")
    (found,) = update(table, [leaf])
    wide = [leaf[name].astype(np.float32) for name in RULE_STREAMS]
    params, _, mu, nu = oracle.rule(table[0, 0], *wide)
    for name, expected in {"params": params, "mu": mu, "nu": nu}.items():
        np.testing.assert_array_equal(found[name], stored.nearest(expected, leaf[name].dtype))


def test_a_batch_of_rows_updates_entries_of_a_narrow_leaf() -> None:
    rng = np.random.default_rng(2)
    leaf = leaf_of(rng, [BF16, BF16, F32, F16], 3, 101)
    table = oracle.rows(rng, (3, 1), "float32")
    (found,) = update(table, [leaf])
    for entry in range(3):
        alone = {name: x[entry] for name, x in leaf.items()}
        (expected,) = update(table[entry][None], [alone])
        for name, result in found.items():
            np.testing.assert_array_equal(result[entry], expected[name])


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_a_skipped_leaf_stays(dtype: np.dtype) -> None:
    rng = np.random.default_rng(3)
    leaf = leaf_of(rng, [dtype] * 4, 301) | {"master": rng.normal(size=301).astype(np.float32)}
    table = row(skip=1, learning_rate=1, c_g=1)[None, None]
    for stochastic in (False, True):
        (found,) = update(with_key(table), [leaf], stochastic=stochastic)
        for name, result in found.items():
            np.testing.assert_array_equal(result, leaf[name])
        (changed,) = update(with_key(table), [leaf], change=F32, stochastic=stochastic)
        assert np.all(changed["change"].view(np.uint32) == 0x80000000), "minus zero"


def edges() -> np.ndarray:
    """The numbers about which something happens, and their neighbours."""
    at = [0.0, 1.0, 2.0**-14, 2.0**-24, 2.0**-25, 65504.0, 65520.0, 3.3895e38, 3.4028235e38, np.inf]
    bits = np.array(at, np.float32).view(np.uint32).astype(np.int64)[:, None] + np.arange(-300, 301)
    numbers = bits[(bits >= 2**23) & (bits <= 0x7F800000)].astype(np.uint32).view(np.float32)
    return np.concatenate([numbers, -numbers, [0.0, np.nan]]).astype(np.float32)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_nearest_at_the_edges_of_the_range(dtype: np.dtype) -> None:
    x = edges()
    zero = np.zeros_like(x)
    leaf = {"params": zero, "grads": x, "mu": zero.astype(dtype), "nu": zero}
    (found,) = update(MU_IS_GRADIENT[None, None], [leaf])
    np.testing.assert_array_equal(found["mu"].astype(F32), stored.nearest(x, dtype).astype(F32))


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_infinity_and_nan_stay_and_only_what_is_nearest_to_infinity_becomes_it(
    dtype: np.dtype,
) -> None:
    x = edges()
    zero = np.zeros_like(x)
    leaf = {"params": zero, "grads": x, "mu": zero.astype(dtype), "nu": zero}
    is_infinite = np.isinf(stored.nearest(x, dtype).astype(F32))
    became_infinite = np.zeros(x.shape, bool)
    for seed in range(64):
        table = with_key(MU_IS_GRADIENT[None, None], seed=seed)
        found = update(table, [leaf], stochastic=True)[0]["mu"].astype(F32)
        np.testing.assert_array_equal(np.isnan(found), np.isnan(x))
        assert np.all(np.isinf(found[np.isinf(x)]))
        assert not np.any(np.isinf(found) & ~is_infinite)
        became_infinite |= np.isinf(found)
        draw = stored.draws(len(x), stored.OF_STATES, seed=seed)
        np.testing.assert_array_equal(found, stored.stochastic(x, dtype, draw).astype(F32))
    assert np.any(became_infinite & np.isfinite(x))


def stored_by_draws(x: np.ndarray, dtype: np.dtype, draw: np.ndarray) -> np.ndarray:
    return stored.stochastic(x.astype(np.float32), dtype, draw)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("length", [1, 100, 128, 129, 70_001])
def test_each_stream_is_rounded_by_draws_of_its_own(dtype: np.dtype, length: int) -> None:
    """The parameters', and of the second moment those of the first with their bytes swapped."""
    rng = np.random.default_rng(length)
    leaves = [leaf_of(rng, [dtype] * 4, length) for _ in range(3)]
    key = {"seed": 0xDEADBEEF, "step": 0x12345678, "shard": 5}
    table = with_key(oracle.rows(rng, (1, 3), "float32"), first_leaf=70, **key)
    for leaf, of_row, results in zip(
        leaves, table[0], update(table, leaves, stochastic=True), strict=True
    ):
        number = int(of_row[LEAF])
        of_states = stored.draws(length, stored.OF_STATES, leaf=number, **key)
        of_params = stored.draws(length, stored.OF_PARAMS, leaf=number, **key)
        wide = [leaf[name].astype(np.float32) for name in RULE_STREAMS]
        params, _, mu, nu = oracle.rule(of_row, *wide)
        for name, x, draw in (
            ("params", params, of_params),
            ("mu", mu, of_states),
            ("nu", nu, stored.swapped_bytes(of_states)),
        ):
            np.testing.assert_array_equal(results[name], stored_by_draws(x, dtype, draw))


def test_the_draws_of_the_kernel_are_the_generators() -> None:
    """All 16 bits of each, found by 16 roundings of a number chosen for it."""
    length = 10_000
    zero = np.zeros(length, np.float32)
    table = with_key(MU_IS_GRADIENT[None, None], seed=7, step=9)
    known = np.zeros(length, np.uint32)
    for bit in reversed(range(16)):
        tried = known | 1 << bit
        # 1 and (2**16 - tried) in 2**16 of the last place: rounded up where the draw is no less.
        x = (np.uint32(0x3F800000) + np.uint32(0x10000) - tried).view(np.float32)
        leaf = {"params": zero, "grads": x, "mu": zero.astype(BF16), "nu": zero}
        up = update(table, [leaf], stochastic=True)[0]["mu"].astype(np.float32) > 1
        known = np.where(up, tried, known).astype(np.uint32)
    np.testing.assert_array_equal(known, stored.draws(length, stored.OF_STATES, seed=7, step=9))


def numbers_between(dtype: np.dtype) -> np.ndarray:
    """Numbers in many places between two neighbours, across the exponents, with subnormal ones."""
    rng = np.random.default_rng(4)
    exponents = np.arange(-24, 16) if dtype == F16 else np.arange(-120, 120, 6)
    inner = np.ldexp(rng.uniform(1, 1.99, len(exponents)), exponents).astype(np.float32)
    sign = np.where(np.arange(len(exponents)) % 2, 1, -1).astype(np.float32)
    return sign * inner


def neighbours(x: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    inner = stored.stochastic(x, dtype, np.zeros(x.shape, np.uint32))
    outer = (inner.view(np.uint16) + np.uint16(1)).view(dtype)
    return inner.astype(np.float64), outer.astype(np.float64)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("stream", ["params", "mu", "nu"])
def test_stochastic_rounding_is_unbiased(stream: str, dtype: np.dtype) -> None:
    """Over a million draws for each number, within four standard errors."""
    draws = 2**20
    for i, number in enumerate(numbers_between(dtype)):
        x = np.full(draws, number, np.float32)
        zero, narrow = np.zeros_like(x), np.zeros(draws, dtype)
        leaf, of_row = {
            "params": ({"params": narrow, "grads": zero, "mu": x, "nu": zero}, PARAM_IS_MU),
            "mu": ({"params": zero, "grads": x, "mu": narrow, "nu": zero}, MU_IS_GRADIENT),
            # The square root has been chosen; what is stored is the square as float32 has it.
            "nu": (
                {"params": zero, "grads": np.sqrt(np.abs(x)), "mu": zero, "nu": narrow},
                row(b2=0, one_minus_b2=1),
            ),
        }[stream]
        table = with_key(of_row[None, None], seed=i, step=3)
        found = update(table, [leaf], stochastic=True)[0][stream].astype(np.float64)
        exactly = np.square(leaf["grads"][:1]) if stream == "nu" else x[:1]
        inner, outer = (end[0] for end in neighbours(exactly, dtype))
        assert set(np.unique(found)) <= {inner, outer}
        share = float((exactly[0] - inner) / (outer - inner))
        standard_error = np.sqrt(share * (1 - share) / draws)
        # A float16's subnormal numbers have fractions that the 16 bits of a draw round.
        assert abs(np.mean(found != inner) - share) <= 4 * standard_error + 2.0**-17


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_the_draws_of_the_moments_are_nearly_independent(dtype: np.dtype) -> None:
    n = 2**20
    x = np.full(n, 1 + 2.0**-12 if dtype == F16 else 1 + 2.0**-9, np.float32)
    narrow = np.zeros(n, dtype)
    leaf = {"params": narrow, "grads": x, "mu": narrow, "nu": narrow}
    of_row = row(b1=0, one_minus_b1=1, b2=0, one_minus_b2=1, c_g=1, learning_rate=-1)
    (found,) = update(with_key(of_row[None, None]), [leaf], stochastic=True)
    ups = [found[name] != np.min(found[name]) for name in ("params", "mu", "nu")]
    for a, b in itertools.combinations(ups, 2):
        assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(n) + 2.0**-8
    for up in ups:
        assert abs(np.corrcoef(up[1:], up[:-1])[0, 1]) < 5 / np.sqrt(n)


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"step": 1}, {"shard": 1}, {"first_leaf": 1}, {"seed": 1 << 16}]
)
def test_each_part_of_the_key_gives_other_numbers(other: dict[str, int]) -> None:
    x = np.full(4096, 1 + 2.0**-9, np.float32)
    zero = np.zeros_like(x)
    leaf = {"params": zero, "grads": x, "mu": zero.astype(BF16), "nu": zero}
    runs = [
        update(with_key(MU_IS_GRADIENT[None, None], **key), [leaf], stochastic=True)[0]["mu"] != 1
        for key in ({}, other)
    ]
    assert abs(np.corrcoef(*runs)[0, 1]) < 5 / np.sqrt(len(x))


def test_entries_of_a_batch_have_the_numbers_that_they_have_alone() -> None:
    rng = np.random.default_rng(5)
    leaf = leaf_of(rng, [BF16] * 4, 3, 1001)
    table = np.concatenate(
        [with_key(oracle.rows(rng, (1, 1), "float32"), seed=seed) for seed in (1, 2, 1)]
    )
    (found,) = update(table, [leaf], stochastic=True)
    for entry in range(3):
        alone = {name: x[entry] for name, x in leaf.items()}
        (expected,) = update(table[entry][None], [alone], stochastic=True)
        for name, result in found.items():
            np.testing.assert_array_equal(result[entry], expected[name])


MASTERS = [(BF16, F32), (F16, F32), (BF16, np.dtype(np.uint16)), (BF16, np.dtype(np.uint8))]


def as_stored(x: np.ndarray, params: np.dtype, master: np.dtype) -> Leaf:
    """Parameters and masters that stand for a float32."""
    if master == F32:
        return {"params": stored.nearest(x, params), "master": x}
    bits = 8 * master.itemsize
    parts = stored.split(stored.to_24_bits(x) if bits == 8 else x, bits)
    return dict(zip(("params", "master"), parts, strict=True))


def number_of(leaf: Leaf) -> np.ndarray:
    master = leaf["master"]
    return master if master.dtype == F32 else stored.joined(leaf["params"], master)


@pytest.mark.parametrize("returns", ["params", "change"])
@pytest.mark.parametrize(("params", "master"), MASTERS, ids=str)
def test_masters_are_updated_in_float32_and_the_parameters_with_them(
    params: np.dtype, master: np.dtype, returns: str
) -> None:
    rng = np.random.default_rng(6)
    for length in (1, 64, 1001):
        leaf = dict(leaf_of(rng, [F32, BF16, BF16, BF16], length))
        leaf |= as_stored(leaf["params"], params, master)
        table = oracle.rows(rng, (1, 1), "float32")
        (found,) = update(table, [leaf], change=F32 if returns == "change" else None)
        wide = [leaf[name].astype(np.float32) for name in ("grads", "mu", "nu")]
        new, _, mu, nu = oracle.rule(table[0, 0], number_of(leaf), *wide)
        expected = as_stored(new, params, master)
        expected |= {"mu": stored.nearest(mu, BF16), "nu": stored.nearest(nu, BF16)}
        before, after = (of["params"].astype(np.float32) for of in (leaf, expected))
        expected["change"] = after - before
        for name, result in found.items():
            np.testing.assert_array_equal(result, expected[name], err_msg=name)
        if returns == "change":
            np.testing.assert_array_equal(before + found["change"], after)


@pytest.mark.parametrize(("params", "master"), MASTERS, ids=str)
def test_a_master_keeps_what_it_says(params: np.dtype, master: np.dtype) -> None:
    """All 24 bits of a float32, or its first 16 and half a place."""
    x = edges()
    x = x[np.abs(x) > 2.0**-120]
    zero = np.zeros_like(x)
    leaf = {"grads": zero, "mu": x, "nu": zero} | as_stored(zero, params, master)
    (found,) = update(PARAM_IS_MU[None, None], [leaf])
    kept = stored.to_24_bits(x) if master == np.uint8 else x
    np.testing.assert_array_equal(number_of(found), kept)
    np.testing.assert_array_equal(found["params"], as_stored(x, params, master)["params"])
    if master != np.uint8:
        np.testing.assert_array_equal(kept, x)


def test_nan_becomes_nan_in_the_parameter_and_its_master() -> None:
    x = np.full(100, np.nan, np.float32)
    zero = np.zeros_like(x)
    for params, master in MASTERS:
        leaf = {"grads": zero, "mu": x, "nu": zero} | as_stored(zero, params, master)
        (found,) = update(PARAM_IS_MU[None, None], [leaf])
        assert np.all(np.isnan(found["params"]))
        assert np.all(np.isnan(number_of(found)))


def test_a_parameter_that_was_set_to_zero_is_zero_whatever_its_remainder() -> None:
    remainder = np.arange(2**16, dtype=np.uint16)
    zero = np.zeros(2**16, np.float32)
    leaf = {"grads": zero, "mu": zero, "nu": zero}
    leaf |= {"params": zero.astype(BF16), "master": remainder}
    (found,) = update(MU_IS_PARAM[None, None], [leaf])
    expected = stored.joined(leaf["params"], remainder)
    is_normal = np.abs(expected) >= 2.0**-126
    np.testing.assert_array_equal(found["mu"][is_normal], expected[is_normal])
    assert np.all(found["mu"][2**15 :] == 0)


def test_a_correction_is_rounded_stochastically_in_its_last_place() -> None:
    length = 70_001
    x = np.random.default_rng(7).normal(size=length).astype(np.float32)
    zero = np.zeros_like(x)
    leaf = {"grads": zero, "mu": x, "nu": zero, "params": zero.astype(BF16)}
    leaf["master"] = np.zeros(length, np.uint8)
    table = with_key(PARAM_IS_MU[None, None], seed=11)
    (found,) = update(table, [leaf], stochastic=True)
    draw = stored.draws(length, stored.OF_PARAMS, seed=11)
    params, master = stored.split(stored.to_24_bits(x, draw), 8)
    np.testing.assert_array_equal(found["params"], params)
    np.testing.assert_array_equal(found["master"], master)


@pytest.mark.parametrize("master", [F32, np.dtype(np.uint16)], ids=str)
def test_what_is_exact_is_not_rounded_stochastically(master: np.dtype) -> None:
    rng = np.random.default_rng(8)
    leaf = dict(leaf_of(rng, [F32, BF16, F32, F32], 1001))
    leaf |= as_stored(leaf["params"], BF16, master)
    table = oracle.rows(rng, (1, 1), "float32")
    (found,) = update(with_key(table, seed=1), [leaf], stochastic=True)
    (expected,) = update(table, [leaf])
    for name, result in found.items():
        np.testing.assert_array_equal(result, expected[name])


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_the_change_of_what_is_drawn_leads_to_the_same_parameters(dtype: np.dtype) -> None:
    rng = np.random.default_rng(9)
    leaf = leaf_of(rng, [dtype] * 4, 1001)
    table = with_key(oracle.rows(rng, (1, 1), "float32"), seed=2)
    (found,) = update(table, [leaf], stochastic=True)
    (changed,) = update(table, [leaf], change=F32, stochastic=True)
    after = leaf["params"].astype(np.float32) + changed["change"]
    np.testing.assert_array_equal(after, found["params"].astype(np.float32))
    for name in ("mu", "nu"):
        np.testing.assert_array_equal(changed[name], found[name])


class TestRefusals:
    """Each names what is wrong."""

    @staticmethod
    def leaf(**others: np.ndarray) -> Leaf:
        zero = np.zeros(3, BF16)
        return {"params": zero, "grads": zero, "mu": zero, "nu": zero, **others}

    @staticmethod
    def refused(message: str, leaves: Sequence[Leaf], *, k: int = K, **options: object) -> None:
        rows = options.pop("rows", len(leaves))
        table = np.zeros((1, rows, k), np.float32)  # type: ignore[call-overload]
        with pytest.raises(jax.errors.JaxRuntimeError, match=f"nadam_xla_update_v2: .*{message}"):
            update(table, leaves, **options)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("params", "master", "name"),
        [
            (F32, F32, "F32"),
            (F16, np.uint16, "U16"),
            (F16, np.uint8, "U8"),
            (BF16, BF16, "BF16"),
            (BF16, np.int16, "S16"),
        ],
    )
    def test_a_master_of_another_storage(
        self, params: np.dtype, master: np.dtype, name: str
    ) -> None:
        leaf = self.leaf(params=np.zeros(3, params), master=np.zeros(3, master))
        self.refused(rf"master\[0\] is {name}; of parameters that are BF16 it must be", [leaf])

    def test_a_master_of_another_shape(self) -> None:
        leaf = self.leaf(master=np.zeros(4, np.float32))
        self.refused(r"master\[0\] is F32\[4\]; its shape must be \[3\] like that of", [leaf])

    def test_a_master_without_parameters(self) -> None:
        leaf = {k: x for k, x in self.leaf(master=np.zeros(3, F32)).items() if k != "params"}
        self.refused("streams has master and lacks params", [leaf], change=F32)

    def test_wide_parameters_of_narrow_coefficients(self) -> None:
        with enable_x64(True):
            self.refused(
                r"params\[0\] is F64; coefficients must be F64 too",
                [self.leaf(params=np.zeros(3, F64))],
            )

    def test_integers(self) -> None:
        leaf = self.leaf(grads=np.zeros(3, np.int8))
        self.refused(r"grads\[0\] is S8\[3\]; it must be F32, F64, BF16 or F16", [leaf])

    def test_rows_without_a_key(self) -> None:
        for options in ({"k": 15}, {"k": SHARD}, {"rows": 1}):
            self.refused(
                rf"where rounding is stochastic it must be \[batch, 2 or more, {K}\]",
                [self.leaf()] * 2,
                stochastic=True,
                **options,
            )

    @pytest.mark.parametrize(
        ("attributes", "message"),
        [
            ({"rounding": np.int64(2)}, "the attribute rounding is 2; it must be 0"),
            ({"rounding": np.int32(1)}, "the attribute rounding must be given, as an int64"),
            ({"round": np.int64(1)}, "got 4 attributes; there are returns_change, streams and"),
            ({"rounding": np.int64(1), "more": np.int64(1)}, "got 5 attributes"),
        ],
    )
    def test_attributes(self, attributes: dict[str, object], message: str) -> None:
        leaf = self.leaf()
        results = [jax.ShapeDtypeStruct((3,), BF16)] * 3
        known = {
            "streams": np.int64(15),
            "returns_change": np.bool_(False),
            "first_row": np.int64(0),
        }
        call = jax.ffi.ffi_call("nadam_xla_update_v2", results)
        with pytest.raises(jax.errors.JaxRuntimeError, match=f"nadam_xla_update_v2: .*{message}"):
            jax.block_until_ready(
                call(np.zeros((1, 1, K), np.float32), *leaf.values(), **known, **attributes)
            )

    @pytest.mark.parametrize("stream", RULE_STREAMS)
    def test_version_1_is_all_of_one_type(self, stream: str) -> None:
        zero = np.zeros(3, np.float32)
        leaf = dict.fromkeys(RULE_STREAMS, zero) | {stream: np.zeros(3, BF16)}
        results = [jax.ShapeDtypeStruct((3,), leaf[name].dtype) for name in ("params", "mu", "nu")]
        call = jax.ffi.ffi_call("nadam_xla_update_v1", results)
        message = rf"{stream}\[0\] is not stored as coefficients are; it must be F32"
        with pytest.raises(jax.errors.JaxRuntimeError, match=message):
            jax.block_until_ready(
                call(np.zeros((1, 1, 12), np.float32), *leaf.values(), returns_change=np.bool_(0))
            )


def test_a_program_from_before_the_rounding_rounds_to_the_nearest() -> None:
    rng = np.random.default_rng(10)
    leaf = leaf_of(rng, [BF16] * 4, 65)
    table = oracle.rows(rng, (1, 1), "float32")
    (expected,) = update(table, [leaf])
    (found,) = update(table[..., :15], [leaf])
    for name, result in found.items():
        np.testing.assert_array_equal(result, expected[name])
