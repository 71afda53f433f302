"""How one request picks its tokens."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from flashflow.errors import InvalidArgumentError

MAX_SEED = 2**64 - 1
MAX_STOP_STRINGS = 64
MAX_LOGPROBS = 100
_MAX_FLOAT = 2.0**127  # the engine computes in single precision


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """Sampling and stopping of one request. Checked when made; a value out of range raises InvalidArgumentError.

    Attributes:
        temperature: divides the logits; 0 is greedy decoding (the first of equal maxima).
        top_k: keep the k most probable tokens; 0 keeps all.
        top_p: keep the smallest set of most probable tokens whose probabilities sum to at least top_p, in (0, 1].
        min_p: drop tokens less probable than min_p times the most probable one, in [0, 1].
        repetition_penalty: divides positive and multiplies negative logits of tokens of the prompt and of the
            text so far; 1 changes nothing; above 0.
        max_tokens: tokens to generate at most. Generation also ends, as "length", where the model's context ends.
        seed: of the counter-based generator, 0 to 2**64 - 1. The same seed, prompt and engine give the same tokens
            whatever else is in the batch. None draws a fresh one for each request.
        stop: generation ends where one of these strings comes up; the text ends before it.
        stop_token_ids: generation ends after one of these tokens.
        ignore_eos: go on past the model's own end-of-sequence tokens.
        logprobs: report each generated token's log-probability and this many of the most probable tokens' with it,
            0 to 100; 0 reports none.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int = 128
    seed: int | None = None
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    logprobs: int = 0

    def __post_init__(self) -> None:
        self._number("temperature", lambda v: v >= 0, "at least 0 (0 is greedy decoding)")
        self._number("top_p", lambda v: 0 < v <= 1, "above 0 and at most 1 (1 keeps every token)")
        self._number("min_p", lambda v: 0 <= v <= 1, "from 0 to 1 (0 keeps every token)")
        self._number("repetition_penalty", lambda v: v > 0, "above 0 (1 changes nothing)")
        self._integer("top_k", 0, 2**31 - 1)
        self._integer("max_tokens", 1, 2**31 - 1)
        if self.seed is not None:
            self._integer("seed", 0, MAX_SEED)
        self._integer("logprobs", 0, MAX_LOGPROBS)
        if not isinstance(self.ignore_eos, bool):
            self._refuse("ignore_eos", "True or False")
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        if not all(isinstance(s, str) and s for s in stop):
            self._refuse("stop", "non-empty strings")
        if len(stop) > MAX_STOP_STRINGS:
            self._refuse("stop", f"at most {MAX_STOP_STRINGS} strings")
        object.__setattr__(self, "stop", stop)
        ids = tuple(self.stop_token_ids)
        if not all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < 2**31 for i in ids):
            self._refuse("stop_token_ids", "token ids, integers of at least 0")
        object.__setattr__(self, "stop_token_ids", ids)

    def _number(self, name: str, holds: Callable[[float], bool], expected: str) -> None:
        value = getattr(self, name)
        try:
            number = math.nan if isinstance(value, (bool, str)) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not (abs(number) <= _MAX_FLOAT and holds(number)):
            self._refuse(name, f"a number {expected}")
        object.__setattr__(self, name, number)

    def _integer(self, name: str, low: int, high: int) -> None:
        value = getattr(self, name)
        try:
            number = -1 if isinstance(value, bool) else operator.index(value)
        except TypeError:
            number = -1
        if not low <= number <= high:
            self._refuse(name, f"an integer from {low} to {high}")
        object.__setattr__(self, name, number)

    def _refuse(self, name: str, expected: str) -> NoReturn:
        raise InvalidArgumentError(f"{name} is {getattr(self, name)!r}: expected {expected}", op=name)
