"""Peers that torch brings."""

from collections.abc import Callable
from typing import Any

import torch
from kernels.bench.case import Bind, Call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention


def eager(function: Callable[..., Any]) -> Bind:
    """The function itself, on the operands."""
    return lambda *operands: lambda: function(*operands)


def inductor(function: Callable[..., Any]) -> Bind:
    """torch.compile of the function for static shapes, with Inductor's search over tilings of what it generates itself.

    Matrix products stay cuBLAS's: the search over Triton's takes a quarter of a minute a shape.
    """
    options: dict[str, Any] = {
        "coordinate_descent_tuning": True,
        "max_autotune_pointwise": True,
        "triton.cudagraphs": False,
    }
    compiled: list[Callable[..., Any]] = []

    def bind(*operands: torch.Tensor) -> Call:
        if not compiled:  # compiles at its first call; here, so that listing cases costs nothing
            torch._dynamo.reset()
            compiled.append(torch.compile(function, dynamic=False, options=options))
        return lambda: compiled[0](*operands)

    return bind


def attention(backend: SDPBackend, causal: bool) -> Bind:
    """scaled_dot_product_attention of q, k, v (the fourth operand is ours to write) by one backend."""

    def bind(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: object) -> Call:
        def call() -> object:
            with sdpa_kernel(backend):
                grouped = q.shape[1] != k.shape[1]
                return scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=grouped)

        return call

    return bind
