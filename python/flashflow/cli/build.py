"""flashflow build: an engine whose precision is chosen layer by layer."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import Annotated

import typer

from flashflow.cli.console import ProgressLine
from flashflow.cli.two_texts import two_texts
from flashflow.cli.verb import MODEL_HELP, DebugOption, Device, DeviceOption, JsonOption, ThreadsOption, verb
from flashflow.errors import InvalidArgumentError
from flashflow.output_folder import make_output_folder


class PrecisionName(str, enum.Enum):
    """--precision"""

    AS_TRAINED = "as-trained"
    FLOAT = "float"
    INT8 = "int8"
    AUTO = "auto"


class Goal(str, enum.Enum):
    """--optimize-for"""

    DECODE = "decode"
    PREFILL = "prefill"


@verb
def build(
    model: Annotated[str, typer.Option(metavar="MODEL", help=MODEL_HELP)],
    out: Annotated[Path, typer.Option(metavar="FILE.ff", help="Where the engine goes.")],
    precision: Annotated[
        PrecisionName,
        typer.Option(
            help="auto: int8 for the layers that it makes faster on the device, within the budget of perplexity, "
            "bfloat16 for the others. as-trained: int8 for a model that was trained or calibrated for it, else float. "
            "float: bfloat16. int8: every layer."
        ),
    ] = PrecisionName.AS_TRAINED,
    device: DeviceOption = Device.AUTO,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Of auto: a text, UTF-8, of the kind that the model is for; perplexity is measured on its end.",
            show_default=False,
        ),
    ] = None,
    perplexity_budget: Annotated[
        float, typer.Option(metavar="PERCENT", help="Of auto: by how much int8 may raise the perplexity over fp32's.")
    ] = 1.0,
    optimize_for: Annotated[
        Goal, typer.Option(help="Of auto: what is timed, tokens that are generated or a prompt that is read.")
    ] = Goal.DECODE,
    batch: Annotated[int, typer.Option(help="Of auto: requests that are decoded at a time.")] = 1,
    prompt_len: Annotated[
        int | None,
        typer.Option(
            help="Of auto: tokens of the prompt, and of the context in which tokens are decoded.",
            show_default="512, or what the model takes",
        ),
    ] = None,
    margin: Annotated[
        float, typer.Option(metavar="PERCENT", help="Of auto: what a layer must save in int8 to count as faster.")
    ] = 3.0,
    context: Annotated[
        int | None,
        typer.Option(
            help="Of auto: tokens that the model sees at once on the text.", show_default="512, or what the model takes"
        ),
    ] = None,
    tokens: Annotated[
        int, typer.Option(help="Of auto: tokens of the text's beginning, for what each layer loses.", min=2)
    ] = 4096,
    eval_tokens: Annotated[
        int, typer.Option(help="Of auto: tokens of its end, to measure perplexity on.", min=2)
    ] = 4096,
    threads: ThreadsOption = None,
    explain: Annotated[bool, typer.Option("--explain", help="Print each layer's times, error and precision.")] = False,
    json_output: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Compile a model into an engine, in the precision that suits a device, which is part of the file from then on."""
    if out.suffix != ".ff":
        raise InvalidArgumentError(
            f"{out} does not end in .ff", op="--out", hint="by that ending --model knows an engine"
        )
    automatic = precision is PrecisionName.AUTO
    if automatic and data is None:
        raise InvalidArgumentError(
            "--precision auto wants --data, a text to measure the perplexity on",
            op="--data",
            hint="give a text of the kind that the model is for, or --precision int8 for speed alone",
        )
    if explain and not automatic:
        raise InvalidArgumentError(f"--precision {precision.value} measures nothing to explain", op="--explain")
    progress = ProgressLine()
    progress(f"loading {model}")
    from flashflow.engine_builder import build_engine
    from flashflow.evaluation.perplexity import read_text_file
    from flashflow.loaders.resolve import resolve
    from flashflow.quantization.auto_precision import (
        FLOAT,
        NEW_TOKENS,
        PrecisionOptions,
        build_auto_engine,
        build_float_engine,
    )
    from flashflow.quantization.precision import explain as explain_choices

    text = "" if data is None else read_text_file(data)
    source = resolve(model)
    if source.kind == "engine":
        raise InvalidArgumentError(f"{model} is an engine: its precision is part of it", op="--model")
    loaded = source.load()
    make_output_folder(out.parent, "--out")
    if not automatic or data is None:
        in_int8 = precision is PrecisionName.INT8 or (precision is PrecisionName.AS_TRAINED and loaded.made_for_int8)
        if in_int8:
            build_engine(loaded, out, "int8", progress)
        else:
            build_float_engine(loaded, out, FLOAT, progress)
        progress.done(f"{'int8' if in_int8 else FLOAT}, {out.stat().st_size / 1e6:.1f} MB")
        typer.echo(json.dumps({"engine": str(out), "dtype": "int8" if in_int8 else FLOAT}) if json_output else out)
        return
    calibration_ids, held_out = two_texts(loaded, text, data, tokens, eval_tokens)
    longest = loaded.config.context_length
    prompt_tokens = min(512, longest - NEW_TOKENS) if prompt_len is None else prompt_len
    result = build_auto_engine(
        loaded,
        out,
        calibration_ids,
        held_out,
        PrecisionOptions(
            device=device.value,
            threads=threads,
            goal=optimize_for.value,
            batch=batch,
            prompt_tokens=prompt_tokens,
            context=min(512, longest) if context is None else context,
            budget=perplexity_budget / 100,
            margin=margin / 100,
        ),
        progress,
    )
    progress.done(f"{out.stat().st_size / 1e6:.1f} MB")
    if json_output:
        typer.echo(json.dumps({"engine": str(out), **result.to_json()}))
        return
    if explain:
        typer.echo(explain_choices(result.choices))
    coded = sum(choice.int8 for choice in result.choices)
    what = "a token" if optimize_for is Goal.DECODE else f"a prompt of {prompt_tokens}"
    times = "" if result.float_ms is None else f"; {what} {result.float_ms:.3f} ms in floats, {result.chosen_ms:.3f} so"
    typer.echo(
        f"{coded} of {len(result.choices)} layers in int8 on {result.device}; perplexity fp32 {result.fp32:.4f}, "
        f"this engine {result.chosen:.4f} ({result.growth:+.2%}){times}"
    )
    typer.echo(out)
