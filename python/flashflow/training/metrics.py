"""Where the figures of a run go: metrics.jsonl, TensorBoard where it is asked for, and whoever listens."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from flashflow.errors import FailedPreconditionError
from flashflow.log import logger

Metrics = dict[str, Any]

_SCALARS = ("loss", "lr", "grad_norm", "tokens_per_s", "loss_scale", "validation_loss", "perplexity")


class MetricsLog:
    """Writes the lines of one run.

    Args:
        save_dir: the run's folder.
        on_metrics: called with each line.
        tensorboard: also write its scalars below SAVE_DIR/tensorboard.
        step: of which the run goes on: TensorBoard hides what was written past it.

    Raises:
        FailedPreconditionError: tensorboard is not installed.
    """

    def __init__(self, save_dir: Path, on_metrics: Callable[[Metrics], None], tensorboard: bool, step: int) -> None:
        self._on_metrics = on_metrics
        self._board = _summary_writer(save_dir / "tensorboard", step) if tensorboard else None
        self._file: TextIO = open(metrics_file(save_dir), "a", encoding="utf-8")  # noqa: SIM115 (closed below)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        if self._board:
            self._board.close()

    def record(self, metrics: Metrics) -> None:
        """One line; "step" is in all."""
        self._file.write(json.dumps(metrics) + "\n")
        self._file.flush()
        if self._board:
            for name in _SCALARS:
                if metrics.get(name) is not None:
                    self._board.add_scalar(name, metrics[name], metrics["step"])
        self._on_metrics(metrics)


def metrics_file(save_dir: Path) -> Path:
    """The file of a run's lines."""
    return save_dir / "metrics.jsonl"


def drop_metrics_after(save_dir: Path, step: int) -> None:
    """What the interrupted run recorded past its last checkpoint is trained, and recorded, once more."""
    path = metrics_file(save_dir)
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            logger.warning("%s has a damaged line, dropped: %.80r", path, line)
    part = path.with_name("metrics.jsonl.part")
    part.write_text("".join(kept), encoding="utf-8")
    os.replace(part, path)


def _summary_writer(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise FailedPreconditionError(
            f"TensorBoard's files cannot be written ({error})",
            op="--tensorboard",
            hint="pip install tensorboard, or leave it out: metrics.jsonl has the same figures",
        ) from error
    return SummaryWriter(str(folder), purge_step=step + 1)
