"""What the modules must do by themselves; hf_folder_test.py holds their logits against transformers'."""

import dataclasses

import pytest
import torch

from flashflow.errors import InvalidArgumentError
from flashflow.models.build import build_model
from flashflow.models.config import Gpt2Config, GptSmallConfig, LlamaConfig, RopeScaling
from flashflow.models.gpt_small import GptSmall
from flashflow.models.llama import rotary_frequencies

GPT = dict(vocab_size=61, context_length=19, hidden_size=24, n_layers=2, n_heads=4, mlp_size=40)
CONFIGS = [
    GptSmallConfig(**GPT),
    Gpt2Config(**GPT),
    LlamaConfig(**GPT, n_kv_heads=2, head_dim=8),
    LlamaConfig(**GPT, n_kv_heads=1, head_dim=6, rope_theta=10.0),
]


def random_weights(config):
    generator = torch.Generator().manual_seed(7)
    return {name: torch.randn(shape, generator=generator) * 0.4 for name, shape in config.weight_shapes().items()}


def logits(config, weights, ids, positions=None):
    with torch.no_grad():
        return build_model(config, weights)(
            ids, torch.arange(ids.shape[1]).expand_as(ids) if positions is None else positions
        )


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.architecture)
def test_a_token_changes_its_own_and_later_rows_only(config):
    weights = random_weights(config)
    ids = torch.arange(12).reshape(1, 12)
    changed = ids.clone()
    changed[0, 7] = 50
    difference = (logits(config, weights, ids) - logits(config, weights, changed)).abs().amax(-1)[0]
    assert difference[:7].max() == 0
    assert difference[7:].min() > 1e-3


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.architecture)
def test_positions_come_from_position_ids(config):
    weights = random_weights(config)
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    shifted = logits(config, weights, ids, torch.tensor([[2, 4, 6, 8, 10]]))
    assert (logits(config, weights, ids) - shifted).abs().amax() > 1e-2
    if isinstance(config, LlamaConfig):  # rotary attention sees differences of positions only
        moved = logits(config, weights, ids, torch.arange(5)[None] + 11)
        torch.testing.assert_close(moved, logits(config, weights, ids), rtol=0, atol=1e-4)


def test_grouped_heads_equal_repeated_heads():
    grouped = LlamaConfig(**GPT, n_kv_heads=2, head_dim=6)
    full = dataclasses.replace(grouped, n_kv_heads=4)
    weights = random_weights(grouped)
    repeated = {
        name: value.view(2, 6, -1).repeat_interleave(2, dim=0).reshape(24, -1)
        if "k_proj" in name or "v_proj" in name
        else value
        for name, value in weights.items()
    }
    ids = torch.arange(9)[None]
    torch.testing.assert_close(logits(grouped, weights, ids), logits(full, repeated, ids), rtol=0, atol=1e-5)


def test_gpt_small_is_gpt2_with_the_same_weights():
    weights = random_weights(CONFIGS[1])
    ids = torch.arange(19)[None]
    assert torch.equal(logits(CONFIGS[0], weights, ids), logits(CONFIGS[1], weights, ids))


def test_rope_factors_divide_frequencies():
    config = LlamaConfig(**GPT, n_kv_heads=2, head_dim=6)
    factors = dataclasses.replace(config, rope_scaling=RopeScaling("factors", factors=(1.0, 2.0, 8.0)))
    assert torch.equal(rotary_frequencies(factors) * torch.tensor([1.0, 2.0, 8.0]), rotary_frequencies(config))


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    model = GptSmall(GptSmallConfig(**GPT, dropout=0.5))
    ids = torch.arange(9)[None]
    assert not torch.equal(model(ids, ids), model(ids, ids))
    model.eval()
    assert torch.equal(model(ids, ids), model(ids, ids))


def test_gpt_small_starts_close_to_uniform_and_can_learn():
    torch.manual_seed(0)
    config = GptSmallConfig(**{**GPT, "hidden_size": 64, "mlp_size": 256})
    model = GptSmall(config)
    residual = torch.stack([block.mlp.down_proj.weight.std() for block in model.blocks]).mean().item()
    assert residual == pytest.approx(0.02 / 2, rel=0.1)
    assert model.wte.weight.std().item() == pytest.approx(0.02, rel=0.1)
    ids = torch.randint(61, (8, 19))
    positions = torch.arange(19).expand_as(ids)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(model(ids, positions)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(torch.tensor(61.0).log().item(), abs=0.1)
    assert losses[-1] < 1.0


def test_build_model_names_the_wrong_weight():
    config = CONFIGS[0]
    weights = random_weights(config)
    with pytest.raises(InvalidArgumentError, match=r"'norm\.bias' is missing"):
        build_model(config, {k: v for k, v in weights.items() if k != "norm.bias"})
    with pytest.raises(InvalidArgumentError, match="'extra' is not one of gpt_small's"):
        build_model(config, {**weights, "extra": torch.zeros(1)})
    with pytest.raises(InvalidArgumentError, match=r"'norm\.bias': expected shape \(24,\), got \(25,\)"):
        build_model(config, {**weights, "norm.bias": torch.zeros(25)})
