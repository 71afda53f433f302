"""Quantization-aware training: modules that see the int8 engine's rounding while they learn.

`prepare_qat` puts them in place of a model's linear layers, token table and head. In training mode weights and
activations are rounded to what their codes stand for, and gradients pass straight through the rounding (Bengio et al.,
2013); in eval mode a layer computes the INT8 contract, bit for bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812 (the field's name for it)
from torch import Tensor, nn

from flashflow.errors import InvalidArgumentError
from flashflow.models.transformer_blocks import Attention, GatedMlp, TiedHead, with_aligned_rows
from flashflow.quantization.int8_contract import dequantize, int8_linear, quantize_rows

__all__ = [
    "InputClip",
    "QatEmbedding",
    "QatLinear",
    "QatTiedHead",
    "clips_of",
    "kept_codes",
    "prepare_qat",
    "quantized_modules",
    "set_quantized",
]

_FORGET = 0.01  # what a batch weighs in the running maximum


class InputClip(nn.Module):
    """Where a layer's input is clipped: ratio * max_abs, a learned share of the input's usual largest magnitude.

    What a clip should be changes by orders of magnitude while a model learns; the running maximum follows that, and
    the gradient, that of PACT (Choi et al., 2018), moves the share. Both are constants in eval mode.

    Attributes:
        ratio: f32 [1], a parameter.
        max_abs: f32 [1], a buffer: the running mean of each batch's max|x|. 0: nothing was seen yet, and nothing is
            clipped.
    """

    max_abs: Tensor

    def __init__(self, clip: float | None = None, device: torch.device | None = None) -> None:
        super().__init__()
        self.ratio = nn.Parameter(torch.ones(1, device=device))  # not [], which FSDP does not split
        self.register_buffer("max_abs", torch.full((1,), clip or 0.0, device=device))

    def forward(self) -> Tensor:
        """The clip, f32 []; infinite where there is none."""
        clip = self.ratio * self.max_abs
        return torch.where(clip > 0, clip, torch.inf).squeeze(0)

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Takes a batch's input into the running maximum; that of all processes, all of which must call."""
        most = x.detach().float().abs().amax().reshape(1)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(most, dist.ReduceOp.MAX)
        self.max_abs.copy_(torch.where(self.max_abs > 0, self.max_abs.lerp(most, _FORGET), most))


def _rounded_weight(weight: Tensor) -> Tensor:
    """What the weight's codes stand for; the gradient goes to the weight unchanged, since none is clipped."""
    return weight + (dequantize(*quantize_rows(weight.detach())) - weight).detach()


def _rounded_input(x: Tensor, clip: Tensor) -> Tensor:
    """What x's codes stand for; the gradient goes to x where it is not clipped, to the clip where it is."""
    x = x.float()
    clipped = torch.minimum(torch.maximum(x, -clip), clip)
    return clipped + (dequantize(*quantize_rows(x.detach(), clip.detach())) - clipped).detach()


def _linear(module: QatLinear | QatEmbedding, x: Tensor, bias: Tensor | None, multiple: int = 1) -> Tensor:
    if not module.quantized:
        return F.linear(x, with_aligned_rows(module.weight, multiple), bias)
    if module.training:
        if module.observes:
            module.input_clip.observe(x)
        weight = with_aligned_rows(_rounded_weight(module.weight), multiple)
        return F.linear(_rounded_input(x, module.input_clip()), weight, bias)
    codes, scales = module.kept_codes or quantize_rows(module.weight.detach())
    y = int8_linear(x, codes, scales, bias, module.input_clip())
    return y if x.dtype == torch.float32 else y.to(x.dtype)


class QatLinear(nn.Linear):
    """A linear layer of int8 codes. Takes the parameters of the layer that it stands for, not copies.

    Attributes:
        input_clip: of its input; layers of one input share it.
        observes: whether this layer, of those that share the clip, is the one that reports the input.
        quantized: False computes as nn.Linear does.
        kept_codes: of the weight, while `kept_codes` says that it does not change.
    """

    input_clip: InputClip
    kept_codes: tuple[Tensor, Tensor] | None = None

    def __init__(self, linear: nn.Linear, input_clip: InputClip, observes: bool = True) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.input_clip, self.observes, self.quantized = input_clip, observes, True
        self.train(linear.training)

    def forward(self, x: Tensor) -> Tensor:
        """[..., out_features] of x [..., in_features]; f32, or x's dtype where that is narrower."""
        return _linear(self, x, self.bias)


class QatEmbedding(nn.Embedding):
    """A token table of int8 codes, which a tied head shares. Takes the table's parameter, not a copy.

    Attributes:
        input_clip: of the tied head's input; unused without one.
        observes, quantized, kept_codes: as of QatLinear.
    """

    input_clip: InputClip
    kept_codes: tuple[Tensor, Tensor] | None = None

    def __init__(self, table: nn.Embedding, tied: bool) -> None:
        # With all attributes of a table: DistributedDataParallel asks for `sparse`.
        super().__init__(table.num_embeddings, table.embedding_dim, _weight=table.weight.detach())
        self.weight = table.weight
        if tied:
            self.input_clip = InputClip(device=table.weight.device)
        self.observes = self.quantized = True
        self.train(table.training)

    def forward(self, ids: Tensor) -> Tensor:
        """Rows [..., hidden] of ids [...], each of a weight's codes."""
        rows = F.embedding(ids, self.weight)
        return _rounded_weight(rows) if self.quantized else rows


class QatTiedHead(TiedHead):
    """A head of the token table's codes."""

    def forward(self, x: Tensor, table: nn.Embedding, multiple: int = 1) -> Tensor:
        """As of TiedHead; in eval mode there are no further columns."""
        assert isinstance(table, QatEmbedding)
        return _linear(table, x, None, multiple)


def _inputs_shared(model: nn.Module) -> Iterable[list[str]]:
    """The names of linear layers that read the same input: the compiler joins their weights, so they have one clip."""
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(module, Attention) and not module.fused_qkv:
            yield [f"{prefix}{part}_proj" for part in "qkv"]
        elif isinstance(module, GatedMlp):
            yield [f"{prefix}gate_proj", f"{prefix}up_proj"]


def prepare_qat(model: nn.Module, clips: Mapping[str, float] | None = None) -> nn.Module:
    """Makes a model of codes out of one of floats, in place.

    Linear layers, the token table and the head become those of this file; parameters stay the same objects under the
    same names, tied ones tied. New are `<layer>.input_clip.ratio` and `.max_abs`. Position tables stay floats, as they
    do in the engine.

    Args:
        model: of flashflow.models, or any other with linear layers.
        clips: by weight, as `clips_of` gives them; None and missing ones start with none.

    Returns:
        The model.

    Raises:
        InvalidArgumentError: a clip is of no weight that becomes codes, or is not above 0.
    """
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    leaders = {name: names[0] for names in _inputs_shared(model) for name in names}
    input_clips: dict[str, InputClip] = {}
    for name, linear in linears.items():
        leader = leaders.get(name, name)
        shared = input_clips.setdefault(leader, InputClip(device=linear.weight.device))
        model.set_submodule(name, QatLinear(linear, shared, observes=name == leader))
    table_name = getattr(model, "token_table", None)
    if table_name is not None:
        tied = isinstance(model.head, TiedHead)
        model.set_submodule(table_name, QatEmbedding(model.get_submodule(table_name), tied))  # type: ignore[arg-type]
        if tied:
            model.head = QatTiedHead()
    modules = quantized_modules(model)
    for weight, clip in (clips or {}).items():
        module = modules.get(weight)
        if module is None:
            raise InvalidArgumentError(f"a clip is of {weight!r}, which is no weight of an int8 layer", op=weight)
        if not clip > 0:
            raise InvalidArgumentError(f"the clip of {weight!r} is {clip}: expected a number above 0", op=weight)
        if clip != torch.inf:
            module.input_clip.max_abs.fill_(clip)
    return model


def quantized_modules(model: nn.Module) -> dict[str, QatLinear | QatEmbedding]:
    """The layers of codes of a prepared model, by the name of their weight; a tied head by that of the table."""
    return {
        f"{name}.weight": module
        for name, module in model.named_modules()
        if isinstance(module, QatLinear) or (isinstance(module, QatEmbedding) and hasattr(module, "input_clip"))
    }


@contextlib.contextmanager
def kept_codes(model: nn.Module) -> Iterator[None]:
    """Makes a prepared model's codes once, for evaluations during which no weight changes."""
    modules = quantized_modules(model).values()
    try:
        for module in modules:
            module.kept_codes = quantize_rows(module.weight.detach())
        yield
    finally:
        for module in modules:
            module.kept_codes = None


def clips_of(model: nn.Module) -> dict[str, float]:
    """The finite clips of a prepared model, by weight: what the compiler takes as the metadata "clip.<weight>"."""
    clips: dict[str, Any] = {name: module.input_clip().item() for name, module in quantized_modules(model).items()}
    return {name: clip for name, clip in clips.items() if clip != torch.inf}


def set_quantized(model: nn.Module, quantized: bool) -> None:
    """Lets all layers of a prepared model compute in codes, or in floats."""
    for module in model.modules():
        if isinstance(module, QatLinear | QatEmbedding):
            module.quantized = quantized
