import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from flashflow.errors import InvalidArgumentError, NotFoundError
from flashflow.training.data import Dataset, read_text, split_text, tokenize_file

SENTENCE = "The quick brown fox's dog can't jump 12 times.\n\n  It was naïve;\t日本語 too \n"


@pytest.fixture(scope="module")
def tokenizer():
    """A small BPE with GPT-2's pre-tokenizer, white-space merges included."""
    made = Tokenizer(BPE())
    made.pre_tokenizer = ByteLevel(add_prefix_space=False)
    made.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(vocab_size=400, initial_alphabet=ByteLevel.alphabet(), show_progress=False)
    made.train_from_iterator([SENTENCE * 20, "\n\n\n \n  \n\n" * 20], trainer)
    return made


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet="ab'.1 \n\t\u00a0\u3042", max_size=60), size=st.integers(1, 8))
def test_pieces_tokenize_as_the_whole(tokenizer, text, size):
    pieces = list(split_text(text, size))
    assert "".join(pieces) == text
    assert [i for piece in pieces for i in tokenizer.encode(piece).ids] == tokenizer.encode(text).ids


def test_long_text_is_cut():
    pieces = list(split_text(SENTENCE * 10, 50))
    assert len(pieces) > 5
    assert all(len(piece) >= 50 for piece in pieces[:-1])


def test_tokens_are_those_of_the_text_and_come_from_the_cache(tokenizer, tmp_path, monkeypatch):
    text = tmp_path / "text.txt"
    text.write_text(SENTENCE * 3, encoding="utf-8")
    tokens = tokenize_file(text, tokenizer, tmp_path / "cache")
    assert tokens.dtype == np.uint16
    assert tokens.tolist() == tokenizer.encode(SENTENCE * 3).ids
    (cached,) = (tmp_path / "cache").iterdir()
    monkeypatch.setattr(Tokenizer, "encode", None, raising=False)  # not asked again
    assert tokenize_file(text, tokenizer, tmp_path / "cache").tolist() == tokens.tolist()
    monkeypatch.undo()
    text.write_text(SENTENCE, encoding="utf-8")
    assert tokenize_file(text, tokenizer, tmp_path / "cache").tolist() == tokenizer.encode(SENTENCE).ids


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_damaged_cache_is_made_anew(tokenizer, tmp_path, caplog, damage):
    text = tmp_path / "text.txt"
    text.write_text(SENTENCE * 3, encoding="utf-8")
    tokens = tokenize_file(text, tokenizer, tmp_path / "cache").tolist()
    (cached,) = (tmp_path / "cache").iterdir()
    content = bytearray(cached.read_bytes())
    if damage == "flip":
        content[-40] ^= 1  # of the last token but three
    cached.write_bytes({"flip": content, "truncate": content[:-2], "empty": b""}[damage])
    assert tokenize_file(text, tokenizer, tmp_path / "cache").tolist() == tokens
    assert "is damaged" in caplog.text
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [cached.name]


def test_cache_that_cannot_be_finished_leaves_nothing(tokenizer, tmp_path, monkeypatch):
    text = tmp_path / "text.txt"
    text.write_text(SENTENCE, encoding="utf-8")

    def fail(*names):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        tokenize_file(text, tokenizer, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_empty_file_is_refused(tmp_path):
    (tmp_path / "empty.txt").touch()
    with pytest.raises(InvalidArgumentError, match="empty.txt is empty"):
        read_text(tmp_path / "empty.txt")


def test_bytes_that_are_not_utf8_are_refused_with_their_offset(tmp_path):
    path = tmp_path / "latin1.txt"
    path.write_bytes("good £ ".encode() + b"na\xefve")
    with pytest.raises(InvalidArgumentError, match=r"not UTF-8: byte 0xef at offset 10"):
        read_text(path)


def test_missing_file_and_folder_are_refused(tmp_path):
    with pytest.raises(NotFoundError, match="nothing.txt"):
        read_text(tmp_path / "nothing.txt")
    with pytest.raises(InvalidArgumentError, match="is a folder"):
        read_text(tmp_path)


def test_split_holds_out_the_end():
    data = Dataset.split(np.arange(1000, dtype=np.uint16), seq_len=10, validation_fraction=0.1)
    assert data.train.tolist() == list(range(900))
    assert data.validation.tolist() == list(range(900, 1000))


def test_least_data_is_one_sequence_for_each_part():
    data = Dataset.split(np.arange(22, dtype=np.uint16), seq_len=10)
    inputs, targets = data.train_batch(0, 0, 3)
    assert inputs.tolist() == [list(range(10))] * 3
    assert targets.tolist() == [list(range(1, 11))] * 3
    ((inputs, targets),) = data.validation_batches(4, 4)
    assert inputs.tolist() == [list(range(11, 21))] and targets.tolist() == [list(range(12, 22))]
    with pytest.raises(InvalidArgumentError, match="21 tokens.*at least 22"):
        Dataset.split(np.arange(21, dtype=np.uint16), seq_len=10)


def test_batches_are_a_function_of_seed_and_index():
    data = Dataset.split(np.arange(5000, dtype=np.uint16), seq_len=4)
    first = data.train_batch(1, 2, 64)[0]
    assert (first == data.train_batch(1, 2, 64)[0]).all()
    assert (first != data.train_batch(1, 3, 64)[0]).any()
    assert (first != data.train_batch(2, 2, 64)[0]).any()
    # Neighbors are no shifted copies of each other, as they were if they shared counter values.
    assert len(set(first[:, 0].tolist()) & set(data.train_batch(1, 3, 64)[0][:, 0].tolist())) < 8


def test_validation_batches_cover_the_part_once_up_to_the_limit():
    data = Dataset.split(np.arange(200, dtype=np.uint16), seq_len=5, validation_fraction=0.5)
    seen = [row[0] for inputs, _ in data.validation_batches(4, 100) for row in inputs.tolist()]
    assert seen == list(range(100, 195, 5))
    assert sum(len(inputs) for inputs, _ in data.validation_batches(4, 2)) == 8
