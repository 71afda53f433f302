"""Charts of a run: how far below the roofline each kernel is, and how it compares with the fastest peer."""

from pathlib import Path
from typing import Any

from tools.bench.kernel_results import DeviceSpec, Report, Result


class NoChartsError(RuntimeError):
    """matplotlib is not installed; the message says how to get it."""


def load_pyplot() -> Any:
    """matplotlib.pyplot, drawing into files. Raises NoChartsError where there is no matplotlib."""
    try:
        import matplotlib

        matplotlib.use("Agg")  # no display
        from matplotlib import pyplot
    except ImportError as error:
        raise NoChartsError(
            f"charts need matplotlib ({error}): `pip install matplotlib`, or draw them from --json elsewhere"
        ) from error
    return pyplot


def draw(report: Report, spec: DeviceSpec | None, folder: Path) -> list[Path]:
    """Writes roofline.png (with a spec only) and bars.png below `folder`.

    Raises:
        NoChartsError: there is no matplotlib.
    """
    drawn = [bars(report, "cold", folder / "bars.png")]
    if spec:
        measured = [result for result in report.results if result.best("ours", "cold")]
        drawn.append(_roofline(load_pyplot(), measured, spec, _title(report), folder / "roofline.png"))
    return drawn


def _title(report: Report) -> str:
    return f"{report.machine.get('device', 'unknown GPU')}, {report.machine.get('date', 'unknown date')}"


def bars(report: Report, mode: str, path: Path) -> Path:
    """The fastest peer's time over ours, a bar a shape, and beside it the share of the floor.

    Raises:
        NoChartsError: there is no matplotlib.
    """
    pyplot = load_pyplot()
    results = [result for result in report.results if result.best("ours", mode)]
    path.parent.mkdir(parents=True, exist_ok=True)
    figure, (left, right) = pyplot.subplots(
        1, 2, sharey=True, layout="constrained", figsize=(11, 1.5 + 0.28 * len(results))
    )
    labels = [f"{result.kernel} {result.shape}" for result in results]
    ratios = [result.ratio(mode) or 0.0 for result in results]
    shares = [100 * (result.share_of_floor(mode) or 0.0) for result in results]
    colors = ["tab:green" if ratio >= 1 else "tab:red" for ratio in ratios]
    left.barh(labels, ratios, color=colors)
    left.axvline(1.0, color="black", linewidth=1)
    left.set_xlabel("fastest peer's time / ours")
    right.barh(labels, shares, color="tab:blue")
    right.axvline(100.0, color="black", linewidth=1)
    right.set_xlabel("share of the floor, %")
    for axes, values, form in ((left, ratios, "{:.2f}"), (right, shares, "{:.0f}")):
        for row, value in enumerate(values):
            axes.text(value, row, " " + form.format(value) if value else " -", va="center", fontsize=7)
        axes.margins(x=0.12)
    left.invert_yaxis()
    left.tick_params(axis="y", labelsize=7)
    figure.suptitle(_title(report))
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return path


def _roofline(pyplot: Any, results: list[Result], spec: DeviceSpec, title: str, path: Path) -> Path:
    """Operations a second over operations a byte; filled marks are ours, hollow ones the fastest peers."""
    figure, axes = pyplot.subplots(layout="constrained", figsize=(9, 6))
    intensities = [result.flops / result.bytes for result in results] or [1.0]
    span = [min(*intensities, 0.5) / 2, max(*intensities, 1000.0) * 2]
    for dtype in dict.fromkeys(result.dtype for result in results):
        peak = spec.tflop_per_s[dtype]
        knee = peak * 1e3 / spec.read_gb_per_s
        points = [span[0], min(max(knee, span[0]), span[1]), span[1]]
        axes.plot(points, [min(x * spec.read_gb_per_s * 1e-3, peak) for x in points], "k-", linewidth=1)
        axes.text(span[1], peak, f"{dtype} {peak:g} TFLOP/s", ha="right", va="bottom", fontsize=8)
    for kernel in dict.fromkeys(result.kernel for result in results):
        color = None
        for role, fill in (("ours", None), ("peer", "none")):
            fastest = [(r, r.best(role, "cold")) for r in results if r.kernel == kernel]
            marks = [(r.flops / r.bytes, r.flops / best[1] * 1e-6) for r, best in fastest if best]
            if marks:
                xs, ys = zip(*marks, strict=True)
                (line,) = axes.plot(
                    xs, ys, "o", color=color, markerfacecolor=fill, label=kernel if role == "ours" else None
                )
                color = line.get_color()
    axes.set(xscale="log", yscale="log", xlabel="operations / byte", ylabel="TFLOP/s", title=title)
    axes.grid(which="major", alpha=0.3)
    axes.legend(title="hollow: fastest peer")
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return path
