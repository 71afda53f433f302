"""Moves outliers from activations into weights, which have a scale for each row (Xiao et al., SmoothQuant, 2023).

Where a norm feeds linear layers, channel k of the norm's output is divided by s[k] and column k of the layers'
weights multiplied by it, with s[k] = max|x[k]|^alpha / max|w[:, k]|^(1 - alpha). Up to f32's rounding the model
computes the same; the division is folded into the norm's gain and bias, so it costs nothing at run time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from flashflow.errors import InvalidArgumentError
from flashflow.models.transformer_blocks import TiedHead, TransformerBlock
from flashflow.quantization.calibration import LayerInput
from flashflow.quantization.qat import quantized_modules

__all__ = ["smooth"]

_LEAST = 1e-5  # of magnitudes; a channel that is never used is left alone


def _norms(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """The norms that only linear layers read, each with the prefix of those layers' weights."""
    for name, block in model.named_modules():
        if isinstance(block, TransformerBlock):
            yield block.attn_norm, f"{name}.attn."
            yield block.mlp_norm, f"{name}.mlp."
    if isinstance(getattr(model, "norm", None), nn.Module) and not isinstance(model.head, TiedHead):
        yield model.norm, "head."  # type: ignore[misc]


def smooth(model: nn.Module, inputs: Mapping[str, LayerInput], alpha: float) -> list[str]:
    """Smooths what can be, in place. A tied head cannot: its weight is the token table too.

    Args:
        model: of prepare_qat, of flashflow.models.
        inputs: of observe_inputs.
        alpha: how much of the activations' unevenness goes into the weights, 0 to 1.

    Returns:
        The weights that were changed, those of norms left aside. Inputs are others now: observe them again.

    Raises:
        InvalidArgumentError: alpha is out of range.
    """
    if not 0 <= alpha <= 1:
        raise InvalidArgumentError(f"alpha is {alpha}: expected 0 to 1", op="--smooth")
    modules = quantized_modules(model)
    changed: list[str] = []
    for norm, prefix in _norms(model):
        for seen in inputs.values():
            # Beside the layers that read the norm, attn and mlp have one that reads their inner product.
            if not seen.weights[0].startswith(prefix) or seen.weights[0].endswith(
                ("out_proj.weight", "down_proj.weight")
            ):
                continue
            weights = [modules[name].weight for name in seen.weights]
            with torch.no_grad():
                scale = _scale(seen.channel_max, torch.stack([w.abs().amax(0) for w in weights]).amax(0), alpha)
                for weight in weights:
                    weight.mul_(scale)
                for name in ("weight", "bias"):
                    parameter = getattr(norm, name, None)
                    if parameter is not None:
                        parameter.div_(scale)
            changed.extend(seen.weights)
    return changed


def _scale(activations: Tensor, weights: Tensor, alpha: float) -> Tensor:
    scale = activations.clamp(min=_LEAST) ** alpha / weights.clamp(min=_LEAST) ** (1 - alpha)
    return torch.where((activations < _LEAST) | (weights < _LEAST), 1.0, scale)
