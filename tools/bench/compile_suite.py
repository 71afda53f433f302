"""The compile suite: seconds and memory from a model to its plan and to its first tokens, stage by stage."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.bench import compile_stage
from tools.bench.report import Row

from flashflow import FlashFlowError


def measure(stage: str, *arguments: str) -> dict[str, Any]:
    """Runs a stage of compile_stage.py in a process of its own and gives what it prints.

    Raises:
        FlashFlowError: the process failed; the last line of its errors.
    """
    done = subprocess.run(
        [sys.executable, compile_stage.__file__, stage, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise FlashFlowError(f"{stage}: {(done.stderr.strip().splitlines() or ['it failed'])[-1]}")
    took: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return took


def run(model: str, dtypes: list[str], log: Callable[[str], None]) -> list[Row]:
    """Measures one model; engines in each dtype."""
    rows: list[Row] = []

    def stage(name: str, *arguments: str, label: str = "") -> None:
        log(f"{model}{label}: {name}")
        took = measure(name, *arguments)
        what = f"{model}{label}: {name}"
        weights = took["weight_bytes"]
        against = f"{took['peak_bytes'] / weights:.2f}x the weights of {weights / 1e6:.0f} MB" if weights else ""
        rows.append(Row(f"{what}, wall", took["wall_s"], "s"))
        rows.append(Row(f"{what}, CPU", took["cpu_s"], "s", against="" if took["torch"] else "without torch"))
        rows.append(Row(f"{what}, peak memory", took["peak_bytes"] / 1e6, "MB", against=against))

    with tempfile.TemporaryDirectory() as folder:
        graph = str(Path(folder) / "graph.json")
        stage("model to graph.json", model, graph)
        stage("graph.json to plan", graph)
        stage("module to plan, and a call", model)
        for dtype in dtypes:
            cache = Path(folder) / dtype
            stage("model to engine", model, dtype, str(cache), label=f" {dtype}")
            (engine,) = cache.rglob("*.ff")
            stage("engine to 8 tokens", str(engine), label=f" {dtype}")
    return rows
