"""The diagnosis as text: sections of rows, each a label and what there is to say to it."""

import shutil
import textwrap
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from nadam_xla.diagnosis.facts import (
    Cores,
    DevicePath,
    Diagnosis,
    Framework,
    LargeStep,
    Measurement,
    Native,
    NativeModule,
    Ratio,
)
from nadam_xla.diagnosis.measurement import LIMIT, OURS
from nadam_xla.update_path import Update

_WIDEST = 100
_LABEL = 17  # columns, with those before and behind it
_UPDATES: Mapping[Update, str] = {
    "kernel": "kernel",
    "stablehlo": "plain StableHLO",
    "stock": "stock's update",
    "none": "no update",
}

_PROGRAMS = {
    (True, False): "on a mesh",
    (False, True): "exported",
    (True, True): "exported, mesh",
}
"""Labels of programs, by whether they are partitioned, and exported."""

Rows = Iterator[tuple[str, str]]


class _Section(NamedTuple):
    heading: str
    rows: Rows


def report(diagnosis: Diagnosis) -> str:
    """All of it, no wider than the terminal."""
    width = min(_WIDEST, shutil.get_terminal_size().columns)
    return "\n\n".join(_text(section, width) for section in _sections(diagnosis))


def _text(section: _Section, width: int) -> str:
    lines = textwrap.wrap(section.heading, width)
    for label, value in section.rows:
        lines += textwrap.wrap(
            value,
            width,
            initial_indent=f"  {label} ".ljust(_LABEL),
            subsequent_indent=" " * _LABEL,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def _sections(diagnosis: Diagnosis) -> Iterator[_Section]:
    jax, tensorflow, keras = diagnosis["jax"], diagnosis["tensorflow"], diagnosis["keras"]
    yield _Section(f"nadam_xla {diagnosis['nadam_xla']}", _installation(diagnosis))
    yield _Section("Native modules", _native(diagnosis["native"]))
    yield _Section(_heading("JAX", jax), _framework(jax))
    yield _Section(_heading("TensorFlow", tensorflow), _framework(tensorflow))
    yield _Section(_heading("Keras", keras), _framework(keras))
    yield _Section("Memory", _memory(diagnosis))
    measurement = diagnosis["measurement"]
    if measurement is not None:
        yield _measured(measurement)


def _installation(diagnosis: Diagnosis) -> Rows:
    system = diagnosis["system"]
    software = (system["python"], system["os"], system["machine"], system["libc"])
    yield "system", ", ".join(filter(None, software))
    yield "processor", f"{system['cpu'] or 'unknown'}; {_cores(system['cores'])}"
    versions = diagnosis["packages"].items()
    yield "packages", ", ".join(f"{name} {version}" for name, version in versions if version)
    for name, value in diagnosis["environment"].items():
        yield "environment", f"{name}={value}"


def _cores(cores: Cores) -> str:
    text = f"this process may use {cores['usable']} of {cores['present']} cores"
    quota = cores["quota"]
    return text if quota is None else f"{text}, and the time of {quota:g}"


def _native(native: Native) -> Rows:
    for module in native["modules"]:
        yield module["platform"], _module(module)
    sets = native["instruction_sets"]
    if sets is not None:
        yield "instructions", f"{native['instruction_set'] or 'none'} in use, of {', '.join(sets)}"
    if native["error"] is not None:
        yield "error", native["error"]


def _module(module: NativeModule) -> str:
    if not module["used"]:
        return f"not used: {module['reason']}"
    architectures = ", ".join(map(str, module["cuda_architectures"] or []))
    facts = {
        "": module["file"],
        "built by ": module["compiler"],
        "for XLA's FFI ": module["ffi_api_version"],
        "with CUDA ": module["cuda_toolkit"],
        "for compute capabilities ": architectures,
        "driver of CUDA ": module["cuda_driver"],
    }
    return ", ".join(f"{name}{value}" for name, value in facts.items() if value)


def _heading(name: str, framework: Framework) -> str:
    version = framework["version"]
    backend = f" on {framework['backend']}" if framework["backend"] else ""
    return name if version is None else f"{name} {version}{backend}"


def _framework(framework: Framework) -> Rows:
    for entry in framework["devices"]:
        yield entry["device"], _device(entry)
    for program in framework["programs"]:
        path = _update(program["update"], program["reason"])
        if path != _update(framework["devices"][0]["update"], framework["devices"][0]["reason"]):
            yield _PROGRAMS[program["partitioned"], program["exported"]], path
    if framework["registered"]:
        yield "handlers", f"registered with its XLA for {', '.join(framework['registered'])}"
    if framework["threads"] is not None:
        yield "threads", f"{framework['threads']} in the pool of its XLA"
    if framework["error"] is not None:
        yield "error", framework["error"]


def _device(entry: DevicePath) -> str:
    text = _update(entry["update"], entry["reason"])
    if entry["kind"] not in (None, entry["device"]):
        text = f"{entry['count']} x {entry['kind']}: {text}"
    elif entry["count"] > 1:
        text = f"{entry['count']}: {text}"
    step = entry["step"]
    return text if step in (None, "ran") else f"{text}; but a small step fails: {step}"


def _update(update: Update, reason: str | None) -> str:
    return _UPDATES[update] if reason is None else f"{_UPDATES[update]}: {reason}"


def _memory(diagnosis: Diagnosis) -> Rows:
    frameworks = {"JAX": diagnosis["jax"], "TensorFlow": diagnosis["tensorflow"]}
    allocators = dict.fromkeys(f["allocator"] for f in frameworks.values() if f["allocator"])
    if allocators:
        yield "allocator", ", ".join(allocators)
    for name, framework in frameworks.items():
        if framework["large_step"] is not None:
            yield name, _large_step(framework["large_step"])
            if framework["large_step"]["advice"] is not None:
                yield "advice", framework["large_step"]["advice"]


def _large_step(step: LargeStep) -> str:
    memory = f"its {step['temporary_mib']:g} MiB of temporary memory"
    what = f"faults {memory} in anew" if step["faults_anew"] else f"finds {memory} in place"
    return f"a large step {what}, with {step['page_faults']} page faults"


def _measured(measurement: Measurement) -> _Section:
    if measurement["error"] is not None:
        return _Section("A step, measured", iter([("error", measurement["error"])]))
    millions = (measurement["parameters"] or 0) / 1e6
    where = f"{measurement['framework']} on {measurement['device']}"
    heading = f"A step of {millions:.1f} million parameters, {where}, {measurement['turns']} turns"
    return _Section(heading, _times(measurement))


def _times(measurement: Measurement) -> Rows:
    yield (
        OURS,
        (
            f"{measurement['milliseconds']:.1f} ms, {measurement['gigabytes_per_second']:.0f} GB/s"
            f" ({_UPDATES[measurement['update'] or 'none']})"
        ),
    )
    for ratio in measurement["ratios"]:
        yield ratio["name"], _ratio(ratio)


def _ratio(ratio: Ratio) -> str:
    low, high = ratio["first_quartile"], ratio["third_quartile"]
    text = f"{ratio['median']:.2f} times as long ({low:.2f} to {high:.2f})"
    is_limit = ratio["name"] == LIMIT
    return f"{text}; it is x * a + b in place, over as many bytes" if is_limit else text
