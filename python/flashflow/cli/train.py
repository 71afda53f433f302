"""flashflow train: GPTSmall on a text file."""

from __future__ import annotations

import enum
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from flashflow.cli.verb import DebugOption, Device, verb


class Preset(str, enum.Enum):
    """--preset"""

    TINY = "tiny"
    SMALL = "small"


# What a preset trains with unless told otherwise.
_DEFAULTS: dict[Preset, dict[str, Any]] = {
    Preset.TINY: {"steps": 300, "batch_size": 8, "seq_len": 128, "lr": 1e-3, "warmup": 20},
    Preset.SMALL: {"steps": 2000, "batch_size": 8, "seq_len": 512, "lr": 6e-4, "warmup": 100},
}


@verb
def train(
    data: Annotated[Path, typer.Option(metavar="FILE", help="The text, UTF-8; its last part is held out.")],
    save_dir: Annotated[Path, typer.Option(metavar="DIR", help="Where checkpoints and metrics.jsonl go.")],
    preset: Annotated[
        Preset, typer.Option(help="tiny learns in minutes on a CPU; small is GPT-2's size.")
    ] = Preset.TINY,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.", show_default="of the preset")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Sequences.", show_default="of the preset")] = None,
    seq_len: Annotated[int | None, typer.Option(help="Tokens of one.", show_default="of the preset")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.", show_default="of the preset")] = None,
    warmup: Annotated[int | None, typer.Option(help="Steps up to the peak.", show_default="of the preset")] = None,
    weight_decay: Annotated[float, typer.Option(help="Of matrices.")] = 0.1,
    grad_clip: Annotated[float, typer.Option(help="The gradient's largest norm; 0: any.")] = 1.0,
    grad_accum: Annotated[int, typer.Option(help="Batches of one step.")] = 1,
    eval_every: Annotated[int, typer.Option(help="Steps between evaluations; 0: only at the end.")] = 50,
    save_every: Annotated[int, typer.Option(help="Steps between checkpoints; 0: only at the end.")] = 100,
    keep_last: Annotated[int, typer.Option(help="Checkpoints to keep.")] = 2,
    seed: Annotated[int, typer.Option(help="Of weights and data order.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint of --save-dir.")] = False,
    device: Annotated[Device, typer.Option(help="auto: the GPU where torch finds one.")] = Device.AUTO,
    debug: DebugOption = False,
) -> None:
    """Train GPTSmall, in fp32, on a text file with GPT-2's tokenizer.

    Ctrl-C saves and ends; --resume goes on from there, bit for bit on a CPU. DIR is a model then: generate --model DIR.
    """
    from flashflow.training.config import TrainConfig

    given = {"steps": steps, "batch_size": batch_size, "seq_len": seq_len, "lr": lr, "warmup": warmup}
    chosen: dict[str, Any] = {name: _DEFAULTS[preset][name] if v is None else v for name, v in given.items()}
    config = TrainConfig(
        **chosen,
        preset=preset.value,
        weight_decay=weight_decay,
        grad_clip=grad_clip,
        grad_accum=grad_accum,
        eval_every=eval_every,
        save_every=save_every,
        keep_last=keep_last,
        seed=seed,
        device=device.value,
    )

    from flashflow.training.gpt_small import make_trainer

    trainer = make_trainer(data, save_dir, config, resume)

    from tqdm import tqdm

    with tqdm(total=config.steps, initial=trainer.step, unit="step", file=sys.stderr) as bar, _Interrupt() as interrupt:

        def show(metrics: dict[str, Any]) -> None:
            if "loss" in metrics:
                bar.update(1)
                bar.set_postfix(loss=f"{metrics['loss']:.3f}", tok_s=f"{metrics['tokens_per_s']:.0f}", refresh=False)
            elif "validation_loss" in metrics:
                loss, perplexity = metrics["validation_loss"], metrics["perplexity"]
                bar.write(
                    f"step {metrics['step']}: validation loss {loss:.4f}, perplexity {perplexity:.2f}", sys.stderr
                )

        trainer.on_metrics = show
        trainer.should_stop = interrupt.is_set
        result = trainer.run()
    if result.interrupted:
        typer.echo(f"interrupted at step {result.step}, saved {result.checkpoint}; --resume goes on", err=True)
        raise typer.Exit(128 + signal.SIGINT)
    typer.echo(f"{result.checkpoint}")


class _Interrupt:
    """Turns the first Ctrl-C into a question that the training loop asks; the second interrupts at once."""

    def __init__(self) -> None:
        self._asked = False

    def is_set(self) -> bool:
        return self._asked

    def __enter__(self) -> _Interrupt:
        self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        # Not sys.stderr: the signal may have come while the progress bar was writing to it.
        os.write(2, b"\nfinishing this step, then saving; Ctrl-C again ends at once\n")
