"""Draws the curves of training runs: loss of the batches and of the held-out text, over steps.

./bazelw run //tools/bench:loss_curve -- RUN/metrics.jsonl ... -o curve.png
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from tools.bench.kernel_charts import NoChartsError, load_pyplot


def read(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and losses of a run: "loss" and "validation_loss".

    Raises:
        ValueError: it is not a run's metrics.jsonl.
    """
    found: dict[str, list[tuple[int, float]]] = {"loss": [], "validation_loss": []}
    for line in path.read_text(encoding="utf-8").splitlines():
        metrics: Any = json.loads(line)
        if not isinstance(metrics, dict) or not isinstance(metrics.get("step"), int):
            raise ValueError(f"{path} is not the metrics.jsonl of a training run")
        for name, points in found.items():
            if name in metrics:
                points.append((metrics["step"], float(metrics[name])))
    return found


def draw(runs: dict[str, Path], out: Path) -> None:
    """Writes a picture of the runs, by the names they get in it.

    Raises:
        NoChartsError: there is no matplotlib.
        ValueError: a file is not a run's metrics.jsonl.
    """
    figure, axes = load_pyplot().subplots(figsize=(7, 4), dpi=80)
    for index, (name, path) in enumerate(runs.items()):
        curves = read(path)
        color = f"C{index}"
        axes.plot(*zip(*curves["loss"], strict=True), color=color, alpha=0.35, linewidth=0.8, label=f"{name}, batches")
        if held_out := curves["validation_loss"]:
            best_step, best = min(held_out, key=lambda point: point[1])
            label = f"{name}, held out: {best:.3f} at step {best_step}"
            axes.plot(*zip(*held_out, strict=True), color=color, linewidth=1.8, label=label)
            axes.plot([best_step], [best], "o", color=color)
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats a token")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(out)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="loss_curve", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", nargs="+", metavar="[NAME=]FILE", help="metrics.jsonl of a run")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the picture, .png or .svg")
    args = parser.parse_args(arguments)
    named = [run.rpartition("=") for run in args.runs]
    try:
        draw({name or Path(file).parent.name: Path(file) for name, _, file in named}, args.out)
    except (NoChartsError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    # `bazel run` starts programs elsewhere: paths are relative to where the user stands.
    if folder := os.environ.get("BUILD_WORKING_DIRECTORY"):
        os.chdir(folder)
    sys.exit(main(sys.argv[1:]))
