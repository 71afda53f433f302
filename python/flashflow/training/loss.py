"""The training loss, as one module: what is compiled, and what several processes share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from flashflow.models.gpt_small import GptSmall
from flashflow.models.transformer_blocks import TiedHead

# Products of narrow dtypes reach the tensor cores' full rate where rows are aligned; 50257 is odd.
_ALIGNED_VOCAB = 64

# cuDNN's attention is the fastest on Hopper, forward and backward; the others are for what it does not take.
_ATTENTION = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


class NextTokenLoss(nn.Module):
    """Mean cross-entropy of the next token, in nats.

    Args:
        model: forward(input_ids[B, S] i64, position_ids[B, S] i64) -> logits[B, S, V].
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The loss, f32 [], of targets i64 [B, S] after inputs i64 [B, S]."""
        positions = torch.arange(inputs.shape[1], device=inputs.device).expand_as(inputs)
        if not inputs.is_cuda:
            logits = self.model(inputs, positions)
        else:
            with sdpa_kernel(_ATTENTION, set_priority=True):
                logits = self._logits_with_aligned_rows(inputs, positions)
        return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    def _logits_with_aligned_rows(self, inputs: Tensor, positions: Tensor) -> Tensor:
        """The model's logits [B, S, V], of whose rows each starts at a multiple of 64 elements."""
        if not isinstance(self.model, GptSmall) or type(self.model.head) is not TiedHead:  # a head that does more
            logits: Tensor = self.model(inputs, positions)
            return logits
        weight = self.model.wte.weight
        vocab = weight.shape[0]
        padded = functional.pad(weight, (0, 0, 0, -vocab % _ALIGNED_VOCAB))
        return functional.linear(self.model.hidden_states(inputs, positions), padded)[..., :vocab]
