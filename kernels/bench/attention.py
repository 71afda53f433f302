"""Attention beside cuDNN and FlashAttention-2 (both as torch brings them)."""

from collections.abc import Iterator

import torch
from kernels.bench import torch_peers, triton_variants
from kernels.bench.case import Bind, Call, Case, randn
from kernels.bench.library import Libraries, Library
from torch.nn.attention import SDPBackend

PREFILL = (  # batch, heads, tokens, head_dim
    (8, 12, 1024, 64),
    (16, 12, 1024, 64),
    (8, 12, 4096, 64),
    (4, 12, 8192, 64),
    (8, 16, 4096, 128),
    (1, 12, 1024, 64),
    (8, 12, 4096, 80),
    (8, 12, 4096, 96),
)
WINDOWED = ((4, 12, 8192, 64, 1024),)  # and the window


def _prefill(library: Library, window: int = 0, kernel: int = 0) -> Bind:
    def bind(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, o: torch.Tensor) -> Call:
        b, h, t, d = q.shape
        kv_heads, kv_tokens = k.shape[1:3]
        return lambda: library.call(
            "ff_attention", q, k, v, o, b, h, kv_heads, t, kv_tokens, d, d**-0.5, True, window, kernel
        )

    return bind


def _masked(window: int) -> Bind:
    """scaled_dot_product_attention with the window as a mask, by the backend that torch chooses."""

    def bind(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: object) -> Call:
        distance = torch.arange(q.shape[2], device=q.device)
        distance = distance[:, None] - distance
        mask = (distance >= 0) & (distance < window)
        return lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    return bind


def cases(libraries: Libraries) -> Iterator[Case]:
    """Causal prefill; half of the square's operations count."""
    for b, h, t, d in PREFILL:
        yield Case(
            "attention",
            f"{b}x{h}x{t}x{d} causal",
            lambda b=b, h=h, t=t, d=d: tuple(randn(b, h, t, d) for _ in range(4)),
            ours={name: _prefill(library) for name, library in libraries.items()},
            peers={
                "cudnn": torch_peers.attention(SDPBackend.CUDNN_ATTENTION, causal=True),
                "fa2": torch_peers.attention(SDPBackend.FLASH_ATTENTION, causal=True),
            },
            others={
                "triton": triton_variants.prefill(),
                **{f"{name}, sm_80": _prefill(library, kernel=80) for name, library in libraries.items()},
            },
            flops=2.0 * b * h * t * t * d,
            bytes=2.0 * 4 * b * h * t * d,
        )
    for b, h, t, d, window in WINDOWED:
        yield Case(
            "attention",
            f"{b}x{h}x{t}x{d} window {window}",
            lambda b=b, h=h, t=t, d=d: tuple(randn(b, h, t, d) for _ in range(4)),
            ours={name: _prefill(library, window) for name, library in libraries.items()},
            peers={"masked": _masked(window)},
            others={
                "cudnn, no window": torch_peers.attention(SDPBackend.CUDNN_ATTENTION, causal=True),
                **{f"{name}, sm_80": _prefill(library, window, 80) for name, library in libraries.items()},
            },
            flops=4.0 * b * h * d * (t * window - window * (window - 1) / 2),
            bytes=2.0 * 4 * b * h * t * d,
        )
