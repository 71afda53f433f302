"""Tables of the decode and prefill suites, and the page that they make."""

from tools.bench.kernel_results import Report, Result

MODE = "step"  # under which a Result keeps these suites' times
_FACTS = (
    "device",
    "driver",
    "cuda",
    "torch",
    "triton",
    "date",
    "commit",
    "clocks before",
    "clocks after",
)
_PAGE = """# Performance of whole models on a GPU

Rendered from the report of one run:
`./bazelw run //tools:bench -- --suite decode,prefill --from-json REPORT --markdown PAGE`.
[howto/profile_a_kernel.md](howto/profile_a_kernel.md) says how to make such a run, [kernels_log.md](kernels_log.md)
("Whole models", "int8 on CUDA") what a step is made of and what limits it.

{machine}

Random weights and tokens, {dtypes}. *decode*: the time of a step in which each request of the batch gets one token,
around the context named, argmax included. *prefill*: from handing the prompts over to the last of their first tokens.
Every figure is the median of {rounds} rounds in which a row's variants take turns. Ours is measured from outside, as a
caller waits; the peers by events on the GPU alone. *cold*: a process of ours (no Python) from its start to the first
token of a prompt of 128; *not in memory* is with the engine, the program and the library dropped from the page cache.

- **int8** is ours of the same model with layers of 8-bit codes, and its time over ours: at most 1, or int8 is a loss;
- **invariant** is ours with `batch_invariant=True`, and its time over ours;
- **peer** is the fastest of torch's: Inductor (max-autotune, coordinate descent) in a CUDA graph with a static cache of
  the context and 16 slots, or of the whole context (its number of slots is named), eager, `transformers.generate`;
- **ratio** is the peer's time over ours: above 1 ours is faster;
- **floor** is the least time that the device spec's rates allow ({spec}) for the bytes and operations that no
  program can do without, **of floor** the floor over our time.

{tables}
"""

_HEADER = (
    "row",
    "ours, us",
    "tokens/s",
    "int8, us",
    "invariant, us",
    "peer, us",
    "ratio",
    "floor, us",
    "of floor",
    "other peers, us",
)


def _us(us: float) -> str:
    return f"{us:,.0f}"


def _times(result: Result, role: str) -> dict[str, float]:
    return {name: v.modes[MODE].us for name, v in result.variants.items() if v.role == role and MODE in v.modes}


def _line(result: Result) -> tuple[str, ...]:
    ours, peers = result.best("ours", MODE), result.best("peer", MODE)

    def beside_ours(name: str) -> str:
        us = _times(result, "ours").get(name)
        return f"{_us(us)} ({us / ours[1]:.2f})" if ours and us else "-"

    numbers = [int(word) for word in result.shape.replace(",", "").split() if word.isdigit()]
    tokens = numbers[0] * (numbers[1] if result.kernel.startswith("prefill") else 1)
    ratio, share = result.ratio(MODE), result.share_of_floor(MODE)
    others = [f"{name} {_us(us)}" for name, us in _times(result, "peer").items() if peers and name != peers[0]]
    return (
        result.shape,
        _us(ours[1]) if ours else "-",
        f"{tokens * 1e6 / ours[1]:,.0f}" if ours else "-",
        beside_ours("int8"),
        beside_ours("invariant"),
        f"{peers[0]} {_us(peers[1])}" if peers else "-",
        "-" if ratio is None else f"{ratio:.2f}",
        "-" if result.floor_us is None else _us(result.floor_us),
        "-" if share is None else f"{share:.0%}",
        ", ".join(others) or "-",
    )


_COLD_HEADER = ("process start to first token", "files in memory, ms", "not in memory, ms")


def _cold_line(result: Result) -> tuple[str, ...]:
    times = _times(result, "ours")
    return (result.shape, *(f"{times[name] / 1e3:,.1f}" if name in times else "-" for name in ("ours", "dropped")))


def tables(results: list[Result]) -> str:
    """A Markdown table for each suite and model."""
    text = []
    for kernel in dict.fromkeys(result.kernel for result in results):
        cold = kernel.startswith("cold")
        line_of = _cold_line if cold else _line
        lines = [_COLD_HEADER if cold else _HEADER]
        lines += [line_of(result) for result in results if result.kernel == kernel]
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        drawn = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
        drawn.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
        text.append(f"## {kernel}\n\n" + "\n".join(drawn))
    return "\n\n".join(text)


def page(report: Report) -> str:
    """The whole page, in Markdown."""
    facts = [(fact, str(report.machine[fact])) for fact in _FACTS if fact in report.machine]
    rounds = {t.rounds for r in report.results for v in r.variants.values() for t in v.modes.values()}
    return _PAGE.format(
        machine="| | |\n|---|---|\n" + "\n".join(f"| {fact} | {value} |" for fact, value in facts),
        dtypes=" and ".join(dict.fromkeys(result.dtype for result in report.results)) or "nothing",
        rounds=" or ".join(str(number) for number in sorted(rounds)) or "no",
        spec=report.machine.get("spec", "unknown"),
        tables=tables(report.results),
    )
