"""AdamW with decoupled weight decay (Loshchilov and Hutter, 2019), decaying matrices only."""

from __future__ import annotations

import torch
from torch import nn


def make_adamw(model: nn.Module, *, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over the model's parameters, tied ones once, in their order in the model; one fused kernel on a GPU.

    Weights of two dimensions and more decay; biases and norms do not: pulling a scale to zero is no regularization.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    fused = all(p.is_cuda for p in parameters) or None
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=(0.9, 0.95), eps=1e-8, fused=fused)
