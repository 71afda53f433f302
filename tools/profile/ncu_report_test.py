from pathlib import Path

import pytest
from tools.profile.ncu_report import parse, render, short_name

CSV = Path("tools/profile/testdata/ncu_mlp.csv").read_text()
STALLED = "smsp__average_warps_issue_stalled_{}_per_issue_active.ratio"
TENSOR = "sm__ops_path_tensor_src_{}.sum"
TABLE = [
    ["ID", "Kernel Name", "gpu__time_duration.sum", "dram__bytes_read.sum", "dram__bytes_write.sum"]
    + [STALLED.format("barrier"), STALLED.format("math"), STALLED.format("selected")]
    + ["launch__registers_per_thread", TENSOR.format("bf16_dst_fp32"), TENSOR.format("int8")],
    ["", "", "ns", "byte", "byte", "inst", "inst", "inst", "register/thread", "", ""],
    [
        "0",
        "void f<int, (bool)1>(const float *, int)",
        "2,000",
        "4,000,000",
        "n/a",
        "1",
        "3",
        "9",
        "96",
        "7,000,000",
        "0",
    ],
    ["1", "g(int)", "1,000", "1,000,000", "500,000", "0", "0", "1", "32", "n/a", "n/a"],
]
TINY = '==PROF== Profiling "a"\n' + "".join(",".join(f'"{cell}"' for cell in row) + "\n" for row in TABLE)


def test_numbers_units_and_stalls_are_read():
    first, second = parse(TINY)
    assert (first.us, first.read_bytes, first.written_bytes, first.registers) == (2.0, 4e6, None, 96)
    assert list(first.stalls.items()) == [("math", 3.0), ("barrier", 1.0)]
    assert first.top_stalls() == "math 75%, barrier 25%" and second.top_stalls() == "-"
    assert first.memory_share is None
    assert (first.tensor_ops, second.tensor_ops) == (7e6, None)


def test_what_they_come_to_beside_the_floor():
    lines = render(parse(TINY), flops=6e6, size=2e6, floor_us=0.6).splitlines()
    assert lines[1].split()[:3] == ["f<int,", "(bool)1>", "2.00"]
    assert lines[-2] == "the tensor pipes did 0.007 GFLOP"
    assert lines[-3] == "together 3.00 us: 2.0 TFLOP/s of 0.006 GFLOP, 1.83 TB/s of 5.50 MB (the least: 2.00 MB)"
    assert lines[-1] == "floor 0.60 us: 20% of it reached"
    assert "floor" not in render(parse(TINY), 6e6, 2e6, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "ncu gave no metrics: no output"),
        ("Traceback\nRuntimeError: no GPU", "no metrics: RuntimeError: no GPU"),
        ("==ERROR== ERR_NVGPUCTRPERM\n==PROF== x", "no metrics: ERR_NVGPUCTRPERM"),
        ("\n".join(TINY.splitlines()[:3]), "profiled no kernel"),
        (TINY.replace('"ns"', '"ms"'), "times are in 'ms'"),
        (TINY.replace("gpu__time", "gpu__other"), "no time of void f"),
    ],
)
def test_what_is_no_profile_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("name", "short"),
    [
        (
            "void flashflow::cuda::<unnamed>::GemmSkinnyKernel<8, 1, false>(flashflow::Args)",
            "GemmSkinnyKernel<8, 1, false>",
        ),
        ("void flashflow::cuda::(anonymous namespace)::Softmax(float *)", "Softmax"),
        ("triton_red_fused_0", "triton_red_fused_0"),
        ("f<" + "x" * 60 + ">()", "f<" + "x" * 43 + "..."),
    ],
)
def test_short_names(name, short):
    assert short_name(name) == short


def test_a_profile_of_an_h200():
    up, down = parse(CSV)
    assert [short_name(launch.kernel) for launch in (up, down)] == ["SkinnyKernel<1, 2, 0>", "SkinnyKernel<1, 8, 0>"]
    assert (down.us, down.read_bytes, down.written_bytes, down.l2_bytes) == (5.728, 4741632, 0, 8240448)
    assert down.memory_share == pytest.approx(0.1731) and down.compute_share == pytest.approx(0.0716)
    assert down.registers == 116
    assert down.top_stalls() == "long_scoreboard 53%, wait 19%, imc_miss 11%"
