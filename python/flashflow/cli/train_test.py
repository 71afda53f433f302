"""From a text to a text: train, export, generate, each as a process. And an interrupt in between."""

import json
import os
import signal
import subprocess
import sys

OPTIONS = [
    *("--data", "data.txt", "--save-dir", "run", "--device", "cpu", "--steps", "16", "--batch-size", "4"),
    *("--seq-len", "8", "--lr", "0.004", "--warmup", "2", "--eval-every", "0", "--save-every", "8"),
]


def start(home, *words):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "XDG_CACHE_HOME": str(home / "xdg")}
    command = [sys.executable, "-m", "flashflow.cli", *words]
    return subprocess.Popen(command, cwd=home, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def run(home, *words, status=0):
    with start(home, *words) as process:
        out, said = process.communicate()
    assert process.returncode == status, said.decode()
    return out.decode(), said.decode()


def losses(home):
    lines = [json.loads(line) for line in (home / "run" / "metrics.jsonl").read_text().splitlines()]
    return {m["step"]: m["loss"] for m in lines if "loss" in m}


def test_train_interrupt_resume_export_generate(tmp_path):
    (tmp_path / "data.txt").write_text(" left right" * 400)
    with start(tmp_path, "train", *OPTIONS) as process:
        said = b""
        while b"2/16" not in said and (more := process.stderr.read1()):
            said += more
        process.send_signal(signal.SIGINT)
        said += process.communicate()[1]
    assert process.returncode == 130, said.decode()
    assert b"interrupted at step" in said and b"--resume" in said and b"Traceback" not in said
    done = max(losses(tmp_path))
    assert 2 <= done < 16

    out, said = run(tmp_path, "train", *OPTIONS, "--resume")
    assert out == "run/step-00000016\n" and "validation loss" in said
    steps = losses(tmp_path)
    assert sorted(steps) == list(range(1, 17)) and steps[16] < steps[1] / 2

    _, said = run(tmp_path, "train", *OPTIONS, status=1)
    assert "already holds a training run" in said

    run(tmp_path, "export_checkpoint", "--model", "run", "--out", "trained.ff")
    words = ["--prompt", " left right left", "--max-tokens", "4", "--json"]
    results = [json.loads(run(tmp_path, "generate", "--model", m, *words)[0]) for m in ("run", "trained.ff")]
    assert results[0]["token_ids"] == results[1]["token_ids"]
    assert results[0]["text"] == " right left right left"
