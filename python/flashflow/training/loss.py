"""The training loss, as one module: what is compiled, and what several processes share."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from flashflow.models.gpt_small import GptSmall

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
        self._cross_entropy = _fused_cross_entropy()

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The loss, f32 [], of targets i64 [B, S] after inputs i64 [B, S]."""
        positions = torch.arange(inputs.shape[1], device=inputs.device).expand_as(inputs)
        model = self.model
        if not inputs.is_cuda or not isinstance(model, GptSmall):
            logits: Tensor = model(inputs, positions)
            return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        vocab = model.config.vocab_size
        logits = model.head(model.hidden_states(inputs, positions), model.wte, _ALIGNED_VOCAB).flatten(0, 1)
        if self._cross_entropy is None:
            return functional.cross_entropy(logits[:, :vocab].float(), targets.flatten())
        return self._cross_entropy(logits, targets.flatten(), vocab)


def _fused_cross_entropy() -> Callable[[Tensor, Tensor, int], Tensor] | None:
    """Of Triton, where there is a GPU and Triton is installed."""
    if not torch.cuda.is_available() or importlib.util.find_spec("triton") is None:
        return None
    from flashflow.training.cross_entropy import cross_entropy

    return cross_entropy


def fastest_attention() -> contextlib.AbstractContextManager[None]:
    """Orders the kernels of attention on a GPU. Backward passes belong in it too: they may run blocks again."""
    order: contextlib.AbstractContextManager[None] = sdpa_kernel(_ATTENTION, set_priority=True)
    return order
