"""The training loop: GPTSmall on a text."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from flashflow.errors import FailedPreconditionError, InvalidArgumentError
from flashflow.torch_device import torch_device
from flashflow.training.activation_checkpointing import checkpoint_blocks
from flashflow.training.checkpoint import (
    checkpoint_name,
    checkpoints,
    collect_state,
    load_trainer_state,
    newest_checkpoint,
    restore_checkpoint,
    tidy_checkpoints,
    write_checkpoint,
)
from flashflow.training.config import TrainConfig
from flashflow.training.data import Dataset
from flashflow.training.distributed import World, gradient_sync, parallelize, whole
from flashflow.training.early_stopping import BestLoss
from flashflow.training.loss import NextTokenLoss, fastest_attention
from flashflow.training.metrics import Metrics, MetricsLog, drop_metrics_after
from flashflow.training.optimizer import make_adamw
from flashflow.training.precision import Precision
from flashflow.training.schedule import cosine_with_warmup


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
        step: optimizer steps done, those before a resumption included.
        checkpoint: the folder with the state at the end.
        validation_loss: in nats a token on the held-out text; None when interrupted.
        interrupted: whether it was asked to stop before its last step.
        best: with a patience, the folder with the smallest validation loss; else None.
        best_validation_loss: of `best`.
        stopped_early: whether the validation loss has not become better for `patience` evaluations.
    """

    step: int
    checkpoint: Path
    validation_loss: float | None
    interrupted: bool
    best: Path | None = None
    best_validation_loss: float | None = None
    stopped_early: bool = False


@dataclass
class Trainer:
    """One run, or one process's part in it.

    Attributes:
        model: forward(input_ids[B, S] i64, position_ids[B, S] i64) -> logits[B, S, V] f32.
        dataset: tokens.
        config: hyperparameters.
        save_dir: where checkpoints and metrics.jsonl go.
        write_model: writes the model with these weights, and with what makes it loadable, into a folder.
        data_hash: of text and tokenizer; a resumed run must have the same.
        world: the processes of the run; all of them make the same calls.
        on_metrics: called in the main process after each line of metrics.jsonl with what the line says.
        should_stop: asked after each step, by several processes after each line; True saves and ends the run.
    """

    model: nn.Module
    dataset: Dataset
    config: TrainConfig
    save_dir: Path
    write_model: Callable[[Path, Mapping[str, Tensor]], None]
    data_hash: str
    world: World = field(default_factory=World)
    on_metrics: Callable[[Metrics], None] = lambda metrics: None
    should_stop: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        config = self.config
        self.device = torch_device(config.device, self.world.local_rank)
        self.precision = Precision(self.device, config.amp_dtype)
        self.model.to(self.device)
        if config.activation_checkpointing:
            checkpoint_blocks(self.model)
        # In this order: the gradients of compiled code are averaged, and the optimizer sees each process's own parts.
        loss = NextTokenLoss(self.model)
        if config.compile:
            loss.compile()
        self.loss = parallelize(loss, config.parallel, self.world)
        self.optimizer = make_adamw(self.model, lr=config.lr, weight_decay=config.weight_decay)
        if self.world.rank:
            torch.manual_seed(config.seed + self.world.rank)  # of dropout; the weights are those of the main process
        self.step = 0
        self.best = BestLoss()
        self._loss_sum = torch.zeros((), device=self.device)
        self._norm = torch.zeros((), device=self.device)
        self._diverged_at = torch.zeros((), dtype=torch.int64, device=self.device)  # the first step; 0: none
        self._began = self._timed_from = time.monotonic()
        self._timed_steps = 0

    def resume(self) -> None:
        """Goes on from the newest checkpoint of save_dir.

        Raises:
            NotFoundError: there is none.
            DataLossError: it is damaged.
            InvalidArgumentError: it is of a run with another configuration or other data.
        """
        newest = newest_checkpoint(self.save_dir)
        state = load_trainer_state(newest)
        self.config.check_resumes(self._seen_from_here(state["config"], state.get("processes", 1)))
        if state.get("data_hash") != self.data_hash:
            raise InvalidArgumentError(
                "the run to resume was trained on other data",
                op="--data",
                hint="name the text of that run, or train into another --save-dir",
            )
        if state["step"] > self.config.steps:
            raise InvalidArgumentError(
                f"--steps is {self.config.steps}, but {newest} is already at step {state['step']}",
                op="--steps",
                hint="name a larger number",
            )
        self.best = BestLoss.from_json(state.get("best"))
        restore_checkpoint(newest, self.model, self.optimizer, self.world)
        self.precision.restore(state.get("loss_scaler", {}))
        self.step = state["step"]
        if self.world.is_main:
            tidy_checkpoints(self.save_dir, self.config.keep_last, self.best.step)

    def run(self) -> TrainResult:
        """Trains until config.steps steps are done, the loss stops falling, or should_stop says so. The end is saved.

        Raises:
            FailedPreconditionError: the loss is no number any more; the step and the last good checkpoint are named.
        """
        config = self.config
        validation_loss = None
        interrupted = False
        with self._open_log() as log:
            self._restart_clock()
            while self.step < config.steps and not interrupted and not self._hopeless():
                self.train_step()
                last = self.step == config.steps
                shown = last or self.step % config.log_every == 0
                if shown:
                    self._record(log, self.read_metrics())
                interrupted = not last and self._asked_to_stop(shown)
                evaluated = last or (bool(config.eval_every) and self.step % config.eval_every == 0)
                better = False
                if evaluated and not interrupted:
                    validation_loss = self.evaluate()
                    perplexity = math.exp(min(validation_loss, 700.0))
                    self._record(log, {"step": self.step, "validation_loss": validation_loss, "perplexity": perplexity})
                    better = bool(config.patience) and self.best.see(self.step, validation_loss)
                due = bool(config.save_every) and self.step % config.save_every == 0
                if last or interrupted or better or due or self._hopeless():
                    self.read_metrics()  # what has diverged is not saved
                    self._record(log, {"step": self.step, "checkpoint": self.save().name})
                if evaluated or due:
                    self._restart_clock()
        if validation_loss is None and not interrupted:  # resumed with nothing left to do
            validation_loss = self.evaluate()
        return TrainResult(
            step=self.step,
            checkpoint=self.save_dir / checkpoint_name(self.step),
            validation_loss=None if interrupted else validation_loss,
            interrupted=interrupted,
            best=self.save_dir / checkpoint_name(self.best.step) if self.best.step else None,
            best_validation_loss=self.best.loss if self.best.step else None,
            stopped_early=self._hopeless() and self.step < config.steps,
        )

    def evaluate(self) -> float:
        """Mean cross-entropy on the held-out text, in nats a token; the compiler has no part in it."""
        self.model.eval()
        totals = torch.zeros(2, dtype=torch.float64, device=self.device)
        batches = list(self.dataset.validation_batches(self.config.batch_size, self.config.eval_batches))
        eager = torch.compiler.set_stance("force_eager")
        with torch.no_grad(), eager, fastest_attention(), self.precision.autocast():
            # As many passes in each process, since fsdp's are collective: what one has too many counts nothing.
            for first in range(0, len(batches), self.world.size):
                mine = first + self.world.rank
                inputs, targets = batches[min(mine, len(batches) - 1)]
                loss = self.loss(self._to_device(inputs), self._to_device(targets)).double()
                if mine < len(batches):
                    totals += torch.stack([loss * targets.size, torch.full_like(loss, targets.size)])
        self.model.train()
        total, count = self.world.sum(totals).tolist()
        return float(total / count)

    def save(self) -> Path:
        """A checkpoint of this moment; all processes must call."""
        state = collect_state(self.model, self.optimizer, self.world)
        if state is not None:
            facts = {
                "config": self.config.to_json(),
                "processes": self.world.size,
                "data_hash": self.data_hash,
                "torch": torch.__version__,
                "best": self.best.to_json(),
                "loss_scaler": self.precision.state(),
            }
            write_checkpoint(
                self.save_dir, self.step, state, self.write_model, facts, self.config.keep_last, self.best.step
            )
        self.world.barrier()
        return self.save_dir / checkpoint_name(self.step)

    def train_step(self) -> None:
        """One optimizer step. Nothing here waits for a GPU, so the next batch is made while it computes."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = self._lr()
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        self._loss_sum = torch.zeros_like(self._loss_sum)
        scaler = self.precision.scaler
        for micro in range(config.grad_accum):
            inputs, targets = self._train_batch(self.step * config.grad_accum + micro)
            with fastest_attention(), gradient_sync(self.loss, micro == config.grad_accum - 1):
                with self.precision.autocast():
                    loss = self.loss(inputs, targets) / config.grad_accum
                scaler.scale(loss).backward()
            self._loss_sum += loss.detach()
        scaler.unscale_(self.optimizer)
        self._norm = whole(torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.grad_clip or math.inf))
        scaler.step(self.optimizer)
        scaler.update()
        self.step += 1
        self._timed_steps += 1
        bad = ~torch.isfinite(self._loss_sum)
        if not scaler.is_enabled():  # whose overflows are skipped
            bad = bad | ~torch.isfinite(self._norm)
        self._diverged_at = torch.where((self._diverged_at == 0) & bad, self.step, self._diverged_at)

    def _lr(self) -> float:
        """Of the step after the last one done."""
        config = self.config
        return cosine_with_warmup(self.step, steps=config.steps, warmup=config.warmup, peak=config.lr)

    def _train_batch(self, index: int) -> tuple[Tensor, Tensor]:
        """This process's rows of batch number `index` of the run."""
        size, rank, rows = self.world.size, self.world.rank, self.config.batch_size
        inputs, targets = self.dataset.train_batch(self.config.seed, index, rows * size)
        mine = slice(rank * rows, (rank + 1) * rows)
        return self._to_device(inputs[mine]), self._to_device(targets[mine])

    def _to_device(self, rows: npt.NDArray[np.int64]) -> Tensor:
        # In one piece: a strided copy to a GPU would be made by way of pageable memory and wait for the GPU.
        tensor = torch.from_numpy(np.ascontiguousarray(rows))
        return tensor if self.device.type == "cpu" else tensor.pin_memory().to(self.device, non_blocking=True)

    def read_metrics(self) -> Metrics:
        """The figures of the last step, which waits for it.

        Raises:
            FailedPreconditionError: a loss or a gradient was no number, in any process.
        """
        loss = self.world.sum(self._loss_sum / self.world.size)
        diverged_at = self.world.max(self._diverged_at)
        values: list[float] = torch.stack([loss.double(), self._norm.double(), diverged_at.double()]).tolist()
        scale = self.precision.scaler.get_scale() if self.precision.scaler.is_enabled() else None
        if values[2] or (scale is not None and scale < 1):
            self._refuse_diverged(int(values[2]) or self.step, values[0], values[1])
        config = self.config
        tokens = config.batch_size * config.grad_accum * config.seq_len * self.world.size
        now = time.monotonic()
        metrics: Metrics = {
            "step": self.step,
            "loss": values[0],
            "lr": self.optimizer.param_groups[0]["lr"],
            "grad_norm": values[1] if math.isfinite(values[1]) else None,
            "tokens": self.step * tokens,
            "tokens_per_s": self._timed_steps * tokens / max(now - self._timed_from, 1e-9),
            "elapsed_s": now - self._began,
        }
        return metrics if scale is None else {**metrics, "loss_scale": scale}

    def _refuse_diverged(self, step: int, loss: float, norm: float) -> None:
        saved = checkpoints(self.save_dir)
        kept = f"the last good checkpoint is {saved[-1]}" if saved else "there is no checkpoint yet"
        raise FailedPreconditionError(
            f"the training diverged at step {step}: loss {loss}, gradient norm {norm}; {kept}",
            op="--lr",
            hint="use a smaller --lr, a longer --warmup or a smaller --grad-clip"
            + (", with --amp-dtype bf16 in place of fp16" if self.precision.scaler.is_enabled() else ""),
        )

    def _restart_clock(self) -> None:
        """Evaluations and saves are not training."""
        self._timed_from, self._timed_steps = time.monotonic(), 0

    def _asked_to_stop(self, shown: bool) -> bool:
        if self.world.size == 1:
            return self.should_stop()
        # The processes must agree; they ask each other no oftener than they wait for each other anyway.
        asked = torch.tensor(float(self.should_stop()), device=self.device)
        return shown and bool(self.world.max(asked).item())

    def _hopeless(self) -> bool:
        return bool(self.config.patience) and self.best.worse >= self.config.patience

    def _seen_from_here(self, saved: Mapping[str, object], processes: int) -> dict[str, object]:
        """The configuration of the saved run, had it had as many processes as this one has."""
        rows = saved.get("batch_size")
        if isinstance(rows, int) and rows * processes % self.world.size == 0:
            return {**saved, "batch_size": rows * processes // self.world.size}
        return dict(saved)

    def _open_log(self) -> contextlib.AbstractContextManager[MetricsLog | None]:
        if not self.world.is_main:
            return contextlib.nullcontext()
        self.save_dir.mkdir(parents=True, exist_ok=True)
        drop_metrics_after(self.save_dir, self.step)
        return MetricsLog(self.save_dir, self.on_metrics, self.config.tensorboard, self.step)

    def _record(self, log: MetricsLog | None, metrics: Metrics) -> None:
        if log is not None:
            log.record(metrics)
        if "tokens_per_s" in metrics:
            self._restart_clock()
