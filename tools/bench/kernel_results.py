"""What the kernels' benchmark found: statistics, floors, the file and the table of a run. Needs no GPU."""

import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 1
ROLES = ("ours", "peer", "other")


@dataclass(frozen=True)
class Timing:
    """Of one call, over the rounds: the median and the quartiles, in microseconds."""

    us: float
    low_us: float
    high_us: float
    rounds: int


def summarize(times: list[float]) -> Timing:
    """Median and quartiles of at least one time."""
    if len(times) == 1:
        return Timing(times[0], times[0], times[0], 1)
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return Timing(middle, low, high, len(times))


@dataclass(frozen=True)
class DeviceSpec:
    """What bounds a kernel: compiler/analysis/data/*.json, the file that the compiler's own roofline reads."""

    name: str
    read_gb_per_s: float
    tflop_per_s: dict[str, float]

    def floor(self, flops: float, size: float, dtype: str) -> tuple[float, str]:
        """The least microseconds that take so many operations and bytes, and which of the two bounds."""
        arithmetic_us = flops / self.tflop_per_s[dtype] * 1e-6
        memory_us = size / self.read_gb_per_s * 1e-3
        return (arithmetic_us, "arithmetic") if arithmetic_us > memory_us else (memory_us, "memory")


def spec_for(device: str, folder: Path) -> DeviceSpec | None:
    """The spec whose file name (h200 of h200.json) is a word of the driver's name for the GPU; None without one."""
    for path in sorted(folder.glob("*.json")):
        if path.stem in device.lower().replace("-", " ").split():
            spec = json.loads(path.read_text())
            return DeviceSpec(spec["name"], spec["read_gb_per_s"], spec["tflop_per_s"])
    return None


@dataclass(frozen=True)
class Variant:
    """One program on one shape. role: ours, peer (computes the same), other (does not). modes: cold, warm."""

    role: str
    modes: dict[str, Timing]


@dataclass(frozen=True)
class Result:
    """One shape: its floor (None for a GPU without a spec) and what each variant took."""

    kernel: str
    shape: str
    dtype: str
    flops: float
    bytes: float
    floor_us: float | None
    bound: str
    variants: dict[str, Variant] = field(default_factory=dict)

    def best(self, role: str, mode: str) -> tuple[str, float] | None:
        """The name and the microseconds of the fastest peer; of ours the first, which is not always the fastest."""
        found = [(n, v.modes[mode].us) for n, v in self.variants.items() if v.role == role and mode in v.modes]
        if not found:
            return None
        return found[0] if role == "ours" else min(found, key=lambda pair: pair[1])

    def ratio(self, mode: str) -> float | None:
        """The best peer's time over ours: above 1 ours is faster."""
        ours, peer = self.best("ours", mode), self.best("peer", mode)
        return peer[1] / ours[1] if ours and peer else None

    def share_of_floor(self, mode: str) -> float | None:
        """The floor over our time: 1 is as fast as the device spec allows, more is possible in a warm cache."""
        ours = self.best("ours", mode)
        return self.floor_us / ours[1] if ours and self.floor_us is not None else None

    def rate(self, us: float) -> str:
        """What `us` means for this shape, in the unit that bounds it."""
        if self.bound == "arithmetic":
            return f"{self.flops / us * 1e-6:.0f} TFLOP/s"
        return f"{self.bytes / us * 1e-6:.2f} TB/s"


@dataclass(frozen=True)
class Report:
    """A run: what it ran on (device, driver, versions, clocks, date, commit) and its results."""

    machine: dict[str, Any]
    results: list[Result]

    def to_json(self) -> str:
        return json.dumps(
            {"format": FORMAT, "machine": self.machine, "results": [asdict(r) for r in self.results]}, indent=1
        )

    @staticmethod
    def from_json(text: str) -> "Report":
        """Raises ValueError where the text is not what to_json() writes."""
        try:
            data = json.loads(text)
            if data["format"] != FORMAT:
                raise ValueError(f"this is a report of format {data['format']}, expected {FORMAT}")
            return Report(dict(data["machine"]), [_result(entry) for entry in data["results"]])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a report of the kernels' benchmark: {error!r}") from error


def _result(entry: Mapping[str, Any]) -> Result:
    variants = {
        name: Variant(variant["role"], {mode: Timing(**timing) for mode, timing in variant["modes"].items()})
        for name, variant in entry["variants"].items()
    }
    return Result(**{**entry, "variants": variants})


def _us(us: float) -> str:
    return f"{us:,.1f}" if us < 1000 else f"{us:,.0f}"


HEADER = (
    "shape",
    "ours, us",
    "rate",
    "peers, us",
    "ratio",
    "floor, us",
    "of floor",
    "warm, us",
    "warm ratio",
    "beside, us",
)


def _line(result: Result) -> tuple[str, ...]:
    def others(role: str, mode: str) -> str:
        return ", ".join(
            f"{n} {_us(v.modes[mode].us)}" for n, v in result.variants.items() if v.role == role and mode in v.modes
        )

    def optional(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    ours, warm = result.best("ours", "cold"), result.best("ours", "warm")
    more = ", ".join(
        f"{name} {_us(v.modes['cold'].us)}"
        for name, v in list(result.variants.items())
        if v.role == "ours" and "cold" in v.modes and ours and name != ours[0]
    )
    return (
        result.shape,
        _us(ours[1]) if ours else "-",
        result.rate(ours[1]) if ours else "-",
        others("peer", "cold") or "-",
        optional(result.ratio("cold"), ".2f"),
        "-" if result.floor_us is None else _us(result.floor_us),
        optional(result.share_of_floor("cold"), ".0%"),
        _us(warm[1]) if warm else "-",
        optional(result.ratio("warm"), ".2f"),
        ", ".join(text for text in (more, others("other", "cold")) if text) or "-",
    )


def tables(results: list[Result]) -> str:
    """A Markdown table for each kernel."""
    text = []
    for kernel in dict.fromkeys(result.kernel for result in results):
        rows = [HEADER, *(_line(result) for result in results if result.kernel == kernel)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
        lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in rows]
        lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
        text.append(f"## {kernel}\n\n" + "\n".join(lines))
    return "\n\n".join(text)
