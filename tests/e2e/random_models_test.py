"""Random configurations of the supported architectures against transformers, in fp32, through the whole stack."""

import numpy as np
import pytest
import torch
from tests.e2e.quality import assert_argmax, assert_fp32_logits
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from flashflow import LLM, SamplingParams

VOCAB = 211


def gpt2(**change):
    base = dict(vocab_size=VOCAB, n_positions=96, n_embd=48, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(GPT2Config(**(base | change)))


def llama(cls=LlamaForCausalLM, config=LlamaConfig, **change):
    base = dict(
        vocab_size=VOCAB,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=96,
        bos_token_id=0,
        eos_token_id=0,
    )
    return cls(config(**(base | change)))


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

MODELS = {
    "gpt2": lambda: gpt2(),
    "gpt2-one-head-odd-mlp": lambda: gpt2(n_head=1, n_embd=40, n_inner=72, n_layer=1),
    "gpt2-exact-gelu": lambda: gpt2(activation_function="gelu", layer_norm_epsilon=1e-3),
    "llama-gqa": lambda: llama(),
    "llama-mha-tied": lambda: llama(num_key_value_heads=6, tie_word_embeddings=True),
    "llama-mqa-bias": lambda: llama(num_key_value_heads=1, attention_bias=True, rms_norm_eps=1e-3),
    "llama-head-dim": lambda: llama(head_dim=16, num_attention_heads=4),
    "llama3-rope": lambda: llama(rope_parameters=LLAMA3_ROPE),
    "qwen2": lambda: llama(Qwen2ForCausalLM, Qwen2Config),
}


def make(name: str, folder) -> torch.nn.Module:
    """A model with weights large enough that attention and logits are far from uniform."""
    torch.manual_seed(sum(name.encode()))
    model = MODELS[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.2) if parameter.dim() > 1 else parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_tokens_match_transformers(name, tmp_path):
    model = make(name, tmp_path / "model")
    ids = np.random.default_rng(1).integers(1, VOCAB, size=90).tolist()
    with torch.no_grad():
        oracle = model(torch.tensor([ids])).logits[0].numpy()
    llm = LLM(str(tmp_path / "model"), dtype="float32", cache_dir=tmp_path / "cache", max_batch=4)
    ours = llm.logits(ids)
    assert_fp32_logits(ours, oracle)
    assert_argmax(ours, oracle, most_skipped=0.05)


@pytest.mark.parametrize("name", ["gpt2", "llama-gqa"])
def test_decoding_in_a_ragged_batch_gives_the_tokens_of_the_full_forward(name, tmp_path):
    """Rows of other lengths, several pages, joining at different steps: each still continues its own sequence."""
    model = make(name, tmp_path / "model")
    generator = np.random.default_rng(2)
    prompts = [generator.integers(1, VOCAB, size=n).tolist() for n in (1, 33, 16, 7, 50)]
    llm = LLM(str(tmp_path / "model"), dtype="float32", cache_dir=tmp_path / "cache", max_batch=3)
    outputs = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=20, ignore_eos=True))
    for prompt, output in zip(prompts, outputs, strict=True):
        assert len(output.token_ids) == 20
        sequence = prompt + list(output.token_ids)
        with torch.no_grad():
            logits = model(torch.tensor([sequence])).logits[0].numpy()
        chosen = logits[len(prompt) - 1 : -1]
        best = chosen.max(axis=1)
        got = chosen[np.arange(20), output.token_ids]
        assert (best - got <= 2e-4 * np.abs(chosen).max(axis=1)).all()
