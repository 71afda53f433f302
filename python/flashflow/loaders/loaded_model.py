"""What every loader returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flashflow.errors import DataLossError, InvalidArgumentError
from flashflow.loaders.weight import LazyWeight
from flashflow.models.config import ModelConfig

__all__ = ["CALIBRATED_PRECISION", "TRAINED_PRECISION", "GenerationInfo", "LoadedModel", "check_weights"]

# Of a model's metadata.
TRAINED_PRECISION = "trained_precision"  # "int8": it learned with that rounding
CALIBRATED_PRECISION = "calibrated_precision"  # "int8": its weights and clips were made to lose little by it


@dataclass(frozen=True)
class GenerationInfo:
    """What generation needs to know beside the weights.

    eos_token_ids end a sequence. bos_token_id starts one, where the model has such a token (the tokenizer adds it on
    its own where the model was trained so). chat_template is Jinja.
    """

    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    chat_template: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "eos_token_ids": list(self.eos_token_ids)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> GenerationInfo:
        """Reads what to_dict() wrote, checking types; other keys are left alone."""
        bos, eos = fields.get("bos_token_id"), fields.get("eos_token_ids", ())
        template = fields.get("chat_template")
        if not (bos is None or _is_token_id(bos)):
            raise DataLossError(f"bos_token_id must be a token id, got {bos!r}", op="bos_token_id")
        if not isinstance(eos, list | tuple) or not all(_is_token_id(i) for i in eos):
            raise DataLossError(f"eos_token_ids must be a list of token ids, got {eos!r}", op="eos_token_ids")
        if not (template is None or isinstance(template, str)):
            raise DataLossError("chat_template must be text", op="chat_template")
        return cls(bos, tuple(eos), template)


def _is_token_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31


@dataclass(frozen=True)
class LoadedModel:
    """A model as read from disk, weights still there.

    Attributes:
      name: for people.
      config: the architecture and its sizes.
      weights: by the names of the module's state_dict; exactly config.weight_shapes().
      tokenizer_json: a `tokenizers` JSON file, or None where the source has no tokenizer.
      generation: end tokens and the chat template.
      metadata: facts to keep with an engine, such as the license.
      clips: where an int8 layer clips its input, by the layer's weight: what calibration or training found. Above 0;
        a layer without one does not clip.
      float_weights: what stays floats in an int8 engine: what calibration found to cost most as codes.
    """

    name: str
    config: ModelConfig
    weights: Mapping[str, LazyWeight]
    tokenizer_json: bytes | None = None
    generation: GenerationInfo = field(default_factory=GenerationInfo)
    metadata: Mapping[str, str] = field(default_factory=dict)
    clips: Mapping[str, float] = field(default_factory=dict)
    float_weights: Sequence[str] = ()

    @property
    def learned_in_int8(self) -> bool:
        """Whether it was trained with int8's rounding: its weights are then what their codes stand for."""
        return self.metadata.get(TRAINED_PRECISION) == "int8"

    @property
    def made_for_int8(self) -> bool:
        """Whether it was trained or calibrated for int8."""
        return self.learned_in_int8 or self.metadata.get(CALIBRATED_PRECISION) == "int8" or bool(self.clips)

    def graph_metadata(self) -> dict[str, float | str]:
        """What the compiler reads of clips and of weights that stay floats: metadata of the exported graph."""
        clips = {f"clip.{name}": clip for name, clip in sorted(self.clips.items())}
        return {**clips, **{f"precision.{name}": "float" for name in sorted(self.float_weights)}}

    def engine_config(self) -> dict[str, Any]:
        """The `ff.config` section of an engine; GenerationInfo.from_dict reads its part back."""
        return {
            "name": self.name,
            **self.config.metadata(),
            **self.generation.to_dict(),
            "metadata": dict(sorted(self.metadata.items())),
        }


def check_weights(config: ModelConfig, weights: Mapping[str, LazyWeight], unused: Iterable[str], file: str) -> None:
    """Refuses weights that contradict the config.

    Args:
      weights: by our names, as far as the file has them.
      unused: the file's tensors that no parameter takes.
      file: for messages.

    Raises:
      InvalidArgumentError: the first missing tensor, one of another shape (expected and found are named), or one that
        the architecture does not have.
    """
    for name, shape in config.weight_shapes().items():
        weight = weights.get(name)
        if weight is None:
            raise InvalidArgumentError(
                f"{file} lacks the tensor of {config.architecture}'s weight {name!r} of shape {list(shape)}",
                op=name,
                hint="the configuration and the weights do not belong together",
            )
        if weight.shape != shape:
            raise InvalidArgumentError(
                f"tensor {weight.source!r} of {file}: expected shape {list(shape)} (as {config.architecture}'s "
                f"{name!r}), found {list(weight.shape)}",
                op=weight.source,
                hint="the configuration and the weights do not belong together",
            )
    for name in sorted(unused):
        raise InvalidArgumentError(
            f"{file} has the tensor {name!r}, which {config.architecture} with this configuration does not have",
            op=name,
            hint="the configuration and the weights do not belong together, or the model is of another kind",
        )
