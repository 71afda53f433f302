"""LLM: a model's name in, text out."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from flashflow.cache import EngineCache, engine_key
from flashflow.core import core
from flashflow.errors import InvalidArgumentError, UnsupportedError
from flashflow.loaders.loaded_model import GenerationInfo
from flashflow.loaders.resolve import resolve
from flashflow.outputs import RequestOutput
from flashflow.plan import Plan
from flashflow.request_loop import Request, RequestLoop
from flashflow.sampling import SamplingParams
from flashflow.tokenizers.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

DEFAULT_MODEL = "smollm2-135m"
DTYPES = ("auto", "float32", "bfloat16", "int8", "int4")
KV_DTYPES = ("auto", "int8")
DEVICES = re.compile(r"auto|cpu|cuda(:\d+)?")

Prompt = str | Sequence[int]
Message = Mapping[str, Any]
Progress = Callable[[str, float | None], None]  # a stage, and what share of it is done, if known


@dataclass(frozen=True)
class LoadTiming:
    """What it took to make an LLM ready, in seconds.

    Attributes:
        load_s: finding the model and opening the engine.
        compile_s: exporting and compiling; 0 where the engine was in the cache.
    """

    load_s: float
    compile_s: float

    @property
    def total_s(self) -> float:
        return self.load_s + self.compile_s


class LLM:
    """A model, compiled and ready to generate. Safe to use from several threads, which then share its batches.

    The first use of a model exports and compiles it, which takes torch and some time, and keeps the engine in the
    user's cache folder; later uses open that.

    Args:
        model: a known name ("smollm2-135m"), a folder with config.json and *.safetensors, a .gguf or a .ff file.
        dtype: of weights and KV cache: "float32" or "bfloat16"; activations are float32 on a CPU, and of this type on
            a GPU. "int8": layers multiply int8 codes (a scale for each row of weights and each token), the KV cache is
            bfloat16; the file is about a quarter of float32's. "int4", on a CPU: layers multiply weights of 4-bit codes
            in groups of 32 with a scale and a least value, as they are in a .gguf file of Q4_1, by int8 codes of groups
            of 32; the head and the table of tokens are int8; about a sixth. "auto" is what a .ff file has, and for all
            else float32 on a CPU and bfloat16 on a GPU.
        kv_dtype: "int8": keys and values are kept as int8 codes, with a scale for each head and token, so that the same
            memory holds nearly four times float32's tokens or twice bfloat16's. "auto" is what a .ff file has, and for
            all else what dtype says.
        device: "cpu", "cuda", "cuda:N" for the N-th GPU, or "auto", the first GPU where there is one that this build
            can use.
        threads: CPU threads; None is as many as the process may use.
        max_batch: requests that run at the same time; more wait.
        batch_invariant: a request's tokens have the same bits whatever runs beside it and however its prompt is cut
            into steps. Otherwise they may depend on how many run at the same time, never on what else does.
        kv_cache_bytes: memory for keys and values; None chooses.
        tuning: a database of //tools:tune that kernels' configurations come from; "none" for their defaults; None is
            tuning.json in the user's cache folder, if there is one. Results are the same bits whatever it says.
        cache_dir: where built engines are kept; None is the user's cache folder.
        progress: called with what is going on while the model becomes ready.

    Attributes:
        plan: what the compiler made of the model; `plan.roofline()` says what each operation costs and takes.

    Raises:
        FlashFlowError: NotFoundError for an unknown model, DataLossError for a damaged file, InvalidArgumentError and
            UnsupportedError for options and models that cannot be honored, FailedPreconditionError for a device that
            is not there.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = DEFAULT_MODEL,
        *,
        dtype: str = "auto",
        kv_dtype: str = "auto",
        device: str = "auto",
        threads: int | None = None,
        max_batch: int = 16,
        batch_invariant: bool = False,
        kv_cache_bytes: int | None = None,
        tuning: str | os.PathLike[str] | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> None:
        _check_choice("dtype", dtype, DTYPES)
        _check_choice("kv_dtype", kv_dtype, KV_DTYPES)
        if not DEVICES.fullmatch(device):
            raise InvalidArgumentError(
                f"device is {device!r}: expected one of auto, cpu, cuda, or cuda:N for the N-th GPU", op="device"
            )
        _check_count("max_batch", max_batch)
        if threads is not None:
            _check_count("threads", threads)
        if kv_cache_bytes is not None:
            _check_count("kv_cache_bytes", kv_cache_bytes)
        began = time.monotonic()
        report = progress or (lambda stage, fraction: None)
        options = {
            "device": device,
            "threads": threads or 0,
            "max_batch": max_batch,
            "batch_invariant": batch_invariant,
            "kv_cache_bytes": kv_cache_bytes or 0,
            "tuning": os.fspath(tuning or ""),
        }
        compile_s = 0.0

        def open_engine(path: Path) -> Any:
            report("opening", None)
            return core().Engine(str(path), **options)

        kind = core().check_device(
            device, options["threads"]
        )  # before minutes of work for an engine that it could not open
        report(f"finding {model}", None)
        source = resolve(os.fspath(model))
        if source.kind == "engine":
            self._engine = open_engine(source.path)
        else:
            if dtype == "int4" and kind != "cpu":
                raise UnsupportedError("int4 runs on a CPU alone", op="dtype", hint='use dtype="int8" or device="cpu"')
            cache = EngineCache(cache_dir)
            if dtype == "auto":
                dtype = "bfloat16" if kind == "cuda" else "float32"
            choices = {"dtype": dtype}
            if kv_dtype != "auto":
                choices["kv_dtype"] = kv_dtype

            def build(path: Path) -> None:
                nonlocal compile_s
                from flashflow.engine_builder import build_engine

                started = time.monotonic()
                report(f"loading {source.name}", None)
                build_engine(source.load(), path, dtype, report, kv_dtype=kv_dtype)
                compile_s = time.monotonic() - started

            self._engine = cache.get_or_build(
                engine_key({file.name: cache.file_sha256(file) for file in source.files()}, choices),
                open_engine,
                build,
                {"model": source.name, **choices},
                lambda: report("waiting for another process that compiles this model", None),
            )
        info = self._engine.info()
        self.name: str = info["name"]
        self.dtype: str = info["dtype"]
        self.kv_dtype: str = info["kv_dtype"]
        self.device: str = info["device"]
        self.context_length: int = info["context_length"]
        self.vocab_size: int = info["vocab_size"]
        for name, asked, has in (("dtype", dtype, self.dtype), ("kv_dtype", kv_dtype, self.kv_dtype)):
            if asked not in ("auto", has):
                raise InvalidArgumentError(
                    f"{name} is {asked!r}, but {source.path} was compiled for {has}",
                    op=name,
                    hint=f"leave {name} away, or compile the model again with --{name.replace('_', '-')} {asked}",
                )
        generation = GenerationInfo.from_dict(json.loads(info["config_json"]))
        self.has_chat_template = generation.chat_template is not None
        tokenizer_json: bytes = info["tokenizer_json"]
        self._tokenizer = Tokenizer(tokenizer_json, generation, self.vocab_size) if tokenizer_json else None
        self._loop = RequestLoop(self._engine, self.decode, _engine_params)
        self.plan = Plan(self._engine, cache_dir)
        self.timing = LoadTiming(time.monotonic() - began - compile_s, compile_s)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        show_progress: bool = False,
    ) -> list[RequestOutput]:
        """Answers prompts, many at a time.

        Args:
            prompts: one or several, each a text or a list of token ids.
            params: for all of them, or one for each. None is SamplingParams().
            show_progress: a bar on stderr.

        Returns:
            One output a prompt, in their order.

        Raises:
            InvalidArgumentError: a prompt is empty or does not fit the model's context. Nothing has run then.
        """
        several = _as_prompts(prompts)
        each = _as_params(params, len(several))
        encoded = [self._encode_prompt(prompt) for prompt in several]
        requests: list[Request] = []
        try:
            for prompt, ids, own in zip(several, encoded, each, strict=True):
                requests.append(self._submit(prompt, ids, own))
            with _bar(len(requests), show_progress) as advance:
                for request in requests:
                    while not request.done:
                        self._loop.advance(request)
                    advance()
        finally:
            for request in requests:
                self._loop.cancel(request)
        return [request.output() for request in requests]

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> TokenStream:
        """Answers one prompt bit by bit.

        Returns:
            An iterator of text deltas; closing it, or leaving its `with` block, cancels what is left.

        Raises:
            InvalidArgumentError: the prompt is empty or does not fit the model's context.
        """
        (one,) = _as_prompts(prompt)
        return TokenStream(self._loop, self._submit(one, self._encode_prompt(one), params or SamplingParams()))

    def chat(self, messages: Sequence[Message], params: SamplingParams | None = None) -> RequestOutput:
        """The model's next message in a conversation.

        Args:
            messages: {"role": "system" | "user" | "assistant", "content": text}, in order.
            params: as for generate.

        Raises:
            UnsupportedError: the model has no chat template.
            InvalidArgumentError: the template refuses the messages, or they do not fit the context.
        """
        return self.generate([self.encode_chat(messages)], params)[0]

    def encode(self, text: str) -> list[int]:
        """A text's token ids, beginning as the model wants it, such as with a beginning-of-sequence token.

        Raises:
            UnsupportedError: the model has no tokenizer.
        """
        return self._need_tokenizer().encode(text)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens; "" where the model has no tokenizer."""
        return self._tokenizer.decode(token_ids) if self._tokenizer else ""

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """A conversation's token ids, up to where the model's next message begins. Raises as `chat` does."""
        return self._need_tokenizer().encode_chat(messages)

    def logits(self, token_ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """What the model predicts after each token.

        Args:
            token_ids: T of them, at most context_length.

        Returns:
            float32[T, vocab_size]
        """
        logits: npt.NDArray[np.float32] = self._engine.forward(self._checked_ids(token_ids))
        return logits

    def engine_info(self) -> dict[str, Any]:
        """What the runtime says of the open engine: its model, device, threads, and memory in bytes by purpose."""
        info: dict[str, Any] = self._engine.info()
        return info

    def _need_tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            raise UnsupportedError(f"{self.name} has no tokenizer", op="tokenizer", hint="give token ids")
        return self._tokenizer

    def _submit(self, prompt: Prompt, ids: list[int], params: SamplingParams) -> Request:
        if params.stop:
            self._need_tokenizer()
        return self._loop.submit(prompt if isinstance(prompt, str) else None, ids, params)

    def _encode_prompt(self, prompt: Prompt) -> list[int]:
        ids = (self.encode(prompt) if isinstance(prompt, str) else self._checked_ids(prompt)) if prompt else []
        if not ids:
            raise InvalidArgumentError("the prompt is empty", op="prompt", hint="give some text, if only a space")
        if len(ids) >= self.context_length:
            raise InvalidArgumentError(
                f"the prompt has {len(ids)} tokens: the model's context of {self.context_length} holds at most "
                f"{self.context_length - 1} and one to generate",
                op="prompt",
                hint="shorten the prompt",
            )
        return ids

    def _checked_ids(self, token_ids: Sequence[int]) -> list[int]:
        ids = list(token_ids)
        for index, token in enumerate(ids):
            if not 0 <= token < self.vocab_size:
                raise InvalidArgumentError(
                    f"token {token} at index {index} is not in the vocabulary of {self.vocab_size}", op="prompt"
                )
        return ids


class TokenStream(Iterator[str]):
    """Text deltas of one request, which is canceled when this is closed. Made by LLM.stream."""

    def __init__(self, loop: RequestLoop, request: Request) -> None:
        self._loop = loop
        self._request = request

    def __next__(self) -> str:
        while True:
            if text := self._request.take_text():
                return text
            if self._request.done:
                raise StopIteration
            self._loop.advance(self._request)

    @property
    def output(self) -> RequestOutput:
        """The whole answer; InvalidArgumentError before the last delta was taken."""
        if not self._request.done:
            raise InvalidArgumentError("the stream is not at its end", op="output")
        return self._request.output()

    def close(self) -> None:
        """Cancels the request unless it is done."""
        self._loop.cancel(self._request)

    def __enter__(self) -> TokenStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise InvalidArgumentError(f"{name} is {value!r}: expected one of {', '.join(choices)}", op=name)


def _check_count(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidArgumentError(f"{name} is {value!r}: expected an integer of at least 1", op=name)


def _as_prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if isinstance(prompts, str) or _is_token_ids(prompts):
        return [cast(Prompt, prompts)]
    for prompt in prompts:
        if not isinstance(prompt, str) and not _is_token_ids(prompt):
            raise InvalidArgumentError(f"a prompt is {prompt!r}: expected a text or a list of token ids", op="prompts")
    return cast(list[Prompt], list(prompts))


def _is_token_ids(value: object) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, (str, bytes, bytearray))
        and all(isinstance(item, int) and not isinstance(item, bool) for item in value)
    )


def _as_params(params: SamplingParams | Sequence[SamplingParams] | None, count: int) -> list[SamplingParams]:
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * count
    if len(params) != count:
        raise InvalidArgumentError(f"there are {len(params)} params for {count} prompts", op="params")
    return list(params)


def _engine_params(params: SamplingParams) -> Any:
    return core().SamplingParams(
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
        repetition_penalty=params.repetition_penalty,
        max_tokens=params.max_tokens,
        seed=secrets.randbits(64) if params.seed is None else params.seed,
        stop_token_ids=list(params.stop_token_ids),
        ignore_eos=params.ignore_eos,
        logprobs=params.logprobs,
    )


@contextlib.contextmanager
def _bar(total: int, show: bool) -> Iterator[Callable[[], None]]:
    if not show:
        yield lambda: None
        return
    from tqdm import tqdm

    with tqdm(total=total, unit="prompt") as bar:
        yield lambda: bar.update(1) and None
