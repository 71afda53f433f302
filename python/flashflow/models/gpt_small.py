"""GPTSmall: the GPT that FlashFlow trains, exports and runs. The reference to read first."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor, nn

from flashflow.models.config import GptSmallConfig
from flashflow.models.transformer_blocks import Attention, Mlp, TiedHead, TransformerBlock

__all__ = ["GptSmall"]


class GptSmall(nn.Module):
    """Learned positions, pre-norm blocks with GELU, final norm, head tied to the token embedding.

    Weights start as in GPT-2: normal with deviation 0.02, the projections into the residual stream scaled down by
    sqrt(2 * n_layers), biases zero.
    """

    token_table: ClassVar[str] = "wte"  # the module that token ids are looked up in

    def __init__(self, config: GptSmallConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        self.wpe = nn.Embedding(config.context_length, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else None
        self.blocks = nn.ModuleList(self._block(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.bias)
        self.head = TiedHead()
        self.reset_parameters()

    @staticmethod
    def _block(config: GptSmallConfig) -> TransformerBlock:
        width, bias = config.hidden_size, config.bias
        return TransformerBlock(
            nn.LayerNorm(width, eps=config.norm_eps, bias=bias),
            Attention(
                width,
                config.n_heads,
                config.n_heads,
                config.head_size,
                fused_qkv=True,
                qkv_bias=bias,
                out_bias=bias,
                dropout=config.dropout,
            ),
            nn.LayerNorm(width, eps=config.norm_eps, bias=bias),
            Mlp(width, config.mlp_size, config.activation, bias),
            dropout=config.dropout,
        )

    def reset_parameters(self) -> None:
        residual_std = 0.02 / math.sqrt(2 * self.config.n_layers)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                into_residual = name.endswith(("out_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=residual_std if into_residual else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """Logits f32 [batch, sequence, vocab_size] for input_ids and position_ids, i64 [batch, sequence]."""
        logits: Tensor = self.head(self.hidden_states(input_ids, position_ids), self.wte)
        return logits

    def hidden_states(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """What the head multiplies, f32 [batch, sequence, hidden_size]: after the final norm."""
        x = self.wte(input_ids) + self.wpe(position_ids)
        if self.dropout is not None:
            x = self.dropout(x)
        for block in self.blocks:
            x = block(x)
        normed: Tensor = self.norm(x)
        return normed
