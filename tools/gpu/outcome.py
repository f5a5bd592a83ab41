"""What came out of a part of the check."""

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """Whether it is right."""

    PASSED = "passed"
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"


@dataclass(frozen=True)
class Outcome:
    """One line of the summary."""

    part: str
    verdict: Verdict
    detail: str

    def __str__(self) -> str:
        """The line."""
        return f"{self.part}: {self.verdict.value}: {self.detail}"


def passed(part: str, detail: str) -> Outcome:
    """It is right."""
    return Outcome(part, Verdict.PASSED, detail)


def failed(part: str, detail: str) -> Outcome:
    """It is wrong."""
    return Outcome(part, Verdict.FAILED, detail)


def skipped(part: str, detail: str) -> Outcome:
    """It could not be tried; the detail says why."""
    return Outcome(part, Verdict.SKIPPED, detail)
