"""What a training run is asked to do."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

from flashflow.errors import InvalidArgumentError

# May differ between a run and its resumption: they change how far, how often and where, not what is computed.
_MAY_DIFFER = {"steps", "eval_every", "eval_batches", "save_every", "keep_last", "device"}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Hyperparameters of one run, checked when made (InvalidArgumentError names the flag).

    Attributes:
        preset: of the model: tiny | small.
        steps: optimizer steps of the whole run, those before a resumption included.
        batch_size: sequences of one forward and backward pass.
        grad_accum: passes summed up for one step; a step sees batch_size * grad_accum * seq_len tokens.
        seq_len: tokens of one sequence, at most the model's context.
        lr: peak learning rate; linear warm-up over `warmup` steps, then a cosine down to a tenth.
        weight_decay: AdamW's, decoupled; of matrices only.
        grad_clip: the gradient's largest norm; 0 does not clip.
        eval_every: steps between evaluations on held-out text; 0: only at the end.
        eval_batches: batches of one evaluation at most.
        save_every: steps between checkpoints; 0: only at the end.
        keep_last: checkpoints kept.
        seed: of the weights, of the order of the data and of dropout.
        device: auto | cpu | cuda.
    """

    preset: str = "tiny"
    steps: int = 200
    batch_size: int = 8
    grad_accum: int = 1
    seq_len: int = 128
    lr: float = 1e-3
    warmup: int = 20
    weight_decay: float = 0.1
    grad_clip: float = 1.0
    eval_every: int = 50
    eval_batches: int = 8
    save_every: int = 100
    keep_last: int = 2
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, low in {
            "steps": 1,
            "batch_size": 1,
            "grad_accum": 1,
            "seq_len": 1,
            "warmup": 0,
            "eval_every": 0,
            "eval_batches": 1,
            "save_every": 0,
            "keep_last": 1,
            "seed": 0,
        }.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value < 2**63:
                self._refuse(name, f"an integer of at least {low}")
        checks: dict[str, tuple[Callable[[float], bool], str]] = {
            "lr": (lambda v: v > 0, "a number above 0"),
            "weight_decay": (lambda v: v >= 0, "a number of at least 0"),
            "grad_clip": (lambda v: v >= 0, "a number of at least 0 (0 does not clip)"),
        }
        for name, (holds, expected) in checks.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                self._refuse(name, expected)
            if not (math.isfinite(value) and holds(value)):
                self._refuse(name, expected)
        if self.device not in ("auto", "cpu", "cuda"):
            self._refuse("device", "auto, cpu or cuda")

    def _refuse(self, name: str, expected: str) -> None:
        flag = "--" + name.replace("_", "-")
        raise InvalidArgumentError(f"{flag} is {getattr(self, name)!r}: expected {expected}", op=flag)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def check_resumes(self, saved: dict[str, Any]) -> None:
        """Raises InvalidArgumentError where this config would not continue the run that saved `saved`."""
        for field in fields(self):
            mine, theirs = getattr(self, field.name), saved.get(field.name)
            if field.name not in _MAY_DIFFER and mine != theirs:
                flag = "--" + field.name.replace("_", "-")
                raise InvalidArgumentError(
                    f"{flag} is {mine!r}, but the run to resume has {theirs!r}",
                    op=flag,
                    hint=f"resume it with {flag} {theirs}, or train into another --save-dir",
                )
