"""The suite on the CPU, with the smallest preset: what it measures, what it prints, how it fails."""

import json

import numpy as np
import pytest
import torch
from tools.bench.torch_gpt_training import TorchGpt, make_step
from tools.bench.train_suite import Options, Row, main, run, table

SMALL = Options(preset="tiny", batch_size=1, seq_len=16, steps=2, repeats=2, device="cpu")


def test_variants_take_turns():
    said = []
    machine, rows = run(SMALL, said.append)
    assert [row.variant for row in rows] == ["ours", "torch"]
    assert said[-1].startswith("turn 2: ours ") and ", torch " in said[-1]
    assert machine["batch"] == "1 x 16" and machine["device"] == "cpu"
    for row in rows:
        assert row.tokens_per_s * row.step_ms == pytest.approx(16e3)
        assert row.peak_share is None and row.peak_memory_gib is None
        # 6 a parameter and 12 * layers * width * context a token.
        flops = (6 * 7_259_008 + 12 * 4 * 128 * 16) * 16
        assert row.tflop_per_s == pytest.approx(flops / row.step_ms / 1e9)


def test_table():
    rows = [Row("ours", 500_123.4, 65.5, 430.2, 0.5446, 28.4, 18.12), Row("torch", 1, 2, 3, None, 4, None)]
    assert table(rows).splitlines()[2:] == [
        "| ours | 500,123 | 65.50 | 430 | 54.5% | 28 | 18.1 |",
        "| torch | 1 | 2.00 | 3 | - | 4 | - |",
    ]


def test_peer_learns():
    torch.manual_seed(0)
    tokens = np.arange(64).reshape(4, 16) % 11
    batch = torch.from_numpy(tokens), torch.from_numpy(np.roll(tokens, -1, axis=1))
    model = TorchGpt(layers=1, heads=2, width=16, context=16, vocab=11)
    before = model(*batch).item()
    step = make_step(model, lambda: batch, "cpu")
    losses = [step() for _ in range(60)]
    assert [i for i, loss in enumerate(losses) if loss is not None] == [9, 19, 29, 39, 49, 59]
    assert before == pytest.approx(np.log(11), rel=0.1) and losses[-1] < 0.9 * before


def test_errors_and_report(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--variants", "ours"]) == 2
    assert "the train suite needs an NVIDIA GPU" in capsys.readouterr().err
    words = ["--device", "cpu", "--preset", "tiny", "--batch-size", "1", "--seq-len", "8", "--steps", "1"]
    assert main([*words, "--variants", "jax"]) == 2
    assert "there is no variant 'jax': expected torch, ours, ours-fp16, ours-qat" in capsys.readouterr().err
    assert main([*words, "--preset", "huge"]) == 2
    assert "unknown preset 'huge'" in capsys.readouterr().err
    report = tmp_path / "report.json"
    assert main([*words, "--variants", "ours,ours-qat", "--repeats", "1", "--json", str(report)]) == 0
    assert [row["variant"] for row in json.loads(report.read_text())["rows"]] == ["ours", "ours-qat"]
    assert capsys.readouterr().out.count("| ours-qat |") == 1
