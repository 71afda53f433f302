"""flashflow calibrate: a model of floats made ready for int8."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import Annotated

import typer

from flashflow.cli.console import ProgressLine
from flashflow.cli.two_texts import two_texts
from flashflow.cli.verb import MODEL_HELP, DebugOption, Device, JsonOption, TorchDeviceOption, verb
from flashflow.errors import InvalidArgumentError
from flashflow.output_folder import make_output_folder


class Method(str, enum.Enum):
    """--method"""

    NONE = "none"
    MIN_MAX = "min-max"
    PERCENTILE = "percentile"
    MSE = "mse"


class SensitivityKind(str, enum.Enum):
    """--sensitivity"""

    NONE = "none"
    OUTPUT = "output"
    PERPLEXITY = "perplexity"


@verb
def calibrate(
    model: Annotated[str, typer.Option(metavar="MODEL", help=MODEL_HELP)],
    data: Annotated[Path, typer.Option(metavar="FILE", help="A text, UTF-8, of the kind that the model is for.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the model with its clips goes, as a checkpoint.")],
    method: Annotated[
        Method,
        typer.Option(
            help="Where a layer clips its input: nowhere, at the largest magnitude seen, at the one that --percentile "
            "of the tokens stay within, or where the error is least."
        ),
    ] = Method.MSE,
    percentile: Annotated[float, typer.Option(help="Of --method percentile.")] = 99.9,
    smooth: Annotated[
        str,
        typer.Option(
            metavar="auto|off|ALPHA",
            help="Move outliers of activations into weights: by SmoothQuant's alpha, 0 to 1, or auto, so that each "
            "layer's error is least.",
        ),
    ] = "auto",
    untie_head: Annotated[
        bool,
        typer.Option(
            "--untie-head",
            help="Give a tied head weights of its own, which can be smoothed: the file grows by a token table of "
            "codes, a step reads no more.",
        ),
    ] = False,
    budget: Annotated[
        float | None,
        typer.Option(
            metavar="PERCENT",
            help="Let the layers that cost most for their size stay floats (bfloat16), until those of codes cost this "
            "much of the perplexity by an estimate on the calibration text.",
            show_default="codes throughout",
        ),
    ] = None,
    context: Annotated[int, typer.Option(help="Tokens that the model sees at once.")] = 512,
    tokens: Annotated[int, typer.Option(help="Tokens to calibrate on, from the text's beginning.", min=2)] = 4096,
    eval_tokens: Annotated[int, typer.Option(help="Tokens to measure on, from its end.", min=2)] = 4096,
    sensitivity: Annotated[
        SensitivityKind,
        typer.Option(help="Report what coding each layer does to its output, or, slow, to the perplexity too."),
    ] = SensitivityKind.OUTPUT,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write all figures there too, as JSON.", show_default=False)
    ] = None,
    device: TorchDeviceOption = Device.AUTO,
    json_output: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Calibrate a model for int8 on a text, and say what int8 costs it on another part of that text.

    DIR is a model then: export-checkpoint --model DIR --dtype int8 makes its engine.
    """
    from flashflow.evaluation.perplexity import read_text_file
    from flashflow.loaders.resolve import resolve
    from flashflow.quantization.calibrated_model import CalibrationOptions, calibrate_model, sensitivity_table

    alpha = _alpha(smooth)
    text = read_text_file(data)
    progress = ProgressLine()
    progress(f"loading {model}")
    source = resolve(model)
    if source.kind == "engine":
        raise InvalidArgumentError(f"{model} is an engine: its weights are compiled already", op="--model")
    loaded = source.load()
    calibration_ids, held_out = two_texts(loaded, text, data, tokens, eval_tokens)
    make_output_folder(out, "--out")
    result = calibrate_model(
        loaded,
        calibration_ids,
        held_out,
        out,
        CalibrationOptions(
            method=method.value,
            percent=percentile,
            smooth=smooth != "off",
            alpha=alpha,
            untie_head=untie_head,
            budget=None if budget is None else budget / 100,
            context=context,
            sensitivity=sensitivity.value,
            device=device.value,
        ),
        progress,
    )
    floats = f", {len(result.kept)} stay floats" if budget is not None else ""
    progress.done(f"{len(result.clips)} layers clip, {len(result.smoothed)} are smoothed{floats}; {out}")
    figures = json.dumps({"model": model, "data": str(data), "method": method.value, **result.to_json()})
    if report is not None:
        report.write_text(figures + "\n", encoding="utf-8")
    if json_output:
        typer.echo(figures)
        return
    if result.sensitivity:
        typer.echo(sensitivity_table(result.sensitivity))
    typer.echo(
        f"perplexity on {result.fp32.scored_tokens} held-out tokens: fp32 {result.fp32.perplexity:.4f}, "
        f"int8 {result.int8.perplexity:.4f} ({result.growth:+.2%})"
    )


def _alpha(text: str) -> float | None:
    """The share that --smooth names; None where it names none."""
    if text in ("auto", "off"):
        return None
    try:
        return float(text)
    except ValueError:
        raise InvalidArgumentError(f"--smooth is {text!r}: expected auto, off or a number", op="--smooth") from None
