"""--qat int8: what it learns, and that the compiler's int8 graph of its checkpoint is the model that was trained."""

import math
import re

import numpy as np
import pytest
import torch

from flashflow import LLM
from flashflow.core import core
from flashflow.errors import InvalidArgumentError
from flashflow.evaluation.perplexity import negative_log_likelihood
from flashflow.frontend.export import export, graph_text
from flashflow.loaders.checkpoint import load_checkpoint, save_checkpoint
from flashflow.loaders.torch_weights import read_tensors
from flashflow.models.build import build_model
from flashflow.models.config import GptSmallConfig
from flashflow.quantization.int8_contract import int8_linear, quantize_rows
from flashflow.quantization.qat import clips_of, prepare_qat
from flashflow.training.config import TrainConfig
from flashflow.training.gpt_small import make_trainer
from flashflow.training.trainer_testing import make_gpt_trainer

STEPS, LAYERS, BATCH = 40, 2, 8
MODEL = GptSmallConfig(vocab_size=61, context_length=32, hidden_size=32, n_layers=LAYERS, n_heads=2, mlp_size=64)


def losses(folder, **options):
    lines = []
    trainer = make_gpt_trainer(folder, MODEL, **{"steps": STEPS, "batch_size": BATCH, **options})
    trainer.on_metrics = lambda metrics: lines.append(metrics)
    result = trainer.run()
    return np.array([m["loss"] for m in lines if "loss" in m]), result.validation_loss, trainer


@pytest.fixture(scope="module")
def fp32(tmp_path_factory):
    return losses(tmp_path_factory.mktemp("fp32"))


@pytest.mark.parametrize("amp_dtype", [None, "bf16"])
def test_loss_tracks_fp32(tmp_path, fp32, amp_dtype):
    """The curves differ by at most 8 * sqrt(P / N) * eps * loss at every step.

    As for mixed precision (train_equivalence_test.py), P roundings on the way from tokens to logits move a token's
    loss by about sqrt(P) * eps of its size each, and the mean over a batch's N tokens by sqrt(N) times less. A code is
    wrong by up to 1/254 of its row's largest element, which is up to four times a typical one: hence 8 in place of 2.
    P is two for each product, weight and input, and one for the token table.
    """
    roundings = 2 * (4 * LAYERS + 1) + 1
    bound = 8 * math.sqrt(roundings / (BATCH * MODEL.context_length)) / 254
    curve, validation, trainer = losses(tmp_path, qat="int8", amp_dtype=amp_dtype)
    difference = np.abs(curve - fp32[0])
    assert (difference <= bound * fp32[0]).all(), (difference / fp32[0]).max() / bound
    assert difference.max() > 0 and fp32[0][-5:].mean() < 0.75 * fp32[0][0]
    assert abs(validation - fp32[1]) <= bound * fp32[1]  # of eval mode: codes, not what they stand for
    clips = clips_of(trainer.model)
    assert len(clips) == 4 * LAYERS + 1
    ratios = [p.item() for n, p in trainer.model.named_parameters() if n.endswith("ratio")]
    assert all(0.5 < r < 1.5 for r in ratios) and len({r for r in ratios if r != 1}) > LAYERS  # they learn


def test_compiled_mixed_precision_tracks_fp32_too(tmp_path, fp32):
    """Four steps of all three: within the bound of the test above, and not what eager code gives bit for bit."""
    steps = 4
    roundings = 2 * (4 * LAYERS + 1) + 1
    bound = 8 * math.sqrt(roundings / (BATCH * MODEL.context_length)) / 254
    before = torch._dynamo.utils.counters["frames"]["ok"]
    curve, validation, trainer = losses(tmp_path, qat="int8", amp_dtype="bf16", compile=True, steps=steps, warmup=5)
    assert torch._dynamo.utils.counters["frames"]["ok"] > before
    assert len(curve) == steps and (np.abs(curve - fp32[0][:steps]) <= bound * fp32[0][:steps]).all()
    assert math.isfinite(validation) and len(clips_of(trainer.model)) == 4 * LAYERS + 1


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "text.txt"
    path.write_text("The quick brown fox jumps over the lazy dog. " * 20)
    return path


CONFIG = TrainConfig(
    steps=2, batch_size=2, seq_len=16, warmup=0, eval_batches=1, save_every=1, device="cpu", qat="int8"
)


def test_resumed_run_is_bit_identical(data, tmp_path):
    whole = make_trainer(data, tmp_path / "whole", CONFIG, resume=False)
    whole.run()
    first = make_trainer(data, tmp_path / "parts", CONFIG, resume=False)
    first.should_stop = lambda: first.step == 1
    assert first.run().interrupted
    second = make_trainer(data, tmp_path / "parts", CONFIG, resume=True)
    second.run()
    states = whole.model.state_dict(), second.model.state_dict()
    assert list(states[0]) == list(states[1])
    assert [name for name in states[0] if not torch.equal(states[0][name], states[1][name])] == []


def test_checkpoint_becomes_the_int8_graph_that_was_trained(tmp_path):
    """The compiler's graph has the learned clips; its every product, given the interpreter's x, is torch's bit for
    bit; and run freely its logits are those of the module in eval mode but for codes that roundings tipped over."""
    _, _, trainer = losses(tmp_path / "run", qat="int8", steps=10)
    save_checkpoint(tmp_path / "model", MODEL, trainer.model.state_dict())
    loaded = load_checkpoint(tmp_path / "model")
    assert loaded.clips == clips_of(trainer.model)

    graph = export(build_model(loaded.config), loaded.config).graph
    graph["metadata"].update(loaded.graph_metadata())
    weights = {name: weight.read() for name, weight in loaded.weights.items()}
    text = core().run_passes(core().import_graph(graph_text(graph)), ["quantize-int8"], {"quantize": "int8"})
    products = re.findall(
        r"(%\w+) = fused_linear\((%\w+), (%\w+), (%\w+|_), _, _, _, (%\w+)\) \{clip = ([^}]+)\}", text
    )
    assert len(products) == 4 * LAYERS + 1
    assert {float(p[5]) for p in products} == set(loaded.clips.values())
    names = {p[0]: f"{p[0]}/y {p[1]}/x {p[2]}/w {p[4]}/s" + ("" if p[3] == "_" else f" {p[3]}/b") for p in products}
    outputs = "".join(
        f'  output "{product[1:]} {value.split("/")[1]}" {value.split("/")[0]}\n'
        for product, values in names.items()
        for value in values.split()
    )
    text = text[: text.rindex("}")] + outputs + "}\n"
    ids = np.random.default_rng(0).integers(0, 61, (2, 20))
    found = core().interpret(text, {"input_ids": ids, "position_ids": np.tile(np.arange(20), (2, 1))}, weights)

    for product in products:
        get = lambda part, key=product[0][1:]: torch.from_numpy(np.asarray(found[f"{key} {part}"]))  # noqa: E731
        bias = None if product[3] == "_" else get("b")
        y = int8_linear(get("x"), get("w").to(torch.int8), get("s"), bias, float(product[5]))
        assert torch.equal(y.view(torch.int32), get("y").view(torch.int32)), product

    state = read_tensors(loaded.weights)
    module = prepare_qat(build_model(loaded.config, state), loaded.clips).eval()
    for weight, codes in (("wte.weight", products[-1]), ("blocks.0.attn.qkv_proj.weight", products[0])):
        expected, scales = quantize_rows(state[weight])
        assert torch.equal(expected.int(), torch.from_numpy(found[f"{codes[0][1:]} w"]).int())
        assert torch.equal(scales, torch.from_numpy(found[f"{codes[0][1:]} s"]))
    with torch.no_grad():
        ours = module(torch.from_numpy(ids), torch.arange(20).expand(2, 20)).numpy()
        floats = build_model(loaded.config, state)(torch.from_numpy(ids), torch.arange(20).expand(2, 20)).numpy()
    apart = np.abs(ours - found["logits"]).max()
    assert apart < 0.2 * np.abs(ours - floats).max()


def test_checkpoint_becomes_an_int8_engine(tmp_path):
    """Of the quality that training saw: position tables and the KV cache are bf16 there, f32 here."""
    _, _, trainer = losses(tmp_path / "run", qat="int8")
    save_checkpoint(tmp_path / "model", MODEL, trainer.model.state_dict())
    llm = LLM(tmp_path / "model", dtype="int8", device="cpu", cache_dir=tmp_path / "cache", max_batch=1)
    ids = trainer.dataset.validation[: MODEL.context_length].astype(np.int64)
    logits = llm.logits(ids.tolist())
    with torch.no_grad():
        expected = trainer.model.eval()(torch.from_numpy(ids)[None], torch.arange(len(ids))[None])[0].numpy()
    ours, theirs = (negative_log_likelihood(part[:-1], ids[1:]) / (len(ids) - 1) for part in (logits, expected))
    assert theirs < 0.75 * math.log(MODEL.vocab_size)
    assert ours == pytest.approx(theirs, rel=0.01)


def test_checkpointing_is_refused_with_it():
    with pytest.raises(InvalidArgumentError, match="--activation-checkpointing runs blocks twice"):
        TrainConfig(qat="int8", activation_checkpointing=True)
    with pytest.raises(InvalidArgumentError, match="--qat is 'int4': expected int8"):
        TrainConfig(qat="int4")
