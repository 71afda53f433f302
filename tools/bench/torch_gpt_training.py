"""The peer of the train suite: the training loop that people write with torch alone, after nanoGPT's example.

GPT-2's shape with the vocabulary padded to 50304 rows, scaled_dot_product_attention as torch chooses it, autocast,
torch.compile over the model and its loss, fused AdamW, clipped gradients, pinned batches copied while the GPU computes.
The loss is read every tenth step.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

PADDED_VOCAB = 50304
LOSS_EVERY = 10


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        rows, tokens, width = x.shape
        split = self.qkv(self.norm_1(x)).split(width, dim=2)
        q, k, v = (part.view(rows, tokens, self.heads, width // self.heads).transpose(1, 2) for part in split)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(rows, tokens, width))
        y: Tensor = x + self.down(functional.gelu(self.up(self.norm_2(x)), approximate="tanh"))
        return y


class TorchGpt(nn.Module):
    """GPT-2's architecture, head tied to the embedding; forward gives the mean loss of a batch."""

    def __init__(self, layers: int, heads: int, width: int, context: int, vocab: int = PADDED_VOCAB) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """inputs and targets i64 [rows, tokens]."""
        x = self.tokens(inputs) + self.positions(torch.arange(inputs.shape[1], device=inputs.device))
        for block in self.blocks:
            x = block(x)
        logits = functional.linear(self.norm(x), self.tokens.weight)
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def make_step(model: TorchGpt, batch: Callable[[], tuple[Tensor, Tensor]], device: str) -> Callable[[], object]:
    """A function that makes one optimizer step.

    Args:
        model: on the CPU.
        batch: gives inputs and targets, i64 [rows, tokens], on the CPU.
        device: cuda | cpu; compiled on a GPU only.
    """
    on_gpu = device == "cuda"
    model.to(device)
    loss_of: Any = torch.compile(model) if on_gpu else model
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=6e-4, betas=(0.9, 0.95), fused=on_gpu)
    count = 0

    def load() -> tuple[Tensor, ...]:
        parts = batch()
        return tuple(p.pin_memory().to(device, non_blocking=True) for p in parts) if on_gpu else parts

    inputs, targets = load()

    def step() -> object:
        nonlocal inputs, targets, count
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = loss_of(inputs, targets)
        inputs, targets = load()  # while the GPU computes
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        count += 1
        return loss.item() if count % LOSS_EVERY == 0 else None

    return step
