"""The MLP of GPT-2, up with bias and GELU and down with bias, beside cuBLASLt's fused epilogues and torch."""

from collections.abc import Iterator

import torch
from kernels.bench import torch_peers, triton_variants
from kernels.bench.case import Bind, Call, Case, Operands, empty, randn
from kernels.bench.gemm import product
from kernels.bench.library import Libraries, Library
from torch.nn.functional import gelu, linear

SHAPES = [(m, d) for d in (768, 1600) for m in (8192, 1, 8, 64)]  # rows, width; 4 times as wide inside


def _ours(library: Library, with_residual: bool) -> Bind:
    def bind(
        x: torch.Tensor,
        w1: torch.Tensor,
        b1: torch.Tensor,
        w2: torch.Tensor,
        b2: torch.Tensor,
        h: torch.Tensor,
        y: torch.Tensor,
    ) -> Call:
        up = product(library, x, w1, b1, None, h, "gelu_tanh")
        down = product(library, h, w2, b2, x if with_residual else None, y, "none")
        return lambda: (up(), down())

    return bind


def _cublaslt(
    x: torch.Tensor, w1: torch.Tensor, b1: torch.Tensor, w2: torch.Tensor, b2: torch.Tensor, *_: object
) -> torch.Tensor:
    return linear(torch._addmm_activation(b1, x, w1.t(), use_gelu=True), w2, b2)


def _plain(
    x: torch.Tensor, w1: torch.Tensor, b1: torch.Tensor, w2: torch.Tensor, b2: torch.Tensor, *_: object
) -> torch.Tensor:
    return linear(gelu(linear(x, w1, b1), approximate="tanh"), w2, b2)


def cases(libraries: Libraries) -> Iterator[Case]:
    """The inner activations count for nothing in the floor: a single kernel would not write them."""
    for m, d in SHAPES:

        def make(m: int = m, d: int = d) -> Operands:
            up, down = randn(4 * d, d, scale=d**-0.5), randn(d, 4 * d, scale=d**-0.5)
            return randn(m, d), up, randn(4 * d), down, randn(d), empty(m, 4 * d), empty(m, d)

        yield Case(
            "mlp",
            f"{m} rows {d}-{4 * d}-{d}",
            make,
            ours={name: _ours(library, with_residual=False) for name, library in libraries.items()},
            peers={
                "cublaslt": torch_peers.eager(_cublaslt),
                "inductor": torch_peers.inductor(_plain),
                "eager": torch_peers.eager(_plain),
            },
            others={"ours+residual": _ours(libraries["ours"], with_residual=True), "triton": triton_variants.mlp},
            flops=16.0 * m * d * d,
            bytes=2.0 * (8 * d * d + 5 * d + 2 * m * d),
        )
