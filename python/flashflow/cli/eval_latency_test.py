"""eval-latency as a process, on a tiny model: what a user at a shell sees."""

import json
import os
import subprocess
import sys

import pytest

from flashflow.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    path = tmp_path_factory.mktemp("home")
    write_tiny_model(path / "model")
    return path


def run(home, verb, *words, status=0):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "XDG_CACHE_HOME": str(home / "xdg")}
    done = subprocess.run(
        [sys.executable, "-m", "flashflow.cli", verb, *words], cwd=home, env=env, capture_output=True, text=True
    )
    assert done.returncode == status, done.stderr
    return done.stdout, done.stderr


def test_an_engine_is_measured_at_several_batch_sizes(home):
    run(home, "export_checkpoint", "--model", "model", "--out", "model.ff")
    words = ("--engine", "model.ff", "--batch", "1", "--batch", "2", "--prompt-len", "8", "--new-tokens", "4")
    result = json.loads(run(home, "eval_latency", *words, "--device", "cpu", "--json")[0])
    assert [r["batch"] for r in result["results"]] == [1, 2] and result["dtype"] == "float32"
    assert all(r["token_p50_ms"] > 0 and r["percent_of_floor"] > 0 for r in result["results"])
    text, said = run(home, "eval_latency", *words, "--device", "cpu")
    assert len(text.splitlines()) == 3 and "% of floor" in text and "measuring 2 at a time" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--engine", "model"), "does not end in .ff"),
        (("--model", "model", "--batch", "0"), "--batch is 0"),
        (("--model", "model", "--prompt-len", "64"), "do not fit the model's context of 64"),
    ],
)
def test_what_is_wrong_is_said(home, words, message):
    text, said = run(home, "eval_latency", *words, "--device", "cpu", status=1)
    assert text == "" and message in said
