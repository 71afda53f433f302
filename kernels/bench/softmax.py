"""Softmax over rows beside Inductor, eager torch and a copy."""

from collections.abc import Iterator

import torch
from kernels.bench import torch_peers
from kernels.bench.case import Bind, Case, empty, randn
from kernels.bench.library import Libraries, Library

SHAPES = ((12288, 1024), (4096, 50257), (4096, 8192))  # rows, columns


def _ours(library: Library) -> Bind:
    return lambda x, y: lambda: library.call("ff_softmax", x, y, x.shape[0], x.shape[1], 1.0)


def _plain(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.softmax(x, -1)


def cases(libraries: Libraries) -> Iterator[Case]:
    for rows, columns in SHAPES:
        yield Case(
            "softmax",
            f"{rows}x{columns}",
            lambda rows=rows, columns=columns: (randn(rows, columns), empty(rows, columns)),
            ours={name: _ours(library) for name, library in libraries.items()},
            peers={"inductor": torch_peers.inductor(_plain), "eager": torch_peers.eager(_plain)},
            others={"copy": lambda x, y: lambda: y.copy_(x)},
            flops=5.0 * rows * columns,
            bytes=2.0 * 2 * rows * columns,
            dtype="f32",
            modes=("cold",),
        )
