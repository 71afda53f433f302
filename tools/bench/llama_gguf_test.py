"""The GGUF files hold the models: transformers' own reader gives their weights back."""

import pytest
import torch
from tools.bench import llama_gguf
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM


def _gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=32, n_layer=2, n_head=4))


def _llama():
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=16,
            rope_parameters={"rope_type": "default", "rope_theta": 500.0},
            tie_word_embeddings=True,
        )
    )


@pytest.mark.parametrize("make", [_gpt2, _llama])
def test_weights_come_back(tmp_path, make):
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight))
    llama_gguf.write(model, tmp_path / "model.gguf")
    again = (
        type(model).from_pretrained(tmp_path, gguf_file="model.gguf", config=model.config, dtype=torch.float32).eval()
    )
    ids = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, model(ids).logits, rtol=0, atol=0)


def test_other_models_are_refused(tmp_path):
    model = OPTForCausalLM(
        OPTConfig(
            vocab_size=8, hidden_size=8, num_hidden_layers=1, ffn_dim=8, num_attention_heads=1, word_embed_proj_dim=8
        )
    )
    with pytest.raises(ValueError, match="no GGUF of a opt model"):
        llama_gguf.write(model, tmp_path / "model.gguf")
