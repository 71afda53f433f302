"""One stage of the compile suite, run in a process of its own: what it takes and the memory it needs, as JSON."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

Stage = Callable[[], int]  # gives the bytes of the model's weights, 0 where there are none


def peak_bytes() -> int:
    """The most memory that this process had so far, as Linux keeps it for each program; 0 elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")), 0)


def _export(model: str, graph: str) -> Stage:
    from flashflow.frontend.export import export, graph_text
    from flashflow.loaders.resolve import resolve
    from flashflow.models.build import build_model

    config = resolve(model).load().config

    def stage() -> int:
        Path(graph).write_text(graph_text(export(build_model(config), config).graph))
        return 0

    return stage


def _plan(graph: str) -> Stage:
    from flashflow.core import core

    core()

    def stage() -> int:
        core().compile_plan(core().import_graph(Path(graph).read_text()))
        return 0

    return stage


def _module(model: str) -> Stage:
    """A live module, compiled and called once. Its weights are zeros: how they are read is not measured here."""
    import torch

    import flashflow
    from flashflow.loaders.resolve import resolve
    from flashflow.models.build import build_model

    config = resolve(model).load().config
    module = build_model(config, {name: torch.zeros(shape) for name, shape in config.weight_shapes().items()})
    ids = torch.zeros(2, 3, dtype=torch.int64)

    def stage() -> int:
        with torch.no_grad():
            flashflow.compile(module, (ids, ids.clone()))(ids, ids)
        return sum(parameter.nbytes for parameter in module.parameters())

    return stage


def _build(model: str, dtype: str, cache: str) -> Stage:
    from flashflow import LLM

    def stage() -> int:
        return int(LLM(model, dtype=dtype, cache_dir=cache).engine_info()["weight_bytes_per_token"])

    return stage


def _open(engine: str) -> Stage:
    from flashflow import LLM, SamplingParams

    def stage() -> int:
        llm = LLM(engine)
        llm.generate(["The sky is"], SamplingParams(max_tokens=8, temperature=0.0))
        return int(llm.engine_info()["weight_bytes_per_token"])

    return stage


STAGES: dict[str, Callable[..., Stage]] = {
    "model to graph.json": _export,
    "graph.json to plan": _plan,
    "module to plan, and a call": _module,
    "model to engine": _build,
    "engine to 8 tokens": _open,
}


def main(name: str, *arguments: str) -> None:
    """Prints what the stage took: seconds without imports and setup, memory with them."""
    stage = STAGES[name](*arguments)
    wall, cpu = time.perf_counter(), time.process_time()
    weight_bytes = stage()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    took = {"wall_s": wall, "cpu_s": cpu, "peak_bytes": peak_bytes(), "weight_bytes": weight_bytes}
    print(json.dumps(took | {"torch": "torch" in sys.modules}))


if __name__ == "__main__":
    main(*sys.argv[1:])
