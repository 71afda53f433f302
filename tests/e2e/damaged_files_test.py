"""Damaged, contradictory and missing files: a typed error that names what is wrong, never a crash or a wrong result."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from flashflow import LLM, FlashFlowError
from flashflow.engine_builder import build_engine
from flashflow.loaders.resolve import resolve


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A small Hugging Face folder without a tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    path = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def engine(folder, tmp_path_factory) -> Path:
    """The same model as an engine file."""
    path = tmp_path_factory.mktemp("engine") / "model.ff"
    build_engine(resolve(folder).load(), path, "float32", lambda stage, share: None)
    return path


def open_model(path, tmp_path) -> LLM:
    return LLM(path, cache_dir=tmp_path / "cache", max_batch=1)


def test_engine_is_a_safetensors_file_with_aligned_tensors(engine):
    with safe_open(engine, "np") as file:
        names = set(file.keys())
        assert {"ff.graph", "ff.config", "norm.weight"} <= names
        assert bytes(file.get_tensor("ff.graph")[:5]) == b"ffir "
    size = int.from_bytes(engine.read_bytes()[:8], "little")
    header = json.loads(engine.read_bytes()[8 : 8 + size])
    starts = {name: 8 + size + entry["data_offsets"][0] for name, entry in header.items() if name != "__metadata__"}
    assert not {name for name, start in starts.items() if start % 4096 and not name.startswith("ff.pad")}


def test_every_flipped_byte_is_noticed(engine, tmp_path):
    """A flip in the header, a section, a weight or the padding between them raises a typed error."""
    whole = engine.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + size])
    places = [0, 5, 8, 9, 8 + size // 2]
    for name, entry in header.items():
        if name != "__metadata__":
            first, last = (8 + size + offset for offset in entry["data_offsets"])
            places.append((first + last) // 2)
    assert len(places) > 15
    damaged = tmp_path / "damaged.ff"
    for place in places:
        data = bytearray(whole)
        data[place] ^= 0x10
        damaged.write_bytes(data)
        with pytest.raises(FlashFlowError, match="damaged.ff"):
            open_model(damaged, tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.999])
def test_truncated_engine(engine, tmp_path, share):
    damaged = tmp_path / "short.ff"
    data = engine.read_bytes()
    damaged.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(FlashFlowError, match="short.ff"):
        open_model(damaged, tmp_path)


@pytest.mark.parametrize("keep", [0, 7, 100, 5000, 60_000_000])
def test_truncated_gguf(tmp_path, keep):
    damaged = tmp_path / "short.gguf"
    with resolve("smollm2-135m").path.open("rb") as file:
        damaged.write_bytes(file.read(keep))
    with pytest.raises(FlashFlowError, match="short.gguf"):
        open_model(damaged, tmp_path)


def test_damaged_gguf_header(tmp_path):
    with resolve("smollm2-135m").path.open("rb") as file:
        head = bytearray(file.read(2_000_000))
    for place in range(0, 400, 9):
        data = bytearray(head)
        data[place] ^= 0xFF
        damaged = tmp_path / "flipped.gguf"
        damaged.write_bytes(data)  # also truncated, so that it can never load
        with pytest.raises(FlashFlowError):
            open_model(damaged, tmp_path)


def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_truncated_safetensors(folder, tmp_path):
    path = copy(folder, tmp_path)
    data = (path / "model.safetensors").read_bytes()
    for keep in (0, 6, 50, len(data) // 2, len(data) - 1):
        (path / "model.safetensors").write_bytes(data[:keep])
        with pytest.raises(FlashFlowError, match="model.safetensors"):
            open_model(path, tmp_path)


def test_config_that_contradicts_the_weights(folder, tmp_path):
    path = copy(folder, tmp_path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
    with pytest.raises(FlashFlowError, match=r"mlp.*48|48.*mlp"):
        open_model(path, tmp_path)


def test_missing_tensor_is_named(folder, tmp_path):
    path = copy(folder, tmp_path)
    tensors = load_file(path / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, path / "model.safetensors")
    with pytest.raises(FlashFlowError, match="norm.weight"):
        open_model(path, tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rope_parameters", {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}),
        ("hidden_act", "relu6"),
        ("model_type", "mamba"),
    ],
)
def test_field_that_changes_the_maths_is_refused_by_name(folder, tmp_path, field, value):
    path = copy(folder, tmp_path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {field: value}))
    word = value["rope_type"] if isinstance(value, dict) else value
    with pytest.raises(FlashFlowError, match=word):
        open_model(path, tmp_path)


def test_pickled_weights_are_refused(folder, tmp_path):
    path = copy(folder, tmp_path)
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(FlashFlowError, match="pytorch_model.bin|safetensors"):
        open_model(path, tmp_path)
