import dataclasses
import json
import os

import pytest
import torch

from flashflow.errors import DataLossError, FlashFlowError, InvalidArgumentError
from flashflow.loaders.checkpoint import is_checkpoint, load_checkpoint, save_checkpoint
from flashflow.loaders.loaded_model import GenerationInfo
from flashflow.loaders.torch_weights import read_tensors
from flashflow.models.config import GptSmallConfig
from flashflow.models.gpt_small import GptSmall

CONFIG = GptSmallConfig(
    vocab_size=61, context_length=19, hidden_size=24, n_layers=2, n_heads=4, mlp_size=40, dropout=0.1
)
GENERATION = GenerationInfo(bos_token_id=3, eos_token_ids=(3, 5), chat_template="T")


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "run", CONFIG, GptSmall(CONFIG).state_dict(), b'{"any": "json"}', GENERATION)
    return tmp_path / "run"


def test_round_trip(folder):
    torch.manual_seed(0)
    state = GptSmall(CONFIG).state_dict()
    assert is_checkpoint(folder)
    loaded = load_checkpoint(folder)
    assert (loaded.config, loaded.generation, loaded.tokenizer_json) == (CONFIG, GENERATION, b'{"any": "json"}')
    weights = read_tensors(loaded.weights)
    assert list(weights) == list(state)
    assert all(torch.equal(weights[name], state[name]) for name in state)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_modes_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        save_checkpoint(tmp_path / "run", CONFIG, GptSmall(CONFIG).state_dict(), b"{}")
    finally:
        os.umask(before)
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in (tmp_path / "run").iterdir()} == {
        "config.json": "0o640",
        "model.safetensors": "0o640",
        "tokenizer.json": "0o640",
    }


def test_save_refuses_weights_of_another_config(folder):
    other = dataclasses.replace(CONFIG, n_layers=3)
    with pytest.raises(InvalidArgumentError, match="disagree on weight 'blocks.2"):
        save_checkpoint(folder, other, GptSmall(CONFIG).state_dict())
    assert load_checkpoint(folder).config == CONFIG


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda fields: fields.pop("model"), "not the config of a FlashFlow checkpoint"),
        (lambda fields: fields["model"].update(n_layers=3), r"lacks the tensor.*blocks\.2\.attn_norm\.weight"),
        (lambda fields: fields["model"].update(n_layers=1), r"has the tensor 'blocks\.1\.attn\.out_proj\.bias'"),
        (lambda fields: fields["model"].update(mlp_size=41), r"up_proj\.weight.*expected shape \[41, 24\].*\[40, 24\]"),
        (lambda fields: fields["model"].update(experts=8), "no config field 'experts'"),
        (lambda fields: fields["model"].update(architecture="rnn"), "'rnn' is not supported"),
        (lambda fields: fields.update(generation=[1]), "generation must be an object"),
    ],
)
def test_contradictions_are_named(folder, change, message):
    fields = json.loads((folder / "config.json").read_text())
    change(fields)
    (folder / "config.json").write_text(json.dumps(fields))
    with pytest.raises(FlashFlowError, match=message):
        load_checkpoint(folder)


def test_truncated_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataLossError, match="not a whole safetensors file"):
        load_checkpoint(folder)


def clips_of_state(**changes):
    """A model's state with clips of two layers, the tied head among them, and one layer that does not clip."""
    state = dict(GptSmall(CONFIG).state_dict())
    for layer, ratio, most in (("wte", 0.5, 3.0), ("blocks.0.mlp.up_proj", 1.0, 0.1), ("blocks.1.mlp.up_proj", 1.0, 0)):
        state[f"{layer}.input_clip.ratio"] = torch.tensor([ratio])
        state[f"{layer}.input_clip.max_abs"] = torch.tensor([float(most)])
    return state | changes


def test_clips_and_metadata_round_trip(tmp_path):
    save_checkpoint(tmp_path, CONFIG, clips_of_state(), metadata={"license": "mine"}, float_weights=["wte.weight"])
    loaded = load_checkpoint(tmp_path)
    assert loaded.float_weights == ["wte.weight"] and loaded.graph_metadata()["precision.wte.weight"] == "float"
    assert loaded.clips == {"wte.weight": 1.5, "blocks.0.mlp.up_proj.weight": torch.tensor(0.1).item()}
    assert loaded.graph_metadata()["clip.wte.weight"] == 1.5
    assert loaded.metadata == {"license": "mine"} and set(loaded.weights) == set(CONFIG.weight_shapes())


def test_clips_of_layers_that_share_them_can_be_saved(tmp_path):
    state = clips_of_state()
    state["blocks.0.mlp.up_proj.input_clip.max_abs"] = state["wte.input_clip.max_abs"]
    save_checkpoint(tmp_path, CONFIG, state)
    assert load_checkpoint(tmp_path).clips["blocks.0.mlp.up_proj.weight"] == 3.0


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("wte.input_clip.max_abs", torch.ones(2), r"is f32 \[2\]: expected f32 \[1\]"),
        ("wte.input_clip.max_abs", torch.ones(1).half(), r"is f16 \[1\]"),
        ("wte.input_clip.ratio", torch.tensor([float("nan")]), "not finite"),
        ("blocks.1.attn.qkv_proj.input_clip.ratio", torch.ones(1), "lacks the tensor .*qkv_proj.input_clip.max_abs"),
    ],
)
def test_damaged_clips_are_named(tmp_path, name, value, message):
    save_checkpoint(tmp_path, CONFIG, clips_of_state(**{name: value}))
    with pytest.raises(DataLossError, match=message):
        load_checkpoint(tmp_path)


def test_clips_of_what_is_no_layer_are_refused(tmp_path):
    with pytest.raises(InvalidArgumentError, match="disagree"):
        save_checkpoint(tmp_path, CONFIG, clips_of_state(**{"norm.input_clip.ratio": torch.ones(1)}))


@pytest.mark.parametrize("names", ["wte.weight", [1], ["norm.weight"], ["other.weight"]])
def test_float_weights_that_are_no_weights_of_layers_are_refused(tmp_path, names):
    save_checkpoint(tmp_path, CONFIG, clips_of_state())
    fields = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**fields, "float_weights": names}))
    with pytest.raises(DataLossError, match="float_weights must name weights of layers"):
        load_checkpoint(tmp_path)
