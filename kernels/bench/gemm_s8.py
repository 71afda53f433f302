"""Linear layers of 8-bit codes, the input's quantization counted, beside ours of bf16 and torch's integer product."""

from collections.abc import Iterator

import torch
from kernels.bench import gemm, torch_peers
from kernels.bench.case import Bind, Call, Case, Operands, empty, randn
from kernels.bench.library import Libraries, Library

CHOOSE = 3  # kernels, as kernels/cuda/testing/c_api_gemm.cc numbers them
SHAPES = (  # m, n, k
    (8192, 3072, 768),
    (8192, 768, 3072),
    (8192, 16384, 4096),
    (1, 3072, 768),
    (8, 3072, 768),
    (64, 3072, 768),
    (1, 50257, 768),
    (64, 50257, 768),
)


def _ours(library: Library, quantize: bool = True, multiply: bool = True, kernel: int = CHOOSE) -> Bind:
    def bind(
        x: torch.Tensor,
        q: torch.Tensor,
        s: torch.Tensor,
        w: torch.Tensor,
        s_w: torch.Tensor,
        bias: torch.Tensor,
        wide: torch.Tensor,
        out: torch.Tensor,
    ) -> Call:
        (m, k), n = x.shape, w.shape[0]

        def call() -> None:
            if quantize:
                library.call("ff_quantize", x, q, s, m, k)
            if multiply:
                library.call("ff_gemm_s8", q, s, w, s_w, bias, out, m, n, k, 0, kernel, 0)

        return call

    return bind


def _int_mm(x: torch.Tensor, q: torch.Tensor, s: torch.Tensor, w: torch.Tensor, s_w: torch.Tensor, b: torch.Tensor, *_):
    a = x.abs().amax(dim=-1, keepdim=True).float()
    codes = torch.round(x.float() * (127 / a)).to(torch.int8)
    return (torch._int_mm(codes, w.t()) * (a / 127 * s_w) + b).to(torch.bfloat16)


def _bf16(library: Library) -> Bind:
    def bind(x: torch.Tensor, *rest: torch.Tensor) -> Call:
        wide, out = rest[-2:]
        return gemm.product(library, x, wide, None, None, out, "none")

    return bind


def cases(libraries: Libraries) -> Iterator[Case]:
    """From bf16 rows to bf16 rows, with a bias; the floor counts the codes as passing through no memory.

    torch's product takes more than 16 rows only.
    """
    for m, n, k in SHAPES:
        torch_products = {"int_mm": torch_peers.eager(_int_mm), "int_mm inductor": torch_peers.inductor(_int_mm)}

        def make(m: int = m, n: int = n, k: int = k) -> Operands:
            codes = torch.randint(-127, 128, (n, k), device="cuda", dtype=torch.int8)
            q = torch.randint(-127, 128, (m, k), device="cuda", dtype=torch.int8)
            s, s_w = torch.rand(m, device="cuda"), torch.rand(n, device="cuda") * k**-0.5 / 64
            return randn(m, k), q, s, codes, s_w, torch.randn(n, device="cuda"), randn(n, k), empty(m, n)

        yield Case(
            "gemm_s8",
            f"{m}x{n}x{k}",
            make,
            ours={name: _ours(library) for name, library in libraries.items()},
            peers={"ours bf16": _bf16(libraries["ours"])} | (torch_products if m > 16 and n % 8 == 0 else {}),
            others={
                "product": _ours(libraries["ours"], quantize=False),
                "quantize": _ours(libraries["ours"], multiply=False),
            },
            flops=2.0 * m * n * k,
            bytes=2.0 * m * k + n * k + 8.0 * n + 2.0 * m * n,
            dtype="i8",
        )
