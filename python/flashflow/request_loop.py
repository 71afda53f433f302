"""Runs any number of requests on one engine, whoever asks: each caller steps the engine for all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from flashflow.errors import InternalError
from flashflow.outputs import RequestOutput, RequestTiming
from flashflow.sampling import SamplingParams
from flashflow.text_stream import TextStream


class TokenEvent(Protocol):
    """One generated token, as the engine reports it."""

    @property
    def request(self) -> int:
        """What `submit` returned."""

    @property
    def token(self) -> int:
        """Its id."""

    @property
    def logprob(self) -> float:
        """Natural logarithm of the model's probability for it."""

    @property
    def top_logprobs(self) -> Sequence[tuple[int, float]]:
        """The most probable tokens, (id, logprob), as many as were asked for."""

    @property
    def finish_reason(self) -> str:
        """Empty while the request goes on; else "eos", "stop" or "length", and this is its last event."""


class Engine(Protocol):
    """What a loop needs of `flashflow._core.Engine`."""

    def submit(self, token_ids: list[int], params: Any, /) -> int:
        """Queues a request."""

    def step(self) -> Sequence[TokenEvent]:
        """Runs one batch."""

    def cancel(self, request: int, /) -> None:
        """Drops a request; no event of it comes any more."""

    def has_work(self) -> bool:
        """Whether a step would do something."""


class Request:
    """One request on its way. Made by `RequestLoop.submit`."""

    def __init__(
        self, prompt: str | None, prompt_token_ids: list[int], params: SamplingParams, text: TextStream
    ) -> None:
        self.prompt = prompt
        self.prompt_token_ids = prompt_token_ids
        self.params = params
        self.finish_reason = ""
        self._text = text
        self._pending: list[str] = []
        self._token_ids: list[int] = []
        self._logprobs: list[float] = []
        self._top_logprobs: list[list[tuple[int, float]]] = []
        self._submitted = time.monotonic()
        self._times: list[float] = []

    @property
    def done(self) -> bool:
        """Whether nothing more comes."""
        return self.finish_reason != ""

    @property
    def generated(self) -> int:
        """Tokens so far."""
        return len(self._token_ids)

    def take_text(self) -> str:
        """The text since the last call."""
        text = "".join(self._pending)
        self._pending.clear()
        return text

    def output(self) -> RequestOutput:
        """The result; only when done."""
        assert self.done
        times = [moment - self._submitted for moment in self._times]
        decode_s = times[-1] - times[0] if times else 0.0
        timing = RequestTiming(
            prefill_s=times[0] if times else 0.0,
            decode_s=decode_s,
            decode_tok_s=(len(times) - 1) / decode_s if decode_s > 0 else 0.0,
            token_s=tuple(times),
        )
        return RequestOutput(
            prompt=self.prompt,
            prompt_token_ids=list(self.prompt_token_ids),
            text=self._text.text,
            token_ids=list(self._token_ids),
            finish_reason=self.finish_reason,
            logprobs=list(self._logprobs) if self.params.logprobs else None,
            top_logprobs=list(self._top_logprobs) if self.params.logprobs else None,
            timing=timing,
        )

    def _take(self, event: TokenEvent) -> None:
        self._times.append(time.monotonic())
        self._token_ids.append(event.token)
        self._logprobs.append(event.logprob)
        self._top_logprobs.append(list(event.top_logprobs))
        if event.finish_reason not in ("eos", "stop"):  # the token that ends a text is not part of it
            self._pending.append(self._text.push(event.token))
        if self._text.stopped:
            self.finish_reason = "stop"
        elif event.finish_reason:
            self._pending.append(self._text.finish())
            self.finish_reason = event.finish_reason


class RequestLoop:
    """Steps an engine for its callers. Safe to use from several threads: one steps at a time, for all requests.

    Args:
        engine: nobody else may step it.
        decode: token ids -> text, without special tokens.
        engine_params: the engine's own form of sampling parameters.
    """

    def __init__(
        self, engine: Engine, decode: Callable[[list[int]], str], engine_params: Callable[[SamplingParams], Any]
    ) -> None:
        self._engine = engine
        self._decode = decode
        self._engine_params = engine_params
        self._lock = threading.Lock()
        self._requests: dict[int, Request] = {}

    def submit(self, prompt: str | None, token_ids: list[int], params: SamplingParams) -> Request:
        """Queues a request. Raises what the engine raises, such as InvalidArgumentError for a prompt too long."""
        request = Request(prompt, token_ids, params, TextStream(self._decode, params.stop))
        engine_params = self._engine_params(params)
        with self._lock:
            self._requests[self._engine.submit(token_ids, engine_params)] = request
        return request

    def advance(self, request: Request) -> None:
        """Returns when the request has a new token or is done, having stepped the engine as often as that takes."""
        before = request.generated
        while not request.done and request.generated == before:
            with self._lock:
                if request.done or request.generated != before:  # another thread's step brought it
                    return
                if not self._engine.has_work():
                    raise InternalError("the engine has no work left, but a request is not done", op="Engine.step")
                for event in self._engine.step():
                    self._dispatch(event)

    def cancel(self, request: Request) -> None:
        """Ends a request, if it is not done, as "canceled"."""
        with self._lock:
            for number, known in list(self._requests.items()):
                if known is request:
                    self._engine.cancel(number)
                    del self._requests[number]
            if not request.done:
                request.finish_reason = "canceled"

    def _dispatch(self, event: TokenEvent) -> None:
        request = self._requests.get(event.request)
        if request is None:
            return
        request._take(event)
        if request.done:
            del self._requests[event.request]
            if not event.finish_reason:  # it ended here, by a stop string
                self._engine.cancel(event.request)
