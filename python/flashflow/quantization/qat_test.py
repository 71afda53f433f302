"""QAT modules: eval mode is the contract, training mode learns through it, parameters stay where they were."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from flashflow.errors import InvalidArgumentError
from flashflow.models.build import build_model
from flashflow.models.config import Gpt2Config, GptSmallConfig, LlamaConfig
from flashflow.quantization.int8_contract import dequantize, int8_linear, quantize_rows
from flashflow.quantization.qat import (
    InputClip,
    QatEmbedding,
    QatLinear,
    QatTiedHead,
    clips_of,
    kept_codes,
    prepare_qat,
    quantized_modules,
)

SHAPE = dict(vocab_size=61, context_length=16, hidden_size=32, n_layers=2, n_heads=4, mlp_size=48)
CONFIGS = {
    "gpt_small": GptSmallConfig(**SHAPE),
    "gpt2-untied": Gpt2Config(**SHAPE, tied_head=False),
    "llama-tied": LlamaConfig(**SHAPE, n_kv_heads=2, head_dim=8, tied_head=True),
    "llama": LlamaConfig(**SHAPE, n_kv_heads=2, head_dim=8),
}


def make(name):
    config = CONFIGS[name]
    generator = torch.Generator().manual_seed(3)
    weights = {n: torch.randn(s, generator=generator) * 0.2 for n, s in config.weight_shapes().items()}
    return build_model(config, weights)


def ids(rows=2, length=9):
    tokens = torch.randint(61, (rows, length), generator=torch.Generator().manual_seed(1))
    return tokens, torch.arange(length).expand(rows, length)


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_stay_the_same_objects(name):
    model = make(name)
    before = dict(model.named_parameters())
    assert prepare_qat(model) is model and not model.training
    after = dict(model.named_parameters())
    assert {n: after[n] for n in before}.items() <= after.items()
    assert all(after[n] is before[n] for n in before)
    assert all(n.endswith(".input_clip.ratio") for n in set(after) - set(before))
    assert not [n for n, m in model.named_modules() if type(m) is nn.Linear]
    linears = [n for n in before if before[n].dim() == 2 and not n.startswith(("wte.", "wpe.", "embed."))]
    tied = ["wte.weight"] if name == "gpt_small" else ["embed.weight"] if name == "llama-tied" else []
    assert sorted(quantized_modules(model)) == sorted(linears + tied)


def test_eval_mode_is_the_contract():
    """Every layer of a whole model, given its own input, has the contract's output; and the head and table too."""
    model = prepare_qat(make("gpt_small"), {"blocks.1.mlp.up_proj.weight": 1.25, "wte.weight": 0.75})
    seen = {}
    for name, module in model.named_modules():
        if isinstance(module, (QatLinear, QatTiedHead)):
            module.register_forward_hook(lambda m, args, y, name=name: seen.update({name: (args[0], y)}))
    rows = {}
    model.wte.register_forward_hook(lambda m, args, y: rows.update(x=args[0], y=y))
    with torch.no_grad():
        logits = model(*ids())
    clips = {"blocks.1.mlp.up_proj": 1.25, "head": 0.75}
    assert len(seen) == 9
    for name, (x, y) in seen.items():
        layer = model.wte if name == "head" else model.get_submodule(name)
        expected = int8_linear(x, *quantize_rows(layer.weight), getattr(layer, "bias", None), clips.get(name))
        assert torch.equal(y, expected), name
    assert torch.equal(logits, seen["head"][1])
    assert torch.equal(rows["y"], dequantize(*quantize_rows(model.wte.weight))[rows["x"]])
    assert clips_of(model) == {"blocks.1.mlp.up_proj.weight": 1.25, "wte.weight": 0.75}


@pytest.mark.parametrize("name", CONFIGS)
def test_codes_are_near_floats(name):
    model = make(name)
    with torch.no_grad():
        exact = model(*ids())
        coded = prepare_qat(model)(*ids())
    assert not torch.equal(exact, coded)
    assert (coded - exact).norm() < 0.05 * exact.norm()
    for module in model.modules():
        if isinstance(module, (QatLinear, QatEmbedding)):
            module.quantized = False
    with torch.no_grad():
        assert torch.equal(model(*ids()), exact)


@pytest.mark.parametrize("name", CONFIGS)
def test_training_and_eval_differ_by_rounding_alone(name):
    """Training multiplies what codes stand for; the contract multiplies codes. One f32 rounding a product apart."""
    model = prepare_qat(make(name))
    model.train()
    with torch.no_grad():
        model(*ids())  # sets the running maxima: nothing is clipped
        trained = model(*ids())
        model.eval()
        evaluated = model(*ids())
    # A rounding may move a code of a later layer by one step, of 1/127 of the row: rare, and small.
    assert (trained - evaluated).norm() < 0.01 * evaluated.norm()


def test_kept_codes_change_nothing_and_end():
    model = prepare_qat(make("gpt_small"))
    with torch.no_grad():
        logits = model(*ids())
        with kept_codes(model):
            assert torch.equal(model(*ids()), logits)
            model.blocks[0].mlp.up_proj.weight.mul_(2)
            assert torch.equal(model(*ids()), logits)
        assert not torch.equal(model(*ids()), logits)


@pytest.mark.parametrize("qat", [False, True])
def test_a_tied_head_pads_its_columns_in_training_alone(qat):
    model = make("gpt_small")
    if qat:
        prepare_qat(model)
    model.train()
    x = torch.randn(2, 3, 32)
    model.head(x, model.wte)  # the first sets the running maximum
    logits, padded = model.head(x, model.wte), model.head(x, model.wte, 8)
    assert logits.shape == (2, 3, 61) and padded.shape == (2, 3, 64)
    # Products of other shapes may sum 32 terms in another order.
    torch.testing.assert_close(padded[..., :61], logits, rtol=0, atol=32 * 2.0**-23 * logits.abs().max().item())
    assert not padded[..., 61:].any()
    model.eval()
    assert model.head(x, model.wte, 8).shape[-1] == (61 if qat else 64)


def test_gradients_pass_straight_through():
    layer = QatLinear(nn.Linear(6, 3), InputClip(0.5))
    layer.observes = False
    layer.train()
    x = torch.tensor([[0.1, -0.2, 0.3, 0.9, -2.0, 0.4], [0.05, 0.1, -0.1, 0.2, 0.0, 0.01]], requires_grad=True)
    g = torch.randn(2, 3)
    layer(x).backward(g)
    rounded = dequantize(*quantize_rows(x.detach(), 0.5))
    weight = dequantize(*quantize_rows(layer.weight.detach()))
    inside = x.detach().abs() <= 0.5
    torch.testing.assert_close(layer.weight.grad, g.T @ rounded)
    torch.testing.assert_close(x.grad, (g @ weight) * inside)
    torch.testing.assert_close(layer.bias.grad, g.sum(0))
    # The clip is ratio * max_abs: each clipped element gives sign(x) times its gradient, times max_abs.
    expected = ((g @ weight) * x.detach().sign() * ~inside).sum() * 0.5
    assert expected != 0
    torch.testing.assert_close(layer.input_clip.ratio.grad, expected.reshape(1))


def test_the_clip_is_learned():
    """With one outlier that the target has no use for, less clipping error elsewhere wins: the clip comes down."""
    torch.manual_seed(0)
    layer = QatLinear(nn.Linear(16, 4, bias=False), InputClip(20.0))
    layer.observes = False
    x = torch.randn(64, 16) * 0.1
    with torch.no_grad():
        layer.weight[:, 0] = 0.05
        target = functional.linear(x, layer.weight)
        x[:, 0] = 20.0
        target += functional.linear(torch.tensor([2.0] + [0.0] * 15), layer.weight)  # an outlier worth 2
    layer.weight.requires_grad_(False)
    layer.train()
    optimizer = torch.optim.Adam([layer.input_clip.ratio], lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        functional.mse_loss(layer(x), target).backward()
        optimizer.step()
    assert layer.input_clip().item() < 4


def test_running_maximum_follows_the_input_in_training_alone():
    clip = InputClip()
    layer = QatLinear(nn.Linear(4, 2), clip)
    assert clip().item() == float("inf")
    layer.eval()(torch.full((1, 4), 3.0))
    assert clip().item() == float("inf")
    layer.train()(torch.full((1, 4), 3.0))
    assert clip().item() == 3.0
    layer(torch.full((1, 4), -5.0))
    assert clip().item() == pytest.approx(3.02)


def test_layers_of_one_input_share_its_clip():
    model = prepare_qat(make("llama"), {"layers.0.attn.k_proj.weight": 2.0})
    attn, mlp = model.layers[0].attn, model.layers[0].mlp
    assert attn.q_proj.input_clip is attn.k_proj.input_clip is attn.v_proj.input_clip
    assert mlp.gate_proj.input_clip is mlp.up_proj.input_clip is not attn.q_proj.input_clip
    assert [attn.q_proj.observes, attn.k_proj.observes, attn.v_proj.observes] == [True, False, False]
    assert clips_of(model) == {f"layers.0.attn.{p}_proj.weight": 2.0 for p in "qkv"}


def test_bad_clips_are_refused():
    with pytest.raises(InvalidArgumentError, match="'wpe.weight', which is no weight"):
        prepare_qat(make("gpt_small"), {"wpe.weight": 1.0})
    with pytest.raises(InvalidArgumentError, match="above 0"):
        prepare_qat(make("gpt_small"), {"wte.weight": 0.0})
    assert clips_of(prepare_qat(make("gpt_small"), {"wte.weight": float("inf")})) == {}


def test_state_goes_out_and_in():
    model = prepare_qat(make("gpt_small"))
    model.train()(*ids())
    other = prepare_qat(copy.deepcopy(make("gpt_small")))
    other.load_state_dict(model.state_dict())
    assert clips_of(other) == clips_of(model) and len(clips_of(model)) == 9
    with torch.no_grad():
        assert torch.equal(other.eval()(*ids()), model.eval()(*ids()))


def test_autocast_keeps_eval_exact():
    layer = QatLinear(nn.Linear(300, 5), InputClip())
    x = torch.randn(7, 300)
    with torch.no_grad():
        exact = layer.eval()(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(layer(x), exact)
            assert layer(x.bfloat16()).dtype == torch.bfloat16
