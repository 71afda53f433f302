"""time_engine as a process that stays: an engine of its own, asked for one timing after another."""

import json
import select
import subprocess
import tempfile
from pathlib import Path
from typing import Any


class EngineError(RuntimeError):
    """An engine cannot be built, opened or run; the program's own words."""


class EngineBuild:
    """random_engine at work in the background."""

    def __init__(self, programs: Path, graph: Path, engine: Path, dtype: str) -> None:
        self._engine = engine
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (it lives as long as the process)
        self._process = subprocess.Popen(
            [programs / "random_engine", graph, engine, f"--dtype={dtype}"], stderr=self._errors
        )

    def wait(self) -> Path:
        """The engine's path, once it is written."""
        if self._process.wait():
            self._errors.seek(0)
            raise EngineError((self._errors.read().strip().splitlines() or ["random_engine failed"])[-1])
        return self._engine

    def stop(self) -> None:
        """Ends it if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._errors.close()


class EngineProcess:
    """An open engine for `batch` requests at a time. `opened` is what opening it took, as time_engine says.

    Raises:
        EngineError: it does not open, or a timing fails.
    """

    def __init__(
        self, programs: Path, engine: Path, device: str, batch: int, options: tuple[str, ...] = (), timeout: float = 300
    ) -> None:
        self._timeout = timeout
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (it lives as long as the process)
        command = [programs / "time_engine", engine, f"--device={device}", f"--batch={batch}", "--interactive"]
        self._process = subprocess.Popen(
            [*command, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.opened = self._read()

    def time(self, prompt_tokens: int, tokens: int) -> dict[str, float]:
        """prefill_ms and decode_us, a step's, of one turn: every request of the batch reads a prompt and decodes."""
        assert self._process.stdin
        try:
            self._process.stdin.write(f"{prompt_tokens} {tokens}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # _read says why
        return self._read()

    def close(self) -> None:
        """Ends the process and frees its memory on the device."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream:
                stream.close()

    def __enter__(self) -> "EngineProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        ready, _, _ = select.select([self._process.stdout], [], [], self._timeout)
        line = self._process.stdout.readline() if ready else ""
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        self._process.kill()
        self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().strip().splitlines()
        raise EngineError(said[-1] if said else f"time_engine gave no answer in {self._timeout:.0f} s")
