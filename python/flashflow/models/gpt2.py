"""GPT-2, with the weights that OpenAI published (124M to XL) and what was trained in its form."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from flashflow.models.config import Gpt2Config
from flashflow.models.transformer_blocks import Attention, Mlp, TiedHead, TransformerBlock

__all__ = ["Gpt2"]


class Gpt2(nn.Module):
    """Learned positions, pre-norm blocks with GELU, fused QKV, final norm, head tied to the token embedding."""

    token_table: ClassVar[str] = "wte"  # the module that token ids are looked up in

    def __init__(self, config: Gpt2Config) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        self.wpe = nn.Embedding(config.context_length, config.hidden_size)
        self.blocks = nn.ModuleList(self._block(config, layer) for layer in range(config.n_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.head = TiedHead() if config.tied_head else nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @staticmethod
    def _block(config: Gpt2Config, layer: int) -> TransformerBlock:
        plain_scale = config.scale_by_sqrt_head and not config.scale_by_layer
        return TransformerBlock(
            nn.LayerNorm(config.hidden_size, eps=config.norm_eps),
            Attention(
                config.hidden_size,
                config.n_heads,
                config.n_heads,
                config.head_size,
                fused_qkv=True,
                qkv_bias=True,
                out_bias=True,
                scale=None if plain_scale else config.attention_scale(layer),
            ),
            nn.LayerNorm(config.hidden_size, eps=config.norm_eps),
            Mlp(config.hidden_size, config.mlp_size, config.activation, bias=True),
        )

    def forward(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """Logits f32 [batch, sequence, vocab_size] for input_ids and position_ids, i64 [batch, sequence]."""
        x = self.wte(input_ids) + self.wpe(position_ids)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        logits: Tensor = self.head(x, self.wte) if isinstance(self.head, TiedHead) else self.head(x)
        return logits
