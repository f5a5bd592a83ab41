"""Moments in codes of eight bits, as leaves of ``mu`` and ``nu``, under every transformation."""

import re
from functools import partial
from typing import Any

import blockwise_oracle as oracle
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import CALL, aliased_results, copies_of_arrays, text_of
from hypothesis import given, settings
from hypothesis import strategies as st
from x64 import enable_x64

from nadam_xla import blockwise
from nadam_xla.coefficients import Coefficients, with_random_key
from nadam_xla.jax import nadam_update
from nadam_xla.jax.blockwise import Blockwise, dequantized, encoded, quantized
from nadam_xla.jax.primitive import bind, reference
from nadam_xla.streams import Streams

BF16, F32 = jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float32)
ENCODE = {"mu": oracle.encoded_signed, "nu": oracle.encoded_unsigned}
MOMENTS = ("mu", "nu")


def row(leaves: int = 1, seed: int = 7) -> Coefficients:
    """Powers of two, so that no contraction rounds otherwise."""
    coefficients = Coefficients(1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.25, 1.0)
    return with_random_key(
        coefficients, seed=seed, step=3, leaf=np.arange(leaves, dtype=np.float32)
    )


def numbers(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) * 10.0 ** rng.uniform(-4, 1, shape)).astype(np.float32)


def moments(seed: int, shape: tuple[int, ...]) -> tuple[Blockwise, Blockwise]:
    mu = quantized(jnp.asarray(numbers(seed, shape)), "mu")
    return mu, quantized(jnp.square(numbers(seed + 1, shape)), "nu")


def trees(
    shapes: dict[str, tuple[int, ...]], dtype: Any = BF16, *, all_of_them: bool = False
) -> tuple[Any, ...]:
    """Parameters, gradients and moments, in codes where leaves are large enough."""
    params = {k: jnp.asarray(numbers(i, s), dtype) for i, (k, s) in enumerate(shapes.items())}
    grads = {k: jnp.asarray(numbers(9 + i, s), dtype) for i, (k, s) in enumerate(shapes.items())}
    mu, nu = {}, {}
    for i, (name, shape) in enumerate(shapes.items()):
        if all_of_them or blockwise.is_quantized(shape, str(jnp.dtype(dtype))):
            mu[name], nu[name] = moments(20 + i, shape)
        else:
            mu[name], nu[name] = jnp.zeros(shape), jnp.zeros(shape)
    return params, grads, mu, nu


SHAPES = {"embedding": (33, 300), "kernel": (16, 512), "bias": (5,), "scale": ()}


def assert_same(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


class TestCodec:
    @settings(max_examples=6, deadline=None)
    @given(
        leading=st.lists(st.integers(0, 3), max_size=2),
        columns=st.integers(1, 700),
        seed=st.integers(0, 2**31),
        drawn=st.booleans(),
        moment=st.sampled_from(MOMENTS),
    )
    def test_it_is_the_oracles(
        self, leading: list[int], columns: int, seed: int, drawn: bool, moment: Any
    ) -> None:
        x = numbers(seed, (*leading, columns))
        x = np.square(x) if moment == "nu" else x
        draws = np.random.default_rng(seed).integers(0, 2**16, x.shape, np.uint32)
        expected = ENCODE[moment](x, draws) if drawn else ENCODE[moment](x)
        found = encoded(jnp.asarray(x), moment, jnp.asarray(draws) if drawn else None)
        assert_same(tuple(found), tuple(expected))
        np.testing.assert_array_equal(dequantized(found), oracle.decoded(expected))

    @pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
    def test_what_is_not_finite_makes_its_block_nan(self, bad: float) -> None:
        x = np.ones((2, 600), np.float32)
        x[1, 300] = bad
        for moment in MOMENTS:
            found = quantized(jnp.asarray(x), moment)
            expected = np.zeros((2, 600), bool)
            expected[1, 256:512] = True
            np.testing.assert_array_equal(np.isnan(dequantized(found)), expected)

    def test_extremes(self) -> None:
        tiny, huge = np.float32(2.0**-126), np.finfo(np.float32).max
        for values in ([0.0, 0.0], [tiny, tiny], [huge, 1.0], [huge, tiny], [1.0, 0.0]):
            x = np.asarray(values, np.float32)
            found = quantized(jnp.asarray(x), "nu")
            assert_same(tuple(found), tuple(oracle.encoded_unsigned(x)))
            np.testing.assert_array_equal(np.asarray(dequantized(found)) > 0, x > 0)
            assert np.isfinite(dequantized(quantized(jnp.asarray(x), "mu"))).all()

    @pytest.mark.parametrize("moment", MOMENTS)
    def test_quantizing_again_changes_no_code(self, moment: Any) -> None:
        x = numbers(3, (40, 1000))
        once = quantized(jnp.asarray(np.abs(x)), moment)
        again = quantized(dequantized(once), moment)
        np.testing.assert_array_equal(once.codes, again.codes)

    def test_narrow_numbers_can_be_quantized(self) -> None:
        x = jnp.asarray(numbers(3, (3, 300)), BF16)
        assert_same(tuple(quantized(x, "mu")), tuple(oracle.encoded_signed(np.asarray(x, F32))))


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ((64, 64), "float32", True),
        ((4096,), "bfloat16", True),
        ((2, 2, 1024), "float16", True),
        ((63, 64), "float32", False),
        ((1000, 63), "float32", False),
        ((4096, 1), "float32", False),
        ((), "float32", False),
        ((0, 4096), "float32", False),
        ((64, 64), "float64", False),
        ((64, 64), "complex64", False),
    ],
)
def test_which_leaves_are_quantized(shape: tuple[int, ...], dtype: str, expected: bool) -> None:
    assert blockwise.is_quantized(shape, dtype) is expected


class TestNadamUpdate:
    def test_trees_of_both_kinds_of_leaves(self) -> None:
        params, grads, mu, nu = trees(SHAPES)
        new_params, new_mu, new_nu = nadam_update(row(4), params, grads, mu, nu)
        assert jax.tree.structure(new_mu) == jax.tree.structure(mu)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), (new_mu, new_nu)) == jax.tree.map(
            lambda x: (x.shape, x.dtype), (mu, nu)
        )
        assert isinstance(new_mu["kernel"], Blockwise)
        assert new_mu["kernel"].codes.dtype == jnp.int8
        assert new_nu["kernel"].codes.dtype == jnp.uint8
        assert new_nu["embedding"].scales.shape == (33, 2)
        wide = [{k: _wide(x) for k, x in tree.items()} for tree in (mu, nu)]
        expected, expected_mu, expected_nu = nadam_update(row(4), params, grads, *wide)
        assert_same(new_params, expected)
        for found, of in ((new_mu, expected_mu), (new_nu, expected_nu)):
            for name in ("embedding", "kernel"):
                largest = np.abs(of[name]).max()
                assert np.abs(_wide(found[name]) - of[name]).max() < largest / 8

    @pytest.mark.parametrize("quantized_moment", MOMENTS)
    def test_one_moment_alone(self, quantized_moment: str) -> None:
        params, grads, mu, nu = trees({"kernel": (16, 512)})
        given = {"mu": mu, "nu": nu}
        other = "nu" if quantized_moment == "mu" else "mu"
        given[other] = {"kernel": _wide(given[other]["kernel"])}
        _, *states = nadam_update(row(), params, grads, given["mu"], given["nu"])
        found = dict(zip(MOMENTS, states, strict=True))
        assert isinstance(found[quantized_moment]["kernel"], Blockwise)
        assert found[other]["kernel"].dtype == F32
        # What is rounded so has no part in the other.
        _, *both = nadam_update(row(), params, grads, mu, nu)
        of_both = dict(zip(MOMENTS, both, strict=True))[quantized_moment]
        assert_same(found[quantized_moment], of_both)

    def test_masters_and_stochastic_rounding_beside_codes(self) -> None:
        params, grads, mu, nu = trees({"a": (16, 512), "b": (5,)})
        master = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.uint16), params)
        found = nadam_update(row(2), params, grads, mu, nu, master=master, rounding="stochastic")
        assert found[3]["a"].dtype == jnp.uint16
        assert isinstance(found[2]["a"], Blockwise)
        assert not isinstance(found[2]["b"], Blockwise)

    def test_the_change_leads_to_the_same_parameters(self) -> None:
        params, grads, mu, nu = trees({"kernel": (16, 512)}, F32)
        new, *states = nadam_update(row(), params, grads, mu, nu)
        change, *same = nadam_update(row(), params, grads, mu, nu, returns="change")
        assert_same(jax.tree.map(jnp.add, params, change), new)
        assert_same(states, same)

    def test_a_skipped_step_keeps_every_bit(self) -> None:
        params, grads, mu, nu = trees(SHAPES)
        nu["kernel"] = nu["kernel"]._replace(scales=nu["kernel"].scales.at[0, 0].set(jnp.nan))
        found = nadam_update(row(4)._replace(skip=1.0), params, grads, mu, nu)
        assert_same(found, (params, mu, nu))

    def test_steps_go_on_within_the_error_of_the_codes(self) -> None:
        shapes = {"kernel": (16, 512)}
        params, grads, *_ = trees(shapes, F32)
        zeros = jnp.zeros((16, 512))
        start = {"kernel": quantized(zeros, "mu")}, {"kernel": quantized(zeros, "nu")}
        found = (params, *start)
        expected = (params, {"kernel": zeros}, {"kernel": zeros})
        for t in range(20):
            key = with_random_key(row()._replace(b2=0.9, one_minus_b2=0.1), seed=1, step=t, leaf=0)
            found = nadam_update(key, found[0], grads, *found[1:])
            expected = nadam_update(key, expected[0], grads, *expected[1:])
        change, of = (np.asarray(x[0]["kernel"] - params["kernel"]) for x in (found, expected))
        assert np.abs(change - of).mean() < 0.1 * np.abs(of).mean()


def _wide(x: Any) -> jax.Array:
    return dequantized(x) if isinstance(x, Blockwise) else x


class TestRefusals:
    """Each names the leaf."""

    @staticmethod
    def refused(error: type[Exception], message: str, dtype: Any = F32, **fields: Any) -> None:
        params, grads, mu, nu = trees({"w": (16, 512)}, dtype, all_of_them=True)
        broken = {"w": mu["w"]._replace(**fields)}
        with pytest.raises(error, match=message):
            nadam_update(row(), params, grads, broken, nu)

    def test_codes_of_another_dtype(self) -> None:
        message = r"mu\['w'\].codes is uint8\[16,512\]; it must be of int8"
        self.refused(TypeError, message, codes=jnp.zeros((16, 512), jnp.uint8))

    def test_scales_of_another_dtype(self) -> None:
        message = r"mu\['w'\].scales is bfloat16\[16,2\]; it must be of float32"
        self.refused(TypeError, message, scales=jnp.zeros((16, 2), BF16))

    @pytest.mark.parametrize("shape", [(16, 1), (16, 512), (2,), (16, 2, 1)])
    def test_scales_of_another_shape(self, shape: tuple[int, ...]) -> None:
        message = r"mu\['w'\].scales is float32\[.*\]; of codes of the shape \(16, 512\) it must"
        self.refused(ValueError, message, scales=jnp.zeros(shape))

    def test_codes_of_another_shape(self) -> None:
        message = r"mu\['w'\] has the shape \(16, 256\); it must be \(16, 512\), like params"
        codes = {"codes": jnp.zeros((16, 256), jnp.int8), "scales": jnp.zeros((16, 1))}
        self.refused(ValueError, message, **codes)

    def test_parameters_in_float64(self) -> None:
        message = r"nu\['w'\] is in codes of eight bits, and params\['w'\] is float64\[16,512\]"
        params, grads, _, nu = trees({"w": (16, 512)}, F32)
        with enable_x64(True):
            wide = {"w": params["w"].astype(jnp.float64)}
            with pytest.raises(TypeError, match=message):
                nadam_update(row(), wide, grads, wide, nu)

    def test_derivatives(self) -> None:
        params, grads, mu, nu = trees({"w": (16, 512)}, F32)

        def loss(rate: jax.Array) -> jax.Array:
            coefficients = row()._replace(learning_rate=rate)
            return nadam_update(coefficients, params, grads, mu, nu)[0]["w"].sum()

        with pytest.raises(TypeError, match="no derivative where moments are in codes of eight"):
            jax.grad(loss)(0.5)
        with pytest.raises(TypeError, match="no derivative where moments are in codes of eight"):
            jax.jvp(loss, (0.5,), (1.0,))

    def test_the_primitive_names_the_operand(self) -> None:
        table = jnp.zeros((1, 1, len(Coefficients._fields)))
        x, codes = jnp.zeros((2, 300)), jnp.zeros((2, 300), jnp.int8)
        streams = Streams(has_mu_scales=True)
        with pytest.raises(TypeError, match=r"as operand 3; it must .* and the dtype int8"):
            bind(table, x, x, x, x, jnp.zeros((2, 2)), streams=streams)
        with pytest.raises(TypeError, match=r"as operand 5; it must have the shape \(2, 2\)"):
            bind(table, x, x, codes, x, jnp.zeros((2, 1)), streams=streams)
        scalar = [jnp.zeros(()), jnp.zeros(()), jnp.zeros((), jnp.int8), jnp.zeros(())]
        with pytest.raises(TypeError, match="it must have a last axis"):
            bind(table, *scalar, jnp.zeros(()), streams=streams)


def operands(streams: Streams, shapes: list[tuple[int, ...]], dtype: Any = BF16) -> list[Any]:
    """In the order of the primitive."""
    given: dict[str, list[Any]] = {name: [] for name in streams.operands}
    for i, shape in enumerate(shapes):
        mu, nu = moments(3 * i, shape)
        leaf = {
            "params": jnp.asarray(numbers(i, shape), dtype),
            "grads": jnp.asarray(numbers(40 + i, shape), dtype),
            "mu": mu.codes if streams.has_mu_scales else dequantized(mu),
            "nu": nu.codes if streams.has_nu_scales else dequantized(nu),
            "mu_scales": mu.scales,
            "nu_scales": nu.scales,
            "master": jnp.zeros(shape, jnp.uint8),
        }
        for name, group in given.items():
            group.append(leaf[name])
    return [x for group in given.values() for x in group]


def table_of(leaves: int) -> jax.Array:
    columns = jnp.broadcast_arrays(*(jnp.asarray(c, F32) for c in row(leaves)))
    return jnp.stack(columns, axis=-1)[None]


class TestReference:
    """What XLA's own operations make of the same is what the kernel makes of it."""

    @pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
    @pytest.mark.parametrize(
        "options",
        [
            {"has_mu_scales": True, "has_nu_scales": True},
            {"has_mu_scales": True, "is_stochastic": True},
            {"has_nu_scales": True, "returns_change": True},
            {"has_nu_scales": True, "returns_change": True, "has_params": False},
            {"has_mu_scales": True, "has_nu_scales": True, "has_master": True},
        ],
        ids=str,
    )
    def test_it_equals_the_kernel(self, options: dict[str, bool], dtype: Any) -> None:
        if "has_master" in options and dtype != BF16:
            return
        streams = Streams(**options)
        shapes = [(7, 300), (2, 3, 256), (64,)]
        given, table = operands(streams, shapes, dtype), table_of(3)
        found = jax.jit(partial(bind, streams=streams))(table, *given)
        expected = jax.jit(partial(reference, streams=streams))(table, *given)
        for a, b in zip(found, expected, strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            np.testing.assert_array_equal(np.asarray(a, F32), np.asarray(b, F32))


class TestBatching:
    def test_a_population_of_seeds_is_its_members(self) -> None:
        params, grads, mu, nu = trees({"kernel": (16, 512), "odd": (50, 100)})

        def step(seed: jax.Array) -> Any:
            return nadam_update(row(2, seed), params, grads, mu, nu)

        found = jax.jit(jax.vmap(step))(jnp.arange(3))
        for i in range(3):
            alone = jax.jit(step)(i)
            assert_same(jax.tree.map(lambda x, i=i: x[i], found), alone)

    @pytest.mark.parametrize("axis", [0, 1])
    def test_a_stack_of_leaves_is_its_entries(self, axis: int) -> None:
        members = [trees({"kernel": (16, 512)}) for _ in range(2)]
        members[1] = jax.tree.map(lambda x: jnp.flip(x, 0), members[1])
        stacked = jax.tree.map(lambda *x: jnp.stack(x, axis), *members)
        step = partial(nadam_update, row())
        found = jax.jit(jax.vmap(lambda t: step(*t), in_axes=axis))(stacked)
        for i, member in enumerate(members):
            assert_same(jax.tree.map(lambda x, i=i: x[i], found), jax.jit(step)(*member))

    def test_two_levels(self) -> None:
        params, grads, mu, nu = trees({"kernel": (16, 512)})

        def step(seed: jax.Array, rate: jax.Array) -> Any:
            return nadam_update(row(1, seed)._replace(learning_rate=rate), params, grads, mu, nu)

        rates = jnp.asarray([0.25, 0.5, 1.0])
        found = jax.jit(jax.vmap(jax.vmap(step, (None, 0)), (0, None)))(jnp.arange(2), rates)
        for i in range(2):
            for k in range(3):
                alone = jax.jit(step)(i, rates[k])
                assert_same(jax.tree.map(lambda x, i=i, k=k: x[i, k], found), alone)


class TestPrograms:
    def test_all_is_in_place_and_nothing_is_copied(self) -> None:
        given = trees({"kernel": (64, 512), "odd": (50, 300)})

        def step(*trees: Any) -> Any:
            return nadam_update(row(2), *trees)

        text = text_of(step, *given, donate=(0, 2, 3))
        results = len(jax.tree.leaves((given[0], *given[2:])))
        assert aliased_results(text) == set(range(results))
        assert copies_of_arrays(text) == 0
        assert text.count(CALL) == 1

    def test_no_moment_stands_in_memory_as_float32(self) -> None:
        given = trees({"kernel": (64, 512)})
        text = text_of(lambda *t: nadam_update(row(), *t), *given, donate=(0, 2, 3))
        assert not re.search(r"f32\[64,512\]", text)

    def test_a_loop_keeps_its_state_in_place(self) -> None:
        params, grads, mu, nu = trees({"kernel": (64, 512)})

        def loop(*state: Any) -> Any:
            def body(t: Any, state: Any) -> Any:
                key = with_random_key(row(), seed=1, step=t, leaf=0)
                return nadam_update(key, state[0], grads, *state[1:])

            return jax.lax.fori_loop(0, 5, body, state)

        text = text_of(loop, params, mu, nu, donate=(0, 1, 2))
        assert copies_of_arrays(text) == 0
        expected = (params, mu, nu)
        for t in range(5):
            key = with_random_key(row(), seed=1, step=t, leaf=0)
            expected = nadam_update(key, expected[0], grads, *expected[1:])
        assert_same(jax.jit(loop)(params, mu, nu), expected)

    @pytest.mark.parametrize("platforms", [("cpu",), ("cpu", "cuda"), ("cpu", "tpu")])
    def test_exported_programs_give_the_same(self, platforms: tuple[str, ...]) -> None:
        given = trees({"kernel": (16, 512), "odd": (50, 100), "bias": (3,)})

        def step(params: Any, grads: Any, mu: Any, nu: Any) -> Any:
            return jax.tree.leaves(nadam_update(row(3), params, grads, mu, nu))

        flat, treedef = jax.tree.flatten(given)
        flat_step = jax.jit(lambda *x: step(*jax.tree.unflatten(treedef, x)))
        exported = jax.export.export(
            flat_step,
            platforms=platforms,
            disabled_checks=[jax.export.DisabledSafetyCheck.custom_call("nadam_xla_update_v2")],
        )(*flat)
        again = jax.export.deserialize(exported.serialize())
        assert_same(list(again.call(*flat)), list(flat_step(*flat)))

    def test_a_program_for_gpus_has_the_call_and_codes_alone(self) -> None:
        given = trees({"kernel": (16, 512)})
        exported = jax.export.export(
            jax.jit(lambda *t: nadam_update(row(), *t)),
            platforms=("cuda",),
            disabled_checks=[jax.export.DisabledSafetyCheck.custom_call("nadam_xla_update_v2")],
        )(*given)
        module = exported.mlir_module()
        (call,) = re.findall(r"custom_call @nadam_xla_update_v2.*", module)
        operands, _, results = call.rpartition(" : ")[2].partition(" -> ")
        for codes in ("tensor<16x512xi8>", "tensor<16x512xui8>", "tensor<16x2xf32>"):
            assert codes in operands
            assert codes in results
