"""Post-training calibration: where each int8 layer clips its input, from what it sees of a text.

Rows are coded one by one, so a clip only touches rows that go beyond it: it gives up their largest elements to code
the others in finer steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from flashflow.errors import FailedPreconditionError, InvalidArgumentError
from flashflow.quantization.int8_contract import dequantize, int8_linear, quantize_rows
from flashflow.quantization.qat import QatEmbedding, QatLinear, quantized_modules

__all__ = [
    "METHODS",
    "LayerInput",
    "Sensitivity",
    "calibrate",
    "divergence_sensitivity",
    "keep_within",
    "loss_sensitivity",
    "observe_inputs",
    "output_sensitivity",
]

METHODS = ("none", "min-max", "percentile", "mse")

# Candidates of "mse", as shares of the largest magnitude seen.
_SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1)

_KEPT_ROWS = 64  # of each batch, about

Module = QatLinear | QatEmbedding
Batches = Sequence[Tensor]  # token ids, i64 [B, S] each
Progress = Callable[[int, int], None]  # batches done, of how many


def _ignore(done: int, total: int) -> None:
    pass


@dataclass
class LayerInput:
    """What a calibration text puts into the layers that share one input.

    Attributes:
        weights: of those layers, by name.
        row_max: max|x| of each token's row.
        channel_max: max|x| of each of the K elements, f32 [K].
        kept: some of the rows, of each batch.
    """

    weights: tuple[str, ...]
    row_max: list[Tensor] = field(default_factory=list)
    channel_max: Tensor = field(default_factory=lambda: torch.zeros(()))
    kept: list[Tensor] = field(default_factory=list)

    def see(self, x: Tensor) -> None:
        """Takes a batch's input [..., K]."""
        rows = x.detach().float().reshape(-1, x.shape[-1])
        magnitudes = rows.abs()
        self.row_max.append(magnitudes.amax(1))
        self.channel_max = torch.maximum(self.channel_max, magnitudes.amax(0))
        # The first row is of a text's first token, unlike all others in many models; the rest at even distances.
        self.kept.append(rows[:: max(1, rows.shape[0] // _KEPT_ROWS)].clone())

    def sample(self) -> Tensor:
        """Some of the rows, f32 [rows, K], at most 256 in all or one a batch."""
        rows = torch.cat(self.kept)
        return rows[:: max(1, rows.shape[0] // 256)]

    @property
    def max_abs(self) -> float:
        """The largest magnitude."""
        return float(self.channel_max.max())

    def percentile(self, percent: float) -> float:
        """The magnitude that so many percent of the rows stay within."""
        return float(torch.quantile(torch.cat(self.row_max).double(), percent / 100))


def _groups(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """The weights that share an input, by the one that observes it."""
    modules = quantized_modules(model)
    groups: dict[int, list[str]] = {}
    for name, module in modules.items():
        groups.setdefault(id(module.input_clip), []).append(name)
    return {next(name for name in names if modules[name].observes): tuple(names) for names in groups.values()}


def _run(model: nn.Module, batches: Batches, see: Callable[[str, Tensor], None], progress: Progress) -> None:
    """Runs a prepared model in floats and calls see(weight, x) with each layer's input, of one layer a group."""
    modules = quantized_modules(model)
    hooks = []
    for name in _groups(model):
        module = modules[name]
        target = model.head if isinstance(module, QatEmbedding) else module  # the table's product is the tied head's

        def hook(_: nn.Module, args: tuple[Tensor, ...], name: str = name) -> None:
            see(name, args[0])

        hooks.append(target.register_forward_pre_hook(hook))  # type: ignore[union-attr]
    was = {module: module.quantized for module in model.modules() if isinstance(module, QatLinear | QatEmbedding)}
    try:
        for module in was:
            module.quantized = False
        with torch.no_grad():
            for done, ids in enumerate(batches):
                progress(done, len(batches))
                model(ids, torch.arange(ids.shape[1], device=ids.device).expand_as(ids))
            progress(len(batches), len(batches))
    finally:
        for hook_handle in hooks:
            hook_handle.remove()
        for module, quantized in was.items():
            module.quantized = quantized


def observe_inputs(model: nn.Module, batches: Batches, progress: Progress = _ignore) -> dict[str, LayerInput]:
    """Runs a text through a model in floats.

    Args:
        model: of prepare_qat, in eval mode.
        batches: the text.
        progress: told how far it is.

    Returns:
        By the name of one weight of each group of layers that share an input.

    Raises:
        InvalidArgumentError: there is no text.
        FailedPreconditionError: an input is not finite.
    """
    if not batches:
        raise InvalidArgumentError("the calibration text is empty", op="--data", hint="give a longer text")
    inputs = {name: LayerInput(names) for name, names in _groups(model).items()}
    _run(model, batches, lambda name, x: inputs[name].see(x), progress)
    for name, found in inputs.items():
        if not torch.isfinite(found.channel_max).all():
            raise FailedPreconditionError(f"the input of {name} is not finite", op=name)
    return inputs


def calibrate(
    model: nn.Module,
    batches: Batches,
    method: str,
    *,
    percent: float = 99.9,
    progress: Progress = _ignore,
) -> dict[str, float]:
    """Chooses the clips of a model's layers, and sets them.

    Args:
        model: of prepare_qat, in eval mode.
        batches: the text.
        method: "none" clips nowhere; "min-max" at the largest magnitude seen; "percentile" at the magnitude that so
            many percent of the rows stay within; "mse" where the squared error of the layer's output is least, inputs'
            errors being weighed by the squared length of the weights' columns.
        percent: of "percentile", above 0 and at most 100.
        progress: told how far it is; "mse" runs the text twice.

    Returns:
        The clips by weight; those of layers that do not clip are left out.
    """
    if method not in METHODS:
        raise InvalidArgumentError(f"method is {method!r}: expected one of {', '.join(METHODS)}", op="--method")
    if not 0 < percent <= 100:
        raise InvalidArgumentError(f"percent is {percent}: expected above 0 and at most 100", op="--percentile")
    if method == "none":
        found = dict.fromkeys(_groups(model), 0.0)
    else:
        inputs = observe_inputs(model, batches, progress)
        if method == "min-max":
            found = {name: seen.max_abs for name, seen in inputs.items()}
        elif method == "percentile":
            found = {name: seen.percentile(percent) for name, seen in inputs.items()}
        else:
            found = _least_squares(model, batches, inputs, progress)
    modules = quantized_modules(model)
    clips = {}
    for name, names in _groups(model).items():
        clip = modules[name].input_clip
        with torch.no_grad():
            clip.ratio.fill_(1.0)
            clip.max_abs.fill_(found[name])
        if found[name] > 0:
            clips.update(dict.fromkeys(names, clip().item()))
    return clips


def _least_squares(
    model: nn.Module, batches: Batches, inputs: dict[str, LayerInput], progress: Progress
) -> dict[str, float]:
    """The candidate of least error a layer; 0, no clip, where none is better than that."""
    modules = quantized_modules(model)
    columns = {
        name: sum(modules[part].weight.detach().float().square().sum(0) for part in seen.weights)
        for name, seen in inputs.items()
    }
    candidates = {name: [None, *(share * seen.max_abs for share in _SHARES)] for name, seen in inputs.items()}
    errors = {name: torch.zeros(len(own), dtype=torch.float64) for name, own in candidates.items()}

    def see(name: str, x: Tensor) -> None:
        rows = x.detach().float().reshape(-1, x.shape[-1])
        most = rows.abs().amax(1)
        unclipped = _row_errors(rows, None, columns[name])
        for index, clip in enumerate(candidates[name]):
            touched = torch.zeros_like(most, dtype=torch.bool) if clip is None else most > clip
            errors[name][index] += unclipped[~touched].sum().cpu()
            if clip is not None and touched.any():
                errors[name][index] += _row_errors(rows[touched], clip, columns[name]).sum().cpu()

    _run(model, batches, see, progress)
    return {name: candidates[name][int(errors[name].argmin())] or 0.0 for name in inputs}


def _row_errors(rows: Tensor, clip: float | None, columns: Tensor | int) -> Tensor:
    """The squared error of each row's codes, f64 [rows]."""
    return ((dequantize(*quantize_rows(rows, clip)) - rows).square() * columns).double().sum(1)


@dataclass(frozen=True)
class Sensitivity:
    """What coding one layer, or the layers of one input, does to a model.

    Attributes:
        weights: of the layers.
        clip: of their input; None where there is none.
        output_error: |y8 - y|^2 / |y|^2 of their outputs on the calibration text, each layer given float inputs.
        nats_per_token: by how much the loss on a text grows when these layers alone are coded, or is expected to;
            None if not measured.
    """

    weights: tuple[str, ...]
    clip: float | None
    output_error: float
    nats_per_token: float | None = None


def output_sensitivity(model: nn.Module, batches: Batches, progress: Progress = _ignore) -> list[Sensitivity]:
    """How far each layer's output of codes is from that of floats.

    Args:
        model: of prepare_qat, calibrated, in eval mode.
        batches: a text.
        progress: told how far it is.

    Returns:
        The largest error first.
    """
    modules, groups = quantized_modules(model), _groups(model)
    sums = {name: torch.zeros(2, dtype=torch.float64) for name in groups}

    def see(name: str, x: Tensor) -> None:
        for part in groups[name]:
            module = modules[part]
            bias = module.bias if isinstance(module, QatLinear) else None
            exact = nn.functional.linear(x, module.weight, bias)
            codes = module.kept_codes or quantize_rows(module.weight)
            coded = int8_linear(x, *codes, bias, module.input_clip())
            sums[name] += torch.stack([(coded - exact).double().square().sum(), exact.double().square().sum()]).cpu()

    _run(model, batches, see, progress)
    found = []
    for name, names in groups.items():
        clip = modules[name].input_clip().item()
        error, size = sums[name].tolist()
        found.append(Sensitivity(names, clip if clip < torch.inf else None, error / size if size else 0.0))
    return sorted(found, key=lambda one: -one.output_error)


def divergence_sensitivity(model: nn.Module, ids: Tensor, progress: Progress = _ignore) -> list[Sensitivity]:
    """How far coding each group of layers alone moves what the model predicts.

    The measure is the Kullback-Leibler divergence from the model of floats to that of codes, the mean over tokens: what
    the loss grows by on text that the model itself would write. It says with hundreds of tokens what the loss on a text
    says with tens of thousands, and those of several groups add up to that of all of them, nearly.

    Args:
        model: of prepare_qat, calibrated, in eval mode.
        ids: a text, i64 [B, S].
        progress: told how far it is.

    Returns:
        The largest divergence first; output_error is that of the logits. Of a tied head the token table is part.
    """
    parts = [module for module in model.modules() if isinstance(module, QatLinear | QatEmbedding)]
    modules, groups = quantized_modules(model), _groups(model)
    was = [module.quantized for module in parts]
    positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)

    def logits() -> Tensor:
        result: Tensor = model(ids, positions).float()
        return result

    try:
        with torch.no_grad():
            for module in parts:
                module.quantized = False
            exact = logits()
            expected = exact.log_softmax(-1)
            found = []
            for done, (name, names) in enumerate(groups.items()):
                progress(done, len(groups))
                for part in names:
                    modules[part].quantized = True
                coded = logits()
                for part in names:
                    modules[part].quantized = False
                divergence = (expected.exp() * (expected - coded.log_softmax(-1))).sum(-1).double().mean().item()
                error = ((coded - exact).square().sum() / exact.square().sum()).item()
                clip = modules[name].input_clip().item()
                found.append(Sensitivity(names, clip if clip < torch.inf else None, error, divergence))
            progress(len(groups), len(groups))
    finally:
        for module, quantized in zip(parts, was, strict=True):
            module.quantized = quantized
    return sorted(found, key=lambda one: -(one.nats_per_token or 0.0))


def keep_within(found: Sequence[Sensitivity], sizes: Mapping[str, int], budget: float) -> list[str]:
    """The weights to keep in floats, so that what coding the others costs is at most `budget`.

    Taken are those that cost most for their size, in nats a byte that codes would save.

    Args:
        found: of divergence_sensitivity.
        sizes: elements by weight.
        budget: nats a token, in all.
    """
    cost = {one.weights: max(0.0, one.nats_per_token or 0.0) for one in found}
    left = sum(cost.values())
    kept: list[str] = []
    for weights in sorted(cost, key=lambda weights: -cost[weights] / sum(sizes[name] for name in weights)):
        if left <= budget or not cost[weights]:
            break
        left -= cost[weights]
        kept += weights
    return kept


def loss_sensitivity(
    model: nn.Module, found: Sequence[Sensitivity], loss: Callable[[], float], progress: Progress = _ignore
) -> list[Sensitivity]:
    """Measures what coding each group of layers alone does to the loss.

    Args:
        model: of prepare_qat, calibrated, in eval mode.
        found: of output_sensitivity.
        loss: the model's, in nats a token, on a text.
        progress: told how far it is.

    Returns:
        The largest growth first.
    """
    parts = [module for module in model.modules() if isinstance(module, QatLinear | QatEmbedding)]
    modules = quantized_modules(model)
    was = [module.quantized for module in parts]
    try:
        for module in parts:
            module.quantized = False
        baseline = loss()
        measured = []
        for done, one in enumerate(found):
            progress(done, len(found))
            for name in one.weights:
                modules[name].quantized = True
            measured.append(dataclasses.replace(one, nats_per_token=loss() - baseline))
            for name in one.weights:
                modules[name].quantized = False
        progress(len(found), len(found))
    finally:
        for module, quantized in zip(parts, was, strict=True):
            module.quantized = quantized
    return sorted(measured, key=lambda one: -(one.nats_per_token or 0.0))
