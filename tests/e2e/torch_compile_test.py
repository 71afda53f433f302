"""torch.compile(backend="flashflow") on whole models: ours, transformers' with random weights, an encoder."""

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


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_an_encoder(norm_first, activation):
    layer = nn.TransformerEncoderLayer(
        48, 4, 96, activation=activation, batch_first=True, norm_first=norm_first, dropout=0.1
    )
    model = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(48), enable_nested_tensor=False).eval()
    torch.backends.mha.set_fastpath_enabled(False)  # which is one operator a layer, of torch's own
    try:
        f = torch.compile(model, backend="flashflow", dynamic=True)
        for batch, length in SHAPES:
            x = torch.randn(batch, length, 48)
            assert_rows(f(x), model(x))
            padding = torch.zeros(batch, length, dtype=torch.bool)
            padding[0, length // 2 + 1 :] = True
            assert_rows(f(x, src_key_padding_mask=padding), model(x, src_key_padding_mask=padding))
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert counters.runs >= 2 * len(SHAPES)
