"""LayerNorm, and RMSNorm of a sum, beside Inductor, eager torch and a copy of as many rows."""

from collections.abc import Iterator

import torch
from kernels.bench import torch_peers
from kernels.bench.case import Bind, Call, Case, Operands, empty, randn
from kernels.bench.library import Libraries, Library
from torch.nn.functional import layer_norm, rms_norm

SHAPES = ((8192, 768), (8192, 4096), (32768, 1600))  # rows, columns
EPSILON = 1e-5


def _ours(library: Library, rms: bool) -> Bind:
    def bind(
        x: torch.Tensor,
        r: torch.Tensor,
        gamma: torch.Tensor,
        beta: torch.Tensor,
        total: torch.Tensor,
        y: torch.Tensor,
    ) -> Call:
        rows, columns = x.shape
        summed, shift = ((r, total), None) if rms else ((None, None), beta.float())
        weight = gamma.float()
        return lambda: library.call("ff_norm", x, *summed, weight, shift, y, rows, columns, EPSILON, rms)

    return bind


def _layer_norm(x: torch.Tensor, r: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor, *_: object) -> torch.Tensor:
    return layer_norm(x, (x.shape[-1],), gamma, beta, EPSILON)


def _rms_norm_of_sum(
    x: torch.Tensor, r: torch.Tensor, gamma: torch.Tensor, *_: object
) -> tuple[torch.Tensor, torch.Tensor]:
    total = x + r
    return total, rms_norm(total, (x.shape[-1],), gamma, EPSILON)


def cases(libraries: Libraries) -> Iterator[Case]:
    """Without and with the residual: 2 or 4 tensors of rows pass through memory."""
    for rows, columns in SHAPES:

        def make(rows: int = rows, columns: int = columns) -> Operands:
            x, r, total, y = randn(rows, columns), randn(rows, columns), empty(rows, columns), empty(rows, columns)
            return x, r, randn(columns), randn(columns), total, y

        for rms in (False, True):
            plain = _rms_norm_of_sum if rms else _layer_norm
            yield Case(
                "norm",
                f"{'rmsnorm+residual' if rms else 'layernorm'} {rows}x{columns}",
                make,
                ours={name: _ours(library, rms) for name, library in libraries.items()},
                peers={"inductor": torch_peers.inductor(plain), "eager": torch_peers.eager(plain)},
                others={"copy": lambda x, r, gamma, beta, total, y: lambda: y.copy_(x)},
                flops=(6.0 if rms else 8.0) * rows * columns,
                bytes=2.0 * ((4 if rms else 2) * rows * columns + (1 if rms else 2) * columns),
                dtype="f32",
            )
