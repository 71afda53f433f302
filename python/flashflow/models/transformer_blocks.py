"""The blocks that GPTSmall, GPT-2 and Llama are made of.

Tensors are [batch, sequence, hidden] unless said otherwise. Attention is one call of scaled_dot_product_attention with
is_causal, the only form that the compiler turns into cached attention; positions come in as position_ids.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 (the field's name for it)
from torch import Tensor, nn

__all__ = ["ACTIVATION_FUNCTIONS", "Attention", "GatedMlp", "Mlp", "RotaryTable", "TiedHead", "TransformerBlock"]


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


ACTIVATION_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "relu": F.relu,
    "silu": F.silu,
}

Rotation = tuple[Tensor, Tensor]  # cos and sin, [batch, 1, sequence, head_dim]


class RotaryTable(nn.Module):
    """Rotary position embedding (Su et al., RoFormer), in the half-split form: element i turns with i + head_dim/2.

    Args:
      frequencies: radians per position, f32 [head_dim / 2].
      context_length: rows of the tables.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, frequencies: Tensor, context_length: int) -> None:
        super().__init__()
        positions = torch.arange(context_length, dtype=torch.float32, device=frequencies.device)
        angles = positions[:, None] * frequencies[None, :]
        angles = torch.cat((angles, angles), dim=-1)
        # Not in the state_dict: they follow from the config. The exporter carries them as weights.
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, position_ids: Tensor) -> Rotation:
        """cos and sin at position_ids [batch, sequence], each [batch, 1, sequence, head_dim]."""
        return F.embedding(position_ids, self.cos).unsqueeze(1), F.embedding(position_ids, self.sin).unsqueeze(1)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """x [batch, heads, sequence, head_dim], turned by its positions."""
    cos, sin = rotation
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin


class Attention(nn.Module):
    """Causal self-attention: multi-head, or grouped-query where n_kv_heads < n_heads.

    Args:
      fused_qkv: one linear makes queries, keys and values, in that order (GPT-2), instead of three (Llama).
      scale: what scores are multiplied by; None is 1/sqrt(head_dim).
      dropout: share of attention weights dropped in training.
    """

    def __init__(
        self,
        hidden_size: int,
        n_heads: int,
        n_kv_heads: int,
        head_dim: int,
        *,
        fused_qkv: bool,
        qkv_bias: bool,
        out_bias: bool,
        scale: float | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = n_heads, n_kv_heads, head_dim
        self.fused_qkv, self.scale, self.dropout = fused_qkv, scale, dropout
        q_size, kv_size = n_heads * head_dim, n_kv_heads * head_dim
        if fused_qkv:
            self.qkv_proj = nn.Linear(hidden_size, q_size + 2 * kv_size, bias=qkv_bias)
        else:
            self.q_proj = nn.Linear(hidden_size, q_size, bias=qkv_bias)
            self.k_proj = nn.Linear(hidden_size, kv_size, bias=qkv_bias)
            self.v_proj = nn.Linear(hidden_size, kv_size, bias=qkv_bias)
        self.out_proj = nn.Linear(q_size, hidden_size, bias=out_bias)

    def forward(self, x: Tensor, rotation: Rotation | None = None) -> Tensor:
        batch, sequence, _ = x.shape
        q, k, v = self._project(x)
        q = q.view(batch, sequence, self.n_heads, self.head_dim).transpose(1, 2)
        k = k.view(batch, sequence, self.n_kv_heads, self.head_dim).transpose(1, 2)
        v = v.view(batch, sequence, self.n_kv_heads, self.head_dim).transpose(1, 2)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        y = F.scaled_dot_product_attention(
            q,
            k,
            v,
            is_causal=True,
            dropout_p=self.dropout if self.training else 0.0,
            scale=self.scale,
            enable_gqa=self.n_kv_heads != self.n_heads,
        )
        merged: Tensor = self.out_proj(y.transpose(1, 2).reshape(batch, sequence, self.n_heads * self.head_dim))
        return merged

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if not self.fused_qkv:
            return self.q_proj(x), self.k_proj(x), self.v_proj(x)
        qkv = self.qkv_proj(x)
        q_end = self.n_heads * self.head_dim
        k_end = q_end + self.n_kv_heads * self.head_dim
        return qkv[..., :q_end], qkv[..., q_end:k_end], qkv[..., k_end:]


class Mlp(nn.Module):
    """down(activation(up(x)))."""

    def __init__(self, hidden_size: int, mlp_size: int, activation: str, bias: bool) -> None:
        super().__init__()
        self.activation = ACTIVATION_FUNCTIONS[activation]
        self.up_proj = nn.Linear(hidden_size, mlp_size, bias=bias)
        self.down_proj = nn.Linear(mlp_size, hidden_size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down_proj(self.activation(self.up_proj(x)))
        return y


class GatedMlp(nn.Module):
    """down(activation(gate(x)) * up(x)): SwiGLU where the activation is silu (Shazeer, GLU variants)."""

    def __init__(self, hidden_size: int, mlp_size: int, activation: str, bias: bool) -> None:
        super().__init__()
        self.activation = ACTIVATION_FUNCTIONS[activation]
        self.gate_proj = nn.Linear(hidden_size, mlp_size, bias=bias)
        self.up_proj = nn.Linear(hidden_size, mlp_size, bias=bias)
        self.down_proj = nn.Linear(mlp_size, hidden_size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))
        return y


class TransformerBlock(nn.Module):
    """A pre-norm block: x + attn(norm(x)), then x + mlp(norm(x)); dropout on both branches in training."""

    def __init__(
        self, attn_norm: nn.Module, attn: Attention, mlp_norm: nn.Module, mlp: nn.Module, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.attn_norm, self.attn, self.mlp_norm, self.mlp = attn_norm, attn, mlp_norm, mlp
        self.dropout = nn.Dropout(dropout) if dropout else None

    def forward(self, x: Tensor, rotation: Rotation | None = None) -> Tensor:
        x = x + self._drop(self.attn(self.attn_norm(x), rotation))
        return x + self._drop(self.mlp(self.mlp_norm(x)))

    def _drop(self, x: Tensor) -> Tensor:
        return x if self.dropout is None else self.dropout(x)


class TiedHead(nn.Module):
    """The head of a model without a head of its own: the token table, turned round. Has no parameters."""

    def forward(self, x: Tensor, table: nn.Embedding, multiple: int = 1) -> Tensor:
        """Logits [batch, sequence, vocab_size] of x [batch, sequence, hidden].

        With a multiple there may be further columns, of zeros, up to the next multiple of it: for products that are
        faster where rows are aligned.
        """
        return F.linear(x, with_aligned_rows(table.weight, multiple))


def with_aligned_rows(weight: Tensor, multiple: int) -> Tensor:
    """A weight [N, K] with rows of zeros up to the next multiple."""
    missing = -weight.shape[0] % multiple
    return F.pad(weight, (0, 0, 0, missing)) if missing else weight
