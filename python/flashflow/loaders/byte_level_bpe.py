"""Makes the JSON of a byte-level BPE tokenizer (GPT-2's kind) from its vocabulary and merges.

A vocabulary alone does not say how text is cut into words before the merges; GGUF files name that scheme in
tokenizer.ggml.pre. The schemes known here are the ones of the models that FlashFlow runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flashflow.errors import DataLossError, UnsupportedError

__all__ = ["PRE_TOKENIZERS", "AddedToken", "byte_level_bpe_json"]


@dataclass(frozen=True)
class AddedToken:
    """A token matched as a whole before the text is cut. Special ones are left out of decoded text."""

    id: int
    content: str
    special: bool


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


# The published word patterns of the models' own tokenizer.json files. They differ in how many digits stay together.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PRE_TOKENIZERS: dict[str, dict[str, Any]] = {
    "gpt-2": _byte_level(use_regex=True),
    "llama-bpe": _sequence(_split(_WORDS.format(digits=r"\p{N}{1,3}")), _byte_level(use_regex=False)),
    "qwen2": _sequence(_split(_WORDS.format(digits=r"\p{N}")), _byte_level(use_regex=False)),
    "smollm": _sequence({"type": "Digits", "individual_digits": True}, _byte_level(use_regex=True)),
}


def byte_level_bpe_json(
    vocab: Mapping[str, int],
    merges: Sequence[str],
    pre: str,
    *,
    added_tokens: Sequence[AddedToken] = (),
    prefix_tokens: Sequence[AddedToken] = (),
) -> bytes:
    """A `tokenizers` JSON file.

    Args:
      vocab: token text (in GPT-2's printable alphabet for bytes) to id.
      merges: "left right", by rank.
      pre: a key of PRE_TOKENIZERS.
      added_tokens: matched as a whole.
      prefix_tokens: put before every text, such as a beginning-of-sequence token.

    Raises:
      UnsupportedError: pre is not known.
      DataLossError: a merge is not of two tokens, its parts or result are not in the vocabulary, or an added token's
        id is not the vocabulary's or the next free one.
    """
    if pre not in PRE_TOKENIZERS:
        raise UnsupportedError(
            f"pre-tokenizer {pre!r} is not supported: expected one of {', '.join(PRE_TOKENIZERS)}",
            op="tokenizer.ggml.pre",
            hint="use a folder that has the model's tokenizer.json",
        )
    pairs = []
    for rank, merge in enumerate(merges):
        left, space, right = merge.partition(" ")
        if not space or left not in vocab or right not in vocab or left + right not in vocab:
            raise DataLossError(f"merge {rank} ({merge!r}) is not of two tokens of the vocabulary", op="merges")
        pairs.append([left, right])
    # The library numbers added tokens on from the vocabulary, whatever the file says.
    ids = dict(vocab)
    for token in sorted(added_tokens, key=lambda token: token.id):
        if ids.setdefault(token.content, len(ids)) != token.id:
            raise DataLossError(
                f"added token {token.content!r} has the id {token.id}: expected {ids[token.content]}", op="added_tokens"
            )
    post: dict[str, Any] = _byte_level(use_regex=True)
    if prefix_tokens:
        template = [{"SpecialToken": {"id": token.content, "type_id": 0}} for token in prefix_tokens]
        post = {
            "type": "TemplateProcessing",
            "single": [*template, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [
                *template,
                {"Sequence": {"id": "A", "type_id": 0}},
                *[{"SpecialToken": {**piece["SpecialToken"], "type_id": 1}} for piece in template],
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {
                token.content: {"id": token.content, "ids": [token.id], "tokens": [token.content]}
                for token in prefix_tokens
            },
        }
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": token.id,
                "content": token.content,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": token.special,
            }
            for token in sorted(added_tokens, key=lambda token: token.id)
        ],
        "normalizer": {"type": "NFC"} if pre == "qwen2" else None,
        "pre_tokenizer": PRE_TOKENIZERS[pre],
        "post_processor": post,
        "decoder": _byte_level(use_regex=True),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre == "llama-bpe",
            "vocab": dict(sorted(vocab.items(), key=lambda item: item[1])),
            "merges": pairs,
        },
    }
    return json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
