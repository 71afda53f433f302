"""From the start of a process to its first token, and what the time goes to."""

import os
import time
from contextlib import closing
from pathlib import Path

from tools.bench.engine_page import MODE
from tools.bench.engine_process import EngineProcess
from tools.bench.kernel_results import Result, Variant, summarize

PROMPT = 128
PARTS = (
    "the whole",
    "process, flags",
    "library of kernels",
    "device: context",
    "engine: verify, plan, upload",
    "prompt, first token",
)


def forget(path: Path) -> None:
    """Asks the kernel to drop the file from its page cache; written pages must reach the disk first."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)


def _once(programs: Path, engine: Path, device: str) -> list[float]:
    """Milliseconds of PARTS."""
    started = time.monotonic()
    with closing(EngineProcess(programs, engine, device, batch=1)) as process:
        opened = time.monotonic()
        process.time(PROMPT, 1)
        whole = 1e3 * (time.monotonic() - started)
        parts = [float(process.opened[name]) for name in ("library_ms", "device_ms", "open_ms")]
        ready = 1e3 * (opened - started)
        return [whole, ready - sum(parts), *parts, whole - ready]


def cold_start(model: str, engine: Path, programs: Path, device: str, repeats: int) -> list[Result]:
    """A row for each of PARTS: "ours" with the files in the page cache, "dropped" without."""
    files = [engine, programs / "time_engine", programs.parents[1] / "kernels/cuda/libflashflow_cuda.so"]
    times: dict[str, list[list[float]]] = {"ours": [], "dropped": []}
    _once(programs, engine, device)
    for _ in range(repeats):
        times["ours"].append(_once(programs, engine, device))
        for file in files:
            if file.is_file():
                forget(file)
        times["dropped"].append(_once(programs, engine, device))
    return [
        Result(
            f"cold, {model}",
            part,
            "bf16",
            0.0,
            0.0,
            None,
            "memory",
            {
                name: Variant("ours", {MODE: summarize([1e3 * turn[i] for turn in turns])})
                for name, turns in times.items()
            },
        )
        for i, part in enumerate(PARTS)
    ]
