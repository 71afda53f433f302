"""Perplexity of a text under a model: windows of the model's context that slide over the text.

The windows are those of transformers' documentation, "Perplexity of fixed-length models": each begins `stride` tokens
after the one before, and scores the tokens that none before it scored, the others being their context. The sum over
all scored tokens is divided by their number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flashflow.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    from flashflow.llm import LLM

__all__ = [
    "EncodedText",
    "Logits",
    "Perplexity",
    "Window",
    "encode_file",
    "negative_log_likelihood",
    "read_text_file",
    "text_perplexity",
    "windows",
]

Logits = Callable[[Sequence[int]], npt.NDArray[np.float32]]  # T token ids -> what follows each, [T, vocabulary]


@dataclass(frozen=True)
class Window:
    """Tokens begin to end of a text, of which those from `first` on are scored; begin < first < end."""

    begin: int
    end: int
    first: int


def windows(count: int, context: int, stride: int) -> Iterator[Window]:
    """The windows over `count` tokens, in order. Together they score every token that has one before it in a window.

    Args:
        count: of the text's tokens.
        context: tokens of a window, at least 2.
        stride: tokens between the beginnings of two windows, 1 to context. Up to context - 1, all tokens but the first
            are scored; a stride of context scores all but each window's first.
    """
    scored = 0  # up to here, or without context
    for begin in range(0, count, stride):
        end = min(begin + context, count)
        first = max(scored, begin + 1)
        if first < end:
            yield Window(begin, end, first)
        scored = end
        if end == count:
            return


def negative_log_likelihood(logits: npt.NDArray[np.float32], targets: npt.NDArray[np.int64]) -> float:
    """The sum over t of -log softmax(logits[t])[targets[t]], in nats, for logits[T, V] and targets[T].

    Raises:
        FailedPreconditionError: a logit is no finite number.
    """
    most = logits.max(axis=1)
    total = np.exp(logits - most[:, None]).sum(axis=1, dtype=np.float64)
    target = np.take_along_axis(logits, targets[:, None], axis=1)[:, 0]
    nats = float((np.log(total) + most.astype(np.float64) - target).sum())
    if not math.isfinite(nats):
        raise FailedPreconditionError("the model's logits are not finite numbers", op="logits")
    return nats


@dataclass(frozen=True)
class EncodedText:
    """A text as the model reads it.

    Attributes:
        token_ids: its tokens, behind what the model wants before a text.
        tokens: of the text alone.
        bytes: of the text in UTF-8.
    """

    token_ids: list[int]
    tokens: int
    bytes: int


def read_text_file(path: Path) -> str:
    """The text of a file.

    Raises:
        NotFoundError: there is no such file.
        InvalidArgumentError: it is empty, or not UTF-8.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {path}", op="--data") from error
    except OSError as error:
        raise InvalidArgumentError(f"cannot read {path}: {error.strerror}", op="--data") from error
    if not raw:
        raise InvalidArgumentError(f"{path} is empty", op="--data", hint="give some text")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(
            f"{path} is not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start}", op="--data"
        ) from error


def encode_file(llm: LLM, path: Path, max_tokens: int | None = None) -> EncodedText:
    """Reads and tokenizes a text.

    Args:
        llm: whose tokenizer.
        path: UTF-8.
        max_tokens: take only so many tokens of its beginning.

    Raises:
        NotFoundError, InvalidArgumentError: as read_text_file; or it is shorter than two tokens.
        UnsupportedError: the model has no tokenizer.
    """
    text = read_text_file(path)
    ids = llm.encode(text)
    before = len(llm.encode(""))
    size = len(text.encode("utf-8"))
    if max_tokens is not None and before + max_tokens < len(ids):
        ids = ids[: before + max_tokens]
        size = len(llm.decode(ids).encode("utf-8"))
    if len(ids) < 2:
        raise InvalidArgumentError(
            f"{path} has {len(ids)} token: the model predicts a token from those before it, so at least 2 are needed",
            op="--data",
            hint="give a longer text",
        )
    return EncodedText(ids, len(ids) - before, size)


@dataclass(frozen=True)
class Perplexity:
    """How well a model predicts a text.

    Attributes:
        nats_per_token: the mean of -ln p(token) over the scored tokens.
        perplexity: its exponential.
        bits_per_byte: the same information over the text's UTF-8 bytes, which tokenizers do not change: nats_per_token
            / ln 2 * tokens / bytes.
        scored_tokens: over which the mean is.
        tokens: of the text.
        bytes: of the text.
        windows: that the model read.
        context: tokens of a window.
        stride: tokens between two.
    """

    nats_per_token: float
    perplexity: float
    bits_per_byte: float
    scored_tokens: int
    tokens: int
    bytes: int
    windows: int
    context: int
    stride: int


def text_perplexity(
    logits: Logits,
    text: EncodedText,
    *,
    context: int,
    stride: int | None = None,
    context_length: int | None = None,
    on_window: Callable[[Window, float], None] = lambda window, nats_per_token: None,
) -> Perplexity:
    """Scores a text.

    Args:
        logits: of the model.
        text: what it reads.
        context: tokens of a window.
        stride: tokens between two windows; None is context. A smaller one gives tokens more context, for more work.
        context_length: the most tokens that the model takes.
        on_window: called after each window with the mean so far.

    Raises:
        InvalidArgumentError: context or stride is out of range.
        FailedPreconditionError: a logit is no finite number.
    """
    most = f"..{context_length}" if context_length else " or more"
    if context < 2 or (context_length and context > context_length):
        raise InvalidArgumentError(f"--context is {context}: expected 2{most}", op="--context")
    stride = context if stride is None else stride
    if not 1 <= stride <= context:
        raise InvalidArgumentError(f"--stride is {stride}: expected 1..{context}", op="--stride")
    ids = np.asarray(text.token_ids, np.int64)
    total, scored, count = 0.0, 0, 0
    for window in windows(len(ids), context, stride):
        # What follows the window's last token is of no interest.
        predicted = logits(text.token_ids[window.begin : window.end - 1])[window.first - window.begin - 1 :]
        total += negative_log_likelihood(predicted, ids[window.first : window.end])
        scored += window.end - window.first
        count += 1
        on_window(window, total / scored)
    mean = total / scored
    return Perplexity(
        nats_per_token=mean,
        perplexity=math.exp(mean) if mean < 700 else math.inf,
        bits_per_byte=mean / math.log(2) * text.tokens / text.bytes,
        scored_tokens=scored,
        tokens=text.tokens,
        bytes=text.bytes,
        windows=count,
        context=context,
        stride=stride,
    )
