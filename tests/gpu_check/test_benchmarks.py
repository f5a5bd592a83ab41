"""The GPU's benchmarks: their contenders on small leaves here, their arithmetic, their table."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training import assert_close

from benchmarks import gpu_cases, gpu_jax_steps, gpu_steps, gpu_table, launches
from benchmarks.gpu_cases import COPY, LARGEST, OURS_CALL, OURS_LOOP, TINY, XLA_CALL, XLA_LOOP
from benchmarks.gpu_steps import Measured, Run
from benchmarks.gpu_table import Figures

SHAPES = [(64,), (8, 3), ()]
BYTES = {"float32": 28 * 89, "bfloat16": 22 * 89}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_jax_contender_runs_and_counts_its_bytes(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_jax_steps, "BYTES_COPIED", 4096)
    monkeypatch.setattr(gpu_steps, "TURNS", (3, 3))
    builds = gpu_jax_steps.contenders(SHAPES, dtype)
    figures = dict(gpu_steps.measure(builds, [], seconds=30))
    assert set(figures) == {COPY, OURS_LOOP, XLA_LOOP, OURS_CALL, XLA_CALL}
    for name, found in figures.items():
        assert found["bytes"] == (8192 if name == COPY else BYTES[dtype])
        assert 0 < found["low"] <= found["time"] <= found["high"]
        assert found["launches"] is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_ours_and_xlas_do_the_same(dtype: str) -> None:
    leaves = gpu_jax_steps.LeavesOnDevice(SHAPES, dtype)
    results = []
    for optimizer in (gpu_jax_steps.OURS, gpu_jax_steps.XLA):
        params, state = leaves.start(optimizer)
        for _ in range(3):
            params, state = jax.jit(optimizer[1])(leaves.grads, state, params)
        assert {x.dtype for x in params} == {jnp.dtype(dtype)}
        results.append([x.astype(np.float32) for x in params])
    # One unit in the last place of a bfloat16, where the two round to different sides.
    assert_close(*results, rtol=2e-6 if dtype == "float32" else 2**-7, atol=2e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pytorchs_contenders_run_and_count_their_bytes(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from benchmarks import gpu_torch_compiled, gpu_torch_steps  # noqa: PLC0415

    monkeypatch.setattr(gpu_torch_steps, "BYTES_COPIED", 4096)
    monkeypatch.setattr(gpu_steps, "TURNS", (3, 3))
    builds = gpu_torch_steps.contenders(SHAPES, dtype)
    assert set(gpu_torch_compiled.contenders(SHAPES, dtype)) == {COPY, gpu_cases.TORCH_COMPILED}
    figures = dict(gpu_steps.measure(builds, [], seconds=30))
    size = {"float32": 28 * 89, "bfloat16": 14 * 89}[dtype]
    for name in (gpu_cases.TORCH_FOREACH, gpu_cases.TORCH_FUSED):
        assert figures[name]["bytes"] == size
        assert figures[name]["time"] > 0
    if not gpu_torch_steps.torch.cuda.is_available():
        assert figures[gpu_cases.TORCH_GRAPH].keys() == {"note"}, "no CUDA graph without CUDA"


def contender(seconds: float) -> Callable[[], Run]:
    return lambda: Run(lambda: time.sleep(seconds), steps=10, bytes=1000)


def test_launches_are_counted_of_those_that_ask_for_it() -> None:
    def tracer(run: Callable[[], None]) -> Counter[str]:
        return Counter({"update_kernel": 20, "fusion": 10})

    builds = {
        "call": lambda: Run(lambda: None, steps=10, bytes=1),
        "loop": lambda: Run(lambda: None, steps=10, bytes=1, counted=False),
    }
    figures = dict(gpu_steps.measure(builds, [tracer], seconds=1))
    assert [figures[name]["launches"] for name in builds] == [3, None]
    assert [figures[name]["our_launches"] for name in builds] == [2, None]


def test_one_that_cannot_be_built_does_not_stop_the_others() -> None:
    def cannot() -> Run:
        raise RuntimeError("no\n  memory")

    builds = {"a": contender(0.001), "b": cannot, "c": contender(0.002)}
    figures = dict(gpu_steps.measure(builds, [], seconds=0.2))
    assert figures["b"] == {"note": "RuntimeError: no memory"}
    assert 0.0001 <= figures["a"]["time"] < figures["c"]["time"] < 0.001
    assert 3 <= figures["a"]["turns"] == figures["c"]["turns"] <= 15


def test_what_there_is_no_time_for_is_left_out() -> None:
    builds = {name: contender(0.001) for name in "abcd"}
    figures = dict(gpu_steps.measure(builds, [], seconds=0))
    assert figures["d"] == {"note": "no time was left"}
    assert [figures[name]["turns"] for name in "abc"] == [3, 3, 3]


def test_figures_survive_a_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "measured"
    measured = [Measured("jax", TINY, "float32", name, time=0.5) for name in (OURS_LOOP, COPY)]
    for m in measured:
        gpu_steps.append(m, path)
    with path.open("a") as file:
        file.write('{"framework": "jax", "ca')
    assert gpu_steps.load(path) == measured
    assert gpu_steps.load(tmp_path / "nothing") == []


PROFILE = """
planes { name: "/host:CPU" lines { name: "Stream #1" events { metadata_id: 1 } }
         event_metadata { key: 1 value { id: 1 name: "update_kernel" } } }
planes {
  name: "/device:GPU:0"
  lines { name: "Stream #13(MemcpyD2D,Compute)"
          events { metadata_id: 1 } events { metadata_id: 1 } events { metadata_id: 2 }
          events { metadata_id: 3 } events { metadata_id: 4 } }
  lines { name: "XLA Ops" events { metadata_id: 2 } }
  event_metadata { key: 1 value { id: 1 name: "nadam_xla::cuda::update_kernel<float>" } }
  event_metadata { key: 2 value { id: 2 name: "loop_add_fusion" } }
  event_metadata { key: 3 value { id: 3 name: "MemcpyD2D" } }
  event_metadata { key: 4 value { id: 4 name: "Memset" } }
}
"""


def test_kernels_are_counted_in_jaxs_profile() -> None:
    profile_data = jax.profiler.ProfileData
    profile = profile_data.from_serialized_xspace(
        profile_data.text_proto_to_serialized_xspace(PROFILE)
    )
    assert launches.kernels_of_profile(profile) == {
        "nadam_xla::cuda::update_kernel<float>": 2,
        "loop_add_fusion": 1,
    }


def test_kernels_are_counted_in_pytorchs_trace() -> None:
    events = [{"cat": "kernel", "name": "k"}] * 3 + [{"cat": "gpu_memcpy", "name": "m"}, {}]
    assert launches.kernels_of_chrome_trace({"traceEvents": events}) == {"k": 3}


def test_the_first_profiler_that_sees_a_kernel_counts() -> None:
    def broken(run: Callable[[], None]) -> Counter[str]:
        raise RuntimeError("no profiler")

    def blind(run: Callable[[], None]) -> Counter[str]:
        return Counter()

    def seeing(run: Callable[[], None]) -> Counter[str]:
        run()
        return Counter({"update_kernel<1>": 40, "fusion": 60})

    counted = launches.launches_a_step(lambda: None, 10, [broken, blind, seeing])
    assert counted == launches.Launches(all=10, ours=4)
    assert launches.launches_a_step(lambda: None, 10, [broken, blind]) is None


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="there is a GPU: kernels are seen")
def test_without_a_gpu_the_profilers_see_no_kernel() -> None:
    assert not launches.seen_by_jax(lambda: jnp.ones(3).block_until_ready())


def measured(contender: str, seconds: float, **other: object) -> Measured:
    fields = {"case": LARGEST, "precision": "float32", "bytes": 28 * 2**28, **other}
    return Measured(
        framework="jax", contender=contender, time=seconds, low=seconds, high=seconds, **fields
    )


FIGURES = [
    measured(COPY, 1e-3, bytes=3 * 10**9),
    measured(OURS_LOOP, 2.6e-3),
    measured(XLA_LOOP, 5.2e-3),
    measured(OURS_CALL, 2.6e-3, launches=2.0, our_launches=1.0),
    measured(OURS_CALL, 50e-6, case=TINY, bytes=28 * 64_000, our_launches=4.0),
    measured(XLA_CALL, 75e-6, case=TINY, bytes=28 * 64_000),
    Measured("torch", LARGEST, "float32", gpu_cases.TORCH_GRAPH, note="no | memory"),
]


def rows_of(text: str) -> dict[tuple[str, ...], list[str]]:
    lines = [line.strip("| ").split(" | ") for line in text.splitlines()[2:]]
    return {tuple(cells[:3]): cells[3:] for cells in lines}


def test_the_table_has_every_place_and_no_figure_that_was_not_measured() -> None:
    rows = rows_of(gpu_table.table(Figures(FIGURES)))
    assert len(rows) == 2 * len(gpu_cases.CASES) * len(gpu_cases.UPDATES)
    assert rows[LARGEST, "float32", OURS_LOOP] == [
        "2.6 (2.6 to 2.6)",
        "28",
        "2891",
        "0.96",
        "1.00",
        "as in a call",
    ]
    assert rows[LARGEST, "float32", XLA_LOOP][-2] == "2.00"
    assert rows[LARGEST, "float32", OURS_CALL][-2:] == ["1.00", "2, 1 of them ours"]
    assert rows[TINY, "float32", XLA_CALL][1:] == [
        "28",
        "24",
        "not measured",
        "1.50",
        "not counted",
    ]
    of_graph = rows[LARGEST, "float32", gpu_cases.TORCH_GRAPH]
    assert of_graph[0] == "not measured: no / memory"
    assert of_graph[1:] == ["not measured"] * 5
    for cells in rows_of(gpu_table.table(Figures([]))).values():
        assert cells == ["not measured"] * 6


def test_verdicts_say_what_was_met_missed_and_not_measured() -> None:
    lines = list(gpu_table.verdicts(Figures(FIGURES)))
    large = f"{LARGEST}, float32"
    assert f"MET: {large}, compiled loop: of the copy's rate 0.9636 (at least 0.92)" in lines
    assert f"MET: {large}, compiled loop: times as fast as XLA 2 (at least 1)" in lines
    assert f"MET: {large}: leaves a launch 1 (at least 1)" in lines
    assert f"not measured: {large}, a call a step: times as fast as XLA (at least 1)" in lines
    tiny = f"{TINY}, float32"
    assert f"MISSED: {tiny}, a call a step: times as fast as XLA 1.5 (at least 2)" in lines
    assert f"MET: {tiny}: leaves a launch 250 (at least 200)" in lines
    assert all(line.startswith("not measured: ") for line in gpu_table.verdicts(Figures([])))


def test_a_rate_is_compared_with_the_copy_of_its_own_process() -> None:
    copy_of_torch = Measured("torch", LARGEST, "float32", COPY, time=1.0, bytes=10)
    figures = Figures([*FIGURES, copy_of_torch])
    assert figures.of_copy(FIGURES[1]) == pytest.approx(28 * 2**28 / 2.6e-3 / 3e12)
    assert "jax: 3000 to 3000 GB/s" in gpu_table.copies(figures)


def test_the_report_begins_with_the_machine_and_ends_with_the_table() -> None:
    report = gpu_table.report(FIGURES, {"device": "a GPU"})
    assert report.startswith("- device: a GPU\n")
    assert report.endswith(gpu_table.table(Figures(FIGURES)))
