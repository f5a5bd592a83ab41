"""The rule of one element and the row that drives it, compiled without loops, threads and XLA."""

import ctypes
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import oracle
import pytest
from compiled_source import compile_library, skip_where_the_compiler_is_for_another_machine

from nadam_xla.coefficients import Coefficients

skip_where_the_compiler_is_for_another_machine()

SOURCE = Path(__file__).with_name("update_rule.cpp")
FIELDS = Coefficients._fields
K = len(FIELDS)
WITH_PARAMS, WITHOUT_PARAMS, WITH_AVERAGE = 0b1111, 0b1110, 0b11111
PLAIN, NONE, DECAY, DECAY_AND_CLAMP = range(4)
TYPES: dict[str, Any] = {"float32": ctypes.c_float, "float64": ctypes.c_double}


class Results(NamedTuple):
    params: np.ndarray
    change: np.ndarray
    mu: np.ndarray
    nu: np.ndarray
    average: np.ndarray
    fewest_terms: int


class Rule:
    """What the library has."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        library.row_field.restype = ctypes.c_char_p

    def row(self, values: Mapping[str, float], dtype: str = "float32") -> np.ndarray:
        """A row of kV2 with these values, each in the place that has its name."""
        names: list[str] = []
        while name := self.library.row_field(len(names)):
            names.append(name.decode())
        return np.array([values[name] for name in names], dtype)

    def update(
        self,
        row: np.ndarray,
        *leaf: np.ndarray,
        version: int = 2,
        length: int | None = None,
        streams: int = WITH_PARAMS,
        terms: int = -1,
    ) -> Results | None:
        """Of leaves of any dtype; None where the row needs more terms."""
        count, dtype = leaf[0].size, leaf[0].dtype
        results = [np.full(count, 7, dtype) for _ in range(5)]
        fewest = self._of("update", dtype)(
            _pointer(row.astype(dtype)),
            version,
            len(row) if length is None else length,
            ctypes.c_int64(streams),
            terms,
            ctypes.c_int64(count),
            _pointers(leaf),
            _pointers(results),
        )
        if fewest == -1:
            return None
        params, change, mu, nu, average = results
        return Results(params, change, mu, nu, average, fewest)

    def skips(self, row: np.ndarray, version: int = 2) -> bool:
        function = self._of("skips", row.dtype)
        function.restype = ctypes.c_bool
        return bool(function(_pointer(row), version, len(row)))

    def key(self, row: np.ndarray) -> dict[str, int]:
        words = np.zeros(4, np.uint32)
        self._of("key", row.dtype)(_pointer(row), _pointer(words))
        return dict(zip(("seed", "step", "leaf", "shard"), words.tolist(), strict=True))

    def no_change(self, dtype: str) -> float:
        function = self._of("no_change", np.dtype(dtype))
        function.restype = TYPES[dtype]
        return float(function())

    def _of(self, name: str, dtype: np.dtype) -> Any:
        return self.library[f"{name}_f{8 * dtype.itemsize}"]


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    """One that keeps the array."""
    return array.ctypes.data_as(ctypes.c_void_p)


def _pointers(arrays: Sequence[np.ndarray]) -> Any:
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))


@pytest.fixture(scope="module")
def rule(tmp_path_factory: pytest.TempPathFactory) -> Rule:
    library = tmp_path_factory.mktemp("rule") / "update_rule.so"
    return Rule(ctypes.CDLL(str(compile_library(library, "-ffp-contract=off", sources=[SOURCE]))))


SPECIAL = [0.0, -0.0, 1.0, np.inf, -np.inf, np.nan, 1e-45, -1e-42, 2e19, -3e38, 3e38]
# What each optional coefficient is where it is off.
OFF = {"decay": 0.0, "l2": 0.0, "clip_value": 0.0, "eps_root": 0.0, "grad_scale": 1.0}


def leaf(rng: np.random.Generator, dtype: str, length: int = 300) -> list[np.ndarray]:
    """Parameters, gradients, moments and an average; many of the numbers are special."""
    arrays = []
    for _ in range(5):
        array = rng.normal(size=length) * 10.0 ** rng.integers(-3, 3, length)
        array[rng.random(length) < 0.3] = 0
        chosen = rng.random(length) < 0.3
        array[chosen] = rng.choice(SPECIAL, chosen.sum())
        arrays.append(array.astype(dtype))
    arrays[3] = np.copysign(arrays[3], rng.choice([1, 1, -1], length)).astype(dtype)
    return arrays


def leaf_of(*numbers: float) -> list[np.ndarray]:
    """Of one element: its parameter, gradient and moments."""
    return [np.array([x], np.float32) for x in numbers]


def any_row(rng: np.random.Generator, dtype: str) -> dict[str, float]:
    row = oracle.rows(rng, (), dtype)
    return dict(zip(FIELDS, row.tolist(), strict=True))


def as_contract(row: Mapping[str, float], dtype: str) -> np.ndarray:
    return np.array([row[name] for name in FIELDS], dtype)


def assert_same_bits(found: np.ndarray, expected: np.ndarray) -> None:
    """Whichever NaN it is."""
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    is_number = ~np.isnan(found)
    np.testing.assert_array_equal(found[is_number], expected[is_number])
    np.testing.assert_array_equal(np.signbit(found[is_number]), np.signbit(expected[is_number]))


def fewest_terms(row: Mapping[str, float]) -> int:
    if row["clip_value"] != 0:
        return DECAY_AND_CLAMP
    if row["decay"] != 0 or row["l2"] != 0:
        return DECAY
    is_plain = row["grad_scale"] == 1 and row["eps_root"] == 0 and row["eps"] > 0
    return PLAIN if is_plain else NONE


SUBSETS = [off for size in range(len(OFF) + 1) for off in itertools.combinations(OFF, size)]


@pytest.mark.parametrize("dtype", TYPES)
def test_the_rule_gives_the_bits_of_the_contract(rule: Rule, dtype: str) -> None:
    for seed, off in enumerate(SUBSETS):
        rng = np.random.default_rng(seed)
        row = any_row(rng, dtype) | {name: OFF[name] for name in off}
        assert_contract(rule, row, leaf(rng, dtype), dtype)


def assert_contract(
    rule: Rule, row: Mapping[str, float], arrays: Sequence[np.ndarray], dtype: str
) -> None:
    coefficients = as_contract(row, dtype)
    expected = oracle.rule(coefficients, *arrays[:4])
    average = oracle.averaged(coefficients, arrays[4], expected[0])
    for terms in (-1, PLAIN, NONE, DECAY, DECAY_AND_CLAMP):
        found = rule.update(rule.row(row, dtype), *arrays, streams=WITH_AVERAGE, terms=terms)
        # A loop without a term is for rows that have it not, and only for those.
        assert (found is None) == (0 <= terms < fewest_terms(row)), row
        if found is not None:
            for result, values in zip(found[:5], [*expected, average], strict=True):
                assert_same_bits(result, values)
        without = rule.update(rule.row(row, dtype), *arrays, terms=terms)
        if without is not None:
            for result, values in zip(without[:4], expected, strict=True):
                assert_same_bits(result, values)
            assert (without.average == 7).all()


@pytest.mark.parametrize("name", ["decay", "l2"])
def test_a_coefficient_below_zero_is_a_term(rule: Rule, name: str) -> None:
    rng = np.random.default_rng(0)
    row = any_row(rng, "float32") | OFF | {name: -0.1}
    assert_contract(rule, row, leaf(rng, "float32"), "float32")


def test_an_eps_that_is_no_number_above_zero_shows_the_sign_of_the_root(rule: Rule) -> None:
    """So a loop that adds nothing within the root would divide by a zero of the other sign."""
    row = rule.row(dict.fromkeys(FIELDS, 0.0) | {"c_m": 1, "c_v": -1, "b1": 1, "b2": 1})
    row[[7, 12]] = 1  # learning_rate, grad_scale
    row[8] = -0.0  # eps
    arrays = leaf_of(0, 0, 1, 0)
    found = rule.update(row, *arrays)
    assert found is not None
    _, expected, *_ = oracle.rule(row, *arrays)
    assert_same_bits(found.change, expected)


@pytest.mark.parametrize("off", [(), ("decay",), ("l2",), ("decay", "l2")], ids=str)
def test_an_infinite_parameter_stays_where_nothing_decays(rule: Rule, off: Sequence[str]) -> None:
    row = any_row(np.random.default_rng(0), "float32") | dict.fromkeys(off, 0.0)
    arrays = leaf_of(np.inf, 1, 1, 1)
    found = rule.update(rule.row(row), *arrays)
    assert found is not None
    assert np.isinf(found.params[0]) == (len(off) == 2)
    assert np.isinf(found.mu[0]) == ("l2" not in off)


@pytest.mark.parametrize("clip", [0.0, -0.0])
def test_a_limit_of_zero_limits_nothing(rule: Rule, clip: float) -> None:
    row = any_row(np.random.default_rng(0), "float32") | {"clip_value": clip}
    arrays = leaf_of(1, 1e6, 0, 0)
    found = rule.update(rule.row(row), *arrays)
    assert found is not None
    assert found.mu[0] > 1e3


def test_within_a_limit_that_is_nan_no_gradient_is_known(rule: Rule) -> None:
    row = any_row(np.random.default_rng(0), "float32") | {"clip_value": float("nan")}
    found = rule.update(rule.row(row), *leaf_of(1, 0, 0, 0))
    assert found is not None
    assert np.isnan(found.mu[0])
    assert np.isnan(found.nu[0])


def of_version_1(row: Mapping[str, float], dtype: str) -> np.ndarray:
    names = ["c_m", "c_g", "c_v", "one_minus_b1", "one_minus_b2", "eps", "eps_root", "decay", "l2"]
    names += ["grad_scale", "clip_value", "skip"]
    return np.array([row[name] for name in names], dtype)


@pytest.mark.parametrize("dtype", TYPES)
def test_version_1_is_the_rule_but_for_infinite_gradients(rule: Rule, dtype: str) -> None:
    rng = np.random.default_rng(1)
    row = any_row(rng, dtype)
    given = of_version_1(row, dtype)
    one = given.dtype.type(1)
    row |= {"b1": float(one - given[3]), "b2": float(one - given[4]), "learning_rate": 1.0}
    arrays = leaf(rng, dtype, 2000)[:4]
    found = rule.update(given, *arrays, version=1)
    assert found is not None
    coefficients = as_contract(row, dtype)
    clamped = oracle.rule(coefficients, *arrays)
    free = oracle.rule(as_contract(row | {"clip_value": 0.0}, dtype), *arrays)
    with np.errstate(all="ignore"):
        scaled = coefficients[12] * arrays[1]
    for result, inside, outside in zip(found[:4], clamped, free, strict=True):
        assert_same_bits(result, np.where(np.isinf(scaled), outside, inside))


def test_version_1_clamps_the_largest_number(rule: Rule) -> None:
    row = any_row(np.random.default_rng(0), "float32") | OFF | {"clip_value": 1.0}
    arrays = leaf_of(0, float(np.finfo(np.float32).max), 0, 0)
    found = rule.update(of_version_1(row, "float32"), *arrays, version=1)
    assert found is not None
    assert found.mu[0] == np.float32(row["one_minus_b1"])


def test_version_1_knows_no_terms_that_are_off(rule: Rule) -> None:
    """Its limit is always one: a gradient that it does not clamp is one that is infinite."""
    row = any_row(np.random.default_rng(0), "float32") | {"decay": 0.0, "l2": 0.0}
    row["clip_value"] = np.inf
    arrays = [np.ones(1, np.float32)] * 4
    found = rule.update(of_version_1(row, "float32"), *arrays, version=1)
    assert found is not None
    assert found.fewest_terms == DECAY_AND_CLAMP


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -1.0, 0.5, np.nan])
def test_what_is_not_zero_skips(rule: Rule, value: float) -> None:
    row = any_row(np.random.default_rng(0), "float32") | {"skip": value}
    assert rule.skips(rule.row(row)) == (value != 0)
    assert rule.skips(of_version_1(row, "float32"), version=1) == (value != 0)


def test_without_parameters_nothing_decays(rule: Rule) -> None:
    rng = np.random.default_rng(0)
    row = any_row(rng, "float32") | {"decay": np.nan, "l2": np.inf, "clip_value": 0.0}
    arrays = leaf(rng, "float32")
    arrays[0] = np.zeros_like(arrays[0])
    found = rule.update(rule.row(row), *arrays, streams=WITHOUT_PARAMS)
    assert found is not None
    assert found.fewest_terms == NONE
    coefficients = as_contract(row | {"decay": 0.0, "l2": 0.0}, "float32")
    for result, expected in zip(found[:4], oracle.rule(coefficients, *arrays[:4]), strict=True):
        assert_same_bits(result, expected)


def test_the_widths_of_rows_are_those_of_programs_that_were_exported(rule: Rule) -> None:
    lengths = [(rule.library.shortest_row(v), rule.library.longest_row(v)) for v in (1, 2)]
    assert lengths == [(12, 12), (13, K)]
    assert rule.library.shortest_row_with_key() == FIELDS.index("shard") + 1
    assert rule.library.shortest_row_with_average() == FIELDS.index("one_minus_average_decay") + 1


@pytest.mark.parametrize("length", range(13, K + 1))
def test_coefficients_that_are_not_there_are_zero_and_not_read(rule: Rule, length: int) -> None:
    rng = np.random.default_rng(0)
    whole, arrays = rule.row(any_row(rng, "float32")), leaf(rng, "float32")
    short, padded = whole.copy(), whole.copy()
    short[length:], padded[length:] = np.nan, 0
    found = rule.update(short, *arrays, length=length, streams=WITH_AVERAGE)
    expected = rule.update(padded, *arrays, streams=WITH_AVERAGE)
    assert found is not None
    assert expected is not None
    for result, values in zip(found[:5], expected[:5], strict=True):
        assert_same_bits(result, values)


def test_the_key_is_put_together_from_halves(rule: Rule) -> None:
    row = dict.fromkeys(FIELDS, 0.0)
    row |= {"seed_high": 0xFEDC, "seed_low": 0xBA98, "step_high": 0x89AB, "step_low": 0xCDEF}
    row |= {"leaf": 12345, "shard": 2**24 - 1}
    expected = {"seed": 0xFEDCBA98, "step": 0x89ABCDEF, "leaf": 12345, "shard": 2**24 - 1}
    assert rule.key(rule.row(row)) == expected
    assert rule.key(rule.row(row, "float64")) == expected


@pytest.mark.parametrize(
    ("given", "whole"),
    [
        (2.9, 2),
        (-2.9, -2),
        (2147483520.0, 2147483520),
        (2.0**31, 2**31 - 1),
        (1e30, 2**31 - 1),
        (np.inf, 2**31 - 1),
        (-(2.0**31), -(2**31)),
        (-1e30, -(2**31)),
        (-np.inf, -(2**31)),
        (np.nan, 0),
    ],
)
@pytest.mark.parametrize("dtype", TYPES)
def test_what_is_no_whole_number_of_32_bits_is_the_nearest(
    rule: Rule, dtype: str, given: float, whole: int
) -> None:
    """As a GPU has it, so that the random numbers of a bad key are the same everywhere."""
    row = dict.fromkeys(FIELDS, 0.0) | {"leaf": given}
    assert rule.key(rule.row(row, dtype))["leaf"] == whole % 2**32


@pytest.mark.parametrize("dtype", TYPES)
def test_no_change_leaves_every_zero_what_it_is(rule: Rule, dtype: str) -> None:
    change = np.array([rule.no_change(dtype)], dtype)
    zeros = np.array([0.0, -0.0], dtype)
    assert_same_bits(zeros + change, zeros)
