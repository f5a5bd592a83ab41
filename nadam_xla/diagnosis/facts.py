"""The facts, as ``--json`` prints them. Each key is always there; what is not known is null."""

from typing import Literal, TypedDict

from nadam_xla.update_path import Update

SCHEMA: Literal[1] = 1
"""Counted up when a key changes its meaning or goes; a new key leaves it as it is."""


class Diagnosis(TypedDict):
    """All of it."""

    schema: Literal[1]
    nadam_xla: str
    system: "System"
    packages: dict[str, str | None]  # versions as installed; null: not installed
    environment: dict[str, str]  # the variables that are set and bear on it
    native: "Native"
    jax: "Framework"
    tensorflow: "Framework"
    keras: "Framework"
    measurement: "Measurement | None"  # null: none was asked for


class System(TypedDict):
    """The machine and its software."""

    os: str
    machine: str  # x86_64, aarch64
    libc: str | None
    cpu: str | None
    cores: "Cores"
    transparent_huge_pages: str | None  # always, madvise, never
    python: str


class Cores(TypedDict):
    """Of the processor."""

    usable: int  # by this process, after its affinity
    present: int
    quota: float | None  # of its control group: the time of how many cores it gets


class Native(TypedDict):
    """The native modules, and what they make of this machine."""

    modules: "list[NativeModule]"
    instruction_set: str | None  # in use
    instruction_sets: list[str] | None  # that this machine can run
    error: str | None


class NativeModule(TypedDict):
    """A module of kernels."""

    platform: str
    used: bool
    reason: str | None  # why it is not used
    file: str | None
    compiler: str | None
    ffi_api_version: str | None
    cuda_toolkit: str | None
    cuda_architectures: list[int] | None
    cuda_driver: str | None


class Framework(TypedDict):
    """JAX, TensorFlow or Keras, in a process of its own."""

    version: str | None
    backend: str | None  # of Keras
    registered: list[str]  # the platforms for which its XLA was given the handlers
    threads: int | None  # of its XLA, which the CPU's kernel shares
    devices: "list[DevicePath]"
    programs: "list[ProgramPath]"
    allocator: str | None  # what answers malloc
    large_step: "LargeStep | None"
    error: str | None  # why it, or nadam_xla in it, is of no use


class DevicePath(TypedDict):
    """Which update runs on the devices of one kind."""

    device: str  # as the framework names their platform or type
    kind: str | None
    count: int
    update: Update
    reason: str | None
    step: str | None  # what came of one that was tried: "ran", or its error; null: none was


class ProgramPath(TypedDict):
    """Which update runs in a program that is not one device's alone, or is run elsewhere."""

    partitioned: bool  # over the devices of a mesh
    exported: bool
    update: Update
    reason: str | None


class LargeStep(TypedDict):
    """What a step with much temporary memory costs in page faults, on the CPU."""

    temporary_mib: float
    page_faults: int  # of a step, the median
    faults_anew: bool  # whether they are most of its temporary memory
    advice: str | None


class Measurement(TypedDict):
    """Steps that take turns, for half a second."""

    framework: str | None
    device: str | None
    update: Update | None
    parameters: int | None  # float32
    turns: int | None
    milliseconds: float | None  # of our step, the median
    gigabytes_per_second: float | None  # that it moves, 28 bytes a parameter
    ratios: "list[Ratio]"
    error: str | None


class Ratio(TypedDict):
    """What another took, by what ours took: above 1 ours is faster."""

    name: str
    median: float
    first_quartile: float
    third_quartile: float


BLANK_NATIVE: Native = {
    "modules": [],
    "instruction_set": None,
    "instruction_sets": None,
    "error": None,
}
BLANK_FRAMEWORK: Framework = {
    "version": None,
    "backend": None,
    "registered": [],
    "threads": None,
    "devices": [],
    "programs": [],
    "allocator": None,
    "large_step": None,
    "error": None,
}
BLANK_MEASUREMENT: Measurement = {
    "framework": None,
    "device": None,
    "update": None,
    "parameters": None,
    "turns": None,
    "milliseconds": None,
    "gigabytes_per_second": None,
    "ratios": [],
    "error": None,
}
