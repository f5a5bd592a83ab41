"""How many of all float32 numbers are tried: all, or some that are drawn anew each time."""

import secrets

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--one-in", type=int, default=1, help="try one float32 in so many")
    parser.addoption(
        "--seed", type=int, default=secrets.randbelow(2**32), help="by which they are chosen"
    )


def pytest_report_header(config: pytest.Config) -> str:
    one_in, seed = config.getoption("--one-in"), config.getoption("--seed")
    return f"one float32 in {one_in}, chosen by --seed={seed}"
