"""FlashFlow's own checkpoints: a folder of config.json (with "architecture"), model.safetensors and tokenizer.json.

A model that was trained or calibrated for int8 also has, for a layer with the weight X.weight, X.input_clip.ratio and
X.input_clip.max_abs, f32 [1] each: their product is where the layer clips its input, 0 being nowhere. Weights that stay
floats in an int8 engine are named in config.json, "float_weights".
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flashflow.errors import DataLossError, InvalidArgumentError
from flashflow.loaders.hf_folder import read_tokenizer, read_weight_files
from flashflow.loaders.json_file import read_json_object
from flashflow.loaders.loaded_model import GenerationInfo, LoadedModel, check_weights
from flashflow.models.config import ModelConfig, config_from_dict

if TYPE_CHECKING:
    from torch import Tensor

    from flashflow.loaders.weight import LazyWeight

__all__ = ["is_checkpoint", "load_checkpoint", "save_checkpoint"]

_FORMAT = "flashflow.checkpoint"
_CLIP_PARTS = ("input_clip.ratio", "input_clip.max_abs")


def is_checkpoint(folder: Path) -> bool:
    """Whether the folder's config.json is one of ours."""
    return read_json_object(folder / "config.json").get("format") == _FORMAT


def load_checkpoint(folder: Path) -> LoadedModel:
    """The model of a checkpoint; errors as load_hf_folder's."""
    fields = read_json_object(folder / "config.json")
    if fields.get("format") != _FORMAT or not isinstance(fields.get("model"), dict):
        raise DataLossError(f"{folder / 'config.json'} is not the config of a FlashFlow checkpoint", op="config.json")
    config = config_from_dict(fields["model"])
    tensors = read_weight_files(folder)
    weights = {name: tensors[name] for name in config.weight_shapes() if name in tensors}
    of_clips = _clip_names(config)
    check_weights(config, weights, set(tensors) - set(weights) - of_clips, str(folder))
    generation = fields.get("generation", {})
    if not isinstance(generation, dict):
        raise DataLossError(f"{folder / 'config.json'}: generation must be an object", op="generation")
    metadata = fields.get("metadata", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise DataLossError(f"{folder / 'config.json'}: metadata must be an object of texts", op="metadata")
    float_weights = fields.get("float_weights", [])
    matrices = {name for name, shape in config.weight_shapes().items() if len(shape) == 2}
    if not isinstance(float_weights, list) or not all(isinstance(n, str) and n in matrices for n in float_weights):
        raise DataLossError(f"{folder / 'config.json'}: float_weights must name weights of layers", op="float_weights")
    return LoadedModel(
        name=folder.resolve().name,
        config=config,
        weights=weights,
        tokenizer_json=read_tokenizer(folder, "gpt-2"),
        generation=GenerationInfo.from_dict(generation),
        metadata=metadata,
        clips=_read_clips({name: tensors[name] for name in sorted(of_clips & set(tensors))}, folder),
        float_weights=float_weights,
    )


def _clip_names(config: ModelConfig) -> set[str]:
    """The tensors of clips that a checkpoint of this configuration may have."""
    matrices = [name.removesuffix(".weight") for name, shape in config.weight_shapes().items() if len(shape) == 2]
    return {f"{name}.{part}" for name in matrices for part in _CLIP_PARTS}


def _read_clips(tensors: Mapping[str, LazyWeight], folder: Path) -> dict[str, float]:
    """By weight; clips of 0, which do not clip, are left out."""
    clips = {}
    for layer in sorted({name.rsplit(".", 2)[0] for name in tensors}):
        product = np.float32(1)
        for part in _CLIP_PARTS:
            name = f"{layer}.{part}"
            if name not in tensors:
                raise DataLossError(f"{folder} lacks the tensor {name!r}", op=name)
            if tensors[name].shape != (1,) or tensors[name].dtype != "f32":
                raise DataLossError(
                    f"tensor {name!r} of {folder} is {tensors[name].dtype} {list(tensors[name].shape)}: expected f32 "
                    "[1]",
                    op=name,
                )
            product *= tensors[name].read()[0]
        if product > 0 and math.isfinite(product):
            clips[f"{layer}.weight"] = float(product)
    return clips


def save_checkpoint(
    folder: Path,
    config: ModelConfig,
    state_dict: Mapping[str, Tensor],
    tokenizer_json: bytes | None = None,
    generation: GenerationInfo | None = None,
    metadata: Mapping[str, str] | None = None,
    float_weights: Sequence[str] = (),
) -> None:
    """Writes what load_checkpoint reads. Each file is replaced whole, so that a reader never sees half of one.

    Args:
      state_dict: the module's: config.weight_shapes(), and where it was prepared for int8 its clips.
      metadata: facts to keep with the model, such as its license.
      float_weights: as of LoadedModel.
    """
    from safetensors.torch import save_file

    of_clips = _clip_names(config)
    shapes = {name: tuple(value.shape) for name, value in state_dict.items() if name not in of_clips}
    if shapes != config.weight_shapes():
        wrong = sorted(set(shapes.items()) ^ set(config.weight_shapes().items()))[0][0]
        raise InvalidArgumentError(f"state_dict and config disagree on weight {wrong!r}", op=wrong)
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "model.safetensors.partial"
    weights.touch()
    mode = weights.stat().st_mode
    save_file({name: _to_save(value, name in of_clips) for name, value in state_dict.items()}, weights)
    weights.chmod(mode)  # safetensors makes files that only their owner can read
    weights.replace(folder / "model.safetensors")
    if tokenizer_json is not None:
        _replace(folder / "tokenizer.json", tokenizer_json)
    fields: dict[str, Any] = {"format": _FORMAT, "architecture": config.architecture, "model": config.to_dict()}
    fields["generation"] = (generation or GenerationInfo()).to_dict()
    if metadata:
        fields["metadata"] = dict(sorted(metadata.items()))
    if float_weights:
        fields["float_weights"] = sorted(float_weights)
    _replace(folder / "config.json", json.dumps(fields, indent=2).encode("utf-8") + b"\n")


def _to_save(value: Tensor, may_be_shared: bool) -> Tensor:
    value = value.detach().cpu().contiguous()
    return value.clone() if may_be_shared else value  # layers of one input have one clip; safetensors wants several


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)
