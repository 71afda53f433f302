"""From a model of floats to a checkpoint whose layers know where to clip, with what int8 costs it on held-out text."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from flashflow.errors import InvalidArgumentError, UnsupportedError
from flashflow.evaluation.perplexity import EncodedText, Perplexity, text_perplexity
from flashflow.loaders.checkpoint import save_checkpoint
from flashflow.loaders.loaded_model import CALIBRATED_PRECISION, LoadedModel
from flashflow.loaders.torch_weights import read_tensors
from flashflow.models.build import build_model
from flashflow.quantization.calibration import (
    Sensitivity,
    calibrate,
    divergence_sensitivity,
    keep_within,
    loss_sensitivity,
    observe_inputs,
    output_sensitivity,
)
from flashflow.quantization.qat import kept_codes, prepare_qat, quantized_modules, set_quantized
from flashflow.quantization.smoothing import smooth
from flashflow.torch_device import torch_device

__all__ = ["Calibration", "CalibrationOptions", "calibrate_model", "sensitivity_table", "with_untied_head"]

_BUDGET_TOKENS = 256  # of the calibration text; each group of layers takes a pass over them

Progress = Callable[[str, float | None], None]  # a stage, and what share of it is done, if known


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """How to calibrate.

    Attributes:
        method: of flashflow.quantization.calibration.METHODS.
        percent: of the method "percentile".
        smooth: moves outliers of activations into weights.
        alpha: of smoothing, 0 to 1; None looks for the best of each input.
        untie_head: gives a tied head weights of its own, which can be smoothed.
        budget: the growth of perplexity, 0.005 being half a percent, that layers of codes may cost by an estimate on
            the calibration text; those that cost most for their size stay floats. None codes all.
        context: tokens that the model sees at once.
        sensitivity: "none"; "output", of each layer's output; "perplexity", of the model's loss on the held-out text
            as well, a whole evaluation for each layer.
        device: that torch computes on, "auto", "cpu" or "cuda".
    """

    method: str = "mse"
    percent: float = 99.9
    smooth: bool = True
    alpha: float | None = None
    untie_head: bool = False
    budget: float | None = None
    context: int = 512
    sensitivity: str = "output"
    device: str = "cpu"


@dataclass(frozen=True)
class Calibration:
    """What came out.

    Attributes:
        clips: by weight, of the layers that clip.
        smoothed: weights that took over outliers of their input.
        fp32: on the held-out text, before.
        int8: after, all layers and the token table being codes, but for `kept`.
        kept: weights that stay floats.
        sensitivity: a row for the layers of each input, the largest first; empty where it was not asked for.
    """

    clips: dict[str, float]
    smoothed: list[str]
    fp32: Perplexity
    int8: Perplexity
    sensitivity: list[Sensitivity]
    kept: list[str]

    @property
    def growth(self) -> float:
        """Of the perplexity: 0.01 is one percent."""
        return self.int8.perplexity / self.fp32.perplexity - 1

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {**dataclasses.asdict(self), "perplexity_growth": self.growth}


def calibrate_model(
    loaded: LoadedModel,
    calibration_ids: Sequence[int],
    held_out: EncodedText,
    out: Path,
    options: CalibrationOptions,
    report: Progress,
) -> Calibration:
    """Calibrates a model and writes its checkpoint.

    Args:
        loaded: the model.
        calibration_ids: the text to calibrate on.
        held_out: another text, to measure on.
        out: the checkpoint's folder.
        options: how.
        report: told what is going on.

    Raises:
        InvalidArgumentError: an option is out of range, or a text too short.
        FailedPreconditionError: the device is not there.
        UnsupportedError: the head is to be untied, and the model has none that is tied and could be.
    """
    if options.untie_head:
        loaded = with_untied_head(loaded)
    context = options.context
    if not 2 <= context <= loaded.config.context_length:
        raise InvalidArgumentError(
            f"--context is {context}: expected 2..{loaded.config.context_length}", op="--context"
        )
    if options.budget is not None and not 0 <= options.budget < 1:
        raise InvalidArgumentError(f"--budget is {100 * options.budget:g}: expected 0 to below 100", op="--budget")
    device = torch_device(options.device)
    batches = [
        torch.tensor(calibration_ids[first : first + context], device=device)[None]
        for first in range(0, len(calibration_ids), context)
    ]
    report("reading the weights", None)
    model = prepare_qat(build_model(loaded.config, read_tensors(loaded.weights)).to(device))
    set_quantized(model, False)

    def measure(stage: str) -> Perplexity:
        def show(window: Any, nats_per_token: float) -> None:
            report(stage, window.end / len(held_out.token_ids))

        report(stage, 0.0)
        return text_perplexity(logits_of(model), held_out, context=context, on_window=show)

    def of(stage: str) -> Callable[[int, int], None]:
        return lambda done, total: report(stage, done / total)

    fp32 = measure("measuring fp32")
    smoothed: list[str] = []
    if options.smooth:
        inputs = observe_inputs(model, batches, of("observing inputs"))
        smoothed = smooth(model, inputs, options.alpha, of("smoothing"))
    clips = calibrate(model, batches, options.method, percent=options.percent, progress=of("calibrating"))
    kept: list[str] = []
    if options.budget is not None:
        with kept_codes(model):
            costs = divergence_sensitivity(model, batches[0][:, :_BUDGET_TOKENS], of("measuring what each layer costs"))
        sizes = {name: module.weight.numel() for name, module in quantized_modules(model).items()}
        kept = keep_within(costs, sizes, math.log1p(options.budget))
    set_quantized(model, True)
    for name in kept:
        quantized_modules(model)[name].quantized = False
    sensitivity: list[Sensitivity] = []
    with kept_codes(model):
        int8 = measure("measuring int8")
        if options.sensitivity != "none":
            sensitivity = output_sensitivity(model, batches, of("measuring each layer's output"))
        if options.sensitivity == "perplexity":

            def loss() -> float:
                return text_perplexity(logits_of(model), held_out, context=context).nats_per_token

            sensitivity = loss_sensitivity(model, sensitivity, loss, of("measuring each layer's loss"))
    report("writing", None)
    metadata = {**loaded.metadata, CALIBRATED_PRECISION: "int8"}
    save_checkpoint(out, loaded.config, model.state_dict(), loaded.tokenizer_json, loaded.generation, metadata, kept)
    return Calibration(clips, smoothed, fp32, int8, sensitivity, kept)


def with_untied_head(loaded: LoadedModel) -> LoadedModel:
    """The same model with a head of its own weights, at first those of the token table.

    Raises:
        UnsupportedError: the head is not tied, or the architecture has no other.
    """
    config = loaded.config
    if not getattr(config, "tied_head", False):
        raise UnsupportedError(f"{config.architecture} has no tied head that could have weights of its own", op="head")
    config = dataclasses.replace(config, tied_head=False)  # type: ignore[call-arg]
    table = next(iter(config.weight_shapes()))  # a model begins with it
    weights = {**loaded.weights, "head.weight": loaded.weights[table]}
    return dataclasses.replace(loaded, config=config, weights=weights)


def logits_of(model: nn.Module) -> Callable[[Sequence[int]], npt.NDArray[np.float32]]:
    """What follows each of T token ids, [T, vocabulary], by a module, on its device."""
    device = next(model.parameters()).device

    def logits(ids: Sequence[int]) -> npt.NDArray[np.float32]:
        tokens = torch.tensor(ids, device=device)[None]
        with torch.no_grad():
            result: Tensor = model(tokens, torch.arange(len(ids), device=device)[None])
        array: npt.NDArray[np.float32] = result[0].cpu().numpy()
        return array

    return logits


def sensitivity_table(rows: Sequence[Sensitivity]) -> str:
    """One line a row, under a heading; layers of one input by the first's name and what the others' end in."""
    lines = [f"{'output error':>12} {'nats/token':>11} {'clip':>9}  layers"]
    for row in rows:
        nats = "-" if row.nats_per_token is None else f"{row.nats_per_token:+.6f}"
        clip = "-" if row.clip is None else f"{row.clip:.4g}"
        first, *others = (name.removesuffix(".weight") for name in row.weights)
        names = ", ".join([first, *(name.rpartition(".")[2] for name in others)])
        lines.append(f"{row.output_error:12.3e} {nats:>11} {clip:>9}  {names}")
    return "\n".join(lines)
