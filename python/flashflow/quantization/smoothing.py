"""Moves outliers from activations into weights, which have a scale for each row (Xiao et al., SmoothQuant, 2023).

Where the input of linear layers can be scaled for free, its channel k is divided by s[k] and column k of the layers'
weights multiplied by it, with s[k] = max|x[k]|^alpha / max|w[:, k]|^(1 - alpha). Up to f32's rounding the model
computes the same, and it costs nothing at run time, since the division goes

- behind a norm, into its gain and bias;
- before a gated MLP's down projection, into the rows of the up projection: down(f(gate(x)) * up(x));
- before attention's output projection, into the rows that make values, which attention only averages.

Without a given alpha, s is what makes the int8 output's error least. With x[t, k] / s[k] coded in steps of its row's
largest element, and w[n, k] s[k] in steps of its own, roundings being independent, that error is about

    max_k(x[t, k] / s[k])^2 * sum_nk (s[k] w[n, k])^2  +  sum_k (x[t, k] / s[k])^2 * sum_n max_k(s[k] w[n, k])^2

times 1/12 * 1/127^2, of which gradient descent on log s finds a minimum, the maxima being taken as p-norms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (the field's name for it)
from torch import Tensor, nn

from flashflow.errors import InvalidArgumentError
from flashflow.models.transformer_blocks import Attention, GatedMlp, TiedHead, TransformerBlock
from flashflow.quantization.calibration import LayerInput
from flashflow.quantization.int8_contract import int8_linear, quantize_rows
from flashflow.quantization.qat import quantized_modules

__all__ = ["smooth"]

_LEAST = 1e-5  # of magnitudes; a channel that is never used is left alone
_ALPHAS = (0.5, 0.6, 0.7, 0.8)
_P_NORM = 16.0
_STEPS, _STEP = 60, 0.05  # of Adam, in log s
_MOST_ROWS = 512  # of the weights that the descent looks at

Divide = Callable[[Tensor], None]  # of what makes the input, by s[K]


@dataclass(frozen=True)
class _Seam:
    """An input that can be scaled.

    Attributes:
        layer: the prefix of the name of a layer that reads it.
        divide: where the division goes.
        heads: for values of attention, (query heads, heads of values): those of one value head are scaled as one.
    """

    layer: str
    divide: Divide
    heads: tuple[int, int] | None = None


def _seams(model: nn.Module) -> Iterator[_Seam]:
    for name, block in model.named_modules():
        if not isinstance(block, TransformerBlock):
            continue
        attn, mlp = block.attn, block.mlp
        yield _Seam(f"{name}.attn.{'qkv' if attn.fused_qkv else 'q'}_proj", _rows_of(block.attn_norm))
        yield _Seam(f"{name}.attn.out_proj", _values_of(attn), (attn.n_heads, attn.n_kv_heads))
        first = "gate" if isinstance(mlp, GatedMlp) else "up"
        yield _Seam(f"{name}.mlp.{first}_proj", _rows_of(block.mlp_norm))
        if isinstance(mlp, GatedMlp):
            yield _Seam(f"{name}.mlp.down_proj", _rows_of(mlp.up_proj))
    # A tied head's weight is the token table too.
    if isinstance(getattr(model, "norm", None), nn.Module) and not isinstance(model.head, TiedHead):
        yield _Seam("head", _rows_of(model.norm))  # type: ignore[arg-type]


def _rows_of(module: nn.Module) -> Divide:
    """Into a norm, or the rows of a linear layer."""

    def divide(scale: Tensor) -> None:
        for parameter in (module.weight, getattr(module, "bias", None)):
            if isinstance(parameter, Tensor):
                parameter.div_(scale.reshape(-1, *[1] * (parameter.dim() - 1)))

    return divide


def _values_of(attn: Attention) -> Divide:
    """Into the rows that make values; the scale of the query heads that read one value head is the same."""

    def divide(scale: Tensor) -> None:
        per_value = _one_a_value(scale, (attn.n_heads, attn.n_kv_heads))
        layer = attn.qkv_proj if attn.fused_qkv else attn.v_proj
        for parameter in (layer.weight, layer.bias):
            if parameter is not None:
                rows = parameter[-per_value.numel() :]  # queries and keys come first
                rows.div_(per_value.reshape(-1, *[1] * (rows.dim() - 1)))

    return divide


@torch.no_grad()
def smooth(
    model: nn.Module,
    inputs: Mapping[str, LayerInput],
    alpha: float | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Smooths what can be, in place.

    Args:
        model: of prepare_qat, of flashflow.models.
        inputs: of observe_inputs.
        alpha: how much of the activations' unevenness goes into the weights, 0 to 1. None looks for what brings each
            int8 output nearest to that of floats on the rows that `inputs` kept, and leaves alone what is best as it
            is.
        progress: told how many of all inputs are done.

    Returns:
        The weights whose input was smoothed. Inputs are others now: observe them again.

    Raises:
        InvalidArgumentError: alpha is out of range.
    """
    if alpha is not None and not 0 <= alpha <= 1:
        raise InvalidArgumentError(f"alpha is {alpha}: expected 0 to 1", op="--smooth")
    modules = quantized_modules(model)
    # What is found does not depend on what is changed before: rows have scales of their own, and norms no codes.
    changed: list[str] = []
    seams = list(_seams(model))
    for done, seam in enumerate(seams):
        progress(done, len(seams))
        seen = inputs[f"{seam.layer}.weight"]
        weights = [modules[name].weight for name in seen.weights]
        scale: Tensor | None = None
        if alpha is None:
            scale = _search(seam, seen, torch.cat(weights))
        else:
            scale = _scale(seam, seen.channel_max, torch.cat(weights).abs().amax(0), alpha)
        if scale is None:
            continue
        for weight in weights:
            weight.mul_(scale)
        seam.divide(scale)
        changed.extend(seen.weights)
    progress(len(seams), len(seams))
    return changed


def _scale(seam: _Seam, activations: Tensor, weights: Tensor, alpha: float) -> Tensor:
    if seam.heads is not None:
        activations, weights = _shared(activations, seam.heads), _shared(weights, seam.heads)
    scale = activations.clamp(min=_LEAST) ** alpha / weights.clamp(min=_LEAST) ** (1 - alpha)
    return torch.where((activations < _LEAST) | (weights < _LEAST), 1.0, scale)


def _shared(channels: Tensor, heads: tuple[int, int]) -> Tensor:
    """The largest of each element over the query heads that share a value head, for all of them."""
    grouped = channels.view(heads[1], heads[0] // heads[1], -1)
    return grouped.amax(1, keepdim=True).expand_as(grouped).reshape(-1)


def _search(seam: _Seam, seen: LayerInput, weight: Tensor) -> Tensor | None:
    """The best scale found; None where floats are nearer as they are.

    Each row is taken at its own length, and so is its error: a row is coded by its own largest element, and a few rows
    of many models are a hundred times the others.
    """
    rows = seen.sample()
    rows = rows / rows.norm(dim=1, keepdim=True).clamp(min=_LEAST)
    exact = F.linear(rows, weight)
    sizes = exact.square().sum(1).clamp(min=_LEAST**2)

    def error(scale: Tensor) -> float:
        coded = int8_linear(rows / scale, *quantize_rows(weight * scale))
        return ((coded - exact).square().sum(1) / sizes).mean().item()

    activations, largest = rows.abs().amax(0), weight.abs().amax(0)
    unchanged = torch.ones_like(activations)
    tried = [unchanged, *(_scale(seam, activations, largest, alpha) for alpha in _ALPHAS)]
    errors = [error(scale) for scale in tried]
    start = tried[errors.index(min(errors))]
    tried.append(_descend(seam, rows, sizes, weight, start))
    errors.append(error(tried[-1]))
    best = errors.index(min(errors))
    return tried[best] if best else None


def _descend(seam: _Seam, rows: Tensor, sizes: Tensor, weight: Tensor, start: Tensor) -> Tensor:
    """A scale of less estimated error than `start`, by gradient descent."""
    some = weight[:: -(-weight.shape[0] // _MOST_ROWS)]
    columns = some.square().sum(0)
    log_rows, log_weights = (t.abs().clamp(min=1e-12).log() for t in (rows, some))
    squares = rows.square() / sizes[:, None]

    def log_max_squares(logs: Tensor) -> Tensor:
        return torch.logsumexp(_P_NORM * logs, 1) * (2 / _P_NORM)

    def estimate(log_scale: Tensor) -> Tensor:
        of_rows = (log_max_squares(log_rows - log_scale).exp() / sizes).mean() * ((2 * log_scale).exp() * columns).sum()
        of_weights = (squares * (-2 * log_scale).exp()).sum(1).mean() * log_max_squares(
            log_weights + log_scale
        ).exp().sum()
        return (of_rows + of_weights).log()

    with torch.enable_grad():
        free = _one_a_value(start.log(), seam.heads).clone().requires_grad_()
        optimizer = torch.optim.Adam([free], lr=_STEP)
        for _ in range(_STEPS):
            optimizer.zero_grad()
            estimate(_for_all_heads(free, seam.heads)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return _for_all_heads(free.detach(), seam.heads).exp()


def _one_a_value(channels: Tensor, heads: tuple[int, int] | None) -> Tensor:
    """Of query heads that share a value head, the first one's channels."""
    return channels if heads is None else channels.view(heads[1], heads[0] // heads[1], -1)[:, 0].reshape(-1)


def _for_all_heads(channels: Tensor, heads: tuple[int, int] | None) -> Tensor:
    """The inverse: each value head's channels for every query head that reads it."""
    if heads is None:
        return channels
    return channels.view(heads[1], 1, -1).expand(-1, heads[0] // heads[1], -1).reshape(-1)
