"""An engine whose layers are int8 where that is faster on a device, within a budget of perplexity."""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import nn

from flashflow.core import core
from flashflow.engine_builder import build_engine, export_model
from flashflow.errors import InvalidArgumentError
from flashflow.evaluation.latency import measure_latency
from flashflow.evaluation.perplexity import EncodedText, Logits, Window, text_perplexity
from flashflow.frontend.export import Exported
from flashflow.llm import LLM
from flashflow.loaders.loaded_model import LoadedModel
from flashflow.loaders.torch_weights import read_tensors
from flashflow.loaders.weight import LazyWeight
from flashflow.models.build import build_model
from flashflow.quantization.calibrated_model import logits_of
from flashflow.quantization.calibration import output_sensitivity
from flashflow.quantization.int8_contract import dequantize, quantize_rows
from flashflow.quantization.precision import LayerChoice, choose_layers, mean_of_kind, pair_layers
from flashflow.quantization.qat import QatEmbedding, QatLinear, kept_codes, prepare_qat, set_quantized
from flashflow.roofline import RooflineRow
from flashflow.torch_device import torch_device

__all__ = ["Precision", "PrecisionOptions", "build_auto_engine", "build_float_engine"]

Progress = Callable[[str, float | None], None]  # a stage, and what share of it is done, if known

FLOAT = "bfloat16"  # what the layers of an int8 engine that are no codes are of
_ROUNDS = 5  # of measurements that take turns
NEW_TOKENS = 32  # decoded in one


@dataclass(frozen=True, kw_only=True)
class PrecisionOptions:
    """How to choose.

    Attributes:
        device: that the engine is for; it must be there.
        threads: of a CPU; None is as many as the process may use.
        goal: "decode", the time of a step in which each request gets a token, or "prefill", of reading a prompt.
        batch: requests that are decoded at a time.
        prompt_tokens: of the prompt that is read, and of the context in which a token is decoded.
        context: tokens that the model sees at once when its perplexity is measured.
        budget: growth of the perplexity over fp32's that is allowed, 0.01 being one percent.
        margin: a layer counts as faster in int8 when it saves more than this share of its time.
    """

    device: str = "auto"
    threads: int | None = None
    goal: str = "decode"
    batch: int = 1
    prompt_tokens: int = 512
    context: int = 512
    budget: float = 0.01
    margin: float = 0.03


@dataclass(frozen=True)
class Precision:
    """What was chosen, and what came of it.

    Attributes:
        device: that was measured on.
        goal: as PrecisionOptions.
        choices: a row for the layers that become int8 together.
        fp32: perplexity of the held-out text.
        chosen: of the engine that was written.
        float_ms: what a token, or a prompt, takes in floats; None where no layer was faster in int8.
        chosen_ms: in the engine that was written.
    """

    device: str
    goal: str
    choices: list[LayerChoice]
    fp32: float
    chosen: float
    float_ms: float | None
    chosen_ms: float | None

    @property
    def growth(self) -> float:
        """Of the perplexity: 0.01 is one percent."""
        return self.chosen / self.fp32 - 1

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {**dataclasses.asdict(self), "perplexity_growth": self.growth}


def build_float_engine(
    loaded: LoadedModel, path: Path, dtype: str, report: Progress, exported: Exported | None = None
) -> None:
    """Builds an engine without codes; of a model that learned with int8's rounding, of what its codes stand for."""
    build_engine(_with_fallback(loaded, _coded_weights(loaded)), path, dtype, report, exported=exported)


def build_auto_engine(
    loaded: LoadedModel,
    path: Path,
    calibration_ids: Sequence[int],
    held_out: EncodedText,
    options: PrecisionOptions,
    report: Progress,
) -> Precision:
    """Measures, chooses and writes the engine.

    Args:
        loaded: the model, calibrated or trained for int8 or neither.
        path: of the engine, which appears there whole or not at all.
        calibration_ids: of a text that says what coding a layer does to its output.
        held_out: another text, on which the budget holds.
        options: how.
        report: told what is going on.

    Raises:
        InvalidArgumentError: an option is out of range.
        FailedPreconditionError: the device is not there.
    """
    _check(loaded, options)
    core().check_device(options.device, options.threads or 0)  # before engines that it could not open
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".flashflow-build-") as folder:
        engines = _Engines(loaded, Path(folder), options, report)
        return _choose(engines, loaded, path, calibration_ids, held_out, options, report)


def _choose(
    engines: _Engines,
    loaded: LoadedModel,
    path: Path,
    calibration_ids: Sequence[int],
    held_out: EncodedText,
    options: PrecisionOptions,
    report: Progress,
) -> Precision:
    in_floats, in_codes = engines.engine(None), engines.engine(())
    layers = pair_layers(*_measure_operations([in_floats, in_codes], options, report))
    model = _in_torch(loaded, options.device, report)
    fp32 = _perplexity(logits_of(model), held_out, options.context, "measuring fp32's perplexity", report)

    def errors() -> dict[str, float]:
        return _output_errors(model, calibration_ids, options.context, report)

    def growth(kept: Collection[str]) -> float:
        return engines.perplexity(kept, held_out) / fp32 - 1

    choices = choose_layers(layers, errors, growth, options.budget, options.margin)
    kept = {name for choice in choices if not choice.int8 for name in choice.times.weights}
    chosen = kept if any(choice.int8 for choice in choices) else None
    float_ms = chosen_ms = None
    if chosen is not None:
        float_ms, chosen_ms = _measure_whole([in_floats, engines.engine(chosen)], options, report)
        if chosen_ms >= float_ms:
            reason = f"all together are not faster: {chosen_ms:.3f} ms for {float_ms:.3f}"
            choices = [dataclasses.replace(one, int8=False, reason=reason) if one.int8 else one for one in choices]
            chosen, chosen_ms = None, float_ms
    precision = Precision(
        device=in_floats.engine_info()["device_description"],
        goal=options.goal,
        choices=choices,
        fp32=fp32,
        chosen=engines.perplexity(chosen, held_out),
        float_ms=float_ms,
        chosen_ms=chosen_ms,
    )
    engines.write(chosen, path, precision)
    return precision


def _check(loaded: LoadedModel, options: PrecisionOptions) -> None:
    longest = loaded.config.context_length
    for flag, value, most in (
        ("--context", options.context, longest),
        ("--prompt-len", options.prompt_tokens, longest - NEW_TOKENS),
    ):
        if not 2 <= value <= most:
            raise InvalidArgumentError(f"{flag} is {value}: expected 2..{most}", op=flag)
    if options.batch < 1:
        raise InvalidArgumentError(f"--batch is {options.batch}: expected at least 1", op="--batch")
    if not 0 <= options.budget < 1:
        raise InvalidArgumentError(
            f"--perplexity-budget is {100 * options.budget:g}%: expected 0 to 100", op="--perplexity-budget"
        )


def _coded_weights(loaded: LoadedModel) -> set[str]:
    """What int8 training rounds: weights of layers and the token table, and no other matrix."""
    modules = prepare_qat(build_model(loaded.config)).named_modules()
    return {f"{name}.weight" for name, module in modules if isinstance(module, QatLinear | QatEmbedding)}


def _with_fallback(loaded: LoadedModel, names: Collection[str]) -> LoadedModel:
    """The model with what codes stand for in place of these weights, if it learned with that rounding."""
    if not loaded.learned_in_int8:
        return loaded
    weights = {name: _rounded(weight) if name in names else weight for name, weight in loaded.weights.items()}
    return dataclasses.replace(loaded, weights=weights)


def _rounded(weight: LazyWeight) -> LazyWeight:
    def load() -> npt.NDArray[Any]:
        array: npt.NDArray[Any] = dequantize(*quantize_rows(read_tensors({"": weight})[""])).numpy()
        return array

    return dataclasses.replace(weight, dtype="f32", load=load)


class _Engines:
    """The model's engines, by which of its weights stay floats (None: all), built when they are asked for."""

    def __init__(self, loaded: LoadedModel, folder: Path, options: PrecisionOptions, report: Progress) -> None:
        self._loaded, self._folder, self._options, self._report = loaded, folder, options, report
        self._exported = export_model(loaded, report)
        self._open: dict[frozenset[str] | None, LLM] = {}
        self._perplexities: dict[frozenset[str] | None, float] = {}

    def engine(self, kept: Collection[str] | None) -> LLM:
        key = None if kept is None else frozenset(kept)
        if key not in self._open:
            path = self._folder / f"{len(self._open)}.ff"
            self._build(kept, path, self._loaded)
            self._open[key] = LLM(
                path, device=self._options.device, threads=self._options.threads, max_batch=self._options.batch
            )
        return self._open[key]

    def perplexity(self, kept: Collection[str] | None, text: EncodedText) -> float:
        key = None if kept is None else frozenset(kept)
        if key not in self._perplexities:
            stage = f"measuring an engine's perplexity, number {len(self._perplexities) + 1}"
            llm = self.engine(kept)
            self._perplexities[key] = _perplexity(llm.logits, text, self._options.context, stage, self._report)
        return self._perplexities[key]

    def write(self, kept: Collection[str] | None, path: Path, precision: Precision) -> None:
        """Builds it once more, as the file says what was chosen and why."""
        metadata = {**self._loaded.metadata, "precision": json.dumps(precision.to_json())}
        self._build(kept, path, dataclasses.replace(self._loaded, metadata=metadata))

    def _build(self, kept: Collection[str] | None, path: Path, loaded: LoadedModel) -> None:
        if kept is None:
            build_float_engine(loaded, path, FLOAT, self._report, self._exported)
        else:
            fallback = _with_fallback(loaded, kept)
            build_engine(fallback, path, "int8", self._report, sorted(kept), exported=self._exported)


def _in_torch(loaded: LoadedModel, device: str, report: Progress) -> nn.Module:
    """The model in torch, prepared for codes and computing in floats; on a GPU only if torch finds one too."""
    report("reading the weights", None)
    place = torch_device("cpu" if device == "cpu" else "auto")
    model = prepare_qat(build_model(loaded.config, read_tensors(loaded.weights)).to(place), loaded.clips).eval()
    set_quantized(model, False)
    return model


def _output_errors(model: nn.Module, ids: Sequence[int], context: int, report: Progress) -> dict[str, float]:
    """By weight, |y8 - y|^2 / |y|^2 of its layer's output on a text."""
    device = next(model.parameters()).device
    batches = [torch.tensor(ids[first : first + context], device=device)[None] for first in range(0, len(ids), context)]
    with kept_codes(model):
        found = output_sensitivity(
            model, batches, lambda done, total: report("measuring each layer's output", done / total)
        )
    return {name: one.output_error for one in found for name in one.weights}


def _perplexity(logits: Logits, text: EncodedText, context: int, stage: str, report: Progress) -> float:
    def show(window: Window, nats_per_token: float) -> None:
        report(stage, window.end / len(text.token_ids))

    report(stage, 0.0)
    return text_perplexity(logits, text, context=context, on_window=show).perplexity


def _measure_operations(engines: Sequence[LLM], options: PrecisionOptions, report: Progress) -> list[list[RooflineRow]]:
    """The operations of a step of each engine with the median times of their kind; the engines take turns."""
    decode = options.goal == "decode"
    tokens = options.batch if decode else options.prompt_tokens
    limit = min(llm.engine_info()["max_tokens"] for llm in engines)
    if tokens > limit:
        raise InvalidArgumentError(f"a step takes at most {limit} tokens, not {tokens}", op="--prompt-len")
    context = max(tokens, options.prompt_tokens)
    rounds: list[list[list[RooflineRow]]] = []
    for done in range(_ROUNDS):
        report("timing each layer", done / _ROUNDS)
        rounds.append([list(llm.plan.roofline(tokens=tokens, context=context)) for llm in engines])
    return [
        mean_of_kind(
            [
                dataclasses.replace(same[0], achieved_us=statistics.median(row.achieved_us or 0.0 for row in same))
                for same in zip(*(found[index] for found in rounds), strict=True)
            ]
        )
        for index in range(len(engines))
    ]


def _measure_whole(engines: Sequence[LLM], options: PrecisionOptions, report: Progress) -> list[float]:
    """What a token, or a prompt, takes each engine, in milliseconds: medians of rounds in which they take turns."""
    times: list[list[float]] = [[] for _ in engines]
    for done in range(_ROUNDS):
        report("timing the engine", done / _ROUNDS)
        for llm, own in zip(engines, times, strict=True):
            found = measure_latency(
                llm,
                batch=options.batch if options.goal == "decode" else 1,
                prompt_tokens=options.prompt_tokens,
                new_tokens=NEW_TOKENS if options.goal == "decode" else 1,
                repeats=1,
                seed=done,
            )
            own.append(found.first_token_ms if found.token_p50_ms is None else found.token_p50_ms)
    return [statistics.median(own) for own in times]
