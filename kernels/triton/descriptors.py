"""Tensor descriptors: blocks read and written by the copy engine of Hopper and later GPUs."""

import torch


def has_descriptors(row_bytes: int) -> bool:
    """Whether this GPU has a copy engine that takes rows of this pitch. Triton's interpreter has none to tune for."""
    return row_bytes % 16 == 0 and torch.cuda.is_available() and torch.cuda.get_device_capability() >= (9, 0)


def scratch_memory(size: int, alignment: int, stream: int | None) -> torch.Tensor:
    """For triton.set_allocator: where kernels that make descriptors keep them."""
    return torch.empty(size, device="cuda", dtype=torch.int8)
