"""docs/performance.md: a run of the kernels' benchmark as a page."""

from tools.bench.kernel_results import Report, tables

_PAGE = """# Performance of the kernels

Rendered from the report of one run: `./bazelw run //tools:bench -- --suite kernels --from-json REPORT --markdown PAGE`.
[howto/profile_a_kernel.md](howto/profile_a_kernel.md) says how to make such a run, and [kernels_log.md](kernels_log.md)
what was tried on the way to these figures.

{machine}

Every figure is the median of {rounds} rounds of a CUDA graph of many calls; in each round all variants of a row take
turns. Unless it says *warm*, calls rotate over copies of their operands that exceed the L2 cache several times.

- **rate** is of ours, counting the operations or bytes that no program can do without, whichever bounds the shape;
- **ratio** is the time of the fastest peer over ours: above 1 ours is faster;
- **floor** is the least time that the device spec's rates allow ({spec}), **of floor** the floor over our time;
- **beside** is what does not compute the same, and other builds or settings of ours.

{tables}
"""
_FACTS = (
    "device",
    "capability",
    "driver",
    "cuda",
    "cudnn",
    "torch",
    "triton",
    "date",
    "commit",
    "clocks before",
    "clocks after",
    "ended early",
)


def page(report: Report) -> str:
    """The whole page, in Markdown."""
    facts = [(fact, str(report.machine[fact])) for fact in _FACTS if fact in report.machine]
    rounds = {t.rounds for r in report.results for v in r.variants.values() for t in v.modes.values()}
    return _PAGE.format(
        machine="| | |\n|---|---|\n" + "\n".join(f"| {fact} | {value} |" for fact, value in facts),
        rounds=" or ".join(str(number) for number in sorted(rounds)) or "no",
        spec=report.machine.get("spec", "unknown"),
        tables=tables(report.results),
    )
