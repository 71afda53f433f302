"""Our Triton kernels on the cases of their CUDA twins. Tuned at their first call; Triton is imported then."""

import itertools

import torch
from kernels.bench.case import Bind, Call


def prefill() -> Bind:
    """Causal attention over packed copies, made beforehand as the kernel wants them."""

    def bind(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: object) -> Call:
        from kernels.triton import fused_attention

        batch, _, tokens, head_dim = q.shape
        packed = [t.transpose(1, 2).flatten(0, 1).contiguous() for t in (q, k, v)]
        starts = [
            torch.tensor(list(itertools.accumulate([n] * batch, initial=0)), device="cuda", dtype=torch.int32)
            for n in (tokens, k.shape[2])
        ]
        return lambda: fused_attention.prefill(*packed, *starts, tokens, scale=head_dim**-0.5)

    return bind


def mlp(x: torch.Tensor, w1: torch.Tensor, b1: torch.Tensor, w2: torch.Tensor, b2: torch.Tensor, *_: object) -> Call:
    """Up with bias and GELU, down with bias."""
    from kernels.triton.fused_mlp import fused_linear

    return lambda: fused_linear(fused_linear(x, w1, b1, activation="gelu_tanh"), w2, b2)
