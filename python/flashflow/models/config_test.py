import dataclasses
import json

import pytest

from flashflow.errors import FlashFlowError, InvalidArgumentError, UnsupportedError
from flashflow.models.build import build_model
from flashflow.models.config import Gpt2Config, GptSmallConfig, LlamaConfig, RopeScaling, config_from_dict

GPT = dict(vocab_size=97, context_length=33, hidden_size=24, n_layers=2, n_heads=3, mlp_size=40)
LLAMA = dict(GPT, n_kv_heads=1, head_dim=6)

CONFIGS = [
    GptSmallConfig(**GPT),
    GptSmallConfig(**GPT, bias=False, dropout=0.1, activation="gelu"),
    Gpt2Config(**GPT),
    Gpt2Config(**GPT, tied_head=False, scale_by_layer=True),
    LlamaConfig(**LLAMA),
    LlamaConfig(**LLAMA, tied_head=True, qkv_bias=True),
    LlamaConfig(**LLAMA, qkv_bias=True, out_bias=True, mlp_bias=True),
    LlamaConfig(**LLAMA, rope_scaling=RopeScaling("factors", factors=(1.0, 2.0, 4.0))),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.architecture)
def test_weight_shapes_are_the_modules_state_dict(config):
    module = {name: tuple(value.shape) for name, value in build_model(config).state_dict().items()}
    assert list(config.weight_shapes().items()) == list(module.items())


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.architecture)
def test_to_dict_round_trips_through_json(config):
    assert config_from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_small_preset_has_gpt2s_parameter_count():
    assert GptSmallConfig.preset("small").parameter_count() == 124_439_808
    assert GptSmallConfig.preset("mini").parameter_count() == 13_989_888
    assert GptSmallConfig.preset("tiny", vocab_size=97).vocab_size == 97
    with pytest.raises(InvalidArgumentError, match="huge"):
        GptSmallConfig.preset("huge")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        (dict(vocab_size=0), "vocab_size"),
        (dict(context_length=2**40), "context_length"),
        (dict(n_layers=-1), "n_layers"),
        (dict(n_layers=2.0), "n_layers"),
        (dict(n_layers=True), "n_layers"),
        (dict(n_heads=5, n_kv_heads=2), "n_kv_heads"),
        (dict(n_kv_heads=0), "n_kv_heads"),
        (dict(head_dim=7), "head_dim"),
        (dict(norm_eps=float("nan")), "norm_eps"),
        (dict(norm_eps="1e-5"), "norm_eps"),
        (dict(rope_theta=0.0), "rope_theta"),
        (dict(tied_head="no"), "tied_head"),
        (dict(activation="swish2"), "activation"),
        (dict(rope_scaling={"kind": "yarn"}), "kind"),
        (dict(rope_scaling={"kind": "factors", "factors": [1.0]}), "rope_scaling"),
        (dict(rope_scaling={"kind": "factors", "factors": [1.0, float("nan"), 2.0]}), "factors"),
        (dict(rope_scaling={"kind": "llama3", "low_freq_factor": 4.0}), "high_freq_factor"),
        (dict(rope_scaling={"strength": 4.0}), "rope_scaling"),
        (dict(rope_scaling=[1]), "rope_scaling"),
        (dict(sliding_window=4096), "sliding_window"),
    ],
)
def test_llama_refuses_by_name(fields, named):
    with pytest.raises(FlashFlowError) as caught:
        config_from_dict({"architecture": "llama", **LLAMA, **fields})
    assert caught.value.op == named


def test_unknown_architecture_and_missing_fields_are_named():
    with pytest.raises(UnsupportedError, match="mamba"):
        config_from_dict({"architecture": "mamba"})
    with pytest.raises(InvalidArgumentError, match="hidden_size"):
        config_from_dict({"architecture": "gpt2", "vocab_size": 1, "context_length": 1})
    with pytest.raises(InvalidArgumentError, match="n_heads"):
        dataclasses.replace(CONFIGS[0], n_heads=7)
