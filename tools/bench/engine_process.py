"""random_engine and time_engine: the first builds an engine, the second stays, with an engine of its own."""

import subprocess
import tempfile
from pathlib import Path

from tools.bench.json_process import JsonProcess, ProcessError


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
            raise ProcessError((self._errors.read().strip().splitlines() or ["random_engine failed"])[-1])
        return self._engine

    def stop(self) -> None:
        """Ends it if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._errors.close()


class EngineProcess(JsonProcess):
    """time_engine: an open engine for `batch` requests at a time. `opened` is what opening it took."""

    def __init__(
        self, programs: Path, engine: Path, device: str, batch: int, options: tuple[str, ...] = (), timeout: float = 300
    ) -> None:
        command = [programs / "time_engine", engine, f"--device={device}", f"--batch={batch}", "--interactive"]
        super().__init__([*command, *options], timeout=timeout)

    def time(self, prompt_tokens: int, tokens: int) -> dict[str, float]:
        """prefill_ms and decode_us, a step's, of one turn: every request of the batch reads a prompt and decodes."""
        return self.ask(f"{prompt_tokens} {tokens}")
