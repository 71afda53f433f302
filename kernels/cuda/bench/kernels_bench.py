"""Times the CUDA kernels and their peers in torch, on the same inputs in one run.

    python3 kernels_bench.py path/to/libflashflow_kernels.so [--suite gemm] [--json results.json]

Every variant of a case is captured as a CUDA graph of many calls. The graphs are replayed in turn and timed with
events; the figure is the median over replays of the time of one call. "cold" calls rotate over copies of all operands
that together exceed the L2 cache several times; "warm" calls use one copy. A peer that torch lacks on this machine is
left out.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import gelu, layer_norm, linear, rms_norm, scaled_dot_product_attention

ROTATED_BYTES = 512 << 20
ROUNDS = 21
SUITES = ("gemm", "attention", "skinny", "rows")
ACTIVATIONS = {"none": 0, "gelu_tanh": 1, "gelu_erf": 2, "silu": 3}


def check(status: int) -> None:
    if status != 0:
        raise RuntimeError(f"the kernel returned cudaError {status}")


def stream() -> ctypes.c_void_p:
    return ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)


def pointer(tensor: torch.Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(0 if tensor is None else tensor.data_ptr())


class Replay:
    """A graph that runs `calls` in turn until about `target_us` are filled."""

    def __init__(self, calls: list[Callable[[], object]], target_us: float = 3000.0) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        self.start, self.end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        with torch.cuda.stream(side):
            calls[0]()
            side.synchronize()
            self.start.record()
            for call in calls[:3]:
                call()
            self.end.record()
            self.end.synchronize()
            estimate = max(self.start.elapsed_time(self.end) * 1000 / len(calls[:3]), 2.0)
        self.count = max(len(calls), min(400, int(target_us / estimate)))
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            for i in range(self.count):
                calls[i % len(calls)]()
        self.graph.replay()

    def time_us(self) -> float:
        self.start.record()
        self.graph.replay()
        self.end.record()
        self.end.synchronize()
        return self.start.elapsed_time(self.end) * 1000 / self.count


@dataclass
class Case:
    """One shape: how to make its operands, and what runs on them."""

    name: str
    make: Callable[[], tuple[torch.Tensor, ...]]
    variants: dict[str, Callable[..., Callable[[], object]]]  # given the operands, returns the call to time
    flops: float = 0
    bytes: float = 0
    modes: tuple[str, ...] = ("cold",)
    results: dict[str, dict[str, float]] = field(default_factory=dict)

    def run(self) -> None:
        operands = self.make()
        size = sum(t.numel() * t.element_size() for t in operands if t is not None)
        copies = [operands]
        if "cold" in self.modes:
            while len(copies) * size < ROTATED_BYTES:
                copies.append(tuple(None if t is None else t.clone() for t in operands))
        replays = {}
        for variant, bind in self.variants.items():
            for mode in self.modes:
                try:
                    replays[f"{variant} {mode}"] = Replay(
                        [bind(*c) for c in (copies if mode == "cold" else copies[:1])]
                    )
                except RuntimeError as error:
                    print(f"{self.name} {variant} {mode}: {str(error).splitlines()[0][:100]}", flush=True)
        # In turn, so that all of them see the same clocks.
        times = {key: [] for key in replays}
        for _ in range(ROUNDS):
            for key, replay in replays.items():
                times[key].append(replay.time_us())
        for key in replays:
            us = statistics.median(times[key])
            self.results[key] = {
                "us": us,
                **({"tflops": self.flops / us * 1e-6} if self.flops else {}),
                **({"tb_per_s": self.bytes / us * 1e-6} if self.bytes else {}),
            }
        line = "  ".join(
            f"{key} {r['us']:.1f}us"
            + (f" {r['tflops']:.0f}TF" if self.flops else "")
            + (f" {r['tb_per_s']:.2f}TB/s" if self.bytes else "")
            for key, r in self.results.items()
        )
        print(f"{self.name}: {line}", flush=True)


def randn(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16) * scale


def gemm_cases(libraries: dict[str, ctypes.CDLL], tiles: Iterable[int]) -> Iterable[Case]:
    def ours(activation: str, tile: int = 0, residual: bool = False, lib: ctypes.CDLL = libraries["ours"]):
        def bind(x, w, b, r, out):
            m, k = x.shape
            n = w.shape[0]
            return lambda: check(
                lib.ff_gemm(
                    pointer(x),
                    pointer(w),
                    pointer(b),
                    pointer(r if residual else None),
                    pointer(out),
                    m,
                    n,
                    k,
                    ACTIVATIONS[activation],
                    0,
                    0,
                    tile,
                    stream(),
                )
            )

        return bind

    for m in (8192,):
        for n, k, activation in (
            (3072, 768, "gelu_tanh"),
            (768, 3072, "none"),
            (6400, 1600, "gelu_tanh"),
            (1600, 6400, "none"),
            (2304, 768, "none"),
            (768, 768, "none"),
            (8192, 8192, "none"),
        ):

            def make(m=m, n=n, k=k):
                return (
                    randn(m, k),
                    randn(n, k, scale=k**-0.5),
                    randn(n),
                    randn(m, n),
                    torch.empty(m, n, device="cuda", dtype=torch.bfloat16),
                )

            variants = {name: ours(activation, lib=lib) for name, lib in libraries.items()}
            for tile in tiles:
                variants[f"ours n{tile}"] = ours(activation, tile)
            if activation == "gelu_tanh":
                variants["cublaslt+gelu"] = lambda x, w, b, r, out: (
                    lambda: torch._addmm_activation(b, x, w.t(), use_gelu=True)
                )
            else:
                variants["ours+residual"] = ours(activation, residual=True)
                variants["cublaslt+bias"] = lambda x, w, b, r, out: lambda: linear(x, w, b)
            variants["cublas bare"] = lambda x, w, b, r, out: lambda: torch.mm(x, w.t(), out=out)
            yield Case(f"gemm {m}x{n}x{k} {activation}", make, variants, flops=2.0 * m * n * k)

    for d in (768, 1600):
        m = 8192

        def make_mlp(m=m, d=d):
            return (
                randn(m, d),
                randn(4 * d, d, scale=d**-0.5),
                randn(4 * d),
                randn(d, 4 * d, scale=d**-0.5),
                randn(d),
                torch.empty(m, 4 * d, device="cuda", dtype=torch.bfloat16),
                torch.empty(m, d, device="cuda", dtype=torch.bfloat16),
            )

        def mlp(lib):
            def bind(x, w1, b1, w2, b2, h, y):
                up, down = ours("gelu_tanh", lib=lib)(x, w1, b1, None, h), ours("none", lib=lib)(h, w2, b2, None, y)
                return lambda: (up(), down())

            return bind

        def mlp_residual(x, w1, b1, w2, b2, h, y):
            up, down = ours("gelu_tanh")(x, w1, b1, None, h), ours("none", residual=True)(h, w2, b2, x, y)
            return lambda: (up(), down())

        yield Case(
            f"mlp {m} {d}-{4 * d}-{d}",
            make_mlp,
            {
                **{name: mlp(lib) for name, lib in libraries.items()},
                "ours+residual": mlp_residual,
                "cublaslt": lambda x, w1, b1, w2, b2, h, y: (
                    lambda: linear(torch._addmm_activation(b1, x, w1.t(), use_gelu=True), w2, b2)
                ),
                "eager": lambda x, w1, b1, w2, b2, h, y: (
                    lambda: linear(gelu(linear(x, w1, b1), approximate="tanh"), w2, b2)
                ),
            },
            flops=16.0 * m * d * d,
            modes=("cold", "warm"),
        )


def attention_cases(libraries: dict[str, ctypes.CDLL]) -> Iterable[Case]:
    def ours(lib):
        def bind(q, k, v, o):
            b, h, t, d = q.shape
            return lambda: check(
                lib.ff_attention(
                    pointer(q),
                    pointer(k),
                    pointer(v),
                    pointer(o),
                    b,
                    h,
                    k.shape[1],
                    t,
                    k.shape[2],
                    d,
                    ctypes.c_float(d**-0.5),
                    1,
                    stream(),
                )
            )

        return bind

    def sdpa(backend):
        def bind(q, k, v, o):
            def call():
                with sdpa_kernel(backend):
                    return scaled_dot_product_attention(q, k, v, is_causal=True)

            return call

        return bind

    for b, h, t, d in (
        (8, 12, 1024, 64),
        (16, 12, 1024, 64),
        (8, 12, 4096, 64),
        (4, 12, 8192, 64),
        (8, 16, 4096, 128),
        (1, 12, 1024, 64),
    ):
        yield Case(
            f"attention {b}x{h}x{t}x{d}",
            lambda b=b, h=h, t=t, d=d: tuple(randn(b, h, t, d) for _ in range(4)),
            {
                **{name: ours(lib) for name, lib in libraries.items()},
                "cudnn": sdpa(SDPBackend.CUDNN_ATTENTION),
                "fa2": sdpa(SDPBackend.FLASH_ATTENTION),
            },
            flops=2.0 * b * h * t * t * d,
            modes=("cold", "warm"),
        )


def skinny_cases(libraries: dict[str, ctypes.CDLL]) -> Iterable[Case]:
    def gemm(lib, x, w, b, r, out, activation):
        m, k = x.shape
        return lambda: check(
            lib.ff_gemm(
                pointer(x),
                pointer(w),
                pointer(b),
                pointer(r),
                pointer(out),
                m,
                w.shape[0],
                k,
                ACTIVATIONS[activation],
                0,
                0,
                -1,
                stream(),
            )
        )

    for d in (768, 1600):
        for m in (1, 8, 64):

            def make(m=m, d=d):
                return (
                    randn(m, d),
                    randn(4 * d, d, scale=d**-0.5),
                    randn(4 * d),
                    randn(d, 4 * d, scale=d**-0.5),
                    randn(d),
                    torch.empty(m, 4 * d, device="cuda", dtype=torch.bfloat16),
                    torch.empty(m, d, device="cuda", dtype=torch.bfloat16),
                )

            def mlp(lib):
                def bind(x, w1, b1, w2, b2, h, y):
                    up, down = gemm(lib, x, w1, b1, None, h, "gelu_tanh"), gemm(lib, h, w2, b2, x, y, "none")
                    return lambda: (up(), down())

                return bind

            yield Case(
                f"mlp {m} {d}-{4 * d}-{d}",
                make,
                {
                    **{name: mlp(lib) for name, lib in libraries.items()},
                    "cublaslt": lambda x, w1, b1, w2, b2, h, y: (
                        lambda: linear(torch._addmm_activation(b1, x, w1.t(), use_gelu=True), w2, b2)
                    ),
                    "eager": lambda x, w1, b1, w2, b2, h, y: (
                        lambda: linear(gelu(linear(x, w1, b1), approximate="tanh"), w2, b2)
                    ),
                },
                bytes=16.0 * d * d,
                modes=("cold", "warm"),
            )
    for m, n, k in ((1, 50257, 768), (8, 50257, 768), (64, 50257, 768), (1, 2304, 768)):

        def make_head(m=m, n=n, k=k):
            return (randn(m, k), randn(n, k), torch.empty(m, n, device="cuda", dtype=torch.bfloat16))

        yield Case(
            f"linear {m}x{n}x{k}",
            make_head,
            {
                **{
                    name: (lambda x, w, y, lib=lib: gemm(lib, x, w, None, None, y, "none"))
                    for name, lib in libraries.items()
                },
                "cublas": lambda x, w, y: lambda: torch.mm(x, w.t(), out=y),
            },
            bytes=2.0 * n * k,
        )


def row_cases(libraries: dict[str, ctypes.CDLL]) -> Iterable[Case]:
    """Bytes count every input once and every output once."""

    def copy(x, *rest):
        y = rest[-1]
        return lambda: y.copy_(x)

    def norm(lib, rms: bool, residual: bool):
        def bind(x, r, gamma, beta, total, y):
            rows, columns = x.shape
            return lambda: check(
                lib.ff_norm(
                    pointer(x),
                    pointer(r if residual else None),
                    pointer(total if residual else None),
                    pointer(gamma),
                    pointer(None if rms else beta),
                    pointer(y),
                    rows,
                    columns,
                    ctypes.c_float(1e-5),
                    int(rms),
                    stream(),
                )
            )

        return bind

    for rows, columns in ((8192, 768), (8192, 4096), (32768, 1600)):

        def make_norm(rows=rows, columns=columns):
            return (
                randn(rows, columns),
                randn(rows, columns),
                randn(columns),
                randn(columns),
                torch.empty(rows, columns, device="cuda", dtype=torch.bfloat16),
                torch.empty(rows, columns, device="cuda", dtype=torch.bfloat16),
            )

        for kind, residual in (("layernorm", False), ("rmsnorm", True)):
            rms = kind == "rmsnorm"
            peer = (
                (lambda x, r, gamma, beta, total, y, c=columns: lambda: layer_norm(x, (c,), gamma, beta, 1e-5))
                if not rms
                else (lambda x, r, gamma, beta, total, y, c=columns: lambda: rms_norm(x + r, (c,), gamma, 1e-5))
            )
            yield Case(
                f"{kind}{' + residual' if residual else ''} {rows}x{columns}",
                make_norm,
                {**{name: norm(lib, rms, residual) for name, lib in libraries.items()}, "eager": peer, "copy": copy},
                bytes=(8.0 if residual else 4.0) * rows * columns,
                modes=("cold", "warm"),
            )

    def softmax(lib):
        def bind(x, y):
            return lambda: check(
                lib.ff_softmax(pointer(x), pointer(y), x.shape[0], x.shape[1], ctypes.c_float(1.0), stream())
            )

        return bind

    for rows, columns in ((12288, 1024), (4096, 50257), (4096, 8192)):
        yield Case(
            f"softmax {rows}x{columns}",
            lambda rows=rows, columns=columns: (
                randn(rows, columns),
                torch.empty(rows, columns, device="cuda", dtype=torch.bfloat16),
            ),
            {
                **{name: softmax(lib) for name, lib in libraries.items()},
                "eager": lambda x, y: lambda: torch.softmax(x, -1),
                "copy": copy,
            },
            bytes=4.0 * rows * columns,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", type=Path)
    parser.add_argument("--suite", choices=SUITES, action="append", help="all, where none is named")
    parser.add_argument("--tile", type=int, action="append", default=[], help="GEMM tile widths to time as well")
    parser.add_argument("--compare", type=Path, action="append", default=[], help="other builds of the library")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    libraries = {"ours": ctypes.CDLL(str(args.library.resolve()))}
    for path in args.compare:
        libraries[path.stem] = ctypes.CDLL(str(path.resolve()))
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    suites = {
        "gemm": lambda: gemm_cases(libraries, args.tile),
        "attention": lambda: attention_cases(libraries),
        "skinny": lambda: skinny_cases(libraries),
        "rows": lambda: row_cases(libraries),
    }
    results = {}
    for suite in args.suite or suites:
        for case in suites[suite]():
            if args.no_peers:
                case.variants = {k: v for k, v in case.variants.items() if k.split()[0] in libraries}
            case.run()
            results[case.name] = case.results
            torch.cuda.empty_cache()
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
