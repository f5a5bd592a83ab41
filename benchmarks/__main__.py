"""`python -m benchmarks`: every section in a process of its own, then one report.

Prints Markdown tables and keeps them in the output folder, with the figures and versions as JSON,
and pictures.
"""

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from tqdm import tqdm

from benchmarks import pages, plots
from benchmarks.records import Record, load, save, table

# The module of each section, and the Keras backend that its process is for.
SECTIONS = [
    ("benchmarks.training_jax", "jax"),
    ("benchmarks.protocol_jax", "jax"),
    ("benchmarks.scanned_layers", "jax"),
    ("benchmarks.training_keras", "jax"),
    ("benchmarks.training_keras", "tensorflow"),
    ("benchmarks.training_torch", "tensorflow"),
    ("benchmarks.jax_steps", "jax"),
    ("benchmarks.narrow_storage", "jax"),
    ("benchmarks.gradient_processing", "jax"),
    ("benchmarks.averages", "jax"),
    ("benchmarks.rows", "jax"),
    ("benchmarks.rows", "tensorflow"),
    ("benchmarks.compile_time", "jax"),
    ("benchmarks.memory", "jax"),
    ("benchmarks.keras_steps", "jax"),
    ("benchmarks.keras_steps", "tensorflow"),
    ("benchmarks.torch_steps", "tensorflow"),
    ("benchmarks.sizes", "tensorflow"),
]
PACKAGES = (
    "nadam-xla",
    "jax",
    "jaxlib",
    "optax",
    "flax",
    "equinox",
    "keras",
    "tensorflow-cpu",
    "torch",
    "numpy",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("bench-output"))
    parser.add_argument("--section", help="run this module's section alone, in this process")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    if arguments.section:
        measure(arguments.section, arguments.output / "section.json")
    else:
        report(run_sections(arguments.output), arguments.output)


def measure(section: str, path: Path) -> None:
    module = importlib.import_module(section)
    records: list[Record] = []
    with tqdm(total=module.CASES_MEASURED, desc=section.removeprefix("benchmarks.")) as progress:
        for measured in module.measure():
            records += measured
            progress.update()
    save(records, path)


def run_sections(output: Path) -> list[Record]:
    records = []
    for section, backend in SECTIONS:
        environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "2"}
        command = [sys.executable, "-m", "benchmarks", "--section", section, "--output", output]
        subprocess.run(command, env=environment, check=True)
        records += load(output / "section.json")
    (output / "section.json").unlink()
    return records


def report(records: list[Record], output: Path) -> None:
    save(records, output / "records.json")
    (output / "machine.json").write_text(json.dumps(machine(), indent=1))
    parts = [
        "Ratios of interleaved runs: median (first to third quartile); above 1, ours is faster."
    ]
    for section in dict.fromkeys(r.section for r in records):
        parts.append(f"**{section}**\n\n" + table([r for r in records if r.section == section]))
    text = "\n\n".join(parts)
    (output / "report.md").write_text(text + "\n")
    plots.draw(records, output)
    pages.draw(records, output)
    print(f"\n{text}\n\nkept in {output}")


def machine() -> dict[str, object]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = {line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")}
    return {
        "cpu": sorted(models) or [platform.processor()],
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


if __name__ == "__main__":
    main()
