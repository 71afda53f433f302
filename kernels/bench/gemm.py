"""Linear layers beside cuBLASLt (with its fused epilogues, and as a bare product)."""

from collections.abc import Iterator

import torch
from kernels.bench.case import Bind, Call, Case, Operands, empty, randn
from kernels.bench.library import Libraries, Library
from torch.nn.functional import linear

ACTIVATIONS = {
    "none": 0,
    "gelu_tanh": 1,
    "gelu_erf": 2,
    "silu": 3,
}  # as kernels/cuda/testing/c_api_gemm.cc numbers them
CHOOSE = -3  # the kernel by the shape, as kernels/cuda/testing/c_api_gemm.cc numbers them

MANY_ROWS_SHAPES = (  # m, n, k, activation
    (8192, 3072, 768, "gelu_tanh"),
    (8192, 768, 3072, "none"),
    (8192, 6400, 1600, "gelu_tanh"),
    (8192, 1600, 6400, "none"),
    (8192, 2304, 768, "none"),
    (8192, 768, 768, "none"),
    (8192, 8192, 8192, "none"),
)
FEW_ROWS_SHAPES = ((1, 50257, 768), (8, 50257, 768), (64, 50257, 768), (1, 2304, 768))  # m, n, k


def product(
    library: Library,
    x: torch.Tensor,
    w: torch.Tensor,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    out: torch.Tensor,
    activation: str,
) -> Call:
    """out = activation(x w^T + bias) + residual."""
    (m, k), n = x.shape, w.shape[0]
    kind = ACTIVATIONS[activation]
    b = None if bias is None else bias.float()
    return lambda: library.call("ff_gemm", x, w, b, residual, out, m, n, k, kind, False, False, CHOOSE)


def _ours(library: Library, activation: str, with_residual: bool = False) -> Bind:
    def bind(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, r: torch.Tensor, out: torch.Tensor) -> Call:
        return product(library, x, w, b, r if with_residual else None, out, activation)

    return bind


def _many_rows(libraries: Libraries, m: int, n: int, k: int, activation: str) -> Case:
    def make() -> Operands:
        return randn(m, k), randn(n, k, scale=k**-0.5), randn(n), randn(m, n), empty(m, n)

    others: dict[str, Bind] = {"bare product": lambda x, w, b, r, out: lambda: torch.mm(x, w.t(), out=out)}
    if activation == "gelu_tanh":
        peers: dict[str, Bind] = {
            "cublaslt": lambda x, w, b, r, out: lambda: torch._addmm_activation(b, x, w.t(), use_gelu=True)
        }
    else:
        peers = {"cublaslt": lambda x, w, b, r, out: lambda: linear(x, w, b)}
        others["ours+residual"] = _ours(libraries["ours"], activation, with_residual=True)
    return Case(
        "gemm",
        f"{m}x{n}x{k} bias" + (f"+{activation}" if activation != "none" else ""),
        make,
        ours={name: _ours(library, activation) for name, library in libraries.items()},
        peers=peers,
        others=others,
        flops=2.0 * m * n * k,
        bytes=2.0 * (m * k + n * k + n + m * n),
        modes=("cold",),
    )


def _few_rows(libraries: Libraries, m: int, n: int, k: int) -> Case:
    def bind(library: Library) -> Bind:
        return lambda x, w, out: product(library, x, w, None, None, out, "none")

    return Case(
        "gemm",
        f"{m}x{n}x{k}",
        lambda: (randn(m, k), randn(n, k), empty(m, n)),
        ours={name: bind(library) for name, library in libraries.items()},
        peers={"cublas": lambda x, w, out: lambda: torch.mm(x, w.t(), out=out)},
        flops=2.0 * m * n * k,
        bytes=2.0 * (m * k + n * k + m * n),
        modes=("cold",),
    )


def cases(libraries: Libraries) -> Iterator[Case]:
    """Projections of GPT-2's sizes: many rows as in prefill, few as in decoding."""
    for m, n, k, activation in MANY_ROWS_SHAPES:
        yield _many_rows(libraries, m, n, k, activation)
    for m, n, k in FEW_ROWS_SHAPES:
        yield _few_rows(libraries, m, n, k)
