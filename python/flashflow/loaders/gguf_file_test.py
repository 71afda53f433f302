"""GGUF files: small random ones against transformers, and files that lie."""

import struct

import gguf
import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer

from flashflow.errors import DataLossError, FlashFlowError, NotFoundError, UnsupportedError
from flashflow.loaders.gguf_file import lazy_weight, load_gguf
from flashflow.loaders.gguf_header import GgufTensor
from flashflow.loaders.torch_weights import read_tensors
from flashflow.loaders.transformers_testing import oracle
from flashflow.models.build import build_model

Q = gguf.GGMLQuantizationType
LLAMA = dict(
    vocab_size=70,
    max_position_embeddings=40,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)
GPT2 = dict(vocab_size=70, n_positions=40, n_embd=64, n_layer=2, n_head=4)
NAMES = {
    "llama": {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        "model.layers": "blk",
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    },
    "gpt2": {
        "transformer.wte": "token_embd",
        "transformer.wpe": "position_embd",
        "transformer.ln_f": "output_norm",
        "lm_head": "output",
        "transformer.h": "blk",
        "ln_1": "attn_norm",
        "attn.c_attn": "attn_qkv",
        "attn.c_proj": "attn_output",
        "ln_2": "ffn_norm",
        "mlp.c_fc": "ffn_up",
        "mlp.c_proj": "ffn_down",
    },
}
TOKENS = ["<|endoftext|>", "<|user|>", *(chr(c) for c in range(ord("!"), ord("!") + 67)), "ab"]


def interleave(rows, heads):
    """What llama.cpp's converter does to the rows of Q and K: half-split pairs become neighbors."""
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def write_gguf(path, model, architecture, kind=Q.F32, metadata=None, drop=(), extra=None):
    """Writes model in llama.cpp's layout, and sets its weights to what the quantized ones mean."""
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    fields = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "attention.head_count": config.num_attention_heads,
        "feed_forward_length": getattr(config, "intermediate_size", 4 * config.hidden_size),
    }
    if architecture == "gpt2":
        fields["attention.layer_norm_epsilon"] = config.layer_norm_epsilon
    else:
        fields["attention.layer_norm_rms_epsilon"] = config.rms_norm_eps
        fields["attention.head_count_kv"] = config.num_key_value_heads
        fields["rope.freq_base"] = config.rope_parameters["rope_theta"]
    values = {
        **{f"{architecture}.{key}": value for key, value in fields.items()},
        "general.name": "Small",
        "general.license": "apache-2.0",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": [3, 4] + [1] * (len(TOKENS) - 2),
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.eos_token_id": 0,
        **(metadata or {}),
    }
    for key, value in values.items():
        if key in drop:
            continue
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    for name, tensor in [*model.state_dict().items(), *(extra or {}).items()]:
        if name == "lm_head.weight" and config.tie_word_embeddings or name in drop:
            continue
        array = tensor.detach().numpy().astype(np.float32)
        theirs = name
        for hf, short in NAMES["gpt2" if architecture == "gpt2" else "llama"].items():
            theirs = theirs.replace(hf, short)
        conv1d = architecture == "gpt2" and ".h." in name and array.ndim == 2
        array = array.T if conv1d else array
        permuted = {"q_proj": config.num_attention_heads, "k_proj": getattr(config, "num_key_value_heads", 0)}
        heads = next((h for part, h in permuted.items() if part in name and architecture == "llama"), 0)
        array = interleave(array, heads) if heads else array
        own_kind = kind if array.ndim == 2 else Q.F32
        packed = gguf.quants.quantize(np.ascontiguousarray(array), own_kind)
        writer.add_tensor(theirs, packed, raw_dtype=own_kind)
        if own_kind != Q.F32:
            array = gguf.quants.dequantize(packed, own_kind)
            array = (
                array.reshape(heads, -1, 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape) if heads else array
            )
            with torch.no_grad():
                tensor.copy_(torch.from_numpy(np.ascontiguousarray(array.T if conv1d else array)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def relative_error(found, expected):
    return ((found - expected).abs().amax(-1) / expected.abs().amax(-1)).max().item()


def our_logits(loaded, ids):
    model = build_model(loaded.config, read_tensors(loaded.weights))
    with torch.no_grad():
        return model(ids, torch.arange(ids.shape[1]).expand_as(ids))


SMALL = {
    "llama": ("llama", lambda: transformers.LlamaConfig(**LLAMA)),
    "llama_bias": ("llama", lambda: transformers.LlamaConfig(**LLAMA, attention_bias=True, mlp_bias=True)),
    "llama_tied": ("llama", lambda: transformers.LlamaConfig(**LLAMA, tie_word_embeddings=True)),
    "qwen2": ("qwen2", lambda: transformers.Qwen2Config(**LLAMA)),
    "gpt2": ("gpt2", lambda: transformers.GPT2Config(**GPT2)),
    "gpt2_untied": ("gpt2", lambda: transformers.GPT2Config(**GPT2, tie_word_embeddings=False)),
}


@pytest.mark.parametrize("name", SMALL)
def test_small_models_equal_transformers(name, tmp_path):
    architecture, config = SMALL[name]
    model = oracle(config())
    write_gguf(tmp_path / "m.gguf", model, architecture)
    loaded = load_gguf(tmp_path / "m.gguf")
    ids = torch.arange(40)[None] % 70
    with torch.no_grad():
        assert relative_error(our_logits(loaded, ids), model(ids).logits) <= 1e-4
    assert (loaded.name, loaded.metadata["license"]) == ("Small", "apache-2.0")


@pytest.mark.parametrize("kind", [Q.F16, Q.BF16, Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.Q8_0], ids=lambda k: k.name)
def test_tensor_types(kind, tmp_path):
    model = oracle(transformers.LlamaConfig(**LLAMA))
    write_gguf(tmp_path / "m.gguf", model, "llama", kind)
    loaded = load_gguf(tmp_path / "m.gguf")
    expected_dtype = {Q.F16: "f16", Q.BF16: "bf16"}.get(kind, "f32")
    assert loaded.weights["layers.1.attn.k_proj.weight"].dtype == expected_dtype
    ids = torch.arange(40)[None] % 70
    with torch.no_grad():
        assert relative_error(our_logits(loaded, ids), model(ids).logits) <= 1e-4


def scales_and_minima(packed):
    """The eight 6-bit pairs that Q4_K and Q5_K keep in 12 bytes."""
    low = [(packed[j] & 63, packed[j + 4] & 63) for j in range(4)]
    high = [(packed[j + 8] & 15 | packed[j] >> 6 << 4, packed[j + 8] >> 4 | packed[j + 4] >> 6 << 4) for j in range(4)]
    return low + high


def super_block(kind, data):
    """One block of 256 values by ggml's definition of the format, in plain Python."""
    half = lambda at: float(np.frombuffer(data[at : at + 2], np.float16)[0])  # noqa: E731
    if kind == Q.Q6_K:
        low, high, scales = data[:128], data[128:192], np.frombuffer(data[192:208], np.int8)
        values = []
        for i in range(256):
            part, quarter, at = i // 128, i % 128 // 32, i % 32
            nibble = low[part * 64 + quarter % 2 * 32 + at] >> (quarter // 2 * 4) & 15
            bits = high[part * 32 + at] >> (2 * quarter) & 3
            values.append(half(208) * int(scales[i // 16]) * ((nibble | bits << 4) - 32))
        return values
    fifth = data[16:48] if kind == Q.Q5_K else bytes(32)
    nibbles = data[48:] if kind == Q.Q5_K else data[16:]
    values = []
    for i in range(256):
        group, at = i // 32, i % 32
        scale, minimum = scales_and_minima(data[4:16])[group]
        code = nibbles[group // 2 * 32 + at] >> (group % 2 * 4) & 15 | (fifth[at] >> group & 1) << 4
        values.append(half(0) * scale * code - half(2) * minimum)
    return values


@pytest.mark.parametrize(
    ("kind", "size", "halves"), [(Q.Q4_K, 144, (0, 2)), (Q.Q5_K, 176, (0, 2)), (Q.Q6_K, 210, (208,))]
)
def test_super_blocks(kind, size, halves):
    data = np.random.default_rng(2).integers(0, 256, (2, 3, size), dtype=np.uint8)
    for at in halves:
        data[..., at : at + 2] = np.random.default_rng(at).normal(size=(2, 3, 1)).astype(np.float16).view(np.uint8)
    tensor = GgufTensor("t", kind, (2, 768), data.reshape(-1))
    expected = [[value for block in row for value in super_block(kind, block.tobytes())] for row in data]
    found = lazy_weight(tensor, "m.gguf").read()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_rope_factors(tmp_path):
    rope = dict(
        rope_type="llama3",
        rope_theta=10000.0,
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=16,
    )
    model = oracle(transformers.LlamaConfig(**LLAMA, rope_parameters=rope))
    plain = 1.0 / (10000.0 ** (torch.arange(0, 16, 2) / 16))
    factors = plain / model.model.rotary_emb.inv_freq
    assert factors.max() > 4
    write_gguf(tmp_path / "m.gguf", model, "llama", extra={"rope_freqs.weight": factors})
    ids = torch.arange(40)[None] % 70
    with torch.no_grad():
        assert relative_error(our_logits(load_gguf(tmp_path / "m.gguf"), ids), model(ids).logits) <= 1e-4


@pytest.fixture(scope="module")
def small_model():
    return oracle(transformers.LlamaConfig(**LLAMA))


@pytest.fixture(scope="module")
def small_file(small_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    write_gguf(path, small_model, "llama")
    return path


def read_all(path):
    loaded = load_gguf(path)
    for weight in loaded.weights.values():
        weight.read()
    return loaded


def test_truncation_at_any_point_is_data_loss(small_file, tmp_path):
    data = small_file.read_bytes()
    path = tmp_path / "cut.gguf"
    header = data.index(b"output_norm.weight") + 200
    for kept in [0, *range(1, header, 37), len(data) // 2, len(data) - 1]:
        path.write_bytes(data[:kept])
        with pytest.raises(DataLossError):
            read_all(path)


def test_flipped_bits_never_escape_as_other_errors(small_file, tmp_path):
    data = small_file.read_bytes()
    path = tmp_path / "flipped.gguf"
    header = data.index(b"output_norm.weight") + 200
    random = np.random.default_rng(11)
    refused = 0
    for position, bit in zip(random.integers(0, header, 1000), random.integers(0, 8, 1000), strict=True):
        damaged = bytearray(data)
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            loaded = read_all(path)
            if loaded.tokenizer_json:
                Tokenizer.from_str(loaded.tokenizer_json.decode())
        except FlashFlowError:
            refused += 1
    assert refused > 400  # a flip in the text of a token or in a float is another, valid file


def test_counts_that_do_not_fit_are_refused_before_anything_is_made_of_them(small_file, tmp_path):
    data = small_file.read_bytes()
    path = tmp_path / "huge.gguf"
    for offset in (8, 16):  # tensors, metadata entries
        for count in (1 << 62, (1 << 64) - 1, 1 << 40):
            path.write_bytes(data[:offset] + struct.pack("<Q", count) + data[offset + 8 :])
            with pytest.raises(DataLossError, match="does not fit"):
                load_gguf(path)
    at = data.index(b"tokenizer.ggml.token_type") + len("tokenizer.ggml.token_type") + 8
    path.write_bytes(data[:at] + struct.pack("<Q", 1 << 60) + data[at + 8 :])
    with pytest.raises(DataLossError, match=r"length of 'tokenizer\.ggml\.token_type' says"):
        load_gguf(path)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", DataLossError, "empty"),
        (b"GGML\3\0\0\0", DataLossError, "instead of b'GGUF'"),
        (b"GGUF\x07\0\0\0" + bytes(16), UnsupportedError, "version 7"),
        (b"GGUF\0\0\0\x03" + bytes(16), UnsupportedError, "big-endian"),
        (b"GGUF\3\0\0\0" + bytes(16), DataLossError, "lacks the metadata general.architecture"),
    ],
)
def test_other_files_are_refused(content, error, message, tmp_path):
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(error, match=message):
        load_gguf(tmp_path / "m.gguf")


def test_missing_file(tmp_path):
    with pytest.raises(NotFoundError, match=r"m\.gguf"):
        load_gguf(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        ({"general.architecture": "mamba"}, "general.architecture"),
        ({"split.count": 3}, "split.count"),
        ({"llama.expert_count": 8}, "llama.expert_count"),
        ({"llama.attention.sliding_window": 8}, "llama.attention.sliding_window"),
        ({"llama.rope.dimension_count": 8}, "llama.rope.dimension_count"),
        ({"llama.attention.value_length": 8}, "llama.attention.value_length"),
        ({"llama.vocab_size": 71}, "llama.vocab_size"),
        ({"llama.attention.causal": False}, "llama.attention.causal"),
        ({"llama.rope.scaling.type": "yarn"}, "llama.rope.scaling.type"),
        ({"llama.logit_scale": 0.5}, "llama.logit_scale"),
        ({"llama.attention.head_count_kv": [2, 2]}, "llama.attention.head_count_kv"),
        ({"llama.attention.head_count": 0}, "n_heads"),
        ({"llama.attention.head_count_kv": 3}, "n_kv_heads"),
        ({"llama.block_count": 3}, "layers.2.attn_norm.weight"),
        ({"llama.block_count": 1}, "blk.1.attn_k.weight"),
        ({"llama.feed_forward_length": 95}, "blk.0.ffn_gate.weight"),
        ({"tokenizer.ggml.model": "llama"}, "tokenizer.ggml.model"),
        ({"tokenizer.ggml.pre": "deepseek-llm"}, "tokenizer.ggml.pre"),
        ({"tokenizer.ggml.tokens": [1, 2, 3]}, "tokenizer.ggml.tokens"),
        ({"tokenizer.ggml.tokens": ["a"] * 70}, "tokenizer.ggml.tokens"),
        ({"tokenizer.ggml.tokens": [f"t{i}" for i in range(71)]}, "tokenizer.ggml.tokens"),
        ({"tokenizer.ggml.merges": ["a zzz"]}, "merges"),
        ({"tokenizer.ggml.eos_token_id": 70}, "eos"),
        ({"tokenizer.ggml.add_eos_token": True}, "tokenizer.ggml.add_eos_token"),
        ({"tokenizer.ggml.add_bos_token": True}, "tokenizer.ggml.bos_token_id"),
        ({"general.alignment": 33}, None),
    ],
)
def test_metadata_is_refused_by_name(metadata, named, small_model, tmp_path):
    write_gguf(tmp_path / "m.gguf", small_model, "llama", metadata=metadata)
    with pytest.raises(FlashFlowError) as caught:
        load_gguf(tmp_path / "m.gguf")
    assert caught.value.op == (named or str(tmp_path / "m.gguf"))


def test_missing_metadata_and_tensors_are_named(small_model, tmp_path):
    for key in ("llama.context_length", "tokenizer.ggml.tokens", "tokenizer.ggml.merges"):
        write_gguf(tmp_path / "m.gguf", small_model, "llama", drop=(key,))
        with pytest.raises(DataLossError, match=key):
            load_gguf(tmp_path / "m.gguf")
    write_gguf(tmp_path / "m.gguf", small_model, "llama", drop=("tokenizer.ggml.pre",))
    with pytest.raises(UnsupportedError, match="missing"):
        load_gguf(tmp_path / "m.gguf")
    write_gguf(tmp_path / "m.gguf", small_model, "llama", drop=("model.norm.weight",))
    with pytest.raises(FlashFlowError, match=r"norm\.weight"):
        load_gguf(tmp_path / "m.gguf")


def test_unknown_tensor_type_is_named(small_file, tmp_path):
    data = small_file.read_bytes()
    at = data.index(b"token_embd.weight") + len("token_embd.weight") + 4 + 16
    for number, name in ((200, "unknown type 200"), (int(Q.TQ1_0), "TQ1_0|not made of"), (int(Q.I32), "I32")):
        (tmp_path / "m.gguf").write_bytes(data[:at] + struct.pack("<I", number) + data[at + 4 :])
        with pytest.raises((UnsupportedError, DataLossError), match=name):
            load_gguf(tmp_path / "m.gguf")


def test_beginning_of_sequence_is_added_where_the_file_says_so(small_model, tmp_path):
    metadata = {"tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.add_bos_token": True}
    write_gguf(tmp_path / "m.gguf", small_model, "llama", metadata=metadata)
    tokenizer = Tokenizer.from_str(load_gguf(tmp_path / "m.gguf").tokenizer_json.decode())
    assert tokenizer.encode("ab").ids == [0, 69]
    assert tokenizer.encode("ab", add_special_tokens=False).ids == [69]
    assert tokenizer.decode([0, 69, 1]) == "ab<|user|>"  # control tokens are hidden, user-defined ones shown
