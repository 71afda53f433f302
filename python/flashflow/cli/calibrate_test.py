"""calibrate as a process, on a tiny model: its report, and that its checkpoint carries clips into the int8 graph."""

import json
import os
import re
import subprocess
import sys

import pytest

from flashflow.core import core
from flashflow.loaders.checkpoint import load_checkpoint
from flashflow.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    path = tmp_path_factory.mktemp("home")
    write_tiny_model(path / "model")
    (path / "text.txt").write_text("Call me Ishmael. Some years ago, never mind how long precisely. " * 10)
    return path


def run(home, verb, *words, status=0):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "XDG_CACHE_HOME": str(home / "xdg")}
    done = subprocess.run(
        [sys.executable, "-m", "flashflow.cli", verb, *words], cwd=home, env=env, capture_output=True, text=True
    )
    assert done.returncode == status, done.stderr
    return done.stdout, done.stderr


WORDS = ("--data", "text.txt", "--context", "48", "--tokens", "192", "--eval-tokens", "96")


def test_calibrated_model_is_a_checkpoint_whose_graph_has_the_clips(home):
    text, said = run(
        home,
        "calibrate",
        "--model",
        "model",
        *WORDS,
        "--out",
        "int8",
        "--method",
        "percentile",
        "--percentile",
        "90",
        "--smooth",
        "0.5",
        "--sensitivity",
        "perplexity",
        "--budget",
        "0.0001",
        "--report",
        "report.json",
    )
    report = json.loads((home / "report.json").read_text())
    clips = load_checkpoint(home / "int8").clips
    assert clips == report["clips"] and len(clips) == 9 and "wte.weight" in clips
    assert report["smoothed"] and report["fp32"]["scored_tokens"] == 94
    assert report["perplexity_growth"] == pytest.approx(report["int8"]["perplexity"] / report["fp32"]["perplexity"] - 1)
    assert abs(report["perplexity_growth"]) < 0.05
    assert len(report["sensitivity"]) == 9 and report["sensitivity"][0]["nats_per_token"] is not None
    lines = text.splitlines()
    assert len(lines) == 1 + 9 + 1 and "layers" in lines[0]
    assert re.search(r"fp32 \d+\.\d{4}, int8 \d+\.\d{4} \([+-]\d+\.\d\d%\)$", lines[-1])
    assert "calibrating" in said and "9 layers clip, 6 are smoothed" in said

    assert report["kept"] and "stay floats" in said
    run(home, "export_fx_graph", "--model", "int8", "--out", "graph.json")
    metadata = json.loads((home / "graph.json").read_text())["metadata"]
    assert {name for name in metadata if name.startswith("precision.")} == {f"precision.{n}" for n in report["kept"]}
    ir = core().import_graph((home / "graph.json").read_text())
    ir = core().run_passes(ir, ["quantize-int8"], {"quantize": "int8"})
    assert {float(clip) for clip in re.findall(r"fused_linear\(.*\{clip = ([^}]+)\}", ir)} == {
        clip for name, clip in clips.items() if name not in report["kept"]
    }
    run(home, "export_checkpoint", "--model", "int8", "--out", "int8.ff", "--dtype", "float32")


def test_no_clips(home):
    text, _ = run(
        home,
        "calibrate",
        "--model",
        "model",
        *WORDS,
        "--out",
        "plain",
        "--method",
        "none",
        "--smooth",
        "off",
        "--sensitivity",
        "none",
        "--json",
    )
    result = json.loads(text)
    assert (
        result["smoothed"] == []
        and result["clips"] == {} == load_checkpoint(home / "plain").clips
        and result["sensitivity"] == []
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--data", "text.txt", "--tokens", "9999"), "text.txt has 640 tokens: 9999 to calibrate on and 4096"),
        ((*WORDS, "--context", "65"), "--context is 65: expected 2..64"),
        ((*WORDS, "--smooth", "some"), "--smooth is 'some': expected auto, off or a number"),
    ],
)
def test_what_is_wrong_is_said(home, words, message):
    text, said = run(home, "calibrate", "--model", "model", *words, "--out", "bad", status=1)
    assert text == "" and message in said
