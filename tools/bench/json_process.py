"""A program that stays: it answers its start, and then each line of its input, with a line of JSON."""

import json
import os
import select
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any


class ProcessError(RuntimeError):
    """The program said "error", ended or gave no answer: how, and its own last words."""


class JsonProcess:
    """`opened` is the program's first answer.

    Raises:
        ProcessError: the program fails, here or in `ask`.
    """

    def __init__(
        self,
        command: Sequence[str | os.PathLike[str]],
        environment: Mapping[str, str] | None = None,
        timeout: float = 300,
    ) -> None:
        self._timeout = timeout
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (it lives as long as the process)
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        try:
            self.opened = self._read()
        except BaseException:
            self.close()
            raise

    def ask(self, line: str) -> dict[str, Any]:
        """The answer to a line."""
        assert self._process.stdin
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # _read says why
        return self._read()

    def close(self) -> None:
        """Ends the process."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream:
                with suppress(BrokenPipeError):  # of a line that was never read
                    stream.close()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        ready, _, _ = select.select([self._process.stdout], [], [], self._timeout)
        line = self._process.stdout.readline() if ready else ""
        if line:
            answer: dict[str, Any] = json.loads(line)
            if "error" in answer:
                raise ProcessError(answer["error"])
            return answer
        if ready:  # the pipe's end: it is about to end by itself
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(self._timeout)
        self._process.kill()
        status = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().strip().splitlines()[-1:]
        if not ready:
            said.insert(0, f"gave no answer in {self._timeout:.0f} s")
        elif status < 0:
            said.insert(0, f"ended by {signal.Signals(-status).name}")
        raise ProcessError("; ".join(said) or f"ended with status {status}")
