"""The custom call itself: what it computes, and what it refuses."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from x64 import enable_x64

import nadam_xla.jax  # noqa: F401 - registers the handler
from nadam_xla.coefficients import Coefficients

K = len(Coefficients._fields)
FIELDS_OF_VERSION_1 = [0, 1, 2, 4, 6, *range(8, 15)]


def call(
    operands: Sequence[np.ndarray], results: Sequence[jax.ShapeDtypeStruct], **attributes: object
) -> list[jax.Array]:
    all_streams = {"streams": np.int64(0b1111), "returns_change": np.bool_(False)}
    attributes = {"first_row": np.int64(0), **all_streams, **attributes}
    return jax.ffi.ffi_call("nadam_xla_update_v2", list(results))(*operands, **attributes)


def f32(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def like(*arrays: np.ndarray) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arrays]


def test_without_aliases_the_operands_stay_as_they_are() -> None:
    rng = np.random.default_rng(0)
    row = oracle.rows(rng, (1, 1), "float32")
    leaves = [jnp.asarray(x) for x in np.abs(rng.normal(size=(4, 1000))).astype(np.float32)]
    before = [np.array(x) for x in leaves]
    new_params, new_mu, new_nu = call([row, *leaves], like(*before[:3]))
    expected_params, _, expected_mu, expected_nu = oracle.rule(row[0, 0], *before)
    np.testing.assert_array_equal(new_params, expected_params)
    np.testing.assert_array_equal(new_mu, expected_mu)
    np.testing.assert_array_equal(new_nu, expected_nu)
    for leaf, value in zip(leaves, before, strict=True):
        np.testing.assert_array_equal(leaf, value)


def test_denormals_are_treated_alike_by_every_thread() -> None:
    """Whether they are flushed is the runtime's choice, but one for the whole leaf."""
    smallest = np.float32(1e-42)
    leaf = np.full(2**20, smallest)
    row = oracle.rows(np.random.default_rng(0), (1, 1), "float32")
    for result in call([row, leaf, leaf, leaf, leaf], like(leaf, leaf, leaf)):
        assert np.unique(np.asarray(result).view(np.uint32)).size == 1


def test_no_leaves_is_no_error() -> None:
    assert call([f32(1, 1, K)], []) == []


x = f32(2, 3)
MALFORMED = {
    "operands not four for each leaf": (
        [f32(1, 1, K), x, x, x],
        like(x, x, x),
        r"got 3 buffers after coefficients and 3 results",
    ),
    "results not three for each leaf": (
        [f32(1, 1, K), x, x, x, x],
        like(x, x),
        r"got 4 buffers after coefficients and 2 results",
    ),
    "table of two axes": ([f32(1, K), x, x, x, x], like(x, x, x), rf"coefficients is F32\[1,{K}\]"),
    "table of another width": (
        [f32(1, 1, 12), x, x, x, x],
        like(x, x, x),
        rf"coefficients is F32\[1,1,12\]; it must be \[batch, rows, {K}\]",
    ),
    "rows neither 1 nor n": (
        [f32(1, 3, K), *[x] * 16],
        like(*[x] * 12),
        rf"coefficients is F32\[1,3,{K}\]; it must be .* 1 row or 4, .* from row 0 on",
    ),
    "batch that the leaves do not have": (
        [f32(5, 1, K), x, x, x, x],
        like(x, x, x),
        r"params\[0\] has the shape \[2,3\]; its first axis must be the batch of 5",
    ),
    "batch and a scalar leaf": (
        [f32(5, 1, K), f32(), f32(), f32(), f32()],
        like(f32(), f32(), f32()),
        r"params\[0\] has the shape \[\]; its first axis",
    ),
    "grads of another shape": (
        [f32(1, 1, K), x, f32(3, 2), x, x],
        like(x, x, x),
        r"grads\[0\] is F32\[3,2\]; its shape must be \[2,3\] like that of params\[0\]",
    ),
    "second leaf's nu of another shape": (
        [f32(1, 1, K), x, x, x, x, x, x, x, f32(6)],
        like(*[x] * 6),
        r"nu\[1\] is F32\[6\]; its shape must be \[2,3\] like that of params\[1\]",
    ),
    "result of another shape": (
        [f32(1, 1, K), x, x, x, x],
        like(x, f32(7), x),
        r"result mu\[0\] is F32\[7\]; its shape must be \[2,3\]",
    ),
    "integer parameters": (
        [f32(1, 1, K), x.astype(np.int32), x, x, x],
        like(x, x, x),
        r"params\[0\] is S32\[2,3\]; it must be F32, F64, BF16 or F16",
    ),
    "a state stored in another way than before": (
        [f32(1, 1, K), x, x, x.astype(np.float16), x],
        like(x, x, x),
        r"result mu\[0\] is F32; it must be F16 like mu\[0\]",
    ),
    "parameters stored in another way than before": (
        [f32(1, 1, K), x, x, x, x],
        like(x.astype(np.float16), x, x),
        r"result params\[0\] is F16; it must be F32 like params\[0\]",
    ),
    "integer table": (
        [np.zeros((1, 1, K), np.int32), x, x, x, x],
        like(x, x, x),
        r"coefficients has the element type S32; it must be F32 or F64",
    ),
}


@pytest.mark.parametrize("case", MALFORMED, ids=str)
def test_a_malformed_call_is_an_error_that_names_the_operand(case: str) -> None:
    operands, results, message = MALFORMED[case]
    with pytest.raises(Exception, match="nadam_xla_update_v2.*" + message):
        jax.block_until_ready(call(operands, results))


@pytest.mark.parametrize(
    ("target", "operands", "names"),
    [
        ("update_v1", 0, "coefficients"),
        ("update_v2", 0, "coefficients"),
        ("update_entry_v1", 1, "index and coefficients"),
        ("update_rows_v1", 1, "coefficients and indices"),
    ],
)
def test_without_the_first_operands_there_is_an_error(
    target: str, operands: int, names: str
) -> None:
    handler = jax.ffi.ffi_call(f"nadam_xla_{target}", like(x))
    message = f"nadam_xla_{target}: got {operands} operands; there must be {names} first"
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        jax.block_until_ready(handler(*[x] * operands))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("update_v1", "got 0 attributes; there is returns_change"),
        ("update_v2", "got 0 attributes; there are returns_change, streams and first_row"),
        ("update_entry_v1", "got 0 attributes; there is first_row"),
        ("update_rows_v1", "got 0 attributes; there are streams, first_row and rounding"),
    ],
)
def test_a_missing_attribute_is_an_error(target: str, message: str) -> None:
    handler = jax.ffi.ffi_call(f"nadam_xla_{target}", like(x, x, x))
    with pytest.raises(jax.errors.JaxRuntimeError, match=f"nadam_xla_{target}: {message}"):
        jax.block_until_ready(handler(f32(1, 1, K), f32(1, 1, K), x, x, x, x))


def test_version_1_has_rows_without_the_decay_rates_and_the_learning_rate() -> None:
    rng = np.random.default_rng(0)
    row = oracle.rows(rng, (1, 1), "float32")
    row[..., 3], row[..., 5], row[..., 7] = 1 - row[..., 4], 1 - row[..., 6], 1
    row[..., 15:] = 0  # what came after version 1 is off
    of_version_1 = row[..., FIELDS_OF_VERSION_1]
    leaves = np.abs(rng.normal(size=(4, 1000))).astype(np.float32)
    attributes = {"returns_change": np.bool_(False)}
    v1 = jax.ffi.ffi_call("nadam_xla_update_v1", like(*leaves[:3]))
    found, expected = (
        v1(of_version_1, *leaves, **attributes),
        call([row, *leaves], like(*leaves[:3])),
    )
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(Exception, match=rf"nadam_xla_update_v1: coefficients is F32\[1,1,{K}\]"):
        jax.block_until_ready(v1(row, *leaves, **attributes))


@pytest.mark.parametrize("width", range(13, K))
def test_a_row_may_end_before_coefficients_that_are_off(width: int) -> None:
    """So has it a program that was exported before they were added."""
    rng = np.random.default_rng(0)
    whole = oracle.rows(rng, (1, 1), "float32")
    whole[..., width:] = 0
    leaves = list(np.abs(rng.normal(size=(4, 100))).astype(np.float32))
    expected = call([whole, *leaves], like(*leaves[:3]))
    results = call([whole[..., :width], *leaves], like(*leaves[:3]))
    for result, of_whole in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, of_whole)


def test_a_row_has_no_more_coefficients_than_there_are() -> None:
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"it must be \[batch, rows"):
        call([f32(1, 1, K + 1), x, x, x, x], like(x, x, x))


@pytest.mark.parametrize(("target", "is_clamped"), [("v1", False), ("v2", True)])
def test_an_infinite_gradient_is_clamped_since_version_2(target: str, is_clamped: bool) -> None:
    row = oracle.rows(np.random.default_rng(0), (1, 1), "float32")
    leaves = np.ones((4, 3), np.float32)
    leaves[1] = [np.inf, -np.inf, np.nan]
    table = row if target == "v2" else row[..., FIELDS_OF_VERSION_1]
    update = jax.ffi.ffi_call(f"nadam_xla_update_{target}", like(*leaves[:3]))
    attributes = {"first_row": np.int64(0), "streams": np.int64(15)} if target == "v2" else {}
    _, mu, _ = update(table, *leaves, returns_change=np.bool_(False), **attributes)
    np.testing.assert_array_equal(np.isfinite(mu), [is_clamped, is_clamped, False])


def test_a_call_may_use_some_rows_of_a_table_and_wait_for_an_array() -> None:
    rng = np.random.default_rng(0)
    table = oracle.rows(rng, (1, 5), "float32")
    leaves = [np.abs(rng.normal(size=7)).astype(np.float32) for _ in range(4 * 2)]
    awaited = np.full((3, 3), np.nan, np.float32)
    found = call([table, *leaves, awaited], like(*leaves[:6]), first_row=np.int64(2))
    for i, row in enumerate(table[0, 2:4]):
        params, _, mu, nu = oracle.rule(row, *leaves[i::2])
        for group, expected in enumerate((params, mu, nu)):
            np.testing.assert_array_equal(found[2 * group + i], expected)


def test_without_parameters_they_are_zero_and_the_change_is_the_first_result() -> None:
    rng = np.random.default_rng(0)
    row = oracle.rows(rng, (1, 1), "float32")
    leaves = np.abs(rng.normal(size=(3, 1000))).astype(np.float32)
    found = call(
        [row, *leaves],
        like(*leaves),
        streams=np.int64(0b1110),
        returns_change=np.bool_(True),
    )
    _, *expected = oracle.rule(row[0, 0], np.zeros(1000, np.float32), *leaves)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("streams", "returns_change", "message"),
    [
        (0b1110, False, "returns_change is false; it must be true where streams lacks params"),
        (0b1101, True, "streams has unknown bits, or lacks some: there are params, grads, mu, nu"),
        (0b1111 | 1 << 15, True, "streams has unknown bits"),
        (0b11110, True, "streams has average and lacks params, which it is the average of"),
        (0b1111 | 1 << 24, True, "streams has unknown bits"),
        (-1, True, "streams has unknown bits"),
        (0, True, "streams has unknown bits"),
    ],
)
def test_streams_that_there_are_not_are_an_error(
    streams: int, returns_change: bool, message: str
) -> None:
    attributes = {"streams": np.int64(streams), "returns_change": np.bool_(returns_change)}
    with pytest.raises(Exception, match=f"nadam_xla_update_v2: .*{message}"):
        jax.block_until_ready(call([f32(1, 1, K), *[x] * 4], like(x, x, x), **attributes))


@pytest.mark.parametrize("first_row", [-1, 4, 2**62])
def test_rows_outside_of_the_table_are_an_error(first_row: int) -> None:
    operands = [f32(1, 5, K), *[x] * 8]
    message = rf"coefficients is F32\[1,5,{K}\]; .* from row {first_row} on"
    with pytest.raises(Exception, match=message):
        jax.block_until_ready(call(operands, like(*[x] * 6), first_row=np.int64(first_row)))


@pytest.mark.parametrize(
    ("further", "message"),
    [
        ([f32(2)], r"the workspace is F32\[2\]; it must be U8"),
        ([f32(2)] * 2, "got 3 results; it must have the sums alone"),
    ],
)
def test_results_that_nobody_would_write_are_an_error(
    further: list[np.ndarray], message: str
) -> None:
    results = like(f32(1), *further)
    sums = jax.ffi.ffi_call("nadam_xla_sum_squares_v1", results)
    with pytest.raises(Exception, match=f"nadam_xla_sum_squares_v1: {message}"):
        jax.block_until_ready(sums(x))


@pytest.mark.parametrize(
    ("leaf", "result", "message"),
    [
        (
            np.zeros(2),
            f32(1),
            r"operand 0 is F64\[2\]; the result is F32, so it must be F32, BF",
        ),
        (f32(2), np.zeros(1), r"operand 0 is F32\[2\]; the result is F64, so it must be F64"),
        (np.zeros(2, np.float16), np.zeros(1), r"operand 0 is F16\[2\]; the result is F64"),
        (np.zeros(2, np.int32), f32(1), r"operand 0 is S32\[2\]; the result is F32"),
        (f32(2, 3), f32(4, 1), r"operand 0 is F32\[2,3\]; .* so its first axis must be that batch"),
    ],
)
def test_squares_of_what_has_no_such_sum_are_an_error(
    leaf: np.ndarray, result: np.ndarray, message: str
) -> None:
    with enable_x64(True):
        sums = jax.ffi.ffi_call("nadam_xla_sum_squares_v1", like(result))
        with pytest.raises(Exception, match=f"sum_squares_v1: {message}"):
            jax.block_until_ready(sums(leaf))


LARGEST = np.finfo(np.float32).max


@pytest.mark.parametrize(
    ("leaf", "norm"),
    [
        (np.float32([3, -4]), 5),
        (np.float32([3e30, 4e30]), 5e30),
        (np.float32([LARGEST, LARGEST]), LARGEST),
        (np.float32([1, -np.inf]), np.inf),
        (np.float32([1, np.nan, np.inf]), np.nan),
        (np.float32([]), 0),
        (np.float16([300, 400]), 500),
        (np.float64([3e-200, 4e-200]) * 1e60, 5e-140),
    ],
    ids=str,
)
def test_a_norm_is_finite_where_all_numbers_are(leaf: np.ndarray, norm: float) -> None:
    with enable_x64(True):
        dtype = np.float64 if leaf.dtype == np.float64 else np.float32
        norms = jax.ffi.ffi_call("nadam_xla_sum_squares_v1", like(np.zeros(1, dtype)))
        (found,) = norms(leaf, norms=np.bool_(True))
        np.testing.assert_allclose(found, [norm], rtol=1e-7)


@pytest.mark.parametrize("attributes", [{"norms": np.int64(1)}, {"roots": np.bool_(True)}])
def test_an_unknown_attribute_of_sums_is_an_error(attributes: dict[str, object]) -> None:
    sums = jax.ffi.ffi_call("nadam_xla_sum_squares_v1", like(f32(1)))
    with pytest.raises(Exception, match="got 1 attributes; there may be norms alone, a bool"):
        jax.block_until_ready(sums(x, **attributes))


def test_a_workspace_for_a_gpu_stays_as_it_is() -> None:
    results = [*like(f32(1)), jax.ShapeDtypeStruct((8,), np.uint8)]
    sums, _ = jax.ffi.ffi_call("nadam_xla_sum_squares_v1", results)(np.float32([3, 4]))
    np.testing.assert_array_equal(sums, [25])
