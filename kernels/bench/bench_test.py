"""What needs no GPU: which cases there are, what they promise, and how many calls a graph takes."""

from pathlib import Path

import pytest
import torch
from kernels.bench import timing
from kernels.bench.families import FAMILIES, select
from kernels.bench.library import Library, _argument

LIBRARIES = {"ours": Library(Path("nowhere.so")), "before": Library(Path("nowhere.so"))}
CASES = select(LIBRARIES, [], [])


def test_every_family_has_cases_under_its_name():
    assert {case.kernel for case in CASES} == set(FAMILIES)
    names = [(case.kernel, case.shape) for case in CASES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kernel} {case.shape}")
def test_a_case_has_ours_first_a_peer_and_a_floor(case):
    assert list(case.ours)[:2] == ["ours", "before"]
    assert case.peers and case.flops > 0 and case.bytes > 0 and "cold" in case.modes
    assert len(case.variants()) == len(case.ours) + len(case.peers) + len(case.others), "two variants of one name"


def test_floors_of_known_shapes():
    mlp, attention = select(LIBRARIES, ["mlp"], ["1 rows 768"])[0], select(LIBRARIES, ["attention"], ["8x12x1024"])[0]
    assert mlp.flops == 16 * 768 * 768
    assert mlp.bytes == 2 * (2 * 768 * 3072 + 3072 + 768 + 2 * 768)
    assert attention.flops == 4 * 8 * 12 * 1024 * 1024 * 64 / 2
    assert attention.bytes == 2 * 4 * 8 * 12 * 1024 * 64


def test_selection():
    assert [case.kernel for case in select(LIBRARIES, ["softmax", "gemm"], ["50257"])] == ["softmax"] + 3 * ["gemm"]
    with pytest.raises(ValueError, match="there is no kernel 'conv': expected attention, mlp"):
        select(LIBRARIES, ["conv"], [])
    with pytest.raises(ValueError, match="no shape has 77x77 in it: 12288x1024, "):
        select(LIBRARIES, ["softmax"], ["77x77"])


def test_cold_calls_rotate_over_more_than_any_cache():
    assert timing.copies_needed(4 << 20) * (4 << 20) == timing.ROTATED_BYTES >= 256 << 20
    assert timing.copies_needed((4 << 20) - 1) == 129
    assert timing.copies_needed(2 << 30) == 1


def test_a_graph_is_long_enough_and_calls_every_copy():
    assert timing.calls_in_graph(30.0, 5) == 100
    assert timing.calls_in_graph(0.5, 5) == timing.MOST_CALLS
    assert timing.calls_in_graph(1e6, 5) == 5
    assert timing.calls_in_graph(30.0, 1000) == 1000


def test_arguments_as_the_c_functions_take_them():
    tensor = torch.zeros(3)
    assert _argument(tensor).value == tensor.data_ptr()
    assert _argument(None).value is None
    assert [(type(_argument(v)).__name__, _argument(v).value) for v in (True, 7, 0.5)] == [
        ("c_int", 1),
        ("c_int", 7),
        ("c_float", 0.5),
    ]
