"""A byte-level BPE of the training text's own, for models that are too small to spend 50,257 rows on a vocabulary."""

from __future__ import annotations

import hashlib
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from flashflow.training.atomic_file import write_atomically
from flashflow.training.data import split_text

END_OF_TEXT = "<|endoftext|>"


def train_bpe(text: str, vocab_size: int, cache_dir: Path) -> tokenizers.Tokenizer:
    """A tokenizer of at most `vocab_size` tokens with GPT-2's pre-tokenizer, END_OF_TEXT the first of them.

    Args:
        text: what the merges are learned from.
        vocab_size: 257 or more: every byte is a token, so that any text can be encoded.
        cache_dir: keeps it by the content of the text; made when missing.
    """
    digest = hashlib.sha256(f"{vocab_size}\0".encode() + text.encode()).hexdigest()[:32]
    cached = cache_dir / f"bpe-{digest}.json"
    if not cached.exists():
        made = tokenizers.Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        made.train_from_iterator(split_text(text), trainer)
        write_atomically(cached, lambda file: file.write(made.to_str().encode()))
    return tokenizers.Tokenizer.from_file(str(cached))
