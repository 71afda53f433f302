"""The suite's command line where there is no GPU: it lists, renders an earlier run, and says what it lacks."""

import sys

import pytest
import torch
from kernels.bench import timing
from tools.bench import kernels_suite
from tools.bench.kernel_results import Report, Result, Timing, Variant

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def result(kernel, shape, ours, peer, bound="memory", dtype="bf16"):
    return Result(
        kernel,
        shape,
        dtype,
        flops=1e9,
        bytes=1e7,
        floor_us=5.0,
        bound=bound,
        variants={
            name: Variant(role, {"cold": Timing(us, us, us, 21)})
            for name, role, us in (("ours", "ours", ours), ("eager", "peer", peer))
            if us
        },
    )


REPORT = Report(
    {"device": "NVIDIA H200", "driver": "580", "date": "2026-01-02 03:04 UTC", "commit": "abc", "spec": "H200 SXM"},
    [
        result("mlp", "8 rows", 10.0, 20.0),
        result("norm", "7x9", 8.0, None, dtype="f32"),
        result("norm", "1x1", None, 3.0),
    ],
)


@pytest.fixture
def report(tmp_path):
    path = tmp_path / "report.json"
    path.write_text(REPORT.to_json())
    return path


def lines_of(capsys):
    out, err = capsys.readouterr()
    return out.splitlines(), err.splitlines()


@NO_GPU
def test_without_a_gpu_one_sentence(capsys, tmp_path):
    assert kernels_suite.main(["--json", str(tmp_path / "x.json")]) == 2
    assert lines_of(capsys) == (
        [],
        ["error: the kernels suite needs an NVIDIA GPU, and torch finds none on this machine"],
    )
    assert not (tmp_path / "x.json").exists()


def test_cases_are_listed_by_filter(capsys):
    assert kernels_suite.main(["--list", "--kernels", "softmax,norm", "--shapes", "12288,x768"]) == 0
    out, _ = lines_of(capsys)
    assert [line.split()[0] for line in out] == ["softmax", "norm", "norm"]
    assert "inductor" in out[0]


@pytest.mark.parametrize("words", [["--kernels", "conv"], ["--shapes", "5x5x5x5"]])
def test_an_unknown_filter_is_an_error(capsys, words):
    assert kernels_suite.main(["--list", *words]) == 2
    out, err = lines_of(capsys)
    assert out == [] and err[0].startswith("error: ")


def test_an_earlier_run_becomes_a_page_and_charts(capsys, report, tmp_path):
    markdown, charts, copy = tmp_path / "page.md", tmp_path / "charts", tmp_path / "copy.json"
    words = ["--from-json", report, "--markdown", markdown, "--charts", charts, "--json", copy]
    assert kernels_suite.main([str(word) for word in words]) == 0
    assert Report.from_json(copy.read_text()) == REPORT
    page = markdown.read_text()
    for fact in ("| device | NVIDIA H200 |", "| commit | abc |", "median of 21 rounds", "(H200 SXM)"):
        assert fact in page
    assert page.count("\n## ") == 2 and "| 8 rows" in page
    assert sorted(path.name for path in charts.iterdir()) == ["bars.png", "roofline.png"]
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in charts.iterdir())
    out, _ = lines_of(capsys)
    assert out[0].startswith("device NVIDIA H200 · driver 580")


def test_a_gpu_without_a_spec_has_no_roofline(report, tmp_path):
    report.write_text(REPORT.to_json().replace("NVIDIA H200", "NVIDIA Zebra"))
    assert kernels_suite.main(["--from-json", str(report), "--charts", str(tmp_path / "charts")]) == 0
    assert [path.name for path in (tmp_path / "charts").iterdir()] == ["bars.png"]


def test_without_matplotlib_one_sentence(capsys, monkeypatch, report, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert kernels_suite.main(["--from-json", str(report), "--charts", str(tmp_path / "charts")]) == 2
    _, err = lines_of(capsys)
    assert len(err) == 1 and err[0].startswith("error: charts need matplotlib (")


def test_a_file_that_is_no_report_is_refused(capsys, report):
    report.write_text("{}")
    assert kernels_suite.main(["--from-json", str(report)]) == 2
    assert "not a report" in lines_of(capsys)[1][0]


def test_a_kernel_that_crashes_leaves_what_was_measured_before(capsys, monkeypatch, tmp_path):
    measured = []

    def measure(case, rounds, log, wanted):
        measured.append(case.shape)
        if len(measured) == 3:
            raise RuntimeError("CUDA error: an illegal memory access\nmore")
        names = [name for name in case.variants() if wanted(name)]
        return {name: {"cold": [1.0 + i, 3.0, 2.0]} for i, name in enumerate(names)}

    monkeypatch.setattr(timing, "measure", measure)
    monkeypatch.setattr(kernels_suite, "describe_machine", lambda commit: {"device": "NVIDIA H200", "commit": commit})
    (tmp_path / "library.so").touch()
    report = tmp_path / "report.json"
    words = ["--kernels", "norm", "--without", "eager", "--library", tmp_path / "library.so", "--json", report]
    assert kernels_suite.main([str(word) for word in words]) == 1
    found = Report.from_json(report.read_text())
    assert [result.shape for result in found.results] == measured[:2]
    assert found.machine["ended early"] == f"norm {measured[2]}: CUDA error: an illegal memory access"
    assert list(found.results[0].variants) == ["ours", "inductor", "copy"]
    assert found.results[0].best("ours", "cold") == ("ours", 2.0)
    assert found.results[0].floor_us == pytest.approx(5.85, abs=0.01)
