"""flashflow eval-perplexity: how well a model predicts a text."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Annotated

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


@verb
def eval_perplexity(
    model: Annotated[str, typer.Option(metavar="MODEL", help=MODEL_HELP)],
    data: Annotated[Path, typer.Option(metavar="FILE", help="The text, UTF-8.")],
    context: Annotated[int, typer.Option(help="Tokens that the model sees at once.")] = 512,
    stride: Annotated[
        int | None,
        typer.Option(help="Tokens between two windows: fewer give each more context.", show_default="the context"),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Take only so many of the text's tokens.", show_default="all", min=1)
    ] = None,
    dtype: DtypeOption = Dtype.AUTO,
    kv_dtype: KvDtypeOption = KvDtype.AUTO,
    device: DeviceOption = Device.AUTO,
    threads: ThreadsOption = None,
    json_output: JsonOption = False,
    quiet: QuietOption = False,
    cache_dir: CacheDirOption = None,
    debug: DebugOption = False,
) -> None:
    """Measure a model's perplexity on a text: nats per token, perplexity and bits per byte, from our engine's logits.

    Windows slide over the text as transformers' documentation of perplexity describes.
    """
    from tqdm import tqdm

    from flashflow.evaluation.perplexity import Window, encode_file, read_text_file, text_perplexity
    from flashflow.llm import LLM

    read_text_file(data)  # before minutes of work for nothing
    progress = ProgressLine(quiet=quiet)
    llm = LLM(
        model,
        dtype=dtype.value,
        kv_dtype=kv_dtype.value,
        device=device.value,
        threads=threads,
        max_batch=1,
        cache_dir=cache_dir,
        progress=progress,
    )
    progress.done(f"{model}: {llm.dtype} on {llm.device}, ready after {llm.timing.total_s:.1f} s")
    text = encode_file(llm, data, max_tokens)
    began = time.monotonic()
    with tqdm(total=len(text.token_ids), unit="token", file=sys.stderr, disable=quiet, leave=False) as bar:

        def show(window: Window, nats_per_token: float) -> None:
            bar.set_postfix(nats=f"{nats_per_token:.4f}", refresh=False)
            bar.update(window.end - bar.n)

        result = text_perplexity(
            llm.logits, text, context=context, stride=stride, context_length=llm.context_length, on_window=show
        )
    seconds = time.monotonic() - began
    if json_output:
        about = {
            "model": model,
            "data": str(data),
            "dtype": llm.dtype,
            "kv_dtype": llm.kv_dtype,
            "device": llm.device,
        }
        typer.echo(json.dumps({**about, **dataclasses.asdict(result), "seconds": round(seconds, 3)}))
        return
    typer.echo(f"perplexity      {result.perplexity:.4f}")
    typer.echo(f"nats per token  {result.nats_per_token:.6f}")
    typer.echo(f"bits per byte   {result.bits_per_byte:.6f}")
    typer.echo(
        f"of {result.scored_tokens} tokens in {result.windows} windows of {result.context}, stride {result.stride}; "
        f"{result.bytes} bytes of text"
    )
