"""Makes the module of a config, with given weights or with storage that nothing has touched yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from flashflow.errors import InvalidArgumentError
from flashflow.models.config import Gpt2Config, GptSmallConfig, LlamaConfig, ModelConfig
from flashflow.models.gpt2 import Gpt2
from flashflow.models.gpt_small import GptSmall
from flashflow.models.llama import Llama

__all__ = ["build_model"]

_MODULES: dict[type[ModelConfig], Callable[[Any], nn.Module]] = {
    GptSmallConfig: GptSmall,
    Gpt2Config: Gpt2,
    LlamaConfig: Llama,
}


def build_model(config: ModelConfig, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
    """The module of config, in eval mode, parameters f32 on the CPU.

    Args:
      weights: the state_dict; taken as it is (not copied) where it is f32. None leaves parameters uninitialized:
        enough to export the graph, and as virtual memory they cost nothing.

    Raises:
      InvalidArgumentError: weights lacks a parameter, has one too many or one of another shape; it is named.
    """
    with torch.device("meta"):
        model = _MODULES[type(config)](config)
    shapes = config.weight_shapes()
    if weights is None:
        state = {name: torch.empty(shape) for name, shape in shapes.items()}
    else:
        if wrong := sorted(set(weights) ^ set(shapes)):
            problem = "is missing" if wrong[0] in shapes else f"is not one of {config.architecture}'s"
            raise InvalidArgumentError(f"weight {wrong[0]!r} {problem}", op=wrong[0])
        state = {}
        for name, shape in shapes.items():
            if tuple(weights[name].shape) != shape:
                raise InvalidArgumentError(
                    f"weight {name!r}: expected shape {shape}, got {tuple(weights[name].shape)}", op=name
                )
            state[name] = weights[name].float()
    model.load_state_dict(state, assign=True)
    return model.eval()
