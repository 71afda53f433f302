"""The torch peer: transformers' model classes, eager, fp32, on the CPU."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flashflow.loaders.resolve import resolve


@dataclass
class TorchPeer:
    """A transformers causal LM; `source` is the model that FlashFlow builds its engine from."""

    model: Any
    source: str
    name: str = "torch eager fp32"

    @torch.inference_mode()
    def run(self, prompt: list[int], tokens: int) -> tuple[float, float]:
        """Seconds of the prompt to the first token, and of each of at most 16 greedy tokens after it.

        By the model's own forward and cache; of the prompt, logits of the last position only.
        """
        tokens = min(tokens, 16)
        ids = torch.tensor([prompt])
        start = time.perf_counter()
        out = self.model(ids, use_cache=True, logits_to_keep=1)
        token = out.logits[:, -1:].argmax(-1)
        first = time.perf_counter()
        for _ in range(tokens):
            out = self.model(token, past_key_values=out.past_key_values, use_cache=True)
            token = out.logits[:, -1:].argmax(-1)
        return first - start, (time.perf_counter() - first) / tokens


def source(name: str, folder: Path) -> str:
    """The model's path or name for FlashFlow; gpt2-124m is made here with random weights (speed does not see them)."""
    if name != "gpt2-124m":
        return name
    path = folder / name
    if not path.exists():
        from transformers import GPT2Config, GPT2LMHeadModel

        torch.manual_seed(0)
        GPT2LMHeadModel(GPT2Config()).save_pretrained(path)
    return str(path)


def load(name: str, threads: int, folder: Path) -> TorchPeer:
    """The peer for a model name; its weights are the same as ours."""
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    where = source(name, folder)
    path = resolve(where).path
    if path.suffix == ".gguf":
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    else:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    return TorchPeer(model.eval(), where)
