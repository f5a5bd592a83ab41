"""`fuse_updates` on scanned layers: each is updated in the loop that makes its gradient."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiled import copies_of_arrays
from hypothesis import given, settings
from hypothesis import strategies as st
from x64 import enable_x64

from nadam_xla import native
from nadam_xla.jax import explain_updates, fuse_updates, nadam, nadamw

ENTRY = 'custom_call_target="nadam_xla_update_entry_v1"'
WIDTH = 4
X = jnp.asarray(np.random.default_rng(0).normal(size=(3, WIDTH)), jnp.float32)


def layers(depth: int, seed: int = 0, width: int = WIDTH) -> Any:
    rng = np.random.default_rng(seed)
    shapes = {"w": (depth, width, width), "b": (depth, width), "scale": (depth,)}
    return {k: jnp.asarray(rng.normal(size=shape), jnp.float32) for k, shape in shapes.items()}


@jax.custom_vjp
def activation(x: jax.Array) -> jax.Array:
    return jnp.tanh(x)


activation.defvjp(lambda x: (jnp.tanh(x), x), lambda x, d: (d * (1 - jnp.tanh(x) ** 2),))


def layer(x: jax.Array, params: Any) -> jax.Array:
    return params["scale"] * activation(x @ params["w"] + params["b"])


def loss_of(params: Any, x: jax.Array, scan: Callable[..., Any]) -> jax.Array:
    return jnp.mean(scan(params["layers"], x @ params["first"]) ** 2)


def scanned(
    *, reverse: bool = False, unroll: int = 1, remat: bool = False, narrow: bool = False
) -> Callable[..., Any]:
    def one(x: jax.Array, params: Any) -> Any:
        if narrow:
            params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
            return layer(x.astype(jnp.bfloat16), params).astype(x.dtype), None
        return layer(x, params), None

    body = jax.checkpoint(one) if remat else one
    return lambda params, x: jax.lax.scan(body, x, params, reverse=reverse, unroll=unroll)[0]


def in_blocks(params: Any, x: jax.Array) -> jax.Array:
    """Layers two by two, in a scan in a scan."""
    blocks = jax.tree.map(lambda p: p.reshape(-1, 2, *p.shape[1:]), params)

    def block(x: jax.Array, params: Any) -> Any:
        return jax.lax.scan(lambda x, p: (layer(x, p), None), x, params)[0], None

    return jax.lax.scan(block, x, blocks)[0]


def of_one_layer_each(params: Any, x: jax.Array) -> jax.Array:
    """Each turn takes a scan of its own, of one layer: the entry's gradient is a stack."""
    groups = jax.tree.map(lambda p: p.reshape(p.shape[0], 1, *p.shape[1:]), params)

    def group(x: jax.Array, params: Any) -> Any:
        return jax.lax.scan(lambda x, p: (layer(x, p), None), x, params)[0], None

    return jax.lax.scan(group, x, groups)[0]


def of_flat_entries(params: Any, x: jax.Array) -> jax.Array:
    """The loop takes each layer's parameters as one row, and shapes it by itself."""
    flat = jax.tree.map(lambda p: p.reshape(p.shape[0], -1), params)
    shapes = jax.tree.map(lambda p: p.shape[1:], params)

    def body(x: jax.Array, rows: Any) -> Any:
        return layer(x, {k: row.reshape(shapes[k]) for k, row in rows.items()}), None

    return jax.lax.scan(body, x, flat)[0]


def twice(params: Any, x: jax.Array) -> jax.Array:
    """The same layers in two scans: their gradients are summed behind both."""
    return scanned()(params, scanned()(params, x))


SCANS: dict[str, Callable[..., Any]] = {
    "forward": scanned(),
    "reverse": scanned(reverse=True),
    "unrolled": scanned(unroll=2),
    "remat": scanned(remat=True),
    "remat, unrolled": scanned(remat=True, unroll=2),
    "bfloat16 inside": scanned(narrow=True),
    "blocks": in_blocks,
    "a scan in each turn": of_one_layer_each,
    "flat entries": of_flat_entries,
    "twice": twice,
}


def clipped(tx: Any) -> Any:
    return optax.chain(optax.clip_by_global_norm(0.5), tx)


def scaled(tx: Any) -> Any:
    return optax.chain(optax.scale(0.5), tx)


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "alone": lambda tx: tx,
    "scaled": scaled,
    "clipped": clipped,
    "divided": lambda tx: optax.chain(optax.stateless_with_tree_map(lambda g, _: g / X.sum()), tx),
    "if finite": lambda tx: optax.apply_if_finite(tx, 3),
}


@dataclass(frozen=True)
class Program:
    depth: int
    scan: str
    wrapper: str
    decay: float
    masked: bool
    uses_apply: bool
    returns: str
    dtype: str = "float32"
    mu_dtype: str | None = None

    def optimizer(self) -> Any:
        def is_matrix(tree: Any) -> Any:
            return jax.tree.map(lambda p: p.ndim > 2, tree)

        mask = is_matrix if self.masked else None
        if self.decay:
            tx = nadamw(0.1, weight_decay=self.decay, mask=mask, mu_dtype=self.mu_dtype)
        else:
            tx = nadam(0.1, mu_dtype=self.mu_dtype)
        return WRAPPERS[self.wrapper](tx)

    def step(self) -> Callable[..., Any]:
        tx = self.optimizer()

        def step(params: Any, state: Any, x: jax.Array) -> Any:
            loss, grads = jax.value_and_grad(loss_of)(params, x, SCANS[self.scan])
            if self.uses_apply and hasattr(tx, "apply"):
                new, state = tx.apply(grads, state, params)
            else:
                updates, state = tx.update(grads, state, params)
                new = optax.apply_updates(params, updates)
            extra = {
                "nothing": lambda: (),
                "the old parameters": lambda: params,
                "the gradients": lambda: grads,
                "a norm of one gradient": lambda: jnp.max(grads["layers"]["w"]),
            }[self.returns]()
            return new, state, loss, extra

        return step


PROGRAMS = st.builds(
    Program,
    depth=st.sampled_from([2, 4]),
    scan=st.sampled_from(list(SCANS)),
    wrapper=st.sampled_from(list(WRAPPERS)),
    decay=st.sampled_from([0.0, 0.3]),
    masked=st.booleans(),
    uses_apply=st.booleans(),
    returns=st.sampled_from(
        ["nothing", "nothing", "the old parameters", "the gradients", "a norm of one gradient"]
    ),
    dtype=st.sampled_from(["float32", "float32", "bfloat16"]),
    mu_dtype=st.sampled_from([None, None, "bfloat16"]),
)


def start(depth: int, width: int = WIDTH) -> Any:
    first = jnp.asarray(np.random.default_rng(9).normal(size=(width, width)), jnp.float32)
    return {"layers": layers(depth, width=width), "first": first}


@settings(max_examples=15, deadline=None)
@given(program=PROGRAMS)
def test_random_programs_give_the_same_bits(program: Program) -> None:
    params = jax.tree.map(lambda p: p.astype(program.dtype), start(program.depth))
    step = program.step()
    plain, fused = jax.jit(step), jax.jit(fuse_updates(step))
    one = other = (params, program.optimizer().init(params))
    for t in range(10):
        x = (X + t).astype(program.dtype)
        expected, found = plain(*one, x), fused(*other, x)
        jax.tree.map(np.testing.assert_array_equal, found, expected)
        one, other = expected[:2], found[:2]


def reports(step: Callable[..., Any], tx: Any, depth: int = 4) -> Any:
    params = start(depth)
    return explain_updates(step)(params, tx.init(params), X)


def plain_step(tx: Any, scan: Callable[..., Any]) -> Callable[..., Any]:
    def step(params: Any, state: Any, x: jax.Array) -> Any:
        return tx.apply(jax.grad(loss_of)(params, x, scan), state, params)

    return step


class TestReport:
    @pytest.mark.parametrize("scan", SCANS.keys() - {"twice", "blocks"})
    def test_scanned_leaves_are_woven_and_others_are_one_pass(self, scan: str) -> None:
        tx = nadam(1e-2)
        woven, left = reports(plain_step(tx, SCANS[scan]), tx)
        assert woven.woven
        assert woven.where == ("scan",)
        assert len(woven.leaves) == 3
        assert "inside scan: 3 leaves, woven" in str(woven)
        assert (left.leaves, left.reasons) == (("float32[4,4]",), ("",))
        assert not left.woven
        assert left.returns_params

    @pytest.mark.parametrize(
        ("wrapper", "scan", "reason"),
        [
            ("clipped", "forward", "its gradients go through select_n after the scan"),
            ("alone", "twice", "its gradients go through add_any after the scan"),
            ("if finite", "forward", "its gradients are made by a scan outside of cond"),
            ("divided", "forward", "its gradients go through div after the scan"),
        ],
    )
    def test_what_needs_all_gradients_is_not_woven(
        self, wrapper: str, scan: str, reason: str
    ) -> None:
        tx = WRAPPERS[wrapper](nadam(1e-2))

        def step(params: Any, state: Any, x: jax.Array) -> Any:
            grads = jax.grad(loss_of)(params, x, SCANS[scan])
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        (report,) = reports(step, tx)
        assert not report.woven
        assert reason in report.reasons
        assert ("clipping it by its own norm, is woven" in str(report)) == ("after" in reason)

    def test_gradients_that_are_kept(self) -> None:
        tx = nadam(1e-2)

        def step(params: Any, state: Any, x: jax.Array) -> Any:
            grads = jax.grad(loss_of)(params, x, scanned())
            return *tx.apply(grads, state, params), grads["layers"]["b"]

        woven, left = reports(step, tx)
        assert len(woven.leaves) == 2
        assert "its gradients go into nadam_xla_update and what is returned" in left.reasons

    @pytest.mark.parametrize(
        "change",
        [
            lambda g, scale: 0.5 * g,
            lambda g, scale: g * scale,
            lambda g, scale: (g.astype(jnp.bfloat16) * jnp.bfloat16(scale)).astype(jnp.float32),
            lambda g, scale: g.reshape(g.shape[0], -1).reshape(g.shape),
        ],
    )
    def test_what_changes_every_entry_alike_is_woven(self, change: Callable[..., Any]) -> None:
        tx = nadam(1e-2)

        def step(params: Any, state: Any, x: jax.Array) -> Any:
            grads = jax.grad(loss_of)(params, x, scanned())
            changed = jax.tree.map(lambda g: change(g, jnp.sum(x)), grads)
            return tx.apply(changed, state, params)

        woven, _ = reports(step, tx)
        assert woven.woven
        assert len(woven.leaves) == 3
        given = start(4), tx.init(start(4)), X
        jax.tree.map(
            np.testing.assert_array_equal,
            jax.jit(fuse_updates(step))(*given),
            jax.jit(step)(*given),
        )

    def test_clipping_entry_by_entry_is_woven(self) -> None:
        """The alternative to a global norm: each gradient by its own, inside of the loss."""

        @jax.custom_vjp
        def clip_gradient(x: jax.Array) -> jax.Array:
            return x

        def backward(_: None, d: jax.Array) -> tuple[jax.Array]:
            return (d * jnp.minimum(1.0, 1.0 / (jnp.linalg.norm(d) + 1e-6)),)

        clip_gradient.defvjp(lambda x: (x, None), backward)

        def scan(params: Any, x: jax.Array) -> jax.Array:
            def body(x: jax.Array, params: Any) -> Any:
                return layer(x, jax.tree.map(clip_gradient, params)), None

            return jax.lax.scan(body, x, params)[0]

        tx = nadam(1e-2)
        woven, _ = reports(plain_step(tx, scan), tx)
        assert len(woven.leaves) == 3


class TestProgram:
    """From the compiled program: no stack of gradients, no copy of a stack, all in place."""

    DEPTH, WIDE = 12, 64

    def compiled(self, step: Callable[..., Any], tx: Any) -> Any:
        params = start(self.DEPTH, self.WIDE)
        x = jnp.ones((8, self.WIDE))
        return jax.jit(step, donate_argnums=(0, 1)).lower(params, tx.init(params), x).compile()

    @pytest.mark.parametrize("scan", ["forward", "reverse", "remat", "flat entries"])
    @pytest.mark.parametrize("decay", [0.0, 0.1])
    def test_one_device(self, scan: str, decay: float) -> None:
        tx = nadamw(1e-2, weight_decay=decay)
        step = plain_step(tx, SCANS[scan])
        plain, fused = self.compiled(step, tx), self.compiled(fuse_updates(step), tx)
        text = fused.as_text()
        assert ENTRY in text
        stack = rf"f32\[{self.DEPTH},{self.WIDE},{self.WIDE}\]\S* copy\("
        assert not re.findall(stack, text)
        assert copies_of_arrays(text) <= copies_of_arrays(plain.as_text())
        gradients = self.DEPTH * (self.WIDE**2 + self.WIDE) * 4
        saved = (
            plain.memory_analysis().temp_size_in_bytes - fused.memory_analysis().temp_size_in_bytes
        )
        assert saved > 0.8 * gradients
        kept = fused.memory_analysis().alias_size_in_bytes
        assert kept == plain.memory_analysis().alias_size_in_bytes


def test_without_a_kernel_for_the_cpu_updates_stay_behind_the_scan(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """XLA:CPU would copy whole stacks in every turn of the loop."""
    monkeypatch.setattr(native, "MODULES", {})
    tx = nadam(1e-2)
    (report,) = reports(plain_step(tx, scanned()), tx)
    assert report.returns_params
    assert not report.woven


class TestTransformations:
    def test_vmap_inside_and_outside(self) -> None:
        tx = nadamw(1e-2)
        step = plain_step(tx, scanned())
        params = start(4)
        many = jax.tree.map(lambda p: jnp.stack([p, p + 0.1]), params)
        state = jax.vmap(tx.init)(many)
        over_both = (0, 0, None)
        expected = jax.jit(jax.vmap(step, over_both))(many, state, X)
        for fused in (
            fuse_updates(jax.vmap(step, over_both)),
            jax.vmap(fuse_updates(step), over_both),
        ):
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
                jax.jit(fused)(many, state, X),
                expected,
            )

    def test_grad_through_it(self) -> None:
        def loss(rate: Any, around: Any) -> Any:
            tx = nadam(rate)
            params = start(3)
            new, _ = around(plain_step(tx, scanned()))(params, tx.init(params), X)
            return loss_of(new, X, scanned())

        values = [
            jax.jit(jax.grad(lambda r, around=around: loss(r, around)))(1e-2)
            for around in (fuse_updates, lambda step: step)
        ]
        np.testing.assert_allclose(*values, rtol=1e-4)

    def test_an_epoch_of_steps_and_gradients_that_are_scaled_and_cast(self) -> None:
        tx = nadam(1e-2)

        def step(carry: Any, x: jax.Array) -> Any:
            params, state, scale = carry
            half = jax.tree.map(lambda p: p.astype(jnp.float16), params)
            grads = jax.grad(lambda p: loss_of(p, x.astype(jnp.float16), scanned()) * 4)(half)
            wide = jax.tree.map(lambda g: g.astype(jnp.float32) * scale, grads)
            return (*tx.apply(wide, state, params), scale), None

        def epoch(params: Any, state: Any, xs: jax.Array) -> Any:
            return jax.lax.scan(step, (params, state, jnp.float32(0.3)), xs)[0]

        params, xs = start(4), jnp.stack([X, X + 1])
        given = params, tx.init(params), xs
        woven, _ = explain_updates(epoch)(*given)
        assert woven.where == ("scan", "scan")
        jax.tree.map(
            np.testing.assert_array_equal,
            jax.jit(fuse_updates(epoch))(*given),
            jax.jit(epoch)(*given),
        )


def same_bits(step: Callable[..., Any], *given: Any) -> None:
    jax.tree.map(
        np.testing.assert_array_equal, jax.jit(fuse_updates(step))(*given), jax.jit(step)(*given)
    )


class TestWhatAStackDoes:
    """What stands between the loop and the update acts on the numbers: a stack, too."""

    STACK = jnp.asarray(np.random.default_rng(0).uniform(0.5, 1.5, (3, 64)), jnp.float32)

    def test_it_rounds_gradients_of_bfloat16(self) -> None:
        tx = nadam(1e-2)

        def loss(stack: jax.Array) -> jax.Array:
            def body(total: jax.Array, w: jax.Array) -> Any:
                return total + jnp.sum(jnp.sin(w) * w).astype(jnp.float32), None

            return jax.lax.scan(body, jnp.float32(0), stack.astype(jnp.bfloat16))[0]

        def step(stack: jax.Array, state: Any) -> Any:
            return tx.apply(jax.grad(loss)(stack), state, stack)

        (report,) = explain_updates(step)(self.STACK, tx.init(self.STACK))
        assert report.woven
        same_bits(step, self.STACK, tx.init(self.STACK))

    @pytest.mark.parametrize(("factor", "woven"), [(0.7, False), (0.1, False), (0.5, True)])
    def test_it_keeps_constants_apart(self, factor: float, woven: bool) -> None:
        """XLA makes one of two, which rounds otherwise; a power of two rounds nothing."""
        tx = nadam(1e-2)

        def loss(stack: jax.Array) -> jax.Array:
            def body(total: jax.Array, w: jax.Array) -> Any:
                return total + jnp.sum(jnp.sin(w * 0.1)), None

            return jax.lax.scan(body, jnp.float32(0), stack)[0]

        def step(stack: jax.Array, state: Any) -> Any:
            return tx.apply(jax.grad(loss)(stack) * factor, state, stack)

        (report,) = explain_updates(step)(self.STACK, tx.init(self.STACK))
        assert report.woven == woven
        assert woven or report.reasons == ("its gradients go through mul after the scan",)
        same_bits(step, self.STACK, tx.init(self.STACK))


class TestOtherScans:
    def test_one_that_writes_into_a_ref(self) -> None:
        if not hasattr(jax, "new_ref"):
            pytest.skip(f"JAX {jax.__version__} has no jax.new_ref")
        tx, layers = nadam(1e-2), jnp.ones((3, 4))

        def step(params: jax.Array, state: Any) -> Any:
            total = jax.new_ref(jnp.zeros(()))

            def body(carry: jax.Array, entry: jax.Array) -> Any:
                total[...] += entry.sum()
                return carry, entry * 2

            _, grads = jax.lax.scan(body, jnp.float32(0), params)
            return *tx.apply(grads, state, params), total[...]

        (report,) = explain_updates(step)(layers, tx.init(layers))
        assert report.reasons == ("the scan takes what is no array, such as a Ref",)
        same_bits(step, layers, tx.init(layers))

    def test_one_in_float64_in_a_program_of_float32(self) -> None:
        tx, layers = nadam(1e-2), jnp.full((3, 4), 0.5)

        def step(params: jax.Array, state: Any) -> Any:
            with enable_x64(True):

                def loss(params: jax.Array) -> jax.Array:
                    start = jnp.zeros((), jnp.float64)
                    return jax.lax.scan(lambda c, w: (c + jnp.sum(w * w), None), start, params)[0]

                grads = jax.grad(loss)(params)
            return tx.apply(grads, state, params)

        (report,) = explain_updates(step)(layers, tx.init(layers))
        assert "the scan computes in 64 bits" in report.reasons[0]
        same_bits(step, layers, tx.init(layers))
