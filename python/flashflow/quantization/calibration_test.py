"""Calibration on inputs whose best clip is known, smoothing that keeps the function, reports of the bad layer."""

import math

import pytest
import torch
from torch import nn

from flashflow.errors import FailedPreconditionError, InvalidArgumentError
from flashflow.models.build import build_model
from flashflow.models.config import Gpt2Config, GptSmallConfig, LlamaConfig
from flashflow.quantization.calibration import (
    METHODS,
    Sensitivity,
    calibrate,
    divergence_sensitivity,
    keep_within,
    loss_sensitivity,
    observe_inputs,
    output_sensitivity,
)
from flashflow.quantization.qat import clips_of, prepare_qat, quantized_modules, set_quantized
from flashflow.quantization.smoothing import smooth

SHAPE = dict(vocab_size=61, context_length=32, hidden_size=32, n_layers=2, n_heads=4, mlp_size=48)
CONFIGS = {
    "gpt_small": GptSmallConfig(**SHAPE),
    "gpt2-untied": Gpt2Config(**SHAPE, tied_head=False),
    "llama": LlamaConfig(**SHAPE, n_kv_heads=2, head_dim=8),
}


def make(name="gpt_small"):
    config = CONFIGS[name]
    generator = torch.Generator().manual_seed(3)
    weights = {n: torch.randn(s, generator=generator) * 0.2 for n, s in config.weight_shapes().items()}
    return prepare_qat(build_model(config, weights))


def batches(count=3):
    generator = torch.Generator().manual_seed(4)
    return [torch.randint(61, (2, 24), generator=generator) for _ in range(count)]


def inputs_of(model, name, text):
    """What the layer sees when the whole model computes in floats."""
    seen = []
    handle = quantized_modules(model)[name].register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    set_quantized(model, False)
    with torch.no_grad():
        for ids in text:
            model(ids, torch.arange(ids.shape[1]).expand_as(ids))
    set_quantized(model, True)
    handle.remove()
    return torch.cat([x.reshape(-1, x.shape[-1]) for x in seen])


@pytest.mark.parametrize("name", CONFIGS)
def test_min_max_and_percentile_are_those_of_the_inputs(name):
    model, text = make(name), batches()
    layer = "layers.1.mlp.gate_proj.weight" if name == "llama" else "blocks.1.mlp.up_proj.weight"
    most = inputs_of(make(name), layer, text).abs().amax(1)
    largest = calibrate(model, text, "min-max")
    assert largest[layer] == pytest.approx(most.max().item(), rel=1e-6)
    assert set(largest) == set(quantized_modules(model)) and clips_of(model) == largest
    share = calibrate(model, text, "percentile", percent=75)
    assert (most <= share[layer]).double().mean() == pytest.approx(0.75, abs=0.01)
    if name == "llama":
        assert largest[layer] == largest["layers.1.mlp.up_proj.weight"]
        assert share["layers.0.attn.q_proj.weight"] == share["layers.0.attn.v_proj.weight"]
    assert calibrate(model, text, "none") == {} == clips_of(model)


class OneLayer(nn.Module):
    """A linear layer on a table's rows: the calibration text chooses its inputs."""

    def __init__(self, rows, weight):
        super().__init__()
        self.rows = rows
        self.linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        self.linear.weight = nn.Parameter(weight)

    def forward(self, ids, positions):
        return self.linear(self.rows[ids])


def one_layer(outlier, column):
    """Rows of 8 small elements and one large; the weights' column for the large one is `column`."""
    rows = torch.randn(16, 9, generator=torch.Generator().manual_seed(0))
    rows[:, 0] = outlier
    weight = torch.ones(4, 9)
    weight[:, 0] = column
    return prepare_qat(OneLayer(rows, weight).eval())


def test_mse_clips_what_the_weights_ignore_and_keeps_what_they_use():
    text = [torch.arange(16)[None]]
    ignored, used = one_layer(50.0, 1e-3), one_layer(50.0, 1.0)
    clips = calibrate(ignored, text, "mse")
    assert clips == {"linear.weight": pytest.approx(5.0)}  # the smallest candidate: a tenth
    assert calibrate(used, text, "mse") == {}
    before = one_layer(50.0, 1e-3)
    assert output_sensitivity(ignored, text)[0].output_error < 0.1 * output_sensitivity(before, text)[0].output_error


@pytest.mark.parametrize("alpha", [0.5, None])
@pytest.mark.parametrize("name", CONFIGS)
def test_smoothing_keeps_the_function_and_evens_out_the_inputs(name, alpha):
    model, text = make(name), batches()
    block = (model.layers if name == "llama" else model.blocks)[0]
    prefix = f"{'layers' if name == 'llama' else 'blocks'}.0."
    attn, mlp = block.attn, block.mlp
    with torch.no_grad():  # outlier channels: behind a norm, in values, and before a down projection
        block.mlp_norm.weight[5] *= 100
        (attn.v_proj if name == "llama" else attn.qkv_proj).weight[-3] *= 100
        if name == "llama":
            mlp.up_proj.weight[7] *= 100
    uneven = [f"{prefix}mlp.{'gate' if name == 'llama' else 'up'}_proj.weight", f"{prefix}attn.out_proj.weight"]
    uneven += [f"{prefix}mlp.down_proj.weight"] if name == "llama" else []

    def run():
        set_quantized(model, False)
        with torch.no_grad():
            logits = model(text[0], torch.arange(24).expand_as(text[0]))
        set_quantized(model, True)
        return logits

    def errors():
        return {one.weights[0]: one.output_error for one in output_sensitivity(model, text)}

    exact, before = run(), errors()
    inputs = observe_inputs(model, text)
    spread = {layer: inputs[layer].max_abs / inputs[layer].channel_max.median() for layer in uneven}
    changed = smooth(model, inputs, alpha)
    assert set(uneven) <= set(changed) and "wte.weight" not in changed
    assert name == "llama" or not [layer for layer in changed if layer.endswith("down_proj.weight")]
    assert (run() - exact).abs().max() < 1e-4 * exact.abs().max()
    after, found = observe_inputs(model, text), errors()
    for layer in uneven:
        assert after[layer].max_abs / after[layer].channel_max.median() < 0.3 * spread[layer], layer
        assert found[layer] < 0.3 * before[layer], layer
    if alpha is not None:
        assert ("head.weight" in changed) == (name != "gpt_small")


def test_sensitivity_finds_the_layer_that_suffers():
    model, text = make(), batches(1)
    with torch.no_grad():
        model.blocks[1].mlp.up_proj.weight[:, 3] *= 1000  # every row's largest weight: the others lose their codes
        for parameter in model.blocks[1].mlp_norm.parameters():
            parameter[3] /= 1000
    found = output_sensitivity(model, text)
    assert [len(one.weights) for one in found] == [1] * 9
    assert found[0].weights == ("blocks.1.mlp.up_proj.weight",)
    assert found[0].output_error > 20 * found[1].output_error > 0
    ids = text[0]

    def loss():
        with torch.no_grad():
            logits = model(ids, torch.arange(24).expand_as(ids))
        return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).item()

    calls = []
    measured = loss_sensitivity(model, found, lambda: calls.append(1) or loss())
    assert len(calls) == 10 and {one.weights for one in measured} == {one.weights for one in found}
    assert all(one.nats_per_token is not None for one in measured)
    changes = {one.weights[0]: one.nats_per_token for one in measured}
    others = [abs(change) for name, change in changes.items() if name != "blocks.1.mlp.up_proj.weight"]
    assert abs(changes["blocks.1.mlp.up_proj.weight"]) > max(others)
    assert all(module.quantized for module in quantized_modules(model).values())


def test_layers_of_one_input_are_one_row():
    rows = output_sensitivity(make("llama"), batches(1))
    assert ("layers.0.attn.q_proj.weight", "layers.0.attn.k_proj.weight", "layers.0.attn.v_proj.weight") in [
        row.weights for row in rows
    ]
    assert len(rows) == 2 * 4 + 1 and all(0 < row.output_error < 0.01 for row in rows)


def test_what_is_wrong_is_said():
    model = make()
    with pytest.raises(InvalidArgumentError, match=f"expected one of {', '.join(METHODS)}"):
        calibrate(model, batches(), "best")
    with pytest.raises(InvalidArgumentError, match="percent is 0"):
        calibrate(model, batches(), "percentile", percent=0)
    with pytest.raises(InvalidArgumentError, match="empty"):
        calibrate(model, [], "mse")
    with pytest.raises(InvalidArgumentError, match="alpha is 2"):
        smooth(model, observe_inputs(model, batches()), 2)
    with torch.no_grad():
        model.norm.weight[0] = math.inf
    with pytest.raises(FailedPreconditionError, match=r"the input of wte\.weight is not finite"):
        calibrate(model, batches(), "min-max")


def test_divergences_name_the_bad_layer_and_add_up():
    """The sum over groups is that of all at once, up to the third that small models' layers act on each other."""
    model, ids = make(), batches(1)[0]
    model.blocks[1].mlp.up_proj.input_clip.max_abs.fill_(0.2)
    found = divergence_sensitivity(model, ids)
    assert len(found) == 9 and found[0].weights == ("blocks.1.mlp.up_proj.weight",)
    assert all(one.nats_per_token >= 0 for one in found)
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    with torch.no_grad():
        coded = model(ids, positions).log_softmax(-1)
        set_quantized(model, False)
        exact = model(ids, positions).log_softmax(-1)
    divergence = (exact.exp() * (exact - coded)).sum(-1).mean().item()
    assert divergence == pytest.approx(sum(one.nats_per_token for one in found), rel=1 / 3)
    assert found[0].clip == pytest.approx(0.2) and found[0].nats_per_token > 10 * found[1].nats_per_token


def test_the_layers_are_left_as_they_were():
    model, ids = make(), batches(1)[0]
    module = quantized_modules(model)["blocks.0.mlp.up_proj.weight"]
    module.quantized = False
    divergence_sensitivity(model, ids)
    assert not module.quantized and sum(m.quantized for m in quantized_modules(model).values()) == 8


def test_what_costs_most_for_its_size_is_kept():
    found = [
        Sensitivity(("a",), None, 0.0, 0.5),
        Sensitivity(("q", "k", "v"), None, 0.0, 0.3),
        Sensitivity(("b",), None, 0.0, 0.1),
        Sensitivity(("c",), None, 0.0, -0.01),
    ]
    sizes = {"a": 100, "q": 4, "k": 2, "v": 2, "b": 50, "c": 1}
    assert keep_within(found, sizes, 0.95) == []
    assert keep_within(found, sizes, 0.6001) == ["q", "k", "v"]
    assert keep_within(found, sizes, 0.15) == ["q", "k", "v", "a"]
    assert keep_within(found, sizes, 0.0) == ["q", "k", "v", "a", "b"]
