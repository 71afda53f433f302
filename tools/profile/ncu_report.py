"""What Nsight Compute measured, read back from its CSV of raw metrics."""

import csv
import re
from dataclasses import dataclass

# What is asked for; a metric that a GPU lacks is left out of the CSV or said to be n/a.
METRICS = (
    "gpu__time_duration.sum",
    "dram__bytes_read.sum",
    "dram__bytes_write.sum",
    "lts__t_bytes.sum",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed",
    "sm__warps_active.avg.pct_of_peak_sustained_active",
    "sm__ops_path_tensor_src_bf16_dst_fp32.sum",
    "sm__ops_path_tensor_src_fp16.sum",
    "sm__ops_path_tensor_src_int8.sum",
)
SECTIONS = ("WarpStateStats", "SpeedOfLight", "LaunchStats", "Occupancy")
_TENSOR = re.compile(r"sm__ops_path_tensor_src_\w+\.sum$")
_STALL = re.compile(r"smsp__average_warps_issue_stalled_(\w+)_per_issue_active\.ratio$")


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel. What the GPU or the profiler did not give is None."""

    kernel: str
    us: float
    read_bytes: float | None
    written_bytes: float | None
    l2_bytes: float | None
    tensor_ops: float | None  # operations of the tensor pipes: 2 a multiplication and addition
    memory_share: float | None  # of DRAM's peak, 0 to 1
    compute_share: float | None  # of the busiest pipe's peak
    registers: int | None
    stalls: dict[str, float]  # warps stalled for a reason per issued instruction, most first

    def top_stalls(self, count: int = 3) -> str:
        """The commonest reasons with their shares of all stalls."""
        total = sum(self.stalls.values())
        shares = [f"{name} {value / total:.0%}" for name, value in list(self.stalls.items())[:count] if value > 0]
        return ", ".join(shares) or "-"


def parse(text: str) -> list[Launch]:
    """Reads what `ncu --csv --page raw --print-units base` printed, with what the program and ncu said around it.

    Raises:
        ValueError: there are no metrics in it; with ncu's own error where it printed one.
    """
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith('"ID",')), None)
    if start is None:
        said = [line.removeprefix("==ERROR==").strip() for line in lines if line.startswith("==ERROR==")]
        raise ValueError(f"ncu gave no metrics: {said[0] if said else (lines or ['no output'])[-1]}")
    table = [line for line in lines[start:] if line.startswith('"')]
    header, *rows = csv.reader(table)
    units = dict(zip(header, rows[0], strict=True)) if rows else {}
    launches = [_launch(dict(zip(header, row, strict=True)), units) for row in rows if row[0]]
    if not launches:
        raise ValueError("ncu profiled no kernel")
    return launches


def _number(text: str | None) -> float | None:
    try:
        return float(text.replace(",", "")) if text else None
    except ValueError:  # n/a, nan is a float
        return None


def _launch(row: dict[str, str], units: dict[str, str]) -> Launch:
    def share(metric: str) -> float | None:
        value = _number(row.get(metric))
        return None if value is None else value / 100

    time = _number(row.get("gpu__time_duration.sum"))
    if time is None:
        raise ValueError(f"ncu gave no time of {row.get('Kernel Name', 'a kernel')}")
    per_us = {"ns": 1e3, "nsecond": 1e3, "us": 1.0, "usecond": 1.0}.get(units["gpu__time_duration.sum"])
    if per_us is None:
        raise ValueError(f"times are in {units['gpu__time_duration.sum']!r}, expected ns: pass --print-units base")
    stalls = {m.group(1): _number(value) or 0.0 for name, value in row.items() if (m := _STALL.match(name))}
    stalls.pop("selected", None)  # the warp that issues: no stall
    tensor = [number for name, value in row.items() if _TENSOR.match(name) and (number := _number(value)) is not None]
    registers = _number(row.get("launch__registers_per_thread"))
    return Launch(
        kernel=row.get("Kernel Name", "?"),
        us=time / per_us,
        read_bytes=_number(row.get("dram__bytes_read.sum")),
        written_bytes=_number(row.get("dram__bytes_write.sum")),
        l2_bytes=_number(row.get("lts__t_bytes.sum")),
        tensor_ops=sum(tensor) if tensor else None,
        memory_share=share("dram__throughput.avg.pct_of_peak_sustained_elapsed"),
        compute_share=share("sm__throughput.avg.pct_of_peak_sustained_elapsed"),
        registers=None if registers is None else int(registers),
        stalls=dict(sorted(stalls.items(), key=lambda pair: -pair[1])),
    )


def render(launches: list[Launch], flops: float, size: float, floor_us: float | None) -> str:
    """A line for each launch, and what they come to beside the least operations, bytes and time of the case."""

    def millions(value: float | None) -> str:
        return "-" if value is None else f"{value / 1e6:.2f}"

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{value:.0%}"

    cells = [("kernel", "us", "read MB", "written MB", "L2 MB", "DRAM", "SM", "regs", "top stalls")]
    for launch in launches:
        cells.append(
            (
                short_name(launch.kernel),
                f"{launch.us:.2f}",
                millions(launch.read_bytes),
                millions(launch.written_bytes),
                millions(launch.l2_bytes),
                percent(launch.memory_share),
                percent(launch.compute_share),
                str(launch.registers or "-"),
                launch.top_stalls(),
            )
        )
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells]
    us = sum(launch.us for launch in launches)
    moved = [(launch.read_bytes or 0) + (launch.written_bytes or 0) for launch in launches]
    lines.append(
        f"together {us:.2f} us: {flops / us * 1e-6:.1f} TFLOP/s of {flops / 1e9:.3g} GFLOP, "
        f"{sum(moved) / us * 1e-6:.2f} TB/s of {sum(moved) / 1e6:.2f} MB (the least: {size / 1e6:.2f} MB)"
    )
    tensor = [launch.tensor_ops for launch in launches if launch.tensor_ops is not None]
    if tensor:
        lines.append(f"the tensor pipes did {sum(tensor) / 1e9:.3g} GFLOP")
    if floor_us is not None:
        lines.append(f"floor {floor_us:.2f} us: {floor_us / us:.0%} of it reached")
    return "\n".join(lines)


def short_name(kernel: str) -> str:
    """The function's name without result, parameters and namespaces, template arguments kept up to 40 letters."""
    name = re.sub(r"\((?!anonymous)[^()]*\)$", "", kernel.strip())
    name = name.removeprefix("void ").replace("<unnamed>::", "").replace("(anonymous namespace)::", "")
    head, bracket, arguments = name.partition("<")
    short = head.split("::")[-1] + bracket + arguments
    return short if len(short) <= 48 else short[:45] + "..."
