"""Folders that transformers writes, read by us; transformers' own forward pass in fp32 is the oracle."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from flashflow.errors import DataLossError, FlashFlowError, InvalidArgumentError, NotFoundError, UnsupportedError
from flashflow.loaders.hf_folder import load_hf_folder
from flashflow.loaders.torch_weights import read_tensors
from flashflow.loaders.transformers_testing import oracle
from flashflow.models.build import build_model

GPT2 = dict(vocab_size=131, n_positions=29, n_embd=36, n_layer=3, n_head=3)
LLAMA = dict(
    vocab_size=131,
    max_position_embeddings=43,
    hidden_size=36,
    intermediate_size=52,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
)
LLAMA3_ROPE = dict(
    rope_type="llama3",
    rope_theta=10000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)
MODELS = {
    "gpt2": lambda: transformers.GPT2Config(**GPT2),
    "gpt2_untied": lambda: transformers.GPT2Config(**GPT2, tie_word_embeddings=False),
    "gpt2_inner": lambda: transformers.GPT2Config(**GPT2, n_inner=50, activation_function="gelu"),
    "gpt2_layer_scale": lambda: transformers.GPT2Config(**GPT2, scale_attn_by_inverse_layer_idx=True),
    "gpt2_unscaled": lambda: transformers.GPT2Config(**GPT2, scale_attn_weights=False, activation_function="relu"),
    "llama": lambda: transformers.LlamaConfig(**LLAMA),
    "llama_tied": lambda: transformers.LlamaConfig(**LLAMA, tie_word_embeddings=True, rms_norm_eps=1e-3),
    "llama_bias": lambda: transformers.LlamaConfig(**LLAMA, attention_bias=True, mlp_bias=True),
    "llama_head_dim": lambda: transformers.LlamaConfig(**{**LLAMA, "num_attention_heads": 4}, head_dim=14),
    "llama_mha": lambda: transformers.LlamaConfig(**{**LLAMA, "num_key_value_heads": 6}, hidden_act="gelu"),
    "llama_theta": lambda: transformers.LlamaConfig(
        **LLAMA, rope_parameters=dict(rope_type="default", rope_theta=77.0)
    ),
    "llama3_rope": lambda: transformers.LlamaConfig(**LLAMA, rope_parameters=LLAMA3_ROPE),
    "linear_rope": lambda: transformers.LlamaConfig(
        **LLAMA, rope_parameters=dict(rope_type="linear", factor=4.0, rope_theta=10000.0)
    ),
    "qwen2": lambda: transformers.Qwen2Config(**LLAMA, tie_word_embeddings=True),
    "mistral": lambda: transformers.MistralConfig(**LLAMA, sliding_window=None),
}


def assert_same_logits(model, folder, bound=1e-4):
    loaded = load_hf_folder(folder)
    ours = build_model(loaded.config, read_tensors(loaded.weights))
    length = loaded.config.context_length
    ids = torch.randint(loaded.config.vocab_size, (2, length), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        found = ours(ids, torch.arange(length).expand(2, length))
    error = (found - expected).abs().amax(-1) / expected.abs().amax(-1)
    assert error.max() <= bound
    return loaded


@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_transformers(name, tmp_path):
    model = oracle(MODELS[name]())
    model.save_pretrained(tmp_path)
    assert_same_logits(model, tmp_path)


def test_old_style_rope_fields(tmp_path):
    model = oracle(MODELS["llama3_rope"]())
    model.save_pretrained(tmp_path)
    rope = dict(LLAMA3_ROPE)
    change_config(tmp_path, rope_parameters=None, rope_theta=rope.pop("rope_theta"), rope_scaling=rope)
    assert_same_logits(model, tmp_path)
    scaling = {"type": "linear", "factor": 2.0}
    change_config(tmp_path, rope_scaling=scaling)
    assert load_hf_folder(tmp_path).config.rope_scaling.factor == 2.0


def test_sharded_weights(tmp_path):
    model = oracle(MODELS["llama"]())
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert_same_logits(model, tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    fields = json.loads(index.read_text())
    shard = fields["weight_map"].pop("model.norm.weight")
    index.write_text(json.dumps(fields))
    with pytest.raises(DataLossError, match=rf"{shard} has the tensor 'model\.norm\.weight'.*does not list"):
        load_hf_folder(tmp_path)
    fields["weight_map"].update({"model.norm.weight": shard, "absent": shard})
    index.write_text(json.dumps(fields))
    with pytest.raises(DataLossError, match=rf"puts tensor 'absent' into {shard}"):
        load_hf_folder(tmp_path)


@pytest.mark.parametrize(("dtype", "name"), [(torch.bfloat16, "bf16"), (torch.float16, "f16")])
def test_half_precision_weights_are_kept_and_widened(dtype, name, tmp_path):
    oracle(MODELS["llama_bias"]()).to(dtype).save_pretrained(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    loaded = assert_same_logits(model, tmp_path)
    assert {weight.dtype for weight in loaded.weights.values()} == {name}
    assert loaded.weights["layers.0.attn.q_proj.weight"].read().itemsize == 2


def test_oldest_gpt2_names_and_buffers(tmp_path):
    model = oracle(MODELS["gpt2"]())
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 29, 29, dtype=torch.uint8)
    tensors["h.0.attn.masked_bias"] = torch.tensor(-1e4)
    tensors["lm_head.weight"] = tensors["wte.weight"].clone()
    save_file(tensors, tmp_path / "model.safetensors")
    assert_same_logits(model, tmp_path)


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    oracle(MODELS["llama"]()).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(llama_folder, tmp_path):
    return shutil.copytree(llama_folder, tmp_path / "model")


def change_config(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def change_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        (dict(model_type="mamba"), "model_type"),
        (dict(model_type=["llama"]), "model_type"),
        (dict(hidden_act="quick_gelu"), "hidden_act"),
        (dict(sliding_window=8), "sliding_window"),
        (dict(model_type="mistral", sliding_window=8), "sliding_window"),
        (dict(model_type="qwen2", use_sliding_window=True), "use_sliding_window"),
        (dict(layer_types=["sliding_attention"] * 3), "layer_types"),
        (dict(partial_rotary_factor=0.5, rope_parameters=None), "partial_rotary_factor"),
        (dict(rope_parameters=dict(rope_type="default", partial_rotary_factor=0.5)), "partial_rotary_factor"),
        (dict(rope_parameters=dict(rope_type="yarn", factor=4.0)), "rope_type"),
        (dict(rope_parameters=dict(rope_type="linear")), "factor"),
        (dict(rope_parameters=dict(rope_type="linear", factor="2")), "factor"),
        (dict(rope_parameters=dict(rope_type="default", attention_factor=0.1)), "attention_factor"),
        (dict(rope_parameters=dict(full=dict(rope_type="default"))), "rope_parameters"),
        (dict(final_logit_softcapping=30.0), "final_logit_softcapping"),
        (dict(residual_multiplier=0.2), "residual_multiplier"),
        (dict(quantization_config=dict(bits=4)), "quantization_config"),
        (dict(auto_map=dict(AutoModel="x.py")), "auto_map"),
        (dict(vocab_size=None), "vocab_size"),
        (dict(num_hidden_layers="3"), "n_layers"),
        (dict(num_attention_heads=0), "head_dim"),
        (dict(num_key_value_heads=4), "n_kv_heads"),
        (dict(rms_norm_eps="small"), "norm_eps"),
        (dict(attention_bias="no"), "qkv_bias"),
    ],
)
def test_config_fields_are_refused_by_name(folder, fields, named):
    if fields.get("num_attention_heads") == 0:
        fields = {**fields, "head_dim": None}
    change_config(folder, **fields)
    with pytest.raises(FlashFlowError) as caught:
        load_hf_folder(folder)
    assert caught.value.op == named
    assert named in str(caught.value)


def test_switched_off_fields_are_accepted(folder):
    change_config(folder, sliding_window=None, final_logit_softcapping=0.0, layer_types=["full_attention"] * 3)
    load_hf_folder(folder)


def test_bookkeeping_of_the_library_that_wrote_the_config_is_accepted(folder):
    change_config(folder, _name_or_path="x", _model_name_or_path="x", _num_labels=1, output_past=True)
    load_hf_folder(folder)


def test_contradictions_between_config_and_weights_name_the_tensor(folder):
    change_config(folder, intermediate_size=50)
    with pytest.raises(
        InvalidArgumentError, match=r"mlp.gate_proj.weight.*expected shape \[50, 36\].*found \[52, 36\]"
    ):
        load_hf_folder(folder)
    change_config(folder, intermediate_size=52, num_hidden_layers=4)
    with pytest.raises(InvalidArgumentError, match=r"lacks the tensor.*layers.3.attn_norm.weight"):
        load_hf_folder(folder)
    change_config(folder, num_hidden_layers=2)
    with pytest.raises(InvalidArgumentError, match=r"has the tensor 'model.layers.2.input_layernorm.weight'"):
        load_hf_folder(folder)
    change_config(folder, num_hidden_layers=3, tie_word_embeddings=True)
    with pytest.raises(InvalidArgumentError, match="lm_head.weight differs"):
        load_hf_folder(folder)


def test_weights_that_are_not_finite_are_refused_when_read(folder):
    change_weights(folder, lambda tensors: tensors["model.norm.weight"].__setitem__(3, float("nan")))
    weights = load_hf_folder(folder).weights
    with pytest.raises(DataLossError, match="'model.norm.weight' has 1 values that are not finite"):
        weights["norm.weight"].read()
    weights["head.weight"].read()


def test_weights_of_another_type_are_refused_when_read(folder):
    change_weights(folder, lambda t: t.update({"model.norm.weight": torch.ones(36, dtype=torch.int64)}))
    with pytest.raises(UnsupportedError, match=r"'model.norm.weight'.*I64.*expected one of F32, F16, BF16"):
        load_hf_folder(folder).weights["norm.weight"].read()


@pytest.mark.parametrize("kept", [0, 3, 8, 100, 0.5, -1])
def test_truncated_safetensors(folder, kept):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept) if isinstance(kept, float) else kept])
    with pytest.raises(DataLossError, match=r"model\.safetensors is not a whole safetensors file"):
        load_hf_folder(folder)


def test_flipped_bits_in_the_header_never_escape_as_other_errors(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    random = np.random.default_rng(5)
    refused = 0
    for position, bit in zip(random.integers(0, header, 400), random.integers(0, 8, 400), strict=True):
        damaged = bytearray(data)
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            for weight in load_hf_folder(folder).weights.values():
                weight.read()
        except FlashFlowError:
            refused += 1
    assert refused > 300  # the others changed the free-form metadata, or nothing that is used


def test_damaged_or_missing_files_are_named(folder):
    (folder / "config.json").write_text("[]")
    with pytest.raises(DataLossError, match="JSON object"):
        load_hf_folder(folder)
    (folder / "config.json").write_text("[" * 100_000)
    with pytest.raises(DataLossError, match=r"config\.json is not JSON"):
        load_hf_folder(folder)
    (folder / "config.json").write_bytes(b"\xff\xfe")
    with pytest.raises(DataLossError, match=r"config\.json is not JSON"):
        load_hf_folder(folder)
    (folder / "config.json").unlink()
    with pytest.raises(NotFoundError, match=r"config\.json"):
        load_hf_folder(folder)


def test_pickles_are_refused_with_a_hint(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UnsupportedError, match=r"pytorch_model\.bin, a pickle") as caught:
        load_hf_folder(folder)
    assert "safetensors" in caught.value.hint
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(NotFoundError, match=r"neither model\.safetensors nor"):
        load_hf_folder(folder)


@pytest.mark.parametrize(
    "weight_map",
    [
        None,
        {},
        [],
        {"a": "../model.safetensors"},
        {"a": "/etc/passwd"},
        {"a": 3},
        {"absent": "model.safetensors"},
        {"a": "x.safetensors"},
    ],
)
def test_hostile_shard_index(folder, weight_map):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises((DataLossError, NotFoundError)):
        load_hf_folder(folder)


def test_generation_info(folder):
    assert load_hf_folder(folder).generation.eos_token_ids == (2,)
    (folder / "generation_config.json").write_text('{"eos_token_id": [5, 7], "bos_token_id": 1}')
    (folder / "tokenizer_config.json").write_text('{"chat_template": [{"name": "default", "template": "T"}]}')
    generation = load_hf_folder(folder).generation
    assert (generation.bos_token_id, generation.eos_token_ids, generation.chat_template) == (1, (5, 7), "T")
    (folder / "chat_template.jinja").write_text("J")
    assert load_hf_folder(folder).generation.chat_template == "J"
    (folder / "generation_config.json").write_text('{"eos_token_id": [-5]}')
    with pytest.raises(DataLossError, match="eos_token_ids"):
        load_hf_folder(folder)
