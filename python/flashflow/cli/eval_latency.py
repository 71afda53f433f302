"""flashflow eval-latency: how fast a model or an engine generates."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flashflow.cli.console import ProgressLine
from flashflow.cli.verb import (
    MODEL_HELP,
    CacheDirOption,
    DebugOption,
    Device,
    DeviceOption,
    Dtype,
    DtypeOption,
    JsonOption,
    KvDtype,
    KvDtypeOption,
    QuietOption,
    ThreadsOption,
    verb,
)
from flashflow.errors import InvalidArgumentError

if TYPE_CHECKING:
    from flashflow.evaluation.latency import Latency


@verb
def eval_latency(
    engine: Annotated[
        Path | None, typer.Option(metavar="FILE.ff", help="An engine of export-checkpoint.", show_default=False)
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="MODEL", help=MODEL_HELP, show_default=False)] = None,
    batch: Annotated[
        list[int] | None, typer.Option(help="Requests at a time; several may be given.", show_default="1")
    ] = None,
    prompt_len: Annotated[int, typer.Option(help="Tokens of each prompt, which are random.")] = 128,
    new_tokens: Annotated[int, typer.Option(help="Tokens to generate for each.")] = 64,
    repeats: Annotated[int, typer.Option(help="Measured runs, after one to warm up.")] = 3,
    dtype: DtypeOption = Dtype.AUTO,
    kv_dtype: KvDtypeOption = KvDtype.AUTO,
    device: DeviceOption = Device.AUTO,
    threads: ThreadsOption = None,
    json_output: JsonOption = False,
    quiet: QuietOption = False,
    cache_dir: CacheDirOption = None,
    debug: DebugOption = False,
) -> None:
    """Measure time to first token, time between tokens, tokens per second, memory and the share of the floor.

    The floor is what reading the bytes and doing the arithmetic takes at least on this device.
    """
    if (engine is None) == (model is None):
        raise typer.BadParameter("give --engine or --model, one of them")
    if engine is not None and engine.suffix != ".ff":
        raise InvalidArgumentError(f"{engine} does not end in .ff", op="--engine", hint="give other models as --model")
    batches = batch or [1]
    if min(batches) < 1:
        raise InvalidArgumentError(f"--batch is {min(batches)}: expected at least 1", op="--batch")

    from flashflow.evaluation.latency import measure_latency
    from flashflow.llm import LLM

    progress = ProgressLine(quiet=quiet)
    llm = LLM(
        str(engine) if engine is not None else str(model),
        dtype=dtype.value,
        kv_dtype=kv_dtype.value,
        device=device.value,
        threads=threads,
        max_batch=max(batches),
        cache_dir=cache_dir,
        progress=progress,
    )
    results = []
    for size in batches:
        results.append(
            measure_latency(
                llm,
                batch=size,
                prompt_tokens=prompt_len,
                new_tokens=new_tokens,
                repeats=repeats,
                progress=lambda done, total, size=size: progress(f"measuring {size} at a time", done / total),  # type: ignore[misc]
            )
        )
    progress.done(f"{engine or model}: {llm.dtype} on {llm.device}")
    if json_output:
        info = llm.engine_info()
        about = {
            "model": llm.name,
            "dtype": llm.dtype,
            "kv_dtype": llm.kv_dtype,
            "kv_cache_bytes": info["kv_cache_bytes"],
            "device": info["device_description"],
        }
        typer.echo(json.dumps({**about, "results": [dataclasses.asdict(result) for result in results]}))
        return
    typer.echo(_table(results))


def _table(results: list[Latency]) -> str:
    lines = [
        f"{'batch':>5} {'first ms':>9} {'p50 ms':>8} {'p95 ms':>8} {'p99 ms':>8} {'tokens/s':>9} {'floor ms':>9} "
        f"{'% of floor':>10} {'peak MB':>8}"
    ]
    for r in results:
        between = [r.token_p50_ms, r.token_p95_ms, r.token_p99_ms]
        times = " ".join(f"{'-' if time is None else format(time, '.2f'):>8}" for time in between)
        rate = "-" if r.tokens_per_s is None else f"{r.tokens_per_s:.1f}"
        percent = "-" if r.percent_of_floor is None else f"{r.percent_of_floor:.1f}"
        lines.append(
            f"{r.batch:5} {r.first_token_ms:9.2f} {times} {rate:>9} {r.token_floor_ms:9.3f} {percent:>10} "
            f"{r.peak_memory_bytes / 1e6:8.0f}"
        )
    return "\n".join(lines)
