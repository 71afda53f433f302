"""The training loop: GPTSmall on a text, in fp32."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from flashflow.errors import FailedPreconditionError, InvalidArgumentError
from flashflow.log import logger
from flashflow.training.checkpoint import load_trainer_state, newest_checkpoint, restore_checkpoint, save_checkpoint
from flashflow.training.config import TrainConfig
from flashflow.training.data import Dataset
from flashflow.training.optimizer import make_adamw
from flashflow.training.schedule import cosine_with_warmup

Metrics = dict[str, Any]


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
        step: optimizer steps done, those before a resumption included.
        checkpoint: the folder with the state at the end.
        validation_loss: in nats a token on the held-out text; None when interrupted.
        interrupted: whether it was asked to stop before its last step.
    """

    step: int
    checkpoint: Path
    validation_loss: float | None
    interrupted: bool


@dataclass
class Trainer:
    """One run.

    Attributes:
        model: forward(input_ids[B, S] i64, position_ids[B, S] i64) -> logits[B, S, V] f32.
        dataset: tokens.
        config: hyperparameters.
        save_dir: where checkpoints and metrics.jsonl go.
        write_model: writes the model as it is now, with what makes it loadable, into a folder.
        data_hash: of text and tokenizer; a resumed run must have the same.
        on_metrics: called after each step, each evaluation and each save with what metrics.jsonl gets.
        should_stop: asked after each step; True saves and ends the run.
    """

    model: nn.Module
    dataset: Dataset
    config: TrainConfig
    save_dir: Path
    write_model: Callable[[Path], None]
    data_hash: str
    on_metrics: Callable[[Metrics], None] = lambda metrics: None
    should_stop: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        self.device = pick_device(self.config.device)
        self.model.to(self.device)
        self.optimizer = make_adamw(self.model, lr=self.config.lr, weight_decay=self.config.weight_decay)
        self.step = 0
        self._started = time.monotonic()

    def resume(self) -> None:
        """Continues from the newest checkpoint of save_dir. On the CPU the run goes on bit for bit as it would have.

        Raises:
            NotFoundError: there is none.
            InvalidArgumentError: it is of a run with other data or hyperparameters.
        """
        newest = newest_checkpoint(self.save_dir)
        state = load_trainer_state(newest)
        self.config.check_resumes(state["config"])
        if state.get("data_hash") != self.data_hash:
            raise InvalidArgumentError("the run to resume was trained on other data", op="--data")
        if state["step"] > self.config.steps:
            raise InvalidArgumentError(
                f"--steps is {self.config.steps}, but {newest} is already at step {state['step']}", op="--steps"
            )
        restore_checkpoint(newest, self.model, self.optimizer)
        self.step = state["step"]
        self._drop_metrics_after(self.step)

    def run(self) -> TrainResult:
        """Trains until config.steps steps are done or should_stop says so. There is a checkpoint of the end."""
        config = self.config
        self.save_dir.mkdir(parents=True, exist_ok=True)
        validation_loss = None
        interrupted = False
        with open(self.save_dir / "metrics.jsonl", "a", encoding="utf-8") as log:
            while self.step < config.steps and not interrupted:
                self._record(log, self._train_step())
                last = self.step == config.steps
                interrupted = not last and self.should_stop()
                if last or (config.eval_every and self.step % config.eval_every == 0 and not interrupted):
                    validation_loss = self.evaluate()
                    perplexity = math.exp(min(validation_loss, 700.0))
                    self._record(log, {"step": self.step, "validation_loss": validation_loss, "perplexity": perplexity})
                if last or interrupted or (config.save_every and self.step % config.save_every == 0):
                    self._record(log, {"step": self.step, "checkpoint": self.save().name})
        if validation_loss is None and not interrupted:  # resumed with nothing left to do
            validation_loss = self.evaluate()
        checkpoint = self.save_dir / f"step-{self.step:08d}"
        return TrainResult(self.step, checkpoint, None if interrupted else validation_loss, interrupted)

    def evaluate(self) -> float:
        """Mean cross-entropy on the held-out text, in nats a token."""
        self.model.eval()
        total, count = 0.0, 0
        with torch.no_grad():
            for inputs, targets in self.dataset.validation_batches(self.config.batch_size, self.config.eval_batches):
                loss = self._loss(torch.from_numpy(inputs), torch.from_numpy(targets))
                total += loss.item() * targets.size
                count += targets.size
        self.model.train()
        return total / count

    def save(self) -> Path:
        """A checkpoint of this moment."""
        state = {"config": self.config.to_json(), "data_hash": self.data_hash, "torch": torch.__version__}
        return save_checkpoint(
            self.save_dir, self.step, self.model, self.optimizer, self.write_model, state, self.config.keep_last
        )

    def _train_step(self) -> Metrics:
        config = self.config
        began = time.monotonic()
        lr = cosine_with_warmup(self.step, steps=config.steps, warmup=config.warmup, peak=config.lr)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for micro in range(config.grad_accum):
            index = self.step * config.grad_accum + micro
            inputs, targets = self.dataset.train_batch(config.seed, index, config.batch_size)
            loss = self._loss(torch.from_numpy(inputs), torch.from_numpy(targets)) / config.grad_accum
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.grad_clip or math.inf).item()
        if not (math.isfinite(total) and math.isfinite(norm)):
            raise FailedPreconditionError(
                f"the training diverged at step {self.step + 1}: loss {total}, gradient norm {norm}",
                op="--lr",
                hint="use a smaller --lr or a longer --warmup; earlier checkpoints are kept",
            )
        self.optimizer.step()
        self.step += 1
        tokens = config.batch_size * config.grad_accum * config.seq_len
        return {
            "step": self.step,
            "loss": total,
            "lr": lr,
            "grad_norm": norm,
            "tokens": self.step * tokens,
            "tokens_per_s": tokens / max(time.monotonic() - began, 1e-9),
            "elapsed_s": time.monotonic() - self._started,
        }

    def _loss(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        inputs, targets = inputs.to(self.device), targets.to(self.device)
        positions = torch.arange(inputs.shape[1], device=self.device).expand_as(inputs)
        logits = self.model(inputs, positions)
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def _record(self, log: Any, metrics: Metrics) -> None:
        log.write(json.dumps(metrics) + "\n")
        log.flush()
        self.on_metrics(metrics)

    def _drop_metrics_after(self, step: int) -> None:
        """What the interrupted run recorded past its last checkpoint is trained, and recorded, once more."""
        path = self.save_dir / "metrics.jsonl"
        if not path.exists():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                logger.warning("%s has a damaged line, dropped: %.80r", path, line)
        part = path.with_name("metrics.jsonl.part")
        part.write_text("".join(kept), encoding="utf-8")
        os.replace(part, path)


def pick_device(name: str) -> torch.device:
    """auto is the GPU where torch finds one."""
    if name == "cuda" and not torch.cuda.is_available():
        raise FailedPreconditionError(
            "torch finds no CUDA device", op="--device", hint="use --device cpu, or a CUDA build of torch with a driver"
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
