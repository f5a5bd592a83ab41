"""What the distributions consist of: what a user needs, and nothing else."""

import re
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import pytest
from distributions import ABIS, ARCHITECTURES, DIST, ROOT, VERSION, files_of, metadata_of, wheel_of
from elftools.elf.elffile import ELFFile
from packaging.utils import parse_wheel_filename

WHEELS = [(abi, architecture) for abi in ABIS for architecture in ARCHITECTURES]
MODULE_SUFFIX = {
    ("cp311-cp311", "x86_64"): ".cpython-311-x86_64-linux-gnu.so",
    ("cp311-cp311", "aarch64"): ".cpython-311-aarch64-linux-gnu.so",
    ("cp312-abi3", "x86_64"): ".abi3.so",
    ("cp312-abi3", "aarch64"): ".abi3.so",
}
MACHINE = {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64"}
SYSTEM_LIBRARIES = {"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2"}
LOADERS = {"ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}
NEWEST_GLIBC = (2, 17)


def module_of(abi: str, architecture: str) -> ELFFile:
    wheel = wheel_of(abi, architecture)
    (name,) = (name for name in files_of(wheel) if ".so" in name)
    return ELFFile(BytesIO(ZipFile(wheel).read(name)))


def package_files() -> set[str]:
    """The Python files of the package, but for the stubs of what no wheel has."""
    absent = {"nadam_xla/_native_testing.pyi"}
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "nadam_xla").rglob("*.py*")}
    return {name for name in files if Path(name).suffix in (".py", ".pyi")} - absent


def test_there_is_one_source_distribution_and_a_wheel_for_each_abi_and_architecture() -> None:
    wheels = {wheel_of(*wheel) for wheel in WHEELS}
    assert set(DIST.glob("nadam_xla-*")) == wheels | {DIST / f"nadam_xla-{VERSION}.tar.gz"}


@pytest.mark.parametrize(("abi", "architecture"), WHEELS)
class TestWheel:
    def test_it_has_the_package_and_one_native_module(self, abi: str, architecture: str) -> None:
        files = set(files_of(wheel_of(abi, architecture)))
        metadata = {name for name in files if name.startswith(f"nadam_xla-{VERSION}.dist-info/")}
        native = f"nadam_xla/_native{MODULE_SUFFIX[abi, architecture]}"
        assert files - metadata == package_files() | {"nadam_xla/py.typed", native}
        assert f"nadam_xla-{VERSION}.dist-info/licenses/LICENSE" in metadata

    def test_it_is_tagged_for_an_old_glibc(self, abi: str, architecture: str) -> None:
        *_, tags = parse_wheel_filename(wheel_of(abi, architecture).name)
        for tag in tags:
            glibc = re.fullmatch(rf"manylinux_(\d+)_(\d+)_{architecture}", tag.platform)
            legacy = tag.platform == f"manylinux2014_{architecture}"
            assert legacy or (glibc and tuple(map(int, glibc.groups())) <= NEWEST_GLIBC)

    def test_it_needs_the_system_alone(self, abi: str, architecture: str) -> None:
        module = module_of(abi, architecture)
        assert module["e_machine"] == MACHINE[architecture]
        needed = {
            tag.needed
            for tag in module.get_section_by_name(".dynamic").iter_tags()
            if tag.entry.d_tag == "DT_NEEDED"
        }
        assert needed <= SYSTEM_LIBRARIES | LOADERS

    def test_its_module_shows_nothing_but_its_entry(self, abi: str, architecture: str) -> None:
        """A C++ library that others could see would be theirs, too, or theirs ours."""
        symbols = module_of(abi, architecture).get_section_by_name(".dynsym").iter_symbols()
        shown = {symbol.name for symbol in symbols if symbol["st_shndx"] != "SHN_UNDEF"}
        assert shown == {"PyInit__native"}

    def test_its_metadata_lead_to_the_project(self, abi: str, architecture: str) -> None:
        metadata = metadata_of(wheel_of(abi, architecture))
        assert f"\nVersion: {VERSION}\n" in metadata
        for name in ("Homepage", "Documentation", "Source", "Issues", "Changelog"):
            assert f"\nProject-URL: {name}, https://" in metadata


def test_the_source_distribution_has_all_that_is_tracked() -> None:
    """But for what CI and editors are told. Nor has it what lies about in a checkout."""
    prefix = f"nadam_xla-{VERSION}/"
    with tarfile.open(DIST / f"nadam_xla-{VERSION}.tar.gz") as archive:
        files = {member.name.removeprefix(prefix) for member in archive if member.isfile()}
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    tracked = {name for name in listed.stdout.splitlines() if not name.startswith(".")}
    assert files == tracked | {"PKG-INFO"}
