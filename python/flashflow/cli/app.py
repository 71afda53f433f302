"""The command line: `flashflow VERB`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

import typer

from flashflow.cli.build import build
from flashflow.cli.cache import app as cache_app
from flashflow.cli.calibrate import calibrate
from flashflow.cli.eval_latency import eval_latency
from flashflow.cli.eval_perplexity import eval_perplexity
from flashflow.cli.export import export_checkpoint, export_fx_graph
from flashflow.cli.generate import generate
from flashflow.cli.train import train

app = typer.Typer(
    name="flashflow",
    help="Compile GPT models and run them.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("generate")(generate)
app.command("train")(train)
app.command("export-fx-graph")(export_fx_graph)
app.command("export-checkpoint")(export_checkpoint)
app.command("build")(build)
app.command("calibrate")(calibrate)
app.command("eval-latency")(eval_latency)
app.command("eval-perplexity")(eval_perplexity)
app.add_typer(cache_app, name="cache")


def main(arguments: Sequence[str] | None = None, program: str = "flashflow") -> None:
    """Runs a command line and exits: 0, 1 for an error, 2 for a wrong command line, 130 when interrupted.

    Args:
        arguments: without the program's name; None are those of the process.
        program: as usage messages name it.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and not words[0].startswith("-"):
        words[0] = words[0].replace("_", "-")
    # A reader that closes the pipe, as `head` does, ends the program without a word.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    # `bazel run` starts programs elsewhere: paths are relative to where the user stands.
    if folder := os.environ.get("BUILD_WORKING_DIRECTORY"):
        os.chdir(folder)
    app(words, prog_name=program)
