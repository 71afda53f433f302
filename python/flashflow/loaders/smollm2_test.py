"""The real checkpoint, by its name; transformers' own GGUF loader and forward pass are the oracle."""

import pytest
import torch
import transformers
from tokenizers import Tokenizer

from flashflow.loaders.resolve import resolve
from flashflow.loaders.torch_weights import read_tensors
from flashflow.models.build import build_model


@pytest.fixture(scope="module")
def smollm2():
    return resolve("smollm2-135m")


def test_smollm2_logits_equal_transformers(smollm2):
    loaded = smollm2.load()
    tokenizer = Tokenizer.from_str(loaded.tokenizer_json.decode())
    model = transformers.AutoModelForCausalLM.from_pretrained(
        smollm2.path.parent, gguf_file=smollm2.path.name, dtype=torch.float32
    ).eval()
    ours = build_model(loaded.config, read_tensors(loaded.weights))
    for text in ("The sea is", "Ünïcödé 東京 🙂 123", "  \n\n\t", "def f(x):\n    return x + 1\n" * 8):
        ids = torch.tensor([tokenizer.encode(text).ids])
        with torch.no_grad():
            expected = model(ids).logits
            found = ours(ids, torch.arange(ids.shape[1])[None])
        error = (found - expected).abs().amax(-1) / expected.abs().amax(-1)
        assert error.max() <= 1e-4


def test_smollm2_facts(smollm2):
    loaded = smollm2.load()
    assert loaded.config.parameter_count() == 134_515_008
    assert (loaded.config.n_heads, loaded.config.n_kv_heads, loaded.config.rope_theta) == (9, 3, 1e5)
    assert (loaded.generation.bos_token_id, loaded.generation.eos_token_ids) == (1, (2,))
    assert "<|im_start|>" in loaded.generation.chat_template
    assert loaded.metadata["license"] == "apache-2.0"
