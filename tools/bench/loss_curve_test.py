import json
import sys

import pytest
from tools.bench.loss_curve import main, read

LINES = [
    {"step": 1, "loss": 4.0, "lr": 0.1},
    {"step": 2, "loss": 3.0},
    {"step": 2, "validation_loss": 3.5},
    {"step": 2, "checkpoint": "step-00000002"},
]


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return path


def test_curves(run):
    assert read(run) == {"loss": [(1, 4.0), (2, 3.0)], "validation_loss": [(2, 3.5)]}


def test_picture(run, tmp_path):
    out = tmp_path / "curve.svg"
    assert main([f"mine={run}", str(run), "-o", str(out)]) == 0
    assert out.read_text().count("<!-- mine, held out: 3.500 at step 2 -->") == 1
    png = tmp_path / "curve.png"
    assert main([str(run), "--out", str(png)]) == 0
    assert png.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("content", ["[1]\n", "{}\n", "not json\n"])
def test_other_files_are_refused(tmp_path, capsys, content):
    (tmp_path / "a").write_text(content)
    assert main([str(tmp_path / "a"), "-o", str(tmp_path / "b.png")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_missing_matplotlib_is_one_sentence(run, capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main([str(run), "-o", str(tmp_path / "b.png")]) == 2
    assert "charts need matplotlib" in capsys.readouterr().err
