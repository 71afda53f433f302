"""The CPU suite on a small GPT-2: ours and torch run, a peer that crashes is a line, and rows are what was measured."""

import pytest
from tools.bench import cpu_suite
from tools.bench.cpu_turns import Times, Turn
from transformers import GPT2Config, GPT2LMHeadModel

from flashflow import FlashFlowError


def test_ours_and_torch_are_measured_and_other_peers_say_why_not(tmp_path):
    model = str(tmp_path / "model")
    GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=32)).save_pretrained(model)
    (tmp_path / "llama_cpp.py").write_text("import os\nos.kill(os.getpid(), 11)")
    said = []
    rows = cpu_suite.run(model, ["float32", "int4"], [6, 9], 3, 2, 1, True, said.append, tmp_path)
    assert [(row.what.removeprefix(f"{model} "), row.unit, row.against.partition(":")[0]) for row in rows] == [
        (f"{dtype}: {what}", unit, against)
        for dtype in ("float32", "int4")
        for what, unit, against in (
            ("read bandwidth", "GB/s", ""),
            ("decode, batch 1", "tok/s", "bandwidth bound"),
            ("decode, batch 1", "tok/s", "torch eager fp32"),
            ("prefill 6", "ms", "torch eager fp32"),
            ("prefill 9", "ms", "torch eager fp32"),
        )
    ]
    assert all(row.value > 0 for row in rows)
    left_out = [line.removeprefix(f"bench: {model} ") for line in said if "left out" in line]
    missing = "is left out: ModuleNotFoundError: No module named"
    assert [line.partition("; ")[0] for line in left_out] == [
        f"float32: CTranslate2 float32 {missing} 'ctranslate2'",
        f"float32: ONNX Runtime float32 {missing} 'onnxruntime_genai'",
        "float32: llama.cpp F32 is left out: ended by SIGSEGV",
        "int4: llama.cpp Q4_1 is left out: ended by SIGSEGV",
    ]


def test_ours_that_fails_is_an_error(tmp_path):
    with pytest.raises(FlashFlowError, match="nowhere float32: NotFoundError: there is no model 'nowhere'"):
        cpu_suite.run("nowhere", ["float32"], [2], 2, 1, 1, False, print)


def test_rows_are_medians_of_turns():
    turns = [
        Turn(0.125, Times(0.5, {3: 1.0}), {"peer": Times(1.0, {3: 4.0})}),
        Turn(0.25, Times(0.5, {3: 2.0}), {"peer": Times(3.0, {3: 2.0})}),
        Turn(0.25, Times(1.0, {3: 2.0}), {"peer": Times(2.0, {3: 6.0})}),
    ]
    bandwidth, bound, decode, prefill = cpu_suite._rows("tiny", turns, 1000)
    assert (bandwidth.what, bandwidth.value) == ("tiny: read bandwidth", 4e-6)
    assert (bound.value, bound.peer, bound.ratio) == (2.0, 4.0, 0.25)
    assert (decode.value, decode.peer, decode.ratio, decode.against) == (2.0, 0.5, 2.0, "peer")
    assert (prefill.what, prefill.value, prefill.peer, prefill.ratio) == ("tiny: prefill 3", 2000.0, 4000.0, 3.0)
    assert cpu_suite._rows("tiny", [Turn(1.0, Times(1.0, {3: 1.0}), {})], 1000)[-1].peer is None
