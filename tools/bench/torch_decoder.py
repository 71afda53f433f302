"""The torch peers of the decode and prefill suites: a decoder with random weights, eager or compiled by Inductor.

Written as one would for speed in torch: a static cache, one fused product for Q, K and V, and a layer as one function
of tensors, so that Inductor compiles it once and not once a layer. The residual is carried as two terms, whose sum is
the first thing a layer computes: Inductor then fuses it with the norm, across what would be the layers' border.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the field's name for it)
from tools.bench.decoder_shape import DecoderShape
from torch import Tensor

INDUCTOR = {"max_autotune": True, "coordinate_descent_tuning": True, "triton.cudagraphs": False}
MOST_COMPILED = 256  # forms of one function: a batch and a number of slots each
SPREAD = 0.02  # of weights


@dataclass(frozen=True)
class Layer:
    """Weights of one layer, [out, in]; biases and the norms' shifts are None in Llama's form."""

    norm: Tensor
    norm_shift: Tensor | None
    qkv: Tensor
    qkv_bias: Tensor | None
    out: Tensor
    out_bias: Tensor | None
    mlp_norm: Tensor
    mlp_norm_shift: Tensor | None
    up: Tensor  # gate and up, one above the other, where gated
    up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None

    def tensors(self) -> tuple[Tensor | None, ...]:
        return tuple(vars(self).values())


def _norm(x: Tensor, weight: Tensor, shift: Tensor | None) -> Tensor:
    if shift is None:
        return F.rms_norm(x, weight.shape, weight, 1e-5)
    return F.layer_norm(x, weight.shape, weight, shift, 1e-5)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin


class TorchDecoder:
    """Weights and functions; `compiled` ones are Inductor's.

    Args:
        dtype, device: of weights and cache.
        seed: of the weights.
        attention: of decoding: "sdpa" is scaled_dot_product_attention with a mask, "products" writes it out.
    """

    def __init__(
        self,
        shape: DecoderShape,
        dtype: torch.dtype,
        device: str,
        compiled: bool,
        seed: int = 1,
        attention: str = "sdpa",
    ) -> None:
        self.shape, self.dtype, self.device, self._attention = shape, dtype, device, attention
        self._random = torch.Generator(device).manual_seed(seed)
        width, heads, kv_heads, dim = shape.hidden_size, shape.n_heads, shape.n_kv_heads, shape.head_dim
        bias = not shape.gated
        self.embedding = self._weight(shape.vocab_size, width)
        self.positions = None if shape.gated else self._weight(shape.context_length, width)
        self.layers = []
        for _ in range(shape.n_layers):
            self.layers.append(
                Layer(
                    norm=self._weight(width, center=1.0),
                    norm_shift=self._weight(width) if bias else None,
                    qkv=self._weight((heads + 2 * kv_heads) * dim, width),
                    qkv_bias=self._weight((heads + 2 * kv_heads) * dim) if bias else None,
                    out=self._weight(width, heads * dim),
                    out_bias=self._weight(width) if bias else None,
                    mlp_norm=self._weight(width, center=1.0),
                    mlp_norm_shift=self._weight(width) if bias else None,
                    up=self._weight((2 if shape.gated else 1) * shape.mlp_size, width),
                    up_bias=self._weight(shape.mlp_size) if bias else None,
                    down=self._weight(width, shape.mlp_size),
                    down_bias=self._weight(width) if bias else None,
                )
            )
        self.norm = self._weight(width, center=1.0)
        self.norm_shift = self._weight(width) if bias else None
        exponents = torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim
        angles = torch.arange(shape.context_length, device=device)[:, None] / shape.rope_theta**exponents
        angles = torch.cat((angles, angles), dim=-1)
        self.cos, self.sin = angles.cos().to(dtype), angles.sin().to(dtype)

        if compiled:
            torch._dynamo.config.recompile_limit = MOST_COMPILED
            torch._dynamo.config.accumulated_recompile_limit = MOST_COMPILED

        def optimized(function: Callable[..., Any]) -> Callable[..., Any]:
            return torch.compile(function, fullgraph=True, dynamic=False, options=INDUCTOR) if compiled else function

        self._decode_layer = optimized(self._decode_layer_plain)
        self._prefill_layer = optimized(self._prefill_layer_plain)
        self._head = optimized(self._head_plain)

    def _weight(self, *sizes: int, center: float = 0.0) -> Tensor:
        values = torch.empty(sizes, dtype=self.dtype, device=self.device)
        return values.uniform_(center - SPREAD, center + SPREAD, generator=self._random)

    # --- layers ----------------------------------------------------------------

    def _project(self, x: Tensor, layer: tuple[Any, ...], cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [batch, heads, tokens, head_dim] of the normalized x, turned."""
        norm, shift, qkv, bias = layer[:4]
        shape = self.shape
        batch, tokens, _ = x.shape
        y = F.linear(_norm(x, norm, shift), qkv, bias)
        y = y.view(batch, tokens, shape.n_heads + 2 * shape.n_kv_heads, shape.head_dim).transpose(1, 2)
        q, k, v = y.split((shape.n_heads, shape.n_kv_heads, shape.n_kv_heads), dim=1)
        if shape.gated:
            q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        return q, k, v

    def _mlp(self, x: Tensor, layer: tuple[Any, ...]) -> Tensor:
        norm, shift, up, up_bias, down, down_bias = layer[6:]
        y = F.linear(_norm(x, norm, shift), up, up_bias)
        if self.shape.gated:
            gate, y = y.chunk(2, dim=-1)
            y = F.silu(gate) * y
        else:
            y = F.gelu(y, approximate="tanh")
        return F.linear(y, down, down_bias)

    def _after_attention(self, x: Tensor, y: Tensor, layer: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
        batch, _, tokens, _ = y.shape
        x = x + F.linear(y.transpose(1, 2).reshape(batch, tokens, -1), layer[4], layer[5])
        return x, self._mlp(x, layer)

    def _decode_layer_plain(
        self,
        x: Tensor,
        pending: Tensor,
        layer: tuple[Any, ...],
        keys: Tensor,
        values: Tensor,
        position: Tensor,
        mask: Tensor,
        cos: Tensor,
        sin: Tensor,
    ) -> tuple[Tensor, Tensor]:
        x = x + pending
        q, k, v = self._project(x, layer, cos, sin)
        keys.index_copy_(2, position, k)
        values.index_copy_(2, position, v)
        shape = self.shape
        if self._attention == "sdpa":
            y = F.scaled_dot_product_attention(
                q, keys, values, attn_mask=mask, enable_gqa=shape.n_heads != shape.n_kv_heads
            )
        else:
            batch = x.shape[0]
            grouped = q.reshape(batch, shape.n_kv_heads, shape.n_heads // shape.n_kv_heads, shape.head_dim)
            scores = (grouped @ keys.transpose(2, 3)).float() / math.sqrt(shape.head_dim)
            scores = torch.where(mask, scores, float("-inf"))
            y = (scores.softmax(-1).to(x.dtype) @ values).reshape(batch, shape.n_heads, 1, shape.head_dim)
        return self._after_attention(x, y, layer)

    def _prefill_layer_plain(
        self, x: Tensor, pending: Tensor, layer: tuple[Any, ...], cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor]:
        x = x + pending
        q, k, v = self._project(x, layer, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
        return self._after_attention(x, y, layer)

    def _head_plain(self, x: Tensor, pending: Tensor, norm: Tensor, shift: Tensor | None, weight: Tensor) -> Tensor:
        """The next token of each row of x [batch, hidden], i64 [batch]."""
        return F.linear(_norm(x + pending, norm, shift), weight).argmax(-1)

    # --- steps -----------------------------------------------------------------

    def _embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        x = F.embedding(tokens, self.embedding)
        return x if self.positions is None else x + F.embedding(positions, self.positions)

    @torch.no_grad()
    def prefill(self, tokens: Tensor) -> Tensor:
        """The next token i64 [batch] of prompts i64 [batch, tokens]; keeps no cache."""
        length = tokens.shape[1]
        x = self._embed(tokens, torch.arange(length, device=self.device))
        pending = torch.zeros_like(x)
        for layer in self.layers:
            x, pending = self._prefill_layer(x, pending, layer.tensors(), self.cos[:length], self.sin[:length])
        last = (x[:, -1].contiguous(), pending[:, -1].contiguous())
        return torch.as_tensor(self._head(*last, self.norm, self.norm_shift, self.embedding))

    def decoder(self, batch: int, context: int, slots: int) -> "Decoding":
        """A batch in the midst of decoding: `context` random tokens in a cache of `slots`."""
        return Decoding(self, batch, context, slots)


class Decoding:
    """Requests of equal length. Each step() reads `tokens`, writes the next ones there, and moves on."""

    def __init__(self, model: TorchDecoder, batch: int, context: int, slots: int) -> None:
        shape, device = model.shape, model.device
        self._model = model
        sizes = (batch, shape.n_kv_heads, slots, shape.head_dim)
        self._caches = [
            (torch.randn(sizes, dtype=model.dtype, device=device), torch.randn(sizes, dtype=model.dtype, device=device))
            for _ in model.layers
        ]
        self.tokens = torch.arange(batch, device=device)[:, None]
        self.position = torch.tensor([context], device=device)
        self._slots = torch.arange(slots, device=device)
        self._context = context

    def rewind(self) -> None:
        """Back to the first step's length."""
        self.position.fill_(self._context)

    @torch.no_grad()
    def step(self) -> None:
        model = self._model
        x = model._embed(self.tokens, self.position)
        pending = torch.zeros_like(x)
        mask = (self._slots <= self.position).view(1, 1, 1, -1)
        cos, sin = model.cos[self.position], model.sin[self.position]
        for layer, (keys, values) in zip(model.layers, self._caches, strict=True):
            x, pending = model._decode_layer(x, pending, layer.tensors(), keys, values, self.position, mask, cos, sin)
        next_tokens = model._head(x[:, 0], pending[:, 0], model.norm, model.norm_shift, model.embedding)
        self.tokens.copy_(next_tokens[:, None])
        self.position.add_(1)
