"""What each operation of a plan costs at least on a device, beside what it takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class RooflineRow:
    """One operation of a step.

    Attributes:
        op: its name in the IR.
        loc: where the model's source has it; "" where that is unknown.
        bytes: that it must read and write: each operand and result once, of tables and caches only what is looked up.
        flops: of its arithmetic; a multiply-add is two.
        floor_us: the longer of moving the bytes and doing the arithmetic (Williams et al., Roofline), in microseconds.
        bound_by: "memory" or "arithmetic", which of the two that is.
        achieved_us: what it takes, in microseconds; None where that was not measured.
        tactic: the kernel that computes it, and where it ran what of its configuration is tuned.
        weights: the model's matrices that it reads, by name.
        coded: whether it reads them as int8 codes.
    """

    op: str
    loc: str
    bytes: float
    flops: float
    floor_us: float
    bound_by: str
    achieved_us: float | None
    tactic: str = ""
    weights: tuple[str, ...] = ()
    coded: bool = False

    @property
    def percent(self) -> float | None:
        """The floor's share of the time it takes: 100 is as fast as the device can be."""
        return 100 * self.floor_us / self.achieved_us if self.achieved_us else None


@dataclass(frozen=True)
class Roofline:
    """The operations of one step of a plan, in order. As a string, a table.

    Attributes:
        device: whose floors these are.
        source: where the device's figures come from.
        read_gb_per_s: at which it reads memory, 10^9 bytes.
        tflop_per_s: rates of arithmetic by the operands' dtype; one that is not there runs as "f32".
        launch_us: between two dependent operations at least, not in the floors.
        tokens: of the step, all of one sequence.
        context: tokens of that sequence in the KV cache, the step's own included.
        rows: one an operation.
    """

    device: str
    source: str
    read_gb_per_s: float
    tflop_per_s: dict[str, float]
    launch_us: float
    tokens: int
    context: int
    rows: tuple[RooflineRow, ...]

    @property
    def floor_us(self) -> float:
        """The sum of the rows' floors: operations run one after the other."""
        return sum(row.floor_us for row in self.rows)

    @property
    def achieved_us(self) -> float | None:
        """The sum of what the rows take; None where that was not measured."""
        times = [row.achieved_us for row in self.rows if row.achieved_us is not None]
        return sum(times) if times and len(times) == len(self.rows) else None

    @property
    def percent(self) -> float | None:
        """The floor's share of the time the step takes."""
        return 100 * self.floor_us / self.achieved_us if self.achieved_us else None

    def __iter__(self) -> Iterator[RooflineRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        """A table whose rows are operations of one name and cost, the longest first; `loc` is of the first of them."""
        groups: dict[tuple[str, float, float], list[RooflineRow]] = {}
        for row in self.rows:
            groups.setdefault((row.op, row.bytes, row.flops), []).append(row)

        def total(rows: list[RooflineRow]) -> tuple[float, float | None]:
            times = [row.achieved_us for row in rows if row.achieved_us is not None]
            return sum(row.floor_us for row in rows), sum(times) if times else None

        def longest(rows: list[RooflineRow]) -> float:
            floor, achieved = total(rows)
            return -(floor if achieved is None else achieved)

        rates = ", ".join(f"{rate:.3g} TFLOP/s {dtype}" for dtype, rate in self.tflop_per_s.items())
        lines = [
            f"{self.device}: {self.read_gb_per_s:.1f} GB/s, {rates}, {self.launch_us:.2g} us a launch",
            f"a step of {self.tokens} token{'' if self.tokens == 1 else 's'} with {self.context} in the KV cache",
            f"{'op':18} {'count':>5} {'MB each':>12} {'GFLOP each':>11} {'floor us':>11} {'achieved us':>11} "
            f"{'percent':>7}  {'bound by':10} {'tactic':26} first at",
        ]
        for rows in sorted(groups.values(), key=longest):
            floor, achieved = total(rows)
            first = rows[0]
            lines.append(
                f"{first.op:18} {len(rows):5} {first.bytes / 1e6:12.4f} {first.flops / 1e9:11.5f} {floor:11.2f} "
                f"{_time(achieved)} {_percent(floor, achieved)}  {first.bound_by:10} {first.tactic:26} "
                f"{first.loc}".rstrip()
            )
        lines.append(
            f"{'all':18} {len(self.rows):5} {sum(row.bytes for row in self.rows) / 1e6:12.4f} "
            f"{sum(row.flops for row in self.rows) / 1e9:11.5f} {self.floor_us:11.2f} {_time(self.achieved_us)} "
            f"{_percent(self.floor_us, self.achieved_us)}"
        )
        return "\n".join(lines)


def _time(time_us: float | None) -> str:
    return f"{'-' if time_us is None else format(time_us, '.2f'):>11}"


def _percent(floor_us: float, achieved_us: float | None) -> str:
    return f"{format(100 * floor_us / achieved_us, '.1f') + '%' if achieved_us else '-':>7}"
