"""A model of a few thousand random weights on disk, for tests: GPTSmall over bytes, with a chat template."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from flashflow.loaders.checkpoint import save_checkpoint
from flashflow.loaders.loaded_model import GenerationInfo
from flashflow.models.config import GptSmallConfig
from flashflow.models.gpt_small import GptSmall

END, USER, MODEL = "<|end|>", "<|user|>", "<|model|>"
END_ID, USER_ID, MODEL_ID = 256, 257, 258
CONTEXT_LENGTH = 64
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|model|>{% endif %}"
)


def byte_tokenizer() -> Tokenizer:
    """One token a byte, in the order of GPT-2's alphabet, and three special ones."""
    tokenizer = Tokenizer(BPE(vocab={c: i for i, c in enumerate(sorted(ByteLevel.alphabet()))}, merges=[]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in (END, USER, MODEL)])
    return tokenizer


def write_tiny_model(folder: Path, eos_token_id: int = END_ID) -> GptSmall:
    """Writes the checkpoint of a model, always with the same weights; returns its module, in eval mode."""
    config = GptSmallConfig(
        vocab_size=259, context_length=CONTEXT_LENGTH, hidden_size=32, n_layers=2, n_heads=2, mlp_size=64
    )
    torch.manual_seed(0)
    model = GptSmall(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # large enough that logits differ clearly, and positions matter
            parameter.add_(torch.randn_like(parameter) * 0.3)
    generation = GenerationInfo(eos_token_ids=(eos_token_id,), chat_template=CHAT_TEMPLATE)
    save_checkpoint(folder, config, model.state_dict(), byte_tokenizer().to_str().encode(), generation)
    return model
