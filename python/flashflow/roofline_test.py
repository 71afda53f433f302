"""Roofline: sums, shares, and the table that people read."""

import pytest

from flashflow.roofline import Roofline, RooflineRow


def roofline(*rows: RooflineRow) -> Roofline:
    return Roofline("Toy", "made up", 100.0, {"f32": 1.0}, 2.0, tokens=1, context=512, rows=rows)


def row(op: str, floor_us: float, achieved_us: float | None, size: float = 2e6) -> RooflineRow:
    return RooflineRow(op, f"{op} (m.py:3)", size, 1e9, floor_us, "memory", achieved_us)


def test_sums_and_shares() -> None:
    both = roofline(row("a", 10.0, 40.0), row("b", 5.0, 10.0))
    assert (both.floor_us, both.achieved_us) == (15.0, 50.0)
    assert both.percent == pytest.approx(30.0)
    assert [each.percent for each in both] == [25.0, 50.0]
    assert len(both) == 2
    one_is_missing = roofline(row("a", 10.0, 40.0), row("b", 5.0, None))
    assert one_is_missing.achieved_us is None
    assert one_is_missing.percent is None
    assert list(one_is_missing)[1].percent is None
    assert roofline().percent is None


def test_the_table_counts_equal_rows_and_begins_with_the_longest() -> None:
    lines = str(roofline(row("a", 10.0, 20.0), row("b", 5.0, 100.0), row("a", 10.0, 20.0), row("a", 9.0, 9.0, 1e6)))
    table = [line.split() for line in lines.splitlines()]
    assert table[0][:3] == ["Toy:", "100.0", "GB/s,"]
    assert lines.splitlines()[1] == "a step of 1 token with 512 in the KV cache"
    assert table[3] == ["b", "1", "2.0000", "1.00000", "5.00", "100.00", "5.0%", "memory", "b", "(m.py:3)"]
    assert table[4] == ["a", "2", "2.0000", "1.00000", "20.00", "40.00", "50.0%", "memory", "a", "(m.py:3)"]
    assert table[5][:7] == ["a", "1", "1.0000", "1.00000", "9.00", "9.00", "100.0%"]
    assert table[6] == ["all", "4", "7.0000", "4.00000", "34.00", "149.00", "22.8%"]


def test_the_table_names_tactics() -> None:
    tuned = RooflineRow("a", "here", 1e6, 1e9, 1.0, "memory", 2.0, "cpu.linear.panel16[tile_rows=4]")
    assert str(roofline(tuned)).splitlines()[3].split()[-3:] == ["memory", "cpu.linear.panel16[tile_rows=4]", "here"]


def test_what_was_not_measured_is_a_dash() -> None:
    assert str(roofline(row("a", 10.0, None))).splitlines()[3].split()[4:7] == ["10.00", "-", "-"]
