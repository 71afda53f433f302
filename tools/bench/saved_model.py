"""transformers' causal LMs in folders, which the peers of the CPU suite convert or open."""

from pathlib import Path
from typing import Any

import torch

from flashflow.loaders.resolve import resolve


def source(name: str, folder: Path) -> str:
    """The model's path or name for FlashFlow; gpt2-124m is made here with random weights (speed does not see them)."""
    if name != "gpt2-124m":
        return name
    path = folder / name
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config()).save_pretrained(path)
    return str(path)


def save(where: str, folder: Path) -> None:
    """The model of a `source` in float32, with a tokenizer that gives each id a name of its own."""
    from tokenizers import Tokenizer, models
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    path = resolve(where).path
    if path.suffix == ".gguf":
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    else:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    model.hf_quantizer = None
    vars(model.config).pop("quantization_config", None)  # of a GGUF: what is in memory is float32
    model.save_pretrained(folder)
    names = {f"t{i}": i for i in range(model.config.vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(names, unk_token="t0"))
    last = f"t{model.config.vocab_size - 1}"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="t0", bos_token=last, eos_token=last).save_pretrained(
        folder
    )


def load(folder: Path) -> Any:
    """The model that `save` wrote."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
