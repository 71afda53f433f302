"""flashflow generate: a prompt in, text out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    ThreadsOption,
    verb,
)
from flashflow.errors import InvalidArgumentError
from flashflow.sampling import SamplingParams

if TYPE_CHECKING:
    from flashflow.llm import LLM
    from flashflow.outputs import RequestOutput

DEFAULT_QUESTION = "Why is the sky blue?"  # for models with a chat template
DEFAULT_BEGINNING = "Once upon a time"


@verb
def generate(
    model: Annotated[str, typer.Option(metavar="MODEL", help=MODEL_HELP)] = "smollm2-135m",
    prompt: Annotated[str | None, typer.Option(help="The text to go on from; without one, an example.")] = None,
    prompt_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Read the prompt from a UTF-8 file; - is stdin. One final newline is cut."),
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Put the prompt to the model as a user's message.")] = False,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="With --chat: the system's message.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Generate at most this many tokens.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 takes the most probable token each time.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Sample from the k most probable tokens; 0: from all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Sample from the most probable tokens that sum up to this.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Drop tokens below this times the most probable one.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1: repeat less.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="End before this text; may be given several times.")
    ] = None,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on past the model's own end.")] = False,
    dtype: DtypeOption = Dtype.AUTO,
    kv_dtype: KvDtypeOption = KvDtype.AUTO,
    device: DeviceOption = Device.AUTO,
    threads: ThreadsOption = None,
    tuning: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Take kernels' configurations from this database of //tools:tune; none: their defaults.",
            show_default="the one in the cache folder",
        ),
    ] = None,
    json_output: JsonOption = False,
    profile: Annotated[
        bool,
        typer.Option("--profile", help="When done, say on stderr what each operation takes and costs at least."),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress and no statistics.")] = False,
    cache_dir: CacheDirOption = None,
    debug: DebugOption = False,
) -> None:
    """Generate text. The text goes to stdout as it comes, progress and statistics to stderr.

    The first run compiles the model and keeps the result; the next ones start at once.
    """
    params = SamplingParams(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        max_tokens=max_tokens,
        seed=seed,
        stop=stop or (),
        ignore_eos=ignore_eos,
    )
    if prompt is not None and prompt_file is not None:
        raise typer.BadParameter("give --prompt or --prompt-file, not both")
    if system is not None and not chat:
        raise typer.BadParameter("--system needs --chat")
    if prompt_file is not None:
        prompt = _read_prompt(prompt_file)
    if prompt == "":
        raise InvalidArgumentError("the prompt is empty", op="--prompt", hint="give some text, if only a space")

    from flashflow.llm import LLM

    progress = ProgressLine(quiet=quiet)
    llm = LLM(
        model,
        dtype=dtype.value,
        kv_dtype=kv_dtype.value,
        device=device.value,
        threads=threads,
        tuning=tuning,
        cache_dir=cache_dir,
        max_batch=1,
        progress=progress,
    )
    progress.done(f"{model}: {llm.dtype} on {llm.device}, ready after {llm.timing.total_s:.1f} s")
    if prompt is None:
        chat = llm.has_chat_template
        prompt = DEFAULT_QUESTION if chat else DEFAULT_BEGINNING
        progress.done(f"prompt: {prompt}")
    token_ids = None
    if chat:
        messages = [{"role": "system", "content": system}] if system is not None else []
        token_ids = llm.encode_chat([*messages, {"role": "user", "content": prompt}])
    with llm.stream(prompt if token_ids is None else token_ids, params) as stream:
        for text in stream:
            if not json_output:
                sys.stdout.write(text)
                sys.stdout.flush()
        output = stream.output
    if json_output:
        sys.stdout.write(json.dumps(_result(llm, prompt, output), ensure_ascii=False) + "\n")
    else:
        sys.stdout.write("" if output.text.endswith("\n") else "\n")
    sys.stdout.flush()
    progress.done(_statistics(output))
    if profile:
        prompt_tokens = min(len(output.prompt_token_ids), llm.engine_info()["max_tokens"])
        context = len(output.prompt_token_ids) + len(output.token_ids)
        for tokens, positions in ((1, context), (prompt_tokens, prompt_tokens)):
            typer.echo(f"\n{llm.plan.roofline(tokens=tokens, context=positions)}", err=True)


def _read_prompt(path: Path) -> str:
    raw = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(
            f"{path} is not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start}", op="--prompt-file"
        ) from error
    return text.removesuffix("\n")


def _result(llm: LLM, prompt: str, output: RequestOutput) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "prompt_token_ids": output.prompt_token_ids,
        "token_ids": output.token_ids,
        "text": output.text,
        "finish_reason": output.finish_reason,
        "timing": {
            "load_s": round(llm.timing.load_s, 4),
            "compile_s": round(llm.timing.compile_s, 4),
            "prefill_s": round(output.timing.prefill_s, 4),
            "decode_tok_s": round(output.timing.decode_tok_s, 2),
        },
    }


def _statistics(output: RequestOutput) -> str:
    timing = output.timing
    return (
        f"{len(output.prompt_token_ids)} prompt tokens in {timing.prefill_s:.2f} s; "
        f"{len(output.token_ids)} tokens at {timing.decode_tok_s:.1f} tokens/s ({output.finish_reason})"
    )
