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

from flashflow.cli.console import ProgressLine
from flashflow.cli.verb import DebugOption, Device, TorchDeviceOption, verb


class Preset(str, enum.Enum):
    """--preset"""

    TINY = "tiny"
    MINI = "mini"
    SMALL = "small"


class AmpDtype(str, enum.Enum):
    """--amp-dtype"""

    BF16 = "bf16"
    FP16 = "fp16"


class Qat(str, enum.Enum):
    """--qat"""

    INT8 = "int8"


class Parallel(str, enum.Enum):
    """--parallel"""

    DDP = "ddp"
    FSDP = "fsdp"


# What a preset trains with unless told otherwise.
_DEFAULTS: dict[Preset, dict[str, Any]] = {
    Preset.TINY: {"steps": 300, "batch_size": 8, "seq_len": 128, "lr": 1e-3, "warmup": 20, "log_every": 1},
    Preset.MINI: {"steps": 2000, "batch_size": 32, "seq_len": 512, "lr": 1e-3, "warmup": 100, "log_every": 10},
    Preset.SMALL: {"steps": 2000, "batch_size": 8, "seq_len": 512, "lr": 6e-4, "warmup": 100, "log_every": 10},
}


@verb
def train(
    data: Annotated[Path, typer.Option(metavar="FILE", help="The text, UTF-8; its last part is held out.")],
    save_dir: Annotated[Path, typer.Option(metavar="DIR", help="Where checkpoints and metrics.jsonl go.")],
    preset: Annotated[
        Preset,
        typer.Option(help="tiny learns in minutes on a CPU; mini has a vocabulary of its own; small is GPT-2's size."),
    ] = Preset.TINY,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.", show_default="of the preset")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Sequences, in each process.", show_default="of the preset")
    ] = None,
    seq_len: Annotated[int | None, typer.Option(help="Tokens of one.", show_default="of the preset")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.", show_default="of the preset")] = None,
    warmup: Annotated[int | None, typer.Option(help="Steps up to the peak.", show_default="of the preset")] = None,
    dropout: Annotated[float, typer.Option(help="Share of activations dropped.")] = 0.0,
    weight_decay: Annotated[float, typer.Option(help="Of matrices.")] = 0.1,
    grad_clip: Annotated[float, typer.Option(help="The gradient's largest norm; 0: any.")] = 1.0,
    grad_accum: Annotated[int, typer.Option(help="Batches of one step.")] = 1,
    amp_dtype: Annotated[
        AmpDtype | None,
        typer.Option(help="Compute products in it, keep weights and loss in fp32.", show_default="fp32 throughout"),
    ] = None,
    qat: Annotated[
        Qat | None,
        typer.Option(help="Learn with the rounding of an int8 engine: codes and clips.", show_default="off"),
    ] = None,
    compile_: Annotated[bool, typer.Option("--compile", help="Compile the step with torch.compile.")] = False,
    activation_checkpointing: Annotated[
        bool, typer.Option("--activation-checkpointing", help="Compute blocks twice to keep less of them in memory.")
    ] = False,
    eval_every: Annotated[int, typer.Option(help="Steps between evaluations; 0: only at the end.")] = 50,
    patience: Annotated[
        int, typer.Option(help="Evaluations without a better loss until it stops; DIR/best is the best. 0: to the end.")
    ] = 0,
    save_every: Annotated[int, typer.Option(help="Steps between checkpoints; 0: only at the end.")] = 100,
    keep_last: Annotated[int, typer.Option(help="Checkpoints to keep, the best not counted.")] = 2,
    log_every: Annotated[
        int | None, typer.Option(help="Steps between lines of metrics.jsonl.", show_default="of the preset")
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write DIR/tensorboard too (needs tensorboard).")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of weights, data order and dropout.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint of --save-dir.")] = False,
    device: TorchDeviceOption = Device.AUTO,
    parallel: Annotated[
        Parallel, typer.Option(help="Under torchrun: each process has the whole model, or (fsdp) a part of it.")
    ] = Parallel.DDP,
    debug: DebugOption = False,
) -> None:
    """Train GPTSmall on a text file, with GPT-2's tokenizer or, preset mini, one of the text's own.

    Ctrl-C saves and ends; --resume goes on from there, bit for bit on a CPU. DIR is a model then: generate --model DIR.
    """
    from flashflow.training.config import TrainConfig

    given = {
        "steps": steps,
        "batch_size": batch_size,
        "seq_len": seq_len,
        "lr": lr,
        "warmup": warmup,
        "log_every": log_every,
    }
    chosen: dict[str, Any] = {name: _DEFAULTS[preset][name] if v is None else v for name, v in given.items()}
    config = TrainConfig(
        **chosen,
        preset=preset.value,
        dropout=dropout,
        weight_decay=weight_decay,
        grad_clip=grad_clip,
        grad_accum=grad_accum,
        amp_dtype=amp_dtype.value if amp_dtype else None,
        qat=qat.value if qat else None,
        compile=compile_,
        activation_checkpointing=activation_checkpointing,
        eval_every=eval_every,
        patience=patience,
        save_every=save_every,
        keep_last=keep_last,
        tensorboard=tensorboard,
        seed=seed,
        device=device.value,
        parallel=parallel.value,
    )

    from tqdm import tqdm

    from flashflow.training.distributed import joined_processes
    from flashflow.training.gpt_small import make_trainer

    with joined_processes(config.device) as world:
        stages = ProgressLine(quiet=not world.is_main)
        trainer = make_trainer(data, save_dir, config, resume, world, stages)
        stages.clear()
        with (
            tqdm(
                total=config.steps, initial=trainer.step, unit="step", file=sys.stderr, disable=not world.is_main
            ) as bar,
            _Interrupt(says_so=world.is_main) as interrupt,
        ):
            if compile_:
                bar.set_postfix_str("compiling, which takes a minute or more")
            trainer.on_metrics = lambda metrics: _show(bar, metrics)
            trainer.should_stop = interrupt.is_set
            result = trainer.run()
    if not world.is_main:
        return
    if result.interrupted:
        typer.echo(f"interrupted at step {result.step}, saved {result.checkpoint}; --resume goes on", err=True)
        raise typer.Exit(128 + signal.SIGINT)
    if result.best is not None:
        ended = "stopped early" if result.stopped_early else "ended"
        typer.echo(
            f"{ended} at step {result.step}; the best is {result.best}, validation loss "
            f"{result.best_validation_loss:.4f}, also named {save_dir / 'best'}",
            err=True,
        )
    typer.echo(f"{result.best or result.checkpoint}")


def _show(bar: Any, metrics: dict[str, Any]) -> None:
    if "loss" in metrics:
        bar.update(metrics["step"] - bar.n)
        bar.set_postfix(loss=f"{metrics['loss']:.3f}", tok_s=f"{metrics['tokens_per_s']:.0f}", refresh=False)
    elif "validation_loss" in metrics:
        loss, perplexity = metrics["validation_loss"], metrics["perplexity"]
        bar.write(f"step {metrics['step']}: validation loss {loss:.4f}, perplexity {perplexity:.2f}", sys.stderr)


class _Interrupt:
    """Turns the first Ctrl-C into a question that the training loop asks; the second interrupts at once."""

    def __init__(self, says_so: bool) -> None:
        self._asked = False
        self._says_so = says_so

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
        if self._says_so:
            # Not sys.stderr: the signal may have come while the progress bar was writing to it.
            os.write(2, b"\nfinishing this step, then saving; Ctrl-C again ends at once\n")
