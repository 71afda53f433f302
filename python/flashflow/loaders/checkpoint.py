"""FlashFlow's own checkpoints: a folder of config.json (with "architecture"), model.safetensors and tokenizer.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashflow.errors import DataLossError, InvalidArgumentError
from flashflow.loaders.hf_folder import read_tokenizer, read_weight_files
from flashflow.loaders.json_file import read_json_object
from flashflow.loaders.loaded_model import GenerationInfo, LoadedModel, check_weights
from flashflow.models.config import ModelConfig, config_from_dict

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["is_checkpoint", "load_checkpoint", "save_checkpoint"]

_FORMAT = "flashflow.checkpoint"


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
    check_weights(config, weights, set(tensors) - set(weights), str(folder))
    generation = fields.get("generation", {})
    if not isinstance(generation, dict):
        raise DataLossError(f"{folder / 'config.json'}: generation must be an object", op="generation")
    return LoadedModel(
        name=folder.resolve().name,
        config=config,
        weights=weights,
        tokenizer_json=read_tokenizer(folder, "gpt-2"),
        generation=GenerationInfo.from_dict(generation),
    )


def save_checkpoint(
    folder: Path,
    config: ModelConfig,
    state_dict: Mapping[str, Tensor],
    tokenizer_json: bytes | None = None,
    generation: GenerationInfo | None = None,
) -> None:
    """Writes what load_checkpoint reads. Each file is replaced whole, so that a reader never sees half of one.

    Args:
      state_dict: the module's, exactly config.weight_shapes().
    """
    from safetensors.torch import save_file

    shapes = {name: tuple(value.shape) for name, value in state_dict.items()}
    if shapes != config.weight_shapes():
        wrong = sorted(set(shapes.items()) ^ set(config.weight_shapes().items()))[0][0]
        raise InvalidArgumentError(f"state_dict and config disagree on weight {wrong!r}", op=wrong)
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "model.safetensors.partial"
    weights.touch()
    mode = weights.stat().st_mode
    save_file({name: value.detach().cpu().contiguous() for name, value in state_dict.items()}, weights)
    weights.chmod(mode)  # safetensors makes files that only their owner can read
    weights.replace(folder / "model.safetensors")
    if tokenizer_json is not None:
        _replace(folder / "tokenizer.json", tokenizer_json)
    fields: dict[str, Any] = {"format": _FORMAT, "architecture": config.architecture, "model": config.to_dict()}
    fields["generation"] = (generation or GenerationInfo()).to_dict()
    _replace(folder / "config.json", json.dumps(fields, indent=2).encode("utf-8") + b"\n")


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)
