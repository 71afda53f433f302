"""The two parts of a text: its beginning to learn from, its end to measure on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flashflow.errors import InvalidArgumentError, UnsupportedError

if TYPE_CHECKING:
    from flashflow.evaluation.perplexity import EncodedText
    from flashflow.loaders.loaded_model import LoadedModel


def two_texts(
    loaded: LoadedModel, text: str, data: Path, tokens: int, eval_tokens: int
) -> tuple[list[int], EncodedText]:
    """The first `tokens` of a text, and its last `eval_tokens`, by the model's tokenizer.

    Args:
        loaded: the model.
        text: what the file holds.
        data: the file, for messages.
        tokens: of the beginning, --tokens.
        eval_tokens: of the end, --eval-tokens.

    Raises:
        UnsupportedError: the model has no tokenizer.
        InvalidArgumentError: the text is shorter than both parts.
    """
    from flashflow.evaluation.perplexity import EncodedText
    from flashflow.tokenizers.tokenizer import Tokenizer

    if loaded.tokenizer_json is None:
        raise UnsupportedError(f"{loaded.name} has no tokenizer, and its text cannot be read", op="--model")
    tokenizer = Tokenizer(loaded.tokenizer_json, loaded.generation, loaded.config.vocab_size)
    ids = tokenizer.encode(text)
    if len(ids) < tokens + eval_tokens:
        raise InvalidArgumentError(
            f"{data} has {len(ids)} tokens: {tokens} to calibrate on and {eval_tokens} to measure on are more",
            op="--data",
            hint="give a longer text, or a smaller --tokens and --eval-tokens",
        )
    held_out = ids[-eval_tokens:]
    return ids[:tokens], EncodedText(held_out, len(held_out), len(tokenizer.decode(held_out).encode("utf-8")))
