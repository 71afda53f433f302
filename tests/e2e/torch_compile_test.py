"""torch.compile(backend="flashflow") on whole models: ours, transformers' with random weights, an encoder."""

import json
import warnings

import numpy as np
import pytest
import torch
from tests.e2e.quality import assert_fp32_logits
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from flashflow.models.build import build_model
from flashflow.models.config import Gpt2Config, GptSmallConfig
from flashflow.models.config import LlamaConfig as OurLlamaConfig
from flashflow.torch_backend import FlashFlowWarning, counters
from flashflow.torch_backend.runner import GraphRunner

VOCAB = 211
SHAPES = [(2, 5), (1, 9), (4, 1), (5, 33)]


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    torch.manual_seed(0)
    counters.reset()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FlashFlowWarning)
        yield


def gpt2():
    config = GPT2Config(
        vocab_size=VOCAB, n_positions=96, n_embd=48, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=None
    )
    return GPT2LMHeadModel(config).eval()


def llama():
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=96,
        bos_token_id=0,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


OURS = {
    "gpt_small": GptSmallConfig(
        vocab_size=VOCAB, context_length=96, hidden_size=48, n_layers=2, n_heads=4, mlp_size=96
    ),
    "gpt2": Gpt2Config(vocab_size=VOCAB, context_length=96, hidden_size=48, n_layers=2, n_heads=4, mlp_size=96),
    "llama": OurLlamaConfig(
        vocab_size=VOCAB,
        context_length=96,
        hidden_size=48,
        n_layers=2,
        n_heads=6,
        n_kv_heads=2,
        head_dim=8,
        mlp_size=80,
    ),
}


def assert_rows(got, want):
    """The rule for logits, for each row of the last dimension."""
    assert got.shape == want.shape
    as_rows = [np.asarray(values, dtype=np.float32).reshape(-1, values.shape[-1]) for values in (got, want)]
    assert_fp32_logits(*as_rows)


@pytest.mark.parametrize("name", OURS)
def test_our_models_run_as_one_piece(name):
    config = OURS[name]
    weights = {key: 0.2 * torch.randn(shape) + (len(shape) == 1) for key, shape in config.weight_shapes().items()}
    model = build_model(config, weights)
    f = torch.compile(model, backend="flashflow", dynamic=True)
    for batch, length in SHAPES:
        ids = torch.randint(0, VOCAB, (batch, length))
        positions = torch.arange(length).expand(batch, length)
        assert_rows(f(ids, positions), model(ids, positions))
    assert counters.graphs <= 4
    assert counters.parts == counters.graphs, "nothing of a graph stays in eager mode"


@pytest.mark.parametrize("make", [gpt2, llama])
@pytest.mark.parametrize("use_cache", [False, True])
def test_transformers_models(make, use_cache):
    model = make()
    f = torch.compile(model, backend="flashflow", dynamic=True)
    for batch, length in SHAPES:
        ids = torch.randint(0, VOCAB, (batch, length))
        got, want = f(ids, use_cache=use_cache), model(ids, use_cache=use_cache)
        assert_rows(got.logits, want.logits)
        if use_cache:
            for ours, theirs in zip(got.past_key_values.layers, want.past_key_values.layers, strict=True):
                assert_rows(ours.keys, theirs.keys)
                assert_rows(ours.values, theirs.values)
    assert counters.graphs <= 4
    assert counters.runs >= len(SHAPES)


@pytest.mark.parametrize("make", [gpt2, llama])
def test_transformers_models_with_padding(make):
    model = make()
    f = torch.compile(model, backend="flashflow", dynamic=True)
    for batch, length in SHAPES[:3]:
        ids = torch.randint(0, VOCAB, (batch, length))
        mask = torch.ones_like(ids)
        mask[0, : length // 2] = 0
        got, want = (g(ids, attention_mask=mask, use_cache=False).logits for g in (f, model))
        assert_rows(got[mask.bool()], want[mask.bool()])


@pytest.mark.parametrize("make", [gpt2, llama])
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generate(make, cache):
    model = make()
    model.generation_config.pad_token_id = 0
    ids = torch.randint(0, VOCAB, (2, 6))
    options = dict(max_new_tokens=10, do_sample=False, cache_implementation=cache)
    want = model.generate(ids, **options)
    counters.reset()
    model.forward = torch.compile(model.forward, backend="flashflow", dynamic=True)
    got = model.generate(ids, **options)
    assert torch.equal(got, want)
    assert counters.graphs <= 4, "a prefill, a step, and what torch itself specializes"
    assert counters.runs >= 10


@pytest.fixture(params=[False, True], ids=["written out", "fast path"])
def fast_path(request):
    """Whether eager mode runs an encoder layer as one operator of torch's own, which Dynamo then captures."""
    torch.backends.mha.set_fastpath_enabled(request.param)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.parametrize("masks", [(), ("padding",), ("padding", "causal")])
@pytest.mark.parametrize(("norm_first", "activation"), [(False, "relu"), (True, "gelu")])
@pytest.mark.usefixtures("fast_path")
def test_an_encoder(norm_first, activation, masks):
    layer = nn.TransformerEncoderLayer(
        48, 4, 96, activation=activation, batch_first=True, norm_first=norm_first, dropout=0.1
    )
    model = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(48), enable_nested_tensor=False).eval()
    f = torch.compile(model, backend="flashflow", dynamic=True)
    for batch, length in SHAPES[:3]:
        x = torch.randn(batch, length, 48)
        given = {}
        if "padding" in masks:
            given["src_key_padding_mask"] = torch.zeros(batch, length, dtype=torch.bool)
            given["src_key_padding_mask"][0, length // 2 + 1 :] = True
        if "causal" in masks:
            given |= dict(mask=torch.ones(length, length, dtype=torch.bool).triu(1), is_causal=True)
        assert_rows(f(x, **given), model(x, **given))
    assert counters.runs >= 3
    assert counters.parts == counters.graphs, "nothing of a graph stays in eager mode"


class _Attention(nn.Module):
    """Attention as models write it out: four axes or bmm's three, with a mask of ones, of infinities or without."""

    def __init__(self, merged: bool, mask: str) -> None:
        super().__init__()
        self.merged, self.mask = merged, mask
        self.qkv, self.out = nn.Linear(48, 144), nn.Linear(48, 48)

    def forward(self, x, ones):
        batch, length, _ = x.shape
        q, k, v = (y.view(batch, length, 4, 12).transpose(1, 2) for y in self.qkv(x).chunk(3, -1))
        if self.merged:
            q, k, v = (y.reshape(batch * 4, length, 12) for y in (q, k, v))
        scores = torch.matmul(q, k.transpose(-1, -2)) if not self.merged else torch.bmm(q, k.transpose(1, 2))
        scores = scores / 12**0.5
        if self.mask == "padding":
            hidden = (1.0 - ones[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
            scores = scores + (hidden.expand(batch, 4, 1, length).reshape(-1, 1, length) if self.merged else hidden)
        elif self.mask == "causal":
            scores = scores + torch.full((length, length), float("-inf")).triu(1)
        elif self.mask == "causal ones":
            scores = scores + (1.0 - torch.ones(length, length).tril()) * torch.finfo(x.dtype).min
        y = torch.matmul(scores.softmax(-1), v)
        return self.out(y.view(batch, 4, length, 12).transpose(1, 2).reshape(batch, length, 48))


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("mask", ["none", "padding", "causal", "causal ones"])
def test_attention_that_is_written_out(merged, mask, monkeypatch):
    plans = []
    monkeypatch.setattr(GraphRunner, "forward", _recording(plans, GraphRunner.forward))
    model = _Attention(merged, mask).eval()
    f = torch.compile(model, backend="flashflow", dynamic=True)
    for batch, length in SHAPES:
        x = torch.randn(batch, length, 48)
        ones = torch.ones(batch, length, dtype=torch.int64)
        ones[0, length // 2 + 1 :] = 0
        assert_rows(f(x, ones), model(x, ones))
    assert counters.parts == counters.graphs
    for plan in plans:
        steps = [step["op"] for step in json.loads(plan)["steps"]]
        assert steps.count("attention") == 1
        assert not {"softmax", "matmul", "where", "iota"} & set(steps)
        assert ("mul" in steps) == (mask == "padding"), "only a mask of the input's is computed"


def _recording(plans, forward):
    def record(self, *arguments):
        plans.append(self.graph.plan)
        return forward(self, *arguments)

    return record
