"""Commands with a log and a time limit; nothing of them outlives it."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Finished:
    """A command that came to its end, or was ended."""

    status: int | None  # None: it ran past its limit
    output: str
    log: Path

    @property
    def failed(self) -> bool:
        """Whether it did not end by itself with status 0."""
        return self.status != 0

    @property
    def ending(self) -> str:
        """How it ended, in words."""
        return "ran past its limit" if self.status is None else f"ended with {self.status}"

    def tail(self, lines: int = 40) -> str:
        """The end of what it printed."""
        return "\n".join(self.output.splitlines()[-lines:])


class Running:
    """A command that was started, with its output in a file."""

    def __init__(
        self,
        command: Sequence[str | Path],
        log: Path,
        *,
        seconds: float,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        """Starts it.

        Args:
            command: the program and its arguments.
            log: gets what it prints.
            seconds: it is killed when they have passed.
            environment: variables beside those of this process.
            folder: in which it runs.
        """
        self._log = log
        self._until = time.monotonic() + seconds
        with log.open("w") as output:
            self._process = subprocess.Popen(
                list(map(str, command)),
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=os.environ | dict(environment or {}),
                cwd=folder,
                start_new_session=True,
            )

    def wait(self) -> Finished:
        """Waits until it ends, or ends it at its limit with all that it started."""
        status: int | None
        try:
            status = self._process.wait(max(0.0, self._until - time.monotonic()))
        except subprocess.TimeoutExpired:
            status = None
        finally:
            self._kill_group()
        return Finished(status, self._log.read_text(errors="replace"), self._log)

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
