"""A pytest plugin: a Nadam in the place of each of Keras's optimizers, in Keras and in its tests.

Keras's tests train with whatever optimizer comes to hand, mostly SGD, by class or by name. Each
gets a Nadam instead: ours, or with ``--nadam=stock`` Keras's own. With ours, those that cannot
apply have to fail, and every other one has to pass; with stock's, only the former run, and have to
fail as well: so none stands there because of what is ours.
"""

import functools
import inspect
import re
import sys
from collections import Counter
from importlib.util import find_spec
from typing import Any

import keras
import pytest
from cannot_apply import cannot_apply
from keras.src import optimizers
from keras.src.api_export import REGISTERED_NAMES_TO_OBJS

from nadam_xla.keras import Nadam, backend_step

STOCK = keras.optimizers.Nadam
CANNOT_APPLY = cannot_apply(keras.backend.backend())

# Of an optimizer, or of what holds one, and so not to be replaced.
_WRAPPERS = ("Optimizer", "LossScaleOptimizer", "MultiOptimizer", "OptimizerMap")
REPLACED = [kind for kind in optimizers.ALL_OBJECTS if kind.__name__ not in _WRAPPERS]

# A test speaks of an optimizer, or trains.
_CONCERNS_OPTIMIZERS = re.compile(r"optimizer|compile|fit\(|train_on_batch")

counts: Counter[str] = Counter()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--nadam", choices=["ours", "stock"], default="ours")


def pytest_configure(config: pytest.Config) -> None:
    # Keras declares them in its repository, not in its wheel.
    config.addinivalue_line("markers", "requires_trainable_backend: all of ours are")
    config.addinivalue_line("markers", "multi_device: run with several devices")
    nadam = Nadam if config.getoption("nadam") == "ours" else STOCK
    for names in _names_in_keras():
        for name, value in list(names.items()):
            if any(value is kind for kind in REPLACED):
                names[name] = nadam
    keras.optimizers.Optimizer.__init__ = _counted("made", keras.optimizers.Optimizer.__init__)
    backend_step.step = _counted("fused steps", backend_step.step)


def _names_in_keras() -> list[dict[str, Any]]:
    """Every dictionary under whose keys Keras finds its optimizers."""
    modules = [m for name, m in list(sys.modules.items()) if name.partition(".")[0] == "keras"]
    return [*map(vars, modules), optimizers.ALL_OBJECTS_DICT, REGISTERED_NAMES_TO_OBJS]


def _counted(name: str, function: Any) -> Any:
    @functools.wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        counts[name] += 1
        return function(*args, **kwargs)

    return counted


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen = [item for item in items if _CONCERNS_OPTIMIZERS.search(_source(item))]
    if config.getoption("nadam") == "stock":
        chosen = [item for item in chosen if item.nodeid in CANNOT_APPLY]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen
    for item in items:
        if reason := CANNOT_APPLY.get(item.nodeid):
            # Stock's may have faults of its own; ours fails for this reason or not at all.
            error = reason.error if config.getoption("nadam") == "ours" else Exception
            mark = pytest.mark.xfail(reason=reason.text, raises=error, strict=True)
            item.add_marker(mark)
        if "grain" in item.name and find_spec("grain") is None:
            item.add_marker(
                pytest.mark.skip(reason="it feeds its model by grain, which is not there")
            )


def _source(item: pytest.Item) -> str:
    return inspect.getsource(item.function)  # type: ignore[attr-defined]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A run of ours in which the fused step never ran has shown nothing."""
    if session.config.getoption("nadam") == "ours" and not counts["fused steps"]:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    which = config.getoption("nadam")
    terminalreporter.write_line(
        f"Keras's own tests, with the Nadam that is {which}: {counts['made']} optimizers made,"
        f" {counts['fused steps']} times the fused step run or traced"
    )
