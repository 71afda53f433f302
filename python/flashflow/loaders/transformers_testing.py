"""transformers' models with random weights, the oracle of the loaders' tests."""

import torch
import transformers


def oracle(config: transformers.PretrainedConfig) -> transformers.PreTrainedModel:
    """A model whose every parameter matters: norms and biases random too."""
    torch.manual_seed(3)
    config._attn_implementation = "eager"
    model: transformers.PreTrainedModel = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_norm = parameter.dim() == 1 and not name.endswith("bias")
            parameter.normal_(mean=float(is_norm), std=0.2)
    return model
