"""Activation checkpointing (Chen et al., 2016): memory for compute."""

from __future__ import annotations

import functools

from torch import nn
from torch.utils.checkpoint import checkpoint

from flashflow.models.transformer_blocks import TransformerBlock


def checkpoint_blocks(model: nn.Module) -> None:
    """Makes each TransformerBlock keep its input alone and run again in the backward pass, with the same bits.

    The model's parameters and their names stay as they are.
    """
    for block in model.modules():
        if isinstance(block, TransformerBlock):
            forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
            block.forward = forward  # type: ignore[method-assign]
