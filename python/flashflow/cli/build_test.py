"""build as a process, on a tiny model: real times, and what each --precision writes."""

import json
import os
import subprocess
import sys

import pytest
from safetensors import safe_open

from flashflow.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    path = tmp_path_factory.mktemp("home")
    write_tiny_model(path / "model")
    (path / "text.txt").write_text("Call me Ishmael. Some years ago, never mind how long precisely. " * 10)
    return path


def run(home, *words, status=0):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "XDG_CACHE_HOME": str(home / "xdg")}
    done = subprocess.run(
        [sys.executable, "-m", "flashflow.cli", "build", *words], cwd=home, env=env, capture_output=True, text=True
    )
    assert done.returncode == status, done.stderr
    return done.stdout, done.stderr


def coded(path):
    with safe_open(path, "pt") as file:
        return sorted(name for name in file.keys() if name.endswith(".codes"))  # noqa: SIM118 (no mapping)


TEXT = ("--data", "text.txt", "--tokens", "192", "--eval-tokens", "96", "--device", "cpu", "--threads", "1")


def test_layers_are_timed_and_explained(home):
    text, said = run(home, "--model", "model", "--out", "auto.ff", "--precision", "auto", *TEXT, "--explain",
                     "--perplexity-budget", "50")  # fmt: skip
    heading, *layers, total, summary, path = text.splitlines()
    assert heading.split() == ["float", "us", "int8", "us", "output", "error", "becomes", "layers,", "reason"]
    assert len(layers) == 9, "qkv, out, up and down of two layers, and the tied table"
    chosen = sum(" int8  " in line for line in layers)
    assert f"{chosen} of 9 in int8" in total
    assert summary.startswith(f"{chosen} of 9 layers in int8 on CPU") and "perplexity fp32" in summary
    assert path == "auto.ff" and bool(coded(home / "auto.ff")) == (chosen > 0)
    assert "timing each layer" in said and "measuring an engine's perplexity, number 1" in said


def test_json_has_all_figures(home):
    text, _ = run(home, "--model", "model", "--out", "auto2.ff", "--precision", "auto", *TEXT, "--json",
                  "--optimize-for", "prefill", "--prompt-len", "20")  # fmt: skip
    found = json.loads(text)
    assert found["goal"] == "prefill" and found["engine"] == "auto2.ff" and len(found["choices"]) == 9
    assert found["perplexity_growth"] <= 0.01
    assert all(choice["times"]["float_us"] > 0 and choice["times"]["int8_us"] > 0 for choice in found["choices"])


@pytest.mark.parametrize("words, dtype", [((), "bfloat16"), (("--precision", "int8"), "int8")])
def test_other_precisions_measure_nothing(home, words, dtype):
    text, _ = run(home, "--model", "model", "--out", "m.ff", *words, "--json")
    assert json.loads(text) == {"engine": "m.ff", "dtype": dtype}
    assert bool(coded(home / "m.ff")) == (dtype == "int8")


@pytest.mark.parametrize(
    "words, message",
    [
        (("--model", "model", "--out", "m.bin"), "m.bin does not end in .ff"),
        (("--model", "model", "--out", "m.ff", "--precision", "auto"), "--precision auto wants --data"),
        (("--model", "model", "--out", "m.ff", "--explain"), "--precision as-trained measures nothing to explain"),
        (
            ("--model", "model", "--out", "m.ff", "--precision", "auto", "--data", "text.txt"),
            "tokens: 4096 to calibrate on and 4096 to measure on are more",
        ),
    ],
)
def test_what_cannot_be_done_is_said(home, words, message):
    _, said = run(home, *words, status=1)
    assert message in said
