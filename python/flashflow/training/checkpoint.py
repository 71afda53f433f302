"""Checkpoints of a training run: folders that LLM and the exporters load as a model, and that a run resumes from.

    SAVE_DIR/
        metrics.jsonl                 one line a step or evaluation
        step-00000100/
            model.safetensors         the weights
            config.json, ...          the rest of the model
            optimizer.safetensors     AdamW's moments and the random generators' states
            trainer.json              the step, the run's configuration
        latest -> step-00000100
        model.safetensors -> latest/model.safetensors, and the rest: SAVE_DIR itself is the newest model

A checkpoint appears by one rename. There is no pickle.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from flashflow.errors import DataLossError, InvalidArgumentError, NotFoundError

_STEP_DIR = re.compile(r"step-(\d{8,})")


def checkpoints(save_dir: Path) -> list[Path]:
    """The checkpoint folders, the oldest first."""
    if not save_dir.is_dir():
        return []
    steps = [(int(m.group(1)), p) for p in save_dir.iterdir() if (m := _STEP_DIR.fullmatch(p.name)) and p.is_dir()]
    return [path for _, path in sorted(steps)]


def newest_checkpoint(save_dir: Path) -> Path:
    """The folder to resume from.

    Raises:
        NotFoundError: there is none.
    """
    saved = checkpoints(save_dir)
    if not saved:
        raise NotFoundError(f"{save_dir} has no checkpoint to resume from", op="--resume")
    return saved[-1]


def save_checkpoint(
    save_dir: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    write_model: Callable[[Path], None],
    state: Mapping[str, Any],
    keep_last: int,
) -> Path:
    """Writes the state after `step` steps.

    Args:
        save_dir: the run's folder.
        step: optimizer steps done.
        model: whose parameters the optimizer has moments of.
        optimizer: over the model's parameters.
        write_model: writes the model's files into a folder, among them the state_dict as model.safetensors.
        state: JSON values for trainer.json.
        keep_last: older checkpoints than these are deleted afterwards.

    Returns:
        The checkpoint's folder.
    """
    name = f"step-{step:08d}"
    part, final = save_dir / f".{name}.part", save_dir / name
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    write_model(part)
    model_files = [path.name for path in part.iterdir()]
    save_file(_training_state(model, optimizer), part / "optimizer.safetensors")
    text = json.dumps({"step": step, **state}, indent=2) + "\n"
    (part / "trainer.json").write_text(text, encoding="utf-8")
    mode = (part / "trainer.json").stat().st_mode
    for path in part.iterdir():
        path.chmod(mode)  # safetensors makes files that only their owner can read
        _sync(path)
    _sync(part)
    shutil.rmtree(final, ignore_errors=True)
    part.rename(final)
    _replace_link(save_dir / "latest", name)
    for file in model_files:
        _replace_link(save_dir / file, f"latest/{file}")
    _sync(save_dir)
    for old in checkpoints(save_dir)[:-keep_last]:
        shutil.rmtree(old)
    return final


def load_trainer_state(folder: Path) -> dict[str, Any]:
    """A checkpoint's trainer.json.

    Raises:
        NotFoundError, DataLossError: it is missing, or not what `save_checkpoint` wrote.
    """
    path = folder / "trainer.json"
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(state, dict) or not isinstance(state["step"], int) or not isinstance(state["config"], dict):
            raise ValueError("not the state of a training run")
    except FileNotFoundError as error:
        raise NotFoundError(f"{folder} has no trainer.json", hint="it was not made by train") from error
    except (ValueError, KeyError, RecursionError) as error:
        raise DataLossError(f"{path} is damaged: {error}", hint="resume from an older step-* folder") from error
    return state


def restore_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Puts weights, AdamW's moments and the random generators' states back, bit for bit.

    Raises:
        DataLossError: a file is damaged.
        InvalidArgumentError: it is the state of another model; the tensor is named.
    """
    weights = _load(folder / "model.safetensors")
    own = model.state_dict()
    _check_names(folder / "model.safetensors", set(own), set(weights))
    with torch.no_grad():
        for name, tensor in weights.items():
            if own[name].shape != tensor.shape:
                raise InvalidArgumentError(
                    f"{name} is {list(tensor.shape)} in {folder}, but {list(own[name].shape)} in this model", op=name
                )
            own[name].copy_(tensor)
    saved = _load(folder / "optimizer.safetensors")
    _check_names(folder / "optimizer.safetensors", _training_state_names(model), set(saved) - {"rng.cuda"})
    for name, parameter in model.named_parameters():
        moments = {key: saved[f"{key}.{name}"] for key in ("exp_avg", "exp_avg_sq")}
        for key, tensor in moments.items():
            if tensor.shape != parameter.shape or tensor.dtype != parameter.dtype:
                raise DataLossError(f"{key}.{name} in {folder}/optimizer.safetensors does not fit its parameter")
        optimizer.state[parameter] = {
            "step": saved[f"step.{name}"].clone(),
            **{key: tensor.to(parameter.device) for key, tensor in moments.items()},
        }
    torch.set_rng_state(saved["rng.cpu"])
    if "rng.cuda" in saved and torch.cuda.is_available():
        torch.cuda.set_rng_state(saved["rng.cuda"])


def _training_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    tensors = {"rng.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            tensors[f"{key}.{name}"] = value.detach().cpu().contiguous()
    return tensors


def _training_state_names(model: nn.Module) -> set[str]:
    return {"rng.cpu"} | {
        f"{key}.{name}" for name, _ in model.named_parameters() for key in ("step", "exp_avg", "exp_avg_sq")
    }


def _check_names(path: Path, expected: set[str], found: set[str]) -> None:
    for what, names in (("lacks", expected - found), ("has the unknown", found - expected)):
        if names:
            raise InvalidArgumentError(f"{path} {what} tensor {min(names)}: it is of another model", op=min(names))


def _load(path: Path) -> dict[str, torch.Tensor]:
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no {path}") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise DataLossError(f"{path} is damaged: {error}", hint="resume from an older step-* folder") from error
    return tensors


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace_link(link: Path, target: str) -> None:
    part = link.with_name(f".{link.name}.part")
    with contextlib.suppress(FileNotFoundError):
        part.unlink()
    part.symlink_to(target)
    os.replace(part, link)
