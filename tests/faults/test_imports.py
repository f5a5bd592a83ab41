"""Where a framework or the native module is missing or does not fit, an error says what will do."""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from nursery import BY_TENSORFLOW, Life, nursery
from processes import outputs_of, started

import nadam_xla
from nadam_xla.frameworks import in_versions

PROGRAM = Path(__file__).parent / "running.py"

Born = Callable[..., Life]


def imported(module: str, after: str = "pass") -> str:
    """Code that tells how an import ends, in an environment that other code has made."""
    return f"""
import sys, types

def version(module, number):
    sys.modules[module] = types.ModuleType(module)
    sys.modules[module].__version__ = number

{after}
try:
    import {module}
except ImportError as error:
    print(type(error).__name__, error)
else:
    print("imported")
"""


# ---- frameworks ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def without_frameworks() -> Iterator[Born]:
    with nursery(PROGRAM, "nadam_xla", environment=BY_TENSORFLOW) as born:
        yield born


@pytest.mark.parametrize(
    ("module", "framework", "needs", "extra"),
    [
        ("nadam_xla.jax", "jax", "jax", "jax"),
        ("nadam_xla.jax", "optax", "optax 0.2.5 or later", "jax"),
        ("nadam_xla.keras", "keras", "keras 3.10 or later", "keras"),
        ("nadam_xla.tensorflow", "tensorflow", "tensorflow", "tensorflow"),
    ],
)
def test_what_is_missing_is_named_with_what_brings_it(
    without_frameworks: Born, module: str, framework: str, needs: str, extra: str
) -> None:
    life = without_frameworks(code=imported(module, f"sys.modules[{framework!r}] = None"))
    assert life.printed() == [
        f"ModuleNotFoundError {module} needs {needs}, and there is none:"
        f" pip install 'nadam-xla[{extra}]' brings it"
    ]


@pytest.mark.parametrize(
    ("module", "framework", "older", "oldest"),
    [
        ("nadam_xla.jax", "optax", "0.2.4", "0.2.5"),
        ("nadam_xla.keras", "keras", "2.15.0", "3.10"),
        ("nadam_xla.keras", "keras", "3.9.2", "3.10"),
    ],
)
def test_what_is_too_old_is_named_with_what_will_do(
    without_frameworks: Born, module: str, framework: str, older: str, oldest: str
) -> None:
    life = without_frameworks(code=imported(module, f"version({framework!r}, {older!r})"))
    (line,) = life.printed()
    assert line.startswith(
        f"ImportError {module} needs {framework} {oldest} or later, and this is {older}: pip"
    )


@pytest.mark.parametrize(
    ("module", "framework", "number"),
    [
        ("nadam_xla.jax", "optax", "0.2.5"),
        ("nadam_xla.jax", "optax", "0.2.5.dev1"),
        ("nadam_xla.jax", "optax", "of a fork"),
        ("nadam_xla.keras", "keras", "3.10.0"),
        ("nadam_xla.tensorflow", "tensorflow", "2.99"),
    ],
)
def test_what_is_not_too_old_is_told_from_those_that_are_tested(
    without_frameworks: Born, module: str, framework: str, number: str
) -> None:
    """It is taken, and then lacks what we need, for here it has but a number."""
    life = without_frameworks(code=imported(module, f"version({framework!r}, {number!r})"))
    (line,) = life.printed()
    assert line.startswith(
        f"ImportError this is {framework} {number}, and nadam_xla is tested with "
    )


def test_what_a_framework_itself_lacks_is_left_to_it(without_frameworks: Born) -> None:
    life = without_frameworks(code=imported("nadam_xla.jax", "sys.modules['jax.version'] = None"))
    assert life.printed() == [
        "ModuleNotFoundError import of jax.version halted; None in sys.modules"
    ]


@pytest.fixture(scope="module")
def with_jax() -> Iterator[Born]:
    with nursery(PROGRAM, "jax", "optax") as born:
        yield born


@pytest.mark.parametrize(
    ("removed", "missing"),
    [
        ("jax.interpreters.mlir.SPMDAxisContext", "cannot import name 'SPMDAxisContext'"),
        ("jax.ffi.register_ffi_target", "module 'jax.ffi' has no attribute"),
        ("jax.custom_jvp", "module 'jax' has no attribute 'custom_jvp'"),
    ],
)
def test_a_jax_that_has_lost_a_name_is_told_from_those_that_are_tested(
    with_jax: Born, removed: str, missing: str
) -> None:
    damage = f"import jax.ffi, jax.interpreters.mlir; del {removed}"
    (line,) = with_jax(code=imported("nadam_xla.jax", damage)).printed()
    assert line.startswith("ImportError this is jax ")
    assert "and nadam_xla is tested with 0.8.2 to 0.12" in line
    assert missing in line


def test_a_jax_that_does_not_tell_its_version_has_the_one_that_was_installed(
    with_jax: Born,
) -> None:
    damage = "import jax; number = jax.__version__; del jax.__version__, jax.custom_jvp"
    code = imported("nadam_xla.jax", damage) + "print(number)"
    told, number = with_jax(code=code).printed()
    assert told.startswith(f"ImportError this is jax {number}, and")


@pytest.fixture
def nobodys(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A framework that nothing knows."""
    monkeypatch.setitem(sys.modules, "nobodys", ModuleType("nobodys"))
    return sys.modules["nobodys"]


def test_a_framework_of_no_known_version(nobodys: ModuleType) -> None:
    expected = "this is nobodys of no known version, and nadam_xla is tested with 1 to 2: module"
    with pytest.raises(ImportError, match=expected), in_versions("nobodys", "1 to 2"):
        nobodys.absent  # noqa: B018


@pytest.mark.parametrize(
    "error",
    [
        ImportError("of another framework", name="nobodys_other"),
        ImportError("of no module"),
        AttributeError("of an object", name="absent", obj=object()),
    ],
    ids=str,
)
def test_what_another_one_lacks_is_not_taken_for_a_frameworks(
    nobodys: ModuleType, error: Exception
) -> None:
    with pytest.raises(type(error)) as found, in_versions("nobodys", "1 to 2"):
        raise error
    assert found.value is error


def test_a_jaxlib_that_does_not_tell_its_ffi_is_refused(with_jax: Born, tmp_path: Path) -> None:
    code = imported("nadam_xla.jax", f"import jax; jax.ffi.include_dir = lambda: {str(tmp_path)!r}")
    (line,) = with_jax(code=code).printed()
    assert "does not tell which version of XLA's FFI it has: it should stand in" in line
    assert str(tmp_path) in line


def test_our_own_refusal_is_not_taken_for_jaxs(with_jax: Born) -> None:
    code = imported("nadam_xla.jax", "import os; os.environ['NADAM_XLA_DISABLE'] = 'gpu'")
    (line,) = with_jax(code=code).printed()
    assert line.startswith("ImportError NADAM_XLA_DISABLE is 'gpu'")


STOCKS_STEP = """
import sys, warnings
import keras, numpy as np
from tensorflow.python import eager

name = "tensorflow.python.eager.context"  # which TensorFlow itself needs afterwards
context, sys.modules[name] = sys.modules[name], None
del eager.context
from nadam_xla.keras import Nadam
eager.context = sys.modules[name] = context

variable, stocks = keras.Variable(np.ones(3, "f")), keras.Variable(np.ones(3, "f"))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    Nadam(1e-2).apply([keras.ops.ones(3)], [variable])
keras.optimizers.Nadam(1e-2).apply([keras.ops.ones(3)], [stocks])
np.testing.assert_array_equal(variable, stocks)
print(*(warning.message for warning in caught))
"""


@pytest.mark.slow
def test_a_tensorflow_that_has_lost_a_name_trains_by_keras_own_update() -> None:
    with nursery(PROGRAM, "keras", environment=BY_TENSORFLOW) as born:
        (line,) = born(code=STOCKS_STEP).printed()
    assert "nadam_xla cannot reach the XLA of TensorFlow" in line
    assert "it supports TensorFlow 2.18 to 2.21 for Linux" in line


# ---- the native module ---------------------------------------------------------------------------


@pytest.fixture
def unbuilt(tmp_path: Path) -> Path:
    """A folder with the package, but without anything that is built."""
    shutil.copytree(
        Path(nadam_xla.__file__).parent,
        tmp_path / "nadam_xla",
        ignore=shutil.ignore_patterns("*.so", "__pycache__"),
    )
    return tmp_path / "nadam_xla"


def of_native_module(folder: Path) -> str:
    """How the import ends of the package that lies in a folder, however others are installed."""
    path = ":".join([str(folder), *filter(None, sys.path)])
    code = imported("nadam_xla.native")
    with started("-S", "-c", code, environment={"PYTHONPATH": path}) as process:
        return outputs_of(process)[0].strip()


def native_file() -> Path:
    from nadam_xla import _native  # noqa: PLC0415

    return Path(_native.__file__)


def test_a_tree_that_was_not_built(unbuilt: Path) -> None:
    told = of_native_module(unbuilt.parent)
    assert told.startswith(f"ImportError nadam_xla has no native module in {unbuilt}: Python 3.")
    assert "start elsewhere, or pip install the tree" in told


def test_a_native_module_for_another_python(unbuilt: Path) -> None:
    other = "_native.cpython-310-x86_64-linux-gnu.so"
    shutil.copy(native_file(), unbuilt / other)
    told = of_native_module(unbuilt.parent)
    assert f"nadam_xla's native module is for another Python, {other}, and Python 3." in told
    assert "takes _native" in told


def test_a_native_module_that_does_not_load(unbuilt: Path) -> None:
    file = unbuilt / native_file().name
    file.write_bytes(b"not what was built")
    told = of_native_module(unbuilt.parent)
    assert told.startswith(f"ImportError nadam_xla's native module does not load ({file}: ")
    assert "pip install --force-reinstall --no-deps nadam-xla" in told


def test_a_native_module_of_another_version(unbuilt: Path) -> None:
    shutil.copy(native_file(), unbuilt)
    metadata = unbuilt.parent / "nadam_xla-9.8.7.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: nadam-xla\nVersion: 9.8.7\n")
    told = of_native_module(unbuilt.parent)
    versions = f"is of version {nadam_xla.__version__}, and this is nadam_xla 9.8.7"
    assert versions in told


def test_the_tree_that_is_whole_is_imported(unbuilt: Path) -> None:
    shutil.copy(native_file(), unbuilt)
    assert of_native_module(unbuilt.parent) == "imported"
