"""How many of a test's cases are run: all, or the first of each test and some of the others."""

import zlib

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cases-one-in",
        type=int,
        default=1,
        metavar="N",
        help="run each test's first case, and one in so many of the others",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The same ones each time, and spread over the parameters: by their names."""
    one_in = config.getoption("--cases-one-in")
    tests: set[str] = set()
    chosen, left = [], []
    for item in items:
        test = item.nodeid.partition("[")[0]
        is_chosen = test not in tests or zlib.crc32(item.nodeid.encode()) % one_in == 0
        tests.add(test)
        (chosen if is_chosen else left).append(item)
    config.hook.pytest_deselected(items=left)
    items[:] = chosen
