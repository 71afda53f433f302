"""One row of the benchmark of kernels: a shape, and everything that is timed on it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

Operands = tuple[torch.Tensor | None, ...]
Call = Callable[[], object]
Bind = Callable[..., Call]  # given the operands, the call to time


@dataclass(frozen=True)
class Case:
    """A kernel on one shape.

    kernel names the family, as `--kernels` does; shape is unique in it. flops and bytes are the least that any program
    must do: every input read once, every output written once, nothing kept between. dtype is the one whose peak rate
    bounds the arithmetic. ours, peers and others map the names of variants to what binds them to operands; the first of
    ours is the one that ratios are of, peers compute the same (ratios are to the best of them), others do not (a bare
    product, a copy, more than was asked) and are shown beside.

    Operands are made on the GPU by make(). "cold" calls rotate over copies of them, "warm" ones use one copy; a call
    must write to its operands or allocate its result, and read nothing else.
    """

    kernel: str
    shape: str
    make: Callable[[], Operands]
    ours: dict[str, Bind]
    peers: dict[str, Bind]
    others: dict[str, Bind] = field(default_factory=dict)
    flops: float = 0.0
    bytes: float = 0.0
    dtype: str = "bf16"
    modes: tuple[str, ...] = ("cold", "warm")

    def variants(self) -> dict[str, Bind]:
        """All of them, ours first."""
        return self.ours | self.peers | self.others


def randn(*shape: int, scale: float = 1.0) -> torch.Tensor:
    """Normally distributed bf16 on the GPU."""
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16) * scale


def empty(*shape: int) -> torch.Tensor:
    """A bf16 result on the GPU."""
    return torch.empty(*shape, device="cuda", dtype=torch.bfloat16)
