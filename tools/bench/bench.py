"""Benchmarks: FlashFlow beside its peers, in one run, on one machine.

Speeds on shared machines drift from minute to minute, so every suite runs ours and the peer in turn (A B A B ...) and
reports medians and their ratio. Each table starts with the machine and the read bandwidth measured in the same run.
"""

import enum
import json
import os
import platform
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from tools.bench import compile_suite, cpu_suite, engine_suite, kernels_suite, train_suite
from tools.bench.commit import source_commit
from tools.bench.report import Row, render

from flashflow import FlashFlowError, __version__
from flashflow.output_folder import make_output_folder

app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False, rich_markup_mode=None)


class Dtype(str, enum.Enum):
    """--dtype"""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"
    INT4 = "int4"


# As random_engine names them.
ENGINE_DTYPES = {Dtype.FLOAT32: "f32", Dtype.BFLOAT16: "bf16", Dtype.INT8: "int8"}


def machine() -> dict[str, str | int]:
    """What the figures were measured on: CPU model, usable cores, operating system, versions."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "os": platform.platform(terse=True),
        "python": platform.python_version(),
        "flashflow": __version__,
    }


@app.command()
def main(
    suite: Annotated[
        str,
        typer.Option(
            help="cpu, compile (seconds and memory of each stage), kernels (each kernel on an NVIDIA GPU), train "
            "(training on one), or some of decode,prefill,cold (whole models on one)."
        ),
    ] = "cpu",
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="smollm2-135m, gpt2-124m (random weights), a folder or a .gguf; on a GPU all weights are random, and "
            "there are gpt2-xl and llama-3.2-1b too; repeatable."
        ),
    ] = None,
    dtype: Annotated[list[Dtype] | None, typer.Option(help="Of our weights; repeatable, on a GPU one.")] = None,
    prompt_tokens: Annotated[
        str, typer.Option(help="cpu: prompts' lengths, with commas; decoding starts after the first.")
    ] = "128,512",
    decode_tokens: Annotated[int, typer.Option(min=2, max=512, help="Tokens of the decode figure.")] = 32,
    repeats: Annotated[
        int | None,
        typer.Option(min=1, max=100, help="Turns of A B A B ...; medians are reported. 7, for kernels 21."),
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="Threads of both sides; 0 = every usable core.")] = 0,
    peer: Annotated[bool, typer.Option(help="Run torch beside ours, and on the CPU what else is installed.")] = True,
    peers_path: Annotated[
        Path | None, typer.Option(help="cpu: a folder of packages of other engines (tools/bench/cpu_peers.py).")
    ] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Also write machine and rows to this file.")] = None,
    batches: Annotated[str, typer.Option(help="decode: requests at a time, with commas.")] = "1,8,64",
    contexts: Annotated[str, typer.Option(help="decode: tokens of each request, with commas.")] = "128,512,1000",
    kernels: Annotated[str, typer.Option(help="kernels: the families, with commas. All where none is named.")] = "",
    shapes: Annotated[str, typer.Option(help="kernels: parts of shapes' names, with commas.")] = "",
    without: Annotated[str, typer.Option(help="On a GPU: variants to leave out, such as inductor,eager.")] = "",
    only_list: Annotated[bool, typer.Option("--list", help="kernels: print the cases and stop.")] = False,
    from_json: Annotated[
        Path | None, typer.Option(help="On a GPU: take the report of an earlier run; measure nothing.")
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="On a GPU: also write the page of docs here.")] = None,
    charts: Annotated[Path | None, typer.Option(help="On a GPU: also draw charts into this folder.")] = None,
) -> None:
    """Runs a suite and prints its tables."""
    suites = kernels_suite.words(suite)
    on_engines = bool(suites) and set(suites) <= set(engine_suite.SUITES)
    if suite not in ("cpu", "compile", "kernels", "train") and not on_engines:
        raise typer.BadParameter(
            f"unknown suite {suite!r}: expected cpu, compile, kernels, train, or decode,prefill,cold"
        )
    for path, option in ((json_out, "--json"), (markdown, "--markdown"), (charts and charts / "x", "--charts")):
        if path:
            make_output_folder(path.parent, option)
    if suite == "kernels":
        options = kernels_suite.Options(
            kernels=kernels_suite.words(kernels),
            shapes=kernels_suite.words(shapes),
            without=kernels_suite.words(without),
            repeats=repeats or kernels_suite.Options.repeats,
            commit=source_commit(),
        )
        outputs = kernels_suite.Outputs(json_out, markdown, charts)
        raise typer.Exit(kernels_suite.run_command(options, outputs, from_json, only_list))
    if suite == "train":
        train_options = train_suite.Options(
            repeats=repeats or train_suite.Options.repeats,
            variants=[name for name in train_suite.VARIANTS if name not in kernels_suite.words(without)],
            commit=source_commit(),
        )
        raise typer.Exit(train_suite.run_command(train_options, json_out))
    if on_engines:
        if dtype and len(dtype) > 1:
            raise typer.BadParameter("on a GPU one --dtype at a time; int8 runs beside bfloat16 by itself")
        if dtype and dtype[0] not in ENGINE_DTYPES:
            raise typer.BadParameter(f"--dtype {dtype[0].value} runs on a CPU alone")
        try:
            engine_options = engine_suite.Options(
                suites=suites,
                models=model or list(engine_suite.SHAPES),
                batches=engine_suite.numbers(batches),
                contexts=engine_suite.numbers(contexts),
                without=kernels_suite.words(without),
                repeats=repeats or engine_suite.Options.repeats,
                dtype=ENGINE_DTYPES[dtype[0] if dtype else Dtype.BFLOAT16],
                commit=source_commit(),
            )
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        outputs_of_engines = engine_suite.Outputs(json_out, markdown, charts)
        raise typer.Exit(engine_suite.run_command(engine_options, outputs_of_engines, from_json))
    try:
        prompts = engine_suite.numbers(prompt_tokens)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if not prompts:
        raise typer.BadParameter("--prompt-tokens names no length")
    threads = threads or len(os.sched_getaffinity(0))
    info = machine() | {"threads": threads}
    rows: list[Row] = []
    dtypes = [d.value for d in dtype or Dtype]

    def log(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    for name in model or (["smollm2-135m"] if suite == "compile" else ["smollm2-135m", "gpt2-124m"]):
        if suite == "compile":
            rows += compile_suite.run(name, dtypes, log)
            continue
        rows += cpu_suite.run(
            name,
            dtypes=dtypes,
            prompt_tokens=prompts,
            decode_tokens=decode_tokens,
            repeats=repeats or 7,
            threads=threads,
            with_peer=peer,
            log=log,
            peers_path=peers_path,
        )
    print(" · ".join(f"{key} {value}" for key, value in info.items()))
    print(render(rows))
    if json_out:
        json_out.write_text(json.dumps({"machine": info, "rows": [asdict(row) for row in rows]}, indent=1))


if __name__ == "__main__":
    # `bazel run` starts programs elsewhere: paths are relative to where the user stands.
    if folder := os.environ.get("BUILD_WORKING_DIRECTORY"):
        os.chdir(folder)
    try:
        app(prog_name="bench")
    except FlashFlowError as error:
        sys.exit(f"error: {error}")
