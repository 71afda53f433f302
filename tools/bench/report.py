"""Rows of a benchmark and their table."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One measured figure.

    value and peer are medians in `unit`; ratio is how many times better ours is than the peer (or than the bound that
    `against` names): above 1 is better for times and for rates alike.
    """

    what: str
    value: float
    unit: str
    peer: float | None = None
    ratio: float | None = None
    against: str = ""


def render(rows: list[Row]) -> str:
    """The rows as an aligned text table."""
    cells = [("figure", "ours", "peer", "ratio", "against")]
    for row in rows:
        peer = "" if row.peer is None else f"{row.peer:.4g} {row.unit}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}x"
        cells.append((row.what, f"{row.value:.4g} {row.unit}", peer, ratio, row.against))
    widths = [max(len(line[i]) for line in cells) for i in range(5)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )
