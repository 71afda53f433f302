"""Checkpoints of a training run: folders that LLM and the exporters load as a model, and that a run resumes from.

    SAVE_DIR/
        metrics.jsonl                 one line a step or evaluation
        step-00000100/
            model.safetensors         the weights
            config.json, ...          the rest of the model
            optimizer.safetensors     AdamW's moments and the random generators' states
            trainer.json              the step, the run's configuration, the best evaluation, the loss scale
        latest -> step-00000100
        best -> step-00000100         where the run stops early
        model.safetensors -> latest/model.safetensors, and the rest: SAVE_DIR itself is the newest model

A checkpoint appears by one rename and disappears by one, so a process may be killed between any two operations: there
is the newest whole checkpoint, or the one before it, and links are set right when the run is resumed.
There is no pickle.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from flashflow.errors import DataLossError, FailedPreconditionError, InvalidArgumentError, NotFoundError
from flashflow.training.distributed import World, spread_like, whole

_STEP_DIR = re.compile(r"step-(\d{8,})")
_LEFTOVER = re.compile(r"\.step-\d{8,}\.(part|old)")
_OWN_FILES = ("optimizer.safetensors", "trainer.json")


def checkpoint_name(step: int) -> str:
    """The name of the folder with the state after `step` optimizer steps."""
    return f"step-{step:08d}"


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


@dataclass(frozen=True)
class TrainingState:
    """What a checkpoint holds of a run, whole and on the CPU.

    Attributes:
        weights: the model's state_dict.
        optimizer: the content of optimizer.safetensors.
    """

    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]


def collect_state(model: nn.Module, optimizer: torch.optim.Optimizer, world: World) -> TrainingState | None:
    """Gathers the state from all processes, each of which must call; None in all but the main one."""
    weights = {name: _collected(value, world) for name, value in model.state_dict().items()}
    tensors: dict[str, Tensor | None] = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            tensors[f"{key}.{name}"] = _collected(value, world)
    device = next(model.parameters()).device
    for kind, state in _random_states(device).items():
        for rank, gathered in enumerate(world.gather(state.to(device))):
            tensors[_random_name(kind, rank)] = gathered.cpu()
    if not world.is_main:
        return None
    return TrainingState(
        {name: value for name, value in weights.items() if value is not None},
        {name: value for name, value in tensors.items() if value is not None},
    )


def write_checkpoint(
    save_dir: Path,
    step: int,
    state: TrainingState,
    write_model: Callable[[Path, Mapping[str, Tensor]], None],
    facts: Mapping[str, Any],
    keep_last: int,
    best_step: int = 0,
) -> Path:
    """Writes the state after `step` steps. Where there is a checkpoint of that step already, that one stays.

    Args:
        save_dir: the run's folder.
        step: optimizer steps done.
        state: of `collect_state`.
        write_model: writes the model's files with these weights into a folder.
        facts: JSON values for trainer.json.
        keep_last: older checkpoints than these are deleted afterwards.
        best_step: of the checkpoint that `best` names and that is kept however old it is; 0 where there is none.

    Returns:
        The checkpoint's folder.

    Raises:
        FailedPreconditionError: it cannot be written, as on a full disk; nothing of it is left.
    """
    name = checkpoint_name(step)
    part, final = save_dir / f".{name}.part", save_dir / name
    _remove_leftovers(save_dir)
    if not final.is_dir():
        try:
            part.mkdir(parents=True)
            write_model(part, state.weights)
            save_file(state.optimizer, part / "optimizer.safetensors")
            text = json.dumps({"step": step, **facts}, indent=2) + "\n"
            (part / "trainer.json").write_text(text, encoding="utf-8")
            mode = (part / "trainer.json").stat().st_mode
            for path in part.iterdir():
                path.chmod(mode)  # safetensors makes files that only their owner can read
                _sync(path)
            _sync(part)
            part.rename(final)
        except (OSError, SafetensorError) as error:  # the latter also has what the system says
            shutil.rmtree(part, ignore_errors=True)
            saved = checkpoints(save_dir)
            raise FailedPreconditionError(
                f"the checkpoint of step {step} cannot be written into {save_dir}: {error}",
                op="--save-dir",
                hint=f"mend that, then --resume goes on from {saved[-1].name}" if saved else "",
            ) from error
        _sync(save_dir)
    tidy_checkpoints(save_dir, keep_last, best_step)
    return final


def tidy_checkpoints(save_dir: Path, keep_last: int, best_step: int) -> None:
    """Makes SAVE_DIR the newest model and `best` the best; deletes what is too old, and what killed processes left."""
    newest = newest_checkpoint(save_dir)
    if best_step and (save_dir / checkpoint_name(best_step)).is_dir():
        _replace_link(save_dir / "best", checkpoint_name(best_step))
    _replace_link(save_dir / "latest", newest.name)
    for path in sorted(newest.iterdir()):
        if path.name not in _OWN_FILES:
            _replace_link(save_dir / path.name, f"latest/{path.name}")
    _sync(save_dir)
    for old in checkpoints(save_dir)[:-keep_last]:
        if old.name != checkpoint_name(best_step):
            doomed = old.with_name(f".{old.name}.old")
            old.rename(doomed)
            shutil.rmtree(doomed)
    _remove_leftovers(save_dir)


def load_trainer_state(folder: Path) -> dict[str, Any]:
    """A checkpoint's trainer.json.

    Raises:
        NotFoundError, DataLossError: it is missing, or not what `write_checkpoint` wrote.
    """
    path = folder / "trainer.json"
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(state, dict) or not isinstance(state["step"], int) or not isinstance(state["config"], dict):
            raise ValueError("not the state of a training run")
    except FileNotFoundError as error:
        raise NotFoundError(f"{folder} has no trainer.json", hint="it was not made by train") from error
    except (ValueError, KeyError, RecursionError) as error:
        raise DataLossError(f"{path} is damaged: {error}", hint=_use_older(folder)) from error
    return state


def restore_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, world: World) -> None:
    """Puts weights, AdamW's moments and the random generators' states back, bit for bit; every process must call.

    Raises:
        DataLossError: a file is damaged.
        InvalidArgumentError: it is the state of another model; the tensor is named.
    """
    weights = _load(folder / "model.safetensors")
    own = model.state_dict()
    _check_names(folder / "model.safetensors", set(own), set(weights))
    for name, tensor in weights.items():
        if own[name].shape != tensor.shape:
            raise InvalidArgumentError(
                f"{name} is {list(tensor.shape)} in {folder}, but {list(own[name].shape)} in this model",
                op=name,
                hint="resume with the --preset of that run, or train into another --save-dir",
            )
    saved = _load(folder / "optimizer.safetensors")
    states = {name for name in saved if name.startswith("rng.")}
    _check_names(folder / "optimizer.safetensors", _moment_names(model), set(saved) - states)
    for name, parameter in model.named_parameters():
        for key in ("exp_avg", "exp_avg_sq"):
            if saved[f"{key}.{name}"].shape != parameter.shape or saved[f"{key}.{name}"].dtype != parameter.dtype:
                raise DataLossError(f"{key}.{name} in {folder}/optimizer.safetensors does not fit its parameter")
    with torch.no_grad():
        for name, tensor in weights.items():
            own[name].copy_(spread_like(tensor, own[name]))
    for name, parameter in model.named_parameters():
        steps = saved[f"step.{name}"]
        optimizer.state[parameter] = {
            # A fused optimizer counts on the GPU.
            "step": steps.to(parameter.device) if optimizer.defaults.get("fused") else steps.clone(),
            **{key: spread_like(saved[f"{key}.{name}"], parameter) for key in ("exp_avg", "exp_avg_sq")},
        }
    device = next(model.parameters()).device
    for kind in _random_states(device):
        # A process that the saved run did not have goes on with the state of its seed.
        if (random := saved.get(_random_name(kind, world.rank))) is not None:
            torch.set_rng_state(random) if kind == "cpu" else torch.cuda.set_rng_state(random, device)


def _collected(tensor: Tensor, world: World) -> Tensor | None:
    value = whole(tensor.detach())
    return value.cpu().contiguous() if world.is_main else None


def _random_states(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _random_name(kind: str, rank: int) -> str:
    return f"rng.{kind}" + (f".{rank}" if rank else "")


def _moment_names(model: nn.Module) -> set[str]:
    return {f"{key}.{name}" for name, _ in model.named_parameters() for key in ("step", "exp_avg", "exp_avg_sq")}


def _check_names(path: Path, expected: set[str], found: set[str]) -> None:
    for what, names in (("lacks", expected - found), ("has the unknown", found - expected)):
        if names:
            raise InvalidArgumentError(
                f"{path} {what} tensor {min(names)}: it is of another model",
                op=min(names),
                hint="resume with the --preset of that run, or train into another --save-dir",
            )


def _load(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no {path}") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise DataLossError(f"{path} is damaged: {error}", hint=_use_older(path.parent)) from error
    return tensors


def _use_older(folder: Path) -> str:
    return f"delete {folder}; --resume then takes the checkpoint before it, or start anew in another --save-dir"


def _remove_leftovers(save_dir: Path) -> None:
    """Of processes that were killed."""
    if save_dir.is_dir():
        for path in save_dir.iterdir():
            if _LEFTOVER.fullmatch(path.name):
                shutil.rmtree(path)


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
