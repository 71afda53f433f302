"""Lazy weights as torch tensors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from flashflow.loaders.weight import LazyWeight

__all__ = ["read_tensor", "read_tensors"]


def read_tensor(weight: LazyWeight) -> Tensor:
    """The weight in its own dtype (f32, f16 or bf16), on the CPU."""
    array = weight.read()
    if not array.flags.writeable:
        array = array.copy()
    if weight.dtype == "bf16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def read_tensors(weights: Mapping[str, LazyWeight]) -> dict[str, Tensor]:
    """Every weight as f32: a state_dict for build_model."""
    return {name: read_tensor(weight).float() for name, weight in weights.items()}
