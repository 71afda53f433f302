"""From a text to a text: train, export, generate, each as a process. And an interrupt in between."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest

from flashflow.cli.app import app
from flashflow.training.config import TrainConfig

OPTIONS = [
    *("--data", "data.txt", "--save-dir", "run", "--device", "cpu", "--batch-size", "4"),
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
    with start(tmp_path, "train", *OPTIONS, "--steps", "1000000") as process:
        said = b""
        while not re.search(rb" [1-9][0-9]*/1000000", said) and (more := process.stderr.read1()):
            said += more
        process.send_signal(signal.SIGINT)
        said += process.communicate()[1]
    assert b"tokenizing data.txt" in said
    assert process.returncode == 130, said.decode()
    assert b"interrupted at step" in said and b"--resume" in said and b"Traceback" not in said
    done = max(losses(tmp_path))

    last = done + 16
    out, said = run(tmp_path, "train", *OPTIONS, "--resume", "--steps", str(last))
    assert out == f"run/step-{last:08}\n" and "validation loss" in said
    steps = losses(tmp_path)
    assert sorted(steps) == list(range(1, last + 1)) and steps[last] < steps[1] / 2

    more = ["--steps", str(last + 8), "--eval-every", "1", "--patience", "1"]
    out, said = run(tmp_path, "train", *OPTIONS, "--resume", *more)
    assert out.startswith("run/step-000000") and "the best is" in said
    assert os.path.samefile(tmp_path / "run" / "best", tmp_path / out.strip())

    _, said = run(tmp_path, "train", *OPTIONS, status=1)
    assert "already holds a training run" in said

    run(tmp_path, "export_checkpoint", "--model", "run", "--out", "trained.ff")
    words = ["--prompt", " left right left", "--max-tokens", "4", "--json"]
    results = [json.loads(run(tmp_path, "generate", "--model", m, *words)[0]) for m in ("run", "trained.ff")]
    assert results[0]["token_ids"] == results[1]["token_ids"]
    assert results[0]["text"] == " right left right left"


def test_every_option_reaches_the_trainer(monkeypatch):
    class Asked(BaseException):
        pass

    def make_trainer(data, save_dir, config, resume, world, progress):
        raise Asked(str(data), str(save_dir), config, resume)

    monkeypatch.setattr("flashflow.training.gpt_small.make_trainer", make_trainer)
    wanted = {
        "preset": "small",
        "steps": 11,
        "batch_size": 2,
        "seq_len": 16,
        "lr": 0.5,
        "warmup": 3,
        "weight_decay": 0.25,
        "grad_clip": 2.0,
        "grad_accum": 4,
        "eval_every": 5,
        "save_every": 6,
        "keep_last": 7,
        "log_every": 9,
        "patience": 10,
        "dropout": 0.125,
        "amp_dtype": "fp16",
        "parallel": "fsdp",
        "seed": 8,
        "device": "cpu",
    }
    options = [word for name, value in wanted.items() for word in ("--" + name.replace("_", "-"), str(value))]
    for name in ("compile", "activation_checkpointing", "tensorboard"):
        wanted[name] = True
        options.append("--" + name.replace("_", "-"))
    assert all(value != getattr(TrainConfig(), name) for name, value in wanted.items())
    with pytest.raises(Asked) as caught:
        app(["train", "--data", "d", "--save-dir", "s", "--resume", *options], standalone_mode=False)
    assert caught.value.args == ("d", "s", TrainConfig(**wanted), True)
