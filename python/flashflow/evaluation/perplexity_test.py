"""Windows against the loop of transformers' documentation, and figures against torch on the same windows."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flashflow import LLM
from flashflow.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, UnsupportedError
from flashflow.evaluation.perplexity import (
    EncodedText,
    Perplexity,
    encode_file,
    negative_log_likelihood,
    text_perplexity,
    windows,
)
from flashflow.loaders.checkpoint import save_checkpoint
from flashflow.tiny_model import CONTEXT_LENGTH, write_tiny_model

TEXT = "The quick brown fox jumps over the lazy dog; naïve café 日本, and 😀 after that. " * 3


def documented(count, context, stride):
    """(begin, end, tokens that are targets) as the loop in "Perplexity of fixed-length models" makes them, where a
    window's first token is no target, since labels are shifted by one."""
    previous_end = 0
    for begin in range(0, count, stride):
        end = min(begin + context, count)
        targets = [t for t in range(begin, end) if t >= end - (end - previous_end) and t > begin]
        yield begin, end, targets
        previous_end = end
        if end == count:
            return


@given(count=st.integers(0, 60), context=st.integers(2, 20), data=st.data())
def test_windows_are_the_documented_ones(count, context, data):
    stride = data.draw(st.integers(1, context))
    found = [(w.begin, w.end, list(range(w.first, w.end))) for w in windows(count, context, stride)]
    assert found == [w for w in documented(count, context, stride) if w[2]]
    scored = [t for w in found for t in w[2]]
    assert len(set(scored)) == len(scored)
    missed = set(range(1, count)) - set(scored)
    assert missed == (set(range(context, count, context)) if stride == context else set())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    write_tiny_model(path)
    (path / "text.txt").write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def llm(folder, tmp_path_factory):
    return LLM(folder, cache_dir=tmp_path_factory.mktemp("cache"), device="cpu", max_batch=1)


@pytest.mark.parametrize(("context", "stride"), [(32, None), (CONTEXT_LENGTH, 16), (7, 6), (2, 1)])
def test_figures_are_torchs(folder, llm, context, stride, tmp_path):
    module = write_tiny_model(tmp_path)
    text = encode_file(llm, folder / "text.txt")
    found = text_perplexity(llm.logits, text, context=context, stride=stride, context_length=llm.context_length)
    ids = torch.tensor(text.token_ids)
    total, scored = 0.0, 0
    for begin, end, targets in documented(len(ids), context, stride or context):
        labels = torch.full((end - begin,), -100)
        labels[[t - begin for t in targets]] = ids[targets]
        with torch.no_grad():
            logits = module(ids[None, begin:end], torch.arange(end - begin)[None])[0]
        total += torch.nn.functional.cross_entropy(logits[:-1].double(), labels[1:], reduction="sum").item()
        scored += len(targets)
    assert found.scored_tokens == scored
    assert found.nats_per_token == pytest.approx(total / scored, rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(total / scored), rel=1e-4)
    size = len(TEXT.encode("utf-8"))
    assert (found.tokens, found.bytes) == (size, size)  # a token is a byte here
    assert found.bits_per_byte == pytest.approx(total / scored / math.log(2), rel=1e-5)


def test_known_probabilities():
    """A model that gives each token 1/8 has the perplexity 8, and on four bytes a token 3/4 bits a byte."""
    uniform = lambda ids: np.zeros((len(ids), 8), np.float32)  # noqa: E731
    assert text_perplexity(uniform, EncodedText([1, 2, 3, 4, 5], 5, 20), context=4) == Perplexity(
        nats_per_token=pytest.approx(math.log(8)),
        perplexity=pytest.approx(8),
        bits_per_byte=pytest.approx(0.75),
        scored_tokens=3,
        tokens=5,
        bytes=20,
        windows=1,
        context=4,
        stride=4,
    )


def test_large_logits_neither_overflow_nor_vanish():
    logits = np.array([[1000, 0], [-1000, 0]], np.float32)
    assert negative_log_likelihood(logits, np.array([1, 1])) == 1000
    with pytest.raises(FailedPreconditionError, match="not finite"):
        negative_log_likelihood(np.array([[np.nan, 0]], np.float32), np.array([1]))


def test_first_tokens_of_a_text(folder, llm):
    text = encode_file(llm, folder / "text.txt", max_tokens=9)
    assert text == EncodedText(llm.encode(TEXT)[:9], 9, 9)
    assert encode_file(llm, folder / "text.txt", max_tokens=10**6) == encode_file(llm, folder / "text.txt")


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (None, NotFoundError, "there is no file"),
        (b"", InvalidArgumentError, "is empty"),
        (b"a\xff", InvalidArgumentError, "not UTF-8: byte 0xff at offset 1"),
        (b"a", InvalidArgumentError, "has 1 token"),
    ],
)
def test_bad_files_are_refused(llm, tmp_path, content, kind, message):
    path = tmp_path / "data.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(kind, match=message) as caught:
        encode_file(llm, path)
    assert caught.value.op == "--data"


@pytest.mark.parametrize(
    ("context", "stride", "message"),
    [
        (1, None, "--context is 1: expected 2..64"),
        (65, None, "--context is 65"),
        (8, 0, "--stride is 0: expected 1..8"),
        (8, 9, "--stride"),
    ],
)
def test_bad_windows_are_refused(llm, context, stride, message):
    with pytest.raises(InvalidArgumentError, match=message):
        text_perplexity(llm.logits, EncodedText([1, 2], 2, 2), context=context, stride=stride, context_length=64)


def test_a_model_without_a_tokenizer_is_refused(tmp_path):
    module = write_tiny_model(tmp_path / "model")
    save_checkpoint(tmp_path / "bare", module.config, module.state_dict())
    (tmp_path / "data.txt").write_text(TEXT, encoding="utf-8")
    bare = LLM(tmp_path / "bare", cache_dir=tmp_path, device="cpu", max_batch=1)
    with pytest.raises(UnsupportedError, match="no tokenizer"):
        encode_file(bare, tmp_path / "data.txt")
