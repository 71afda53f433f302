"""Text files as token arrays, and the batches of a training run."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flashflow.errors import DataLossError, InvalidArgumentError, NotFoundError
from flashflow.log import logger
from flashflow.training.atomic_file import write_atomically

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Tokens = npt.NDArray[np.uint16]
Progress = Callable[[str, float | None], None]  # a stage, and what share of it is done, if known
Batch = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]  # inputs, targets

_CHUNK_CHARS = 1 << 20


def read_text(path: Path) -> str:
    """The content of a UTF-8 text file.

    Raises:
        NotFoundError: there is no such file.
        InvalidArgumentError: it is empty, not UTF-8 (the first bad byte's offset is named), or it is a folder.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no data file {path}", op="--data") from error
    except IsADirectoryError as error:
        raise InvalidArgumentError(f"{path} is a folder: expected a text file", op="--data") from error
    if not raw:
        raise InvalidArgumentError(f"{path} is empty: there is nothing to learn from", op="--data")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(
            f"{path} is not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start} ({error.reason})",
            op="--data",
            hint="convert it first, for example: iconv -f latin1 -t utf-8 IN > OUT",
        ) from error


def split_text(text: str, size: int = _CHUNK_CHARS) -> Iterator[str]:
    """Cuts a text into pieces of at least `size` characters whose tokens, joined, are those of the whole.

    GPT-2's pre-tokenizer makes no token that goes from a non-space on to a white space, and looks at nothing to the
    left of a token. So a cut between the two changes no token; one after the white space would.
    """
    start = 0
    while start < len(text):
        end = text.find("\n", start + size)
        while end > 0 and text[end - 1].isspace():
            end = text.find("\n", end + 1)
        if end <= 0:
            end = len(text)
        yield text[start:end]
        start = end


def tokenize_file(
    path: Path, tokenizer: Tokenizer, cache_dir: Path, progress: Progress = lambda stage, done: None
) -> Tokens:
    """A text file's tokens, memory-mapped from a cache that is keyed by the contents of text and tokenizer.

    The cache is a .npy file and the SHA-256 of it, appended; one that is damaged is made anew.

    Args:
        path: a UTF-8 text file.
        tokenizer: of at most 65,536 tokens.
        cache_dir: made when missing.
        progress: told how far it is.

    Returns:
        uint16[N], read-only.
    """
    text = read_text(path)
    digest = hashlib.sha256(tokenizer.to_str().encode() + b"\0" + text.encode()).hexdigest()[:32]
    cached = cache_dir / f"{digest}.npy"
    if cached.exists():
        try:
            return _open_tokens(cached)
        except DataLossError as error:
            logger.warning("%s", error)
    if tokenizer.get_vocab_size() > 1 << 16:
        raise InvalidArgumentError(f"the tokenizer has {tokenizer.get_vocab_size()} tokens: at most 65536 fit")
    pieces, done = [], 0
    for piece in split_text(text):
        progress(f"tokenizing {path}", done / len(text))
        pieces.append(np.array(tokenizer.encode(piece).ids, np.uint16))
        done += len(piece)
    content = io.BytesIO()
    np.save(content, np.concatenate([np.empty(0, np.uint16), *pieces]), allow_pickle=False)
    content.write(hashlib.sha256(content.getbuffer()).digest())
    write_atomically(cached, lambda file: file.write(content.getbuffer()))
    return _open_tokens(cached)


def _open_tokens(cached: Path) -> Tokens:
    size = hashlib.sha256().digest_size
    content = np.memmap(cached, np.uint8, "r") if cached.stat().st_size else np.empty(0, np.uint8)
    if hashlib.sha256(content[:-size].data).digest() != content[-size:].tobytes():
        raise DataLossError(f"the token cache {cached} is damaged and is made anew")
    tokens: Tokens = np.load(cached, mmap_mode="r", allow_pickle=False)
    return tokens


@dataclass(frozen=True)
class Dataset:
    """The two parts of a token array: the last part is held out.

    Attributes:
        train: uint16[N]
        validation: uint16[M]
        seq_len: tokens of one sequence
    """

    train: Tokens
    validation: Tokens
    seq_len: int

    @staticmethod
    def split(tokens: Tokens, seq_len: int, validation_fraction: float = 0.05) -> Dataset:
        """Holds out the last `validation_fraction`, at least one sequence.

        Raises:
            InvalidArgumentError: there is not one sequence for each part.
        """
        held_out = max(int(len(tokens) * validation_fraction), seq_len + 1)
        if len(tokens) - held_out < seq_len + 1:
            raise InvalidArgumentError(
                f"the data has {len(tokens)} tokens: sequences of {seq_len} need at least {2 * (seq_len + 1)}",
                op="--data",
                hint="use more text or a smaller --seq-len",
            )
        return Dataset(tokens[:-held_out], tokens[-held_out:], seq_len)

    def train_batch(self, seed: int, index: int, batch_size: int) -> Batch:
        """Batch number `index` of the run with this seed: a pure function, so that a resumed run needs no state.

        Returns:
            inputs and targets, int64[batch_size, seq_len] each; a target is the token after its input.
        """
        # Each index has 2**128 counter values to itself.
        random = np.random.Generator(np.random.Philox(key=seed, counter=index << 128))
        starts = random.integers(0, len(self.train) - self.seq_len, size=batch_size)
        return self._windows(self.train, starts)

    def validation_batches(self, batch_size: int, max_batches: int) -> Iterator[Batch]:
        """The held-out part in sequences that do not overlap; the same ones each time."""
        starts = np.arange(0, len(self.validation) - self.seq_len, self.seq_len)
        for first in range(0, min(len(starts), batch_size * max_batches), batch_size):
            yield self._windows(self.validation, starts[first : first + batch_size])

    def _windows(self, tokens: Tokens, starts: npt.NDArray[np.int64]) -> Batch:
        rows = np.stack([tokens[s : s + self.seq_len + 1] for s in starts]).astype(np.int64)
        return rows[:, :-1], rows[:, 1:]
