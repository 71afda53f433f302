"""build --precision auto for a GPU, which the host stands in for: what it says of each layer, and what it writes."""

import json
import os
import subprocess
import sys

import pytest

from flashflow import LLM
from flashflow.tiny_model import write_tiny_model


@pytest.mark.parametrize("goal", [("--batch", "2"), ("--optimize-for", "prefill", "--prompt-len", "20")])
def test_layers_are_timed_on_the_device(tmp_path, goal):
    write_tiny_model(tmp_path / "model")
    (tmp_path / "text.txt").write_text("Call me Ishmael. Some years ago, never mind how long precisely. " * 10)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "XDG_CACHE_HOME": str(tmp_path / "xdg")}
    env["FLASHFLOW_CUDA_LIBRARY"] = os.path.abspath(env["FLASHFLOW_CUDA_LIBRARY"])
    words = ["--model", "model", "--out", "auto.ff", "--precision", "auto", "--device", "cuda", "--data", "text.txt"]
    words += ["--tokens", "192", "--eval-tokens", "96", "--perplexity-budget", "50", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "flashflow.cli", "build", *words, *goal],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "host" in found["device"] and len(found["choices"]) == 9
    assert all(choice["times"]["float_us"] > 0 and choice["times"]["int8_us"] > 0 for choice in found["choices"])
    llm = LLM(tmp_path / "auto.ff", device="cuda")
    assert llm.dtype == ("int8" if any(choice["int8"] for choice in found["choices"]) else "bfloat16")
    assert len(llm.generate("Call me")[0].token_ids) > 0
