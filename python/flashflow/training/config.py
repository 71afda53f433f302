"""What a training run is asked to do."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

from flashflow.errors import InvalidArgumentError

# May differ between a run and its resumption: they change how far, how often, where and by what code, not what is
# computed (but for the last bits).
_MAY_DIFFER = {
    "steps",
    "eval_every",
    "eval_batches",
    "save_every",
    "log_every",
    "keep_last",
    "patience",
    "tensorboard",
    "device",
    "parallel",
    "compile",
    "activation_checkpointing",
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Hyperparameters of one run, checked when made (InvalidArgumentError names the flag).

    Attributes:
        preset: of the model: tiny | mini | small.
        dropout: share of activations dropped in training.
        steps: optimizer steps of the whole run, those before a resumption included.
        batch_size: sequences of one forward and backward pass of one process.
        grad_accum: passes summed up for one step; a step sees batch_size * grad_accum * seq_len tokens a process.
        seq_len: tokens of one sequence, at most the model's context.
        lr: peak learning rate; linear warm-up over `warmup` steps, then a cosine down to a tenth.
        weight_decay: AdamW's, decoupled; of matrices only.
        grad_clip: the gradient's largest norm; 0 does not clip.
        amp_dtype: of matrix products and attention under autocast: bf16 | fp16; None computes in fp32.
        qat: learn with the rounding of int8 layers: int8; None learns in floats.
        compile: compile the step with torch.compile's default backend.
        activation_checkpointing: keep only each block's input, and compute the rest again in the backward pass.
        eval_every: steps between evaluations on held-out text; 0: only at the end.
        eval_batches: batches of one evaluation at most.
        patience: stop after so many evaluations without a better validation loss; 0 goes on to the end.
        save_every: steps between checkpoints; 0: only at the end.
        keep_last: checkpoints kept, the best one not counted.
        log_every: steps between lines of metrics. Only then, and before a save, is the loss read back from a GPU.
        tensorboard: write scalars for TensorBoard too.
        seed: of the weights, of the order of the data and of dropout.
        device: auto | cpu | cuda.
        parallel: how several processes share the work: ddp (each has the model) | fsdp (each has a part of it).
    """

    preset: str = "tiny"
    dropout: float = 0.0
    steps: int = 200
    batch_size: int = 8
    grad_accum: int = 1
    seq_len: int = 128
    lr: float = 1e-3
    warmup: int = 20
    weight_decay: float = 0.1
    grad_clip: float = 1.0
    amp_dtype: str | None = None
    qat: str | None = None
    compile: bool = False
    activation_checkpointing: bool = False
    eval_every: int = 50
    eval_batches: int = 8
    patience: int = 0
    save_every: int = 100
    keep_last: int = 2
    log_every: int = 1
    tensorboard: bool = False
    seed: int = 0
    device: str = "auto"
    parallel: str = "ddp"

    def __post_init__(self) -> None:
        for name, low in {
            "steps": 1,
            "batch_size": 1,
            "grad_accum": 1,
            "seq_len": 1,
            "warmup": 0,
            "eval_every": 0,
            "eval_batches": 1,
            "patience": 0,
            "save_every": 0,
            "keep_last": 1,
            "log_every": 1,
            "seed": 0,
        }.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value < 2**63:
                self._refuse(name, f"an integer of at least {low}")
        checks: dict[str, tuple[Callable[[float], bool], str]] = {
            "lr": (lambda v: v > 0, "a number above 0"),
            "dropout": (lambda v: 0 <= v < 1, "a number from 0 to below 1"),
            "weight_decay": (lambda v: v >= 0, "a number of at least 0"),
            "grad_clip": (lambda v: v >= 0, "a number of at least 0 (0 does not clip)"),
        }
        for name, (holds, expected) in checks.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                self._refuse(name, expected)
            if not (math.isfinite(value) and holds(value)):
                self._refuse(name, expected)
        for name in ("compile", "activation_checkpointing", "tensorboard"):
            if not isinstance(getattr(self, name), bool):
                self._refuse(name, "true or false")
        choices: dict[str, tuple[tuple[str | None, ...], str]] = {
            "amp_dtype": ((None, "bf16", "fp16"), "bf16 or fp16"),
            "qat": ((None, "int8"), "int8"),
            "device": (("auto", "cpu", "cuda"), "auto, cpu or cuda"),
            "parallel": (("ddp", "fsdp"), "ddp or fsdp"),
        }
        for name, (known, expected) in choices.items():
            if getattr(self, name) not in known:
                self._refuse(name, expected)

        if self.qat and self.activation_checkpointing:
            raise InvalidArgumentError(
                "--activation-checkpointing runs blocks twice, and --qat would count their inputs twice",
                op="--qat",
                hint="leave one of them out",
            )

    def _refuse(self, name: str, expected: str) -> None:
        flag = "--" + name.replace("_", "-")
        raise InvalidArgumentError(f"{flag} is {getattr(self, name)!r}: expected {expected}", op=flag)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def check_resumes(self, saved: dict[str, Any]) -> None:
        """Raises InvalidArgumentError where this config would not continue the run that saved `saved`."""
        for field in fields(self):
            # A field that the saved run did not know of had its default.
            mine, theirs = getattr(self, field.name), saved.get(field.name, field.default)
            if field.name not in _MAY_DIFFER and mine != theirs:
                flag = "--" + field.name.replace("_", "-")
                raise InvalidArgumentError(
                    f"{flag} is {mine!r}, but the run to resume has {theirs!r}",
                    op=flag,
                    hint=f"{_how_to(flag, theirs)}, or train into another --save-dir",
                )


def _how_to(flag: str, value: object) -> str:
    if value is True:
        return f"resume it with {flag}"
    return f"resume it without {flag}" if value is None or value is False else f"resume it with {flag} {value}"
