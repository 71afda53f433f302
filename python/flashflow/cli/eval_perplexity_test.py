"""eval-perplexity as a process, on a tiny model: what a user at a shell sees."""

import json
import math
import os
import subprocess
import sys

import pytest

from flashflow.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    path = tmp_path_factory.mktemp("home")
    write_tiny_model(path / "model")
    (path / "text.txt").write_text("Call me Ishmael. Some years ago, never mind how long precisely. " * 4)
    (path / "empty.txt").write_text("")
    return path


def run(home, *words, status=0):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "XDG_CACHE_HOME": str(home / "xdg")}
    done = subprocess.run(
        [sys.executable, "-m", "flashflow.cli", "eval_perplexity", "--model", "model", *words],
        cwd=home,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stderr
    return done.stdout, done.stderr


def test_json_and_text_say_the_same(home):
    words = ("--data", "text.txt", "--context", "32", "--stride", "16", "--device", "cpu", "--dtype", "float32")
    result = json.loads(run(home, *words, "--json")[0])
    assert result["dtype"] == "float32" and result["device"] == "cpu"
    assert (result["context"], result["stride"], result["scored_tokens"]) == (32, 16, result["tokens"] - 1)
    assert result["perplexity"] == pytest.approx(math.exp(result["nats_per_token"]))
    text, said = run(home, *words)
    assert f"perplexity      {result['perplexity']:.4f}\n" in text and f"{result['bits_per_byte']:.6f}\n" in text
    assert f"/{result['tokens']} [" in said and "token/s" in said
    assert run(home, *words, "--quiet")[1] == ""


def test_a_bad_file_is_named_before_any_work(home):
    text, said = run(home, "--data", "empty.txt", status=1)
    assert text == "" and said.splitlines() == ["error: --data: empty.txt is empty", "hint: give some text"]
