"""Operators of torch's own that are whole layers, written with the operators that models are written with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear, relu, scaled_dot_product_attention

__all__ = ["DECOMPOSITIONS"]


def _encoder_layer(
    src: Tensor,
    embed_dim: int,
    num_heads: int,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    use_gelu: bool,
    norm_first: bool,
    eps: float,
    norm_weight_1: Tensor,
    norm_bias_1: Tensor,
    norm_weight_2: Tensor,
    norm_bias_2: Tensor,
    ffn_weight_1: Tensor,
    ffn_bias_1: Tensor,
    ffn_weight_2: Tensor,
    ffn_bias_2: Tensor,
    mask: Tensor | None = None,
    mask_type: int | None = None,
) -> Tensor:
    """What nn.TransformerEncoderLayer's fast path calls, for src [batch, sequence, embed_dim]."""
    batch, length, _ = src.shape

    def attend(x: Tensor) -> Tensor:
        projected = linear(x, qkv_weight, qkv_bias).chunk(3, -1)
        q, k, v = (part.view(batch, length, num_heads, embed_dim // num_heads).transpose(1, 2) for part in projected)
        y = scaled_dot_product_attention(q, k, v, attn_mask=_seen(mask, mask_type))
        return linear(y.transpose(1, 2).reshape(batch, length, embed_dim), proj_weight, proj_bias)

    def mlp(x: Tensor) -> Tensor:
        hidden = linear(x, ffn_weight_1, ffn_bias_1)
        return linear(gelu(hidden) if use_gelu else relu(hidden), ffn_weight_2, ffn_bias_2)

    def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return layer_norm(x, (embed_dim,), weight, bias, eps)

    if norm_first:
        x = src + attend(norm(src, norm_weight_1, norm_bias_1))
        return x + mlp(norm(x, norm_weight_2, norm_bias_2))
    x = norm(src + attend(src), norm_weight_1, norm_bias_1)
    return norm(x + mlp(x), norm_weight_2, norm_bias_2)


def _seen(mask: Tensor | None, mask_type: int | None) -> Tensor | None:
    """Of a mask [sequence, sequence] (type 0), [batch, sequence] (1) or [batch, heads, sequence, sequence] (2) that is
    not 0 where a key is hidden."""
    if mask is None:
        return None
    seen = ~mask.to(torch.bool)
    if mask_type == 1:
        return seen[:, None, None, :]
    return seen if mask_type == 2 else seen[None, None]


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten._transformer_encoder_layer_fwd.default: _encoder_layer,
}
