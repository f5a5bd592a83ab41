"""What a library with the CUDA kernels must have for GPUs: tests for whoever says which library."""

import re
import subprocess
from collections import defaultdict
from functools import cache
from importlib import metadata
from pathlib import Path

from nadam_xla._native import CudaLibrary

ARCHITECTURES = {75, 80, 86, 89, 90, 100, 120}


def cuobjdump(library: Path, *arguments: str) -> str:
    (program,) = (
        file.locate()
        for file in metadata.files("nvidia-cuda-cuobjdump") or ()
        if file.name == "cuobjdump"
    )
    command = [str(program), *arguments, str(library)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@cache
def instructions(library: Path) -> dict[tuple[int, str], list[str]]:
    """The machine instructions of each kernel for each architecture: (90, name) -> [...]."""
    found: dict[tuple[int, str], list[str]] = defaultdict(list)
    architecture, kernel = 0, ""
    for line in cuobjdump(library, "-sass").splitlines():
        if code := re.search(r"code for sm_(\d+)", line):
            architecture = int(code[1])
        elif function := re.search(r"Function : (\S+)", line):
            kernel = function[1]
        elif instruction := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]+)", line):
            found[architecture, kernel].append(instruction[1])
    return found


def kernels(library: Path, name: str) -> dict[tuple[int, str], list[str]]:
    return {key: code for key, code in instructions(library).items() if f"{name}I" in key[1]}


def kernels_of(library: Path, leaf: str) -> dict[tuple[int, str], list[str]]:
    """The kernels of the update for leaves of this kind."""
    found = {key: code for key, code in kernels(library, "update_kernel").items() if leaf in key[1]}
    assert found
    return found


class MachineCode:
    """A subclass has a fixture ``library``: the file."""

    def test_every_architecture_has_its_machine_code_and_all_others_ptx(
        self, library: Path
    ) -> None:
        listed = set(CudaLibrary(str(library)).architectures)
        assert listed <= ARCHITECTURES
        built = {architecture for architecture, _ in instructions(library)}
        assert built == listed
        of_ptx = {
            int(found) for found in re.findall(r"\.sm_(\d+)\.ptx", cuobjdump(library, "-lptx"))
        }
        assert of_ptx == {min(built)}, "what the oldest can run, every other can be compiled from"

    def test_no_kernel_uses_local_memory(self, library: Path) -> None:
        names = {name for _, name in instructions(library)}
        # Of two element types: two kinds of results with two sizes of the parameters, or with one
        # where leaves are stored in any way, with an average or without; and two kernels of sums
        # with two sizes. Of float32 alone, with one size: two kinds of results where moments are
        # in codes, with an average or without. And of rows, again of two types: of groups, or of
        # single elements.
        assert len(names) == 2 * (2 * (2 + 2) + 2 * 2) + 2 * 2 + 2 * 2
        for key, code in instructions(library).items():
            assert not any(opcode.startswith(("LDL", "STL")) for opcode in code), key

    def test_the_inner_loop_of_the_update_moves_16_bytes_at_a_time(self, library: Path) -> None:
        """Two packs of each of four streams are loaded before the first of six is stored."""
        found = kernels_of(library, "ComputedLeaf")
        for key, code in found.items():
            wide = [opcode for opcode in code if opcode.startswith(("LDG.E.128", "STG.E.128"))]
            assert [opcode[:3] for opcode in wide] == ["LDG"] * 8 + ["STG"] * 6, key

    def test_the_update_of_what_is_stored_in_any_way_moves_16_bytes_at_a_time(
        self, library: Path
    ) -> None:
        """Of eight elements one load where they are narrow, and two of float32."""
        loads, stores = 4 * (1 + 2), 1 + 2
        for key, code in kernels_of(library, "StoredLeaf").items():
            assert sum(opcode.startswith("LDG.E.128") for opcode in code) >= loads, key
            assert sum(opcode.startswith("STG.E.128") for opcode in code) >= stores, key

    def test_the_update_of_rows_moves_16_bytes_at_a_time(self, library: Path) -> None:
        """As that of what is stored in any way, and so do the gradients that are added up."""
        found = kernels(library, "rows_kernel")
        assert found
        for key, code in found.items():
            wide = [opcode for opcode in code if opcode.startswith(("LDG.E.128", "STG.E.128"))]
            loads = sum(opcode.startswith("LDG") for opcode in wide)
            assert (loads >= 6 * (1 + 2) and len(wide) > loads) == ("Li8E" in key[1]), key
            assert not any(opcode.startswith(("LDS", "STS", "ATOM", "BAR.")) for opcode in code)

    def test_a_block_of_codes_is_a_warps_and_needs_no_shared_memory(self, library: Path) -> None:
        """Codes are loaded and stored by eight, and all else 16 bytes at a time."""
        found = kernels(library, "update_blockwise_kernel")
        assert found
        for (architecture, name), code in found.items():
            of_lanes = "REDUX" if architecture >= 80 else "SHFL.BFLY"
            assert any(of_lanes in opcode for opcode in code), (architecture, name)
            assert not any(opcode.startswith(("LDS", "STS", "ATOM", "BAR.")) for opcode in code)
            for opcode, least in {
                "LDG.E.64": 2,
                "STG.E.64": 1,
                "LDG.E.128": 6,
                "STG.E.128": 3,
            }.items():
                assert sum(found.startswith(opcode) for found in code) >= least, (
                    architecture,
                    name,
                )

    def test_the_sums_of_squares_load_16_bytes_at_a_time(self, library: Path) -> None:
        found = kernels(library, "sum_parts_kernel")
        assert found
        for key, code in found.items():
            assert sum(opcode.startswith("LDG.E.128") for opcode in code) >= 4, key
            assert not any(opcode.startswith(("ATOM", "RED.")) for opcode in code), key
