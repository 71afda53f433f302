"""The INT8 contract (docs/numerics.md) in torch, bit for bit.

With fl rounding to f32, for a row x and its layer's constant `clip`: a = min(max|x|, clip). If a < 2^-100, codes and
scale are 0; else r = fl(127 / a), a code is fl(x * r) rounded to the nearest integer, ties to even, and clamped to
+-127, and the scale is s = fl(a / 127). A product of rows and a layer's weights, coded by output channel, is
y[n] = fl(fl(float(sum of q[k] * w[n, k]) * fl(s * s_w[n])) + b[n]), the sum exact.

Each operation is one call of torch, so nothing is contracted into a fused multiply-add, as long as no compiler joins
them: what has to be exact runs eagerly.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flashflow.errors import InvalidArgumentError

__all__ = ["MAX_INPUTS", "dequantize", "int8_linear", "int8_matmul", "quantize_rows"]

_MOST_CODE = 127.0
_LEAST_SCALED = 2.0**-100  # rows of smaller elements are zeros
# So many products of two codes sum up to less than 2^24: f32 holds each partial sum exactly.
_EXACT_BLOCK = 1024
MAX_INPUTS = (2**31 - 1) // 127**2  # so many to an i32


def quantize_rows(x: Tensor, clip: Tensor | float | None = None) -> tuple[Tensor, Tensor]:
    """Symmetric codes of each row, and its scale.

    Args:
      x: [..., K]; taken as f32.
      clip: above 0, f32 [] or a number; None is no clip.

    Returns:
      Codes i8 [..., K] and scales f32 [...]. A row with an element that is not finite has codes 0 and scale NaN.
    """
    x = x.float()
    most = x.abs().amax(dim=-1)  # NaN if there is one
    finite = torch.isfinite(most)
    a = most if clip is None else torch.minimum(most, torch.as_tensor(clip, dtype=torch.float32, device=x.device))
    # A tensor, since torch divides by numbers by multiplying with the reciprocal on some devices.
    most_code = torch.full((), _MOST_CODE, device=x.device)
    live = finite & (a >= _LEAST_SCALED)
    divisor = torch.where(live, a, most_code)
    codes = (x * (most_code / divisor).unsqueeze(-1)).round().clamp(-_MOST_CODE, _MOST_CODE)
    codes = torch.where(live.unsqueeze(-1), codes, 0.0).to(torch.int8)
    scales = torch.where(live, divisor / most_code, 0.0)
    return codes, torch.where(finite, scales, torch.nan)


def dequantize(codes: Tensor, scales: Tensor) -> Tensor:
    """The rows that codes i8 [..., K] and scales f32 [...] stand for: fl(code * scale), f32 [..., K]."""
    return codes.float() * scales.unsqueeze(-1)


def int8_matmul(a: Tensor, b: Tensor) -> Tensor:
    """Exact products of rows of codes.

    Args:
      a: i8 [M, K], no code -128.
      b: i8 [N, K], no code -128.

    Returns:
      i32 [M, N], sums over K.

    Raises:
      InvalidArgumentError: K is above MAX_INPUTS, where a sum may leave i32.
    """
    count = a.shape[-1]
    if count > MAX_INPUTS:
        raise InvalidArgumentError(f"a sum of {count} products of codes may not fit i32: at most {MAX_INPUTS} do")
    total = torch.zeros(a.shape[0], b.shape[0], dtype=torch.int32, device=a.device)
    with torch.autocast(a.device.type, enabled=False):  # whose result would be rounded
        for first in range(0, count, _EXACT_BLOCK):
            block = slice(first, first + _EXACT_BLOCK)
            total += (a[:, block].float() @ b[:, block].float().T).to(torch.int32)
    return total


def int8_linear(
    x: Tensor,
    weight_codes: Tensor,
    weight_scales: Tensor,
    bias: Tensor | None = None,
    clip: Tensor | float | None = None,
) -> Tensor:
    """A linear layer by codes.

    Args:
      x: [..., K]; taken as f32.
      weight_codes: i8 [N, K], of quantize_rows.
      weight_scales: f32 [N].
      bias: f32 [N].
      clip: of x, as for quantize_rows.

    Returns:
      y f32 [..., N]; NaN for a row that is not finite.
    """
    codes, scales = quantize_rows(x, clip)
    accumulated = int8_matmul(codes.reshape(-1, codes.shape[-1]), weight_codes).float()
    y = accumulated * (scales.reshape(-1, 1) * weight_scales)
    if bias is not None:
        y = y + bias
    return y.reshape(*x.shape[:-1], weight_codes.shape[0])
