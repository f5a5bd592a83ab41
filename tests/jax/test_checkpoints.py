"""Orbax saves the state and restores it, in the same place and onto another sharding."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training import PARAMS, assert_close, gradients, train

from nadam_xla.jax import NadamState, nadam, nadamw

ocp = pytest.importorskip("orbax.checkpoint", reason="Orbax is tested here")

GRADS = gradients(10)
SCRIPT = Path(__file__).parent.parent / "restore_onto_mesh.py"

OPTIMIZERS = {
    "nadam": nadam(1e-2),
    "momentum_decay": nadamw(1e-2, momentum_decay=0.004),
    "narrow first moments": nadam(1e-2, mu_dtype="bfloat16"),
    "chain": optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.apply_if_finite(optax.inject_hyperparams(nadam)(1e-2), 3),
    ),
    "masked": optax.masked(nadam(1e-2), lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree)),
}
# Orbax stores no leaf without elements.
START = {name: leaf for name, leaf in PARAMS.items() if name != "empty"}
SOME_GRADS = [{name: leaf for name, leaf in g.items() if name != "empty"} for g in GRADS]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_goes_on_from_a_checkpoint(name: str, tmp_path: Path) -> None:
    tx = OPTIMIZERS[name]
    params, state = train(tx, SOME_GRADS[:5], START)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "checkpoint", (params, state))
        checkpointer.wait_until_finished()
        like = START, jax.eval_shape(tx.init, START)
        restored = checkpointer.restore(tmp_path / "checkpoint", like)
    assert jax.tree.structure(restored) == jax.tree.structure((params, state))
    jax.tree.map(np.testing.assert_array_equal, restored, (params, state))
    result, _ = train(tx, SOME_GRADS[5:], *restored)
    expected, _ = train(tx, SOME_GRADS, START)
    jax.tree.map(np.testing.assert_array_equal, result, expected)


def test_a_checkpoint_of_one_device_is_restored_onto_four(tmp_path: Path) -> None:
    tx = nadam(1e-2, momentum_decay=0.004)
    start = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(8, 6)), jnp.float32)}

    def steps(params: Any, state: NadamState) -> Any:
        for _ in range(3):
            params, state = jax.jit(tx.apply)(params, state, params)
        return params, state

    with ocp.StandardCheckpointer() as checkpointer:
        params, state = steps(start, tx.init(start))
        checkpointer.save(tmp_path / "before", (params, state))
        checkpointer.wait_until_finished()
        command = [sys.executable, SCRIPT, tmp_path / "before", tmp_path / "after"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        # And back from four devices onto one.
        like = start, jax.eval_shape(tx.init, start)
        on_one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=on_one), like)
        restored = checkpointer.restore(tmp_path / "after", like)
    assert isinstance(restored[1], NadamState)
    assert restored[1].mu["w"].sharding == on_one
    assert_close(restored, steps(params, state))


def test_what_is_restored_without_a_target_is_refused_by_name(tmp_path: Path) -> None:
    """Orbax then gives dictionaries and lists, for it does not know the state's type."""
    tx = nadam(1e-2)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "checkpoint", tx.init(START))
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "checkpoint")
    with pytest.raises(TypeError, match="state is a dict; it must be the NadamState that init"):
        tx.update(START, restored, START)
