"""Every family of kernels that is timed, by the name that `--kernels` gives it."""

from collections.abc import Callable, Iterable

from kernels.bench import attention, gemm, gemm_s8, mlp, norm, paged, softmax
from kernels.bench.case import Case
from kernels.bench.library import Libraries

FAMILIES: dict[str, Callable[[Libraries], Iterable[Case]]] = {
    "attention": attention.cases,
    "mlp": mlp.cases,
    "gemm": gemm.cases,
    "gemm_s8": gemm_s8.cases,
    "norm": norm.cases,
    "paged": paged.cases,
    "softmax": softmax.cases,
}


def select(libraries: Libraries, kernels: list[str], shapes: list[str]) -> list[Case]:
    """The cases of the named families (all where none is named) whose shape has one of the texts in it.

    Raises:
        ValueError: there is no such family, or no case is left.
    """
    for name in kernels:
        if name not in FAMILIES:
            raise ValueError(f"there is no kernel {name!r}: expected {', '.join(FAMILIES)}")
    found = [case for name in kernels or FAMILIES for case in FAMILIES[name](libraries)]
    kept = [case for case in found if not shapes or any(text in case.shape for text in shapes)]
    if not kept:
        raise ValueError(f"no shape has {' or '.join(shapes)} in it: {', '.join(case.shape for case in found)}")
    return kept
