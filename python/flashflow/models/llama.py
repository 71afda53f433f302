"""The Llama family: RMSNorm, rotary positions, grouped-query attention, SwiGLU. Also Qwen2 (biases on Q, K and V)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from flashflow.models.config import LlamaConfig
from flashflow.models.transformer_blocks import Attention, GatedMlp, RotaryTable, TiedHead, TransformerBlock

__all__ = ["Llama", "rotary_frequencies"]


def rotary_frequencies(config: LlamaConfig) -> Tensor:
    """Radians per position of each pair of elements, f32 [head_dim / 2] on the CPU."""
    scaling = config.rope_scaling
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device="cpu") / config.head_dim
    frequencies: Tensor = 1.0 / (config.rope_theta**exponents)
    if scaling.kind == "linear":
        frequencies = frequencies / scaling.factor
    elif scaling.kind == "factors":
        frequencies = frequencies / torch.tensor(scaling.factors, dtype=torch.float32, device="cpu")
    elif scaling.kind == "llama3":
        # A frequency that turns more than high_freq_factor times within the original context is kept, one that turns
        # less than low_freq_factor times is divided by factor, and those between are blended by their turns.
        turns = scaling.original_context_length * frequencies / (2 * math.pi)
        blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
        blend = blend.clamp(0.0, 1.0)
        frequencies = (1.0 - blend) * frequencies / scaling.factor + blend * frequencies
    return frequencies


class Llama(nn.Module):
    """A pre-norm decoder with rotary positions; the head is its own or the token embedding."""

    token_table: ClassVar[str] = "embed"  # the module that token ids are looked up in

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.rotary = RotaryTable(rotary_frequencies(config), config.context_length)
        self.layers = nn.ModuleList(self._layer(config) for _ in range(config.n_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.head = TiedHead() if config.tied_head else nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @staticmethod
    def _layer(config: LlamaConfig) -> TransformerBlock:
        return TransformerBlock(
            nn.RMSNorm(config.hidden_size, eps=config.norm_eps),
            Attention(
                config.hidden_size,
                config.n_heads,
                config.n_kv_heads,
                config.head_dim,
                fused_qkv=False,
                qkv_bias=config.qkv_bias,
                out_bias=config.out_bias,
            ),
            nn.RMSNorm(config.hidden_size, eps=config.norm_eps),
            GatedMlp(config.hidden_size, config.mlp_size, config.activation, config.mlp_bias),
        )

    def forward(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """Logits f32 [batch, sequence, vocab_size] for input_ids and position_ids, i64 [batch, sequence]."""
        x = self.embed(input_ids)
        rotation = self.rotary(position_ids)
        for layer in self.layers:
            x = layer(x, rotation)
        x = self.norm(x)
        logits: Tensor = self.head(x, self.embed) if isinstance(self.head, TiedHead) else self.head(x)
        return logits
