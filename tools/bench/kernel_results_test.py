import json
from pathlib import Path

import pytest
from tools.bench.kernel_results import DeviceSpec, Report, Result, Timing, Variant, spec_for, summarize, tables

SPECS = Path("compiler/analysis/data")
SPEC = DeviceSpec("a GPU", read_gb_per_s=4000, tflop_per_s={"bf16": 500, "f32": 50})


def timing(us):
    return Timing(us, us, us, 3)


RESULT = Result(
    "mlp",
    "8 rows",
    "bf16",
    flops=8e9,
    bytes=2e7,
    floor_us=10.0,
    bound="memory",
    variants={
        "ours": Variant("ours", {"cold": timing(20.0), "warm": timing(8.0)}),
        "before": Variant("ours", {"cold": timing(15.0)}),
        "eager": Variant("peer", {"cold": timing(60.0), "warm": timing(9.0)}),
        "cublaslt": Variant("peer", {"cold": timing(30.0), "warm": timing(12.0)}),
        "copy": Variant("other", {"cold": timing(1234.5)}),
    },
)


def test_median_and_quartiles():
    assert summarize([5.0, 1.0, 2.0, 4.0, 3.0]) == Timing(3.0, 2.0, 4.0, 5)
    assert summarize([9.0, 1.0]).us == 5.0
    assert summarize([7.0]) == Timing(7.0, 7.0, 7.0, 1)


def test_the_floor_is_the_larger_of_two():
    assert SPEC.floor(5e9, 4e6, "bf16") == (pytest.approx(10.0), "arithmetic")
    assert SPEC.floor(5e9, 8e7, "bf16") == (pytest.approx(20.0), "memory")
    assert SPEC.floor(5e9, 8e7, "f32") == (pytest.approx(100.0), "arithmetic")


def test_specs_go_by_a_word_of_the_name():
    spec = spec_for("NVIDIA H200", SPECS)
    assert spec is not None and spec.read_gb_per_s == 4300 and spec.tflop_per_s["bf16"] == 790
    assert spec_for("NVIDIA A100-SXM4-80GB", SPECS).name.startswith("NVIDIA A100")
    assert spec_for("NVIDIA GH200 480GB", SPECS) is None


def test_ratios_are_to_the_best_peer_and_of_the_first_of_ours():
    assert RESULT.best("ours", "cold") == ("ours", 20.0)
    assert RESULT.best("peer", "cold") == ("cublaslt", 30.0)
    assert RESULT.ratio("cold") == 1.5
    assert RESULT.ratio("warm") == 9.0 / 8.0
    assert RESULT.share_of_floor("cold") == 0.5
    assert RESULT.rate(20.0) == "1.00 TB/s"


def test_what_was_not_measured_is_a_dash():
    bare = Result("mlp", "9 rows", "bf16", 1.0, 1.0, None, "memory", {"eager": Variant("peer", {"cold": timing(3.0)})})
    assert bare.ratio("cold") is None and bare.share_of_floor("cold") is None
    cells = [cell.strip() for cell in tables([bare]).splitlines()[-1].strip("|").split("|")]
    assert cells == ["9 rows", "-", "-", "eager 3.0", "-", "-", "-", "-", "-", "-"]


def test_table():
    lines = tables([RESULT, RESULT]).splitlines()
    assert lines[0] == "## mlp" and len(lines) == 6
    assert len({len(line) for line in lines[2:]}) == 1, "columns are aligned"
    cells = [cell.strip() for cell in lines[4].strip("|").split("|")]
    assert cells == [
        "8 rows",
        "20.0",
        "1.00 TB/s",
        "eager 60.0, cublaslt 30.0",
        "1.50",
        "10.0",
        "50%",
        "8.0",
        "1.12",
        "before 15.0, copy 1,234",
    ]


def test_a_report_is_read_back_as_it_was():
    report = Report({"device": "a GPU"}, [RESULT])
    assert Report.from_json(report.to_json()) == report


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format=2), "format 2, expected 1"),
        (lambda d: d.pop("machine"), "not a report.*machine"),
        (lambda d: d["results"][0].pop("flops"), "not a report.*flops"),
        (lambda d: d["results"][0].update(variants=[]), "not a report"),
        (lambda d: d["results"][0]["variants"]["ours"]["modes"].update(hot={"x": 1}), "not a report.*x"),
    ],
)
def test_another_file_is_refused(change, message):
    data = json.loads(Report({}, [RESULT]).to_json())
    change(data)
    with pytest.raises(ValueError, match=message):
        Report.from_json(json.dumps(data))
    with pytest.raises(ValueError):
        Report.from_json("{")
