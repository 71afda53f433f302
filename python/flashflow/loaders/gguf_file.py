"""Loads a model from a GGUF file: architectures llama, qwen2 and gpt2, with a byte-level BPE tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize

from flashflow.errors import DataLossError, UnsupportedError
from flashflow.loaders.byte_level_bpe import AddedToken, byte_level_bpe_json
from flashflow.loaders.gguf_header import GgufFile, GgufTensor, open_gguf
from flashflow.loaders.loaded_model import GenerationInfo, LoadedModel, check_weights
from flashflow.loaders.weight import LazyWeight
from flashflow.loaders.weight_names import gguf_name
from flashflow.models.config import Gpt2Config, LlamaConfig, ModelConfig, RopeScaling

__all__ = ["lazy_weight", "load_gguf"]

_QUANTIZED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")
_HINT = "FlashFlow would compute something else than this model; use a checkpoint without it"
_MAX_VOCAB = 1 << 22

# Names of one word-splitting scheme in tokenizer.ggml.pre, as llama.cpp groups them.
_PRE_ALIASES = {"llama3": "llama-bpe", "llama-v3": "llama-bpe"}
_CONTROL, _USER_DEFINED, _UNKNOWN = 3, 4, 2  # values of tokenizer.ggml.token_type


class _Metadata:
    """Typed access to metadata; remembers which keys were read, so that the rest can be refused."""

    def __init__(self, file: GgufFile, path: Path) -> None:
        self._values, self._path = file.metadata, path
        self._read: set[str] = set()

    def get(self, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        self._read.add(key)
        value = self._values.get(key)
        if value is None:
            return default
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise DataLossError(f"{self._path}: metadata {key} has the unexpected value {value!r:.80}", op=key)
        return value

    def need(self, key: str, kind: type | tuple[type, ...]) -> Any:
        value = self.get(key, kind)
        if value is None:
            raise DataLossError(f"{self._path} lacks the metadata {key}", op=key)
        return value

    def refuse_unread(self, prefix: str) -> None:
        """Refuses what was not read of the architecture's own metadata, unless it is switched off (0, false, empty)."""
        for key in sorted(self._values):
            value = self._values[key]
            if key.startswith(prefix) and key not in self._read and value not in (0, False, "", "none", []):
                raise UnsupportedError(f"{self._path}: {key} = {value!r:.80} is not supported", op=key, hint=_HINT)


def load_gguf(path: Path) -> LoadedModel:
    """The model in a GGUF file.

    Quantized tensors are dequantized to f32 when they are read; F16 and BF16 stay.

    Raises:
      NotFoundError: there is no such file.
      DataLossError: it is truncated or damaged.
      UnsupportedError: an architecture, field, tensor type or tokenizer that FlashFlow does not run; it is named.
      InvalidArgumentError: metadata and tensors contradict each other.
    """
    file = open_gguf(path)
    metadata = _Metadata(file, path)
    if metadata.get("split.count", int, 1) > 1:
        raise UnsupportedError(f"{path} is one part of a split model", op="split.count", hint="merge the parts first")
    architecture = metadata.need("general.architecture", str)
    if architecture not in _ARCHITECTURES:
        raise UnsupportedError(
            f"{path}: architecture {architecture!r} is not supported: expected one of {', '.join(_ARCHITECTURES)}",
            op="general.architecture",
        )
    config = _ARCHITECTURES[architecture](file, metadata)
    metadata.refuse_unread(architecture + ".")
    weights = {}
    unused = set(file.tensors) - {"rope_freqs.weight"}
    for name in config.weight_shapes():
        theirs = gguf_name(name)
        if theirs in file.tensors:
            unused.discard(theirs)
            weights[name] = lazy_weight(file.tensors[theirs], str(path))
            if architecture == "llama" and ".q_proj." in name:
                weights[name] = weights[name].with_interleaved_halves_split(config.n_heads)
            elif architecture == "llama" and ".k_proj." in name:
                weights[name] = weights[name].with_interleaved_halves_split(config.kv_heads)
    check_weights(config, weights, unused, str(path))
    tokenizer_json, generation = _tokenizer(metadata, architecture, config, path)
    license_name = metadata.get("general.license", str)
    return LoadedModel(
        name=metadata.get("general.name", str) or path.stem,
        config=config,
        weights=weights,
        tokenizer_json=tokenizer_json,
        generation=generation,
        metadata={"license": license_name} if license_name else {},
    )


def _rows(file: GgufFile, name: str) -> int:
    return file.tensors[name].shape[0] if name in file.tensors else 0


def _llama(file: GgufFile, metadata: _Metadata, prefix: str = "llama", qkv_bias: bool | None = None) -> ModelConfig:
    def integer(key: str, default: int | None = None) -> int:
        value: int = (
            metadata.need(f"{prefix}.{key}", int) if default is None else metadata.get(f"{prefix}.{key}", int, default)
        )
        return value

    hidden_size, n_heads = integer("embedding_length"), integer("attention.head_count")
    head_dim = integer("attention.key_length", hidden_size // n_heads if n_heads else 0)
    for key, expected in (
        ("attention.value_length", head_dim),
        ("rope.dimension_count", head_dim),
        ("vocab_size", _rows(file, "token_embd.weight")),
    ):
        if (value := integer(key, expected)) != expected:
            raise UnsupportedError(
                f"{prefix}.{key} = {value} is not supported: expected {expected}", op=f"{prefix}.{key}"
            )
    if not metadata.get(f"{prefix}.attention.causal", bool, True):
        raise UnsupportedError(f"{prefix}.attention.causal = false is not supported", op=f"{prefix}.attention.causal")
    return LlamaConfig(
        vocab_size=_rows(file, "token_embd.weight"),
        context_length=integer("context_length"),
        hidden_size=hidden_size,
        n_layers=integer("block_count"),
        n_heads=n_heads,
        mlp_size=integer("feed_forward_length"),
        norm_eps=metadata.need(f"{prefix}.attention.layer_norm_rms_epsilon", float),
        n_kv_heads=integer("attention.head_count_kv", n_heads),
        head_dim=head_dim,
        rope_theta=metadata.get(f"{prefix}.rope.freq_base", float, 10000.0),
        rope_scaling=_rope_scaling(file, metadata, prefix),
        qkv_bias="blk.0.attn_q.bias" in file.tensors if qkv_bias is None else qkv_bias,
        out_bias="blk.0.attn_output.bias" in file.tensors,
        mlp_bias="blk.0.ffn_gate.bias" in file.tensors,
        tied_head="output.weight" not in file.tensors,
    )


def _rope_scaling(file: GgufFile, metadata: _Metadata, prefix: str) -> RopeScaling:
    factor = metadata.get(
        f"{prefix}.rope.scaling.factor", float, metadata.get(f"{prefix}.rope.scale_linear", float, 1.0)
    )
    kind = metadata.get(f"{prefix}.rope.scaling.type", str, "linear")
    metadata.get(f"{prefix}.rope.scaling.original_context_length", int)  # of yarn; these two are facts of training
    metadata.get(f"{prefix}.rope.scaling.finetuned", bool)
    if kind not in ("none", "linear"):
        raise UnsupportedError(
            f"{prefix}.rope.scaling.type {kind!r} is not supported: expected none or linear",
            op=f"{prefix}.rope.scaling.type",
            hint=_HINT,
        )
    frequencies = file.tensors.get("rope_freqs.weight")
    if frequencies is None:
        return RopeScaling("linear", factor=factor) if kind == "linear" and factor != 1.0 else RopeScaling()
    if len(frequencies.shape) != 1 or (kind == "linear" and factor != 1.0):
        raise UnsupportedError(
            "rope_freqs.weight is not a vector, or comes with linear scaling", op="rope_freqs.weight"
        )
    return RopeScaling("factors", factors=tuple(lazy_weight(frequencies, "the file").read().tolist()))


def _qwen2(file: GgufFile, metadata: _Metadata) -> ModelConfig:
    return _llama(file, metadata, prefix="qwen2", qkv_bias=True)


def _gpt2(file: GgufFile, metadata: _Metadata) -> ModelConfig:
    return Gpt2Config(
        vocab_size=_rows(file, "token_embd.weight"),
        context_length=metadata.need("gpt2.context_length", int),
        hidden_size=metadata.need("gpt2.embedding_length", int),
        n_layers=metadata.need("gpt2.block_count", int),
        n_heads=metadata.need("gpt2.attention.head_count", int),
        mlp_size=metadata.need("gpt2.feed_forward_length", int),
        norm_eps=metadata.need("gpt2.attention.layer_norm_epsilon", float),
        tied_head="output.weight" not in file.tensors,
    )


_ARCHITECTURES: dict[str, Callable[[GgufFile, _Metadata], ModelConfig]] = {
    "gpt2": _gpt2,
    "llama": _llama,
    "qwen2": _qwen2,
}


def lazy_weight(tensor: GgufTensor, file: str) -> LazyWeight:
    """The tensor as a weight: f16 and bf16 as they are, quantized ones as f32. file is for messages."""
    shape, kind, data = tensor.shape, tensor.type, tensor.data
    if kind == GGMLQuantizationType.F32:
        return LazyWeight(tensor.name, shape, "f32", lambda: data.view(np.float32).reshape(shape))
    if kind == GGMLQuantizationType.F16:
        return LazyWeight(tensor.name, shape, "f16", lambda: data.view(np.float16).reshape(shape))
    if kind == GGMLQuantizationType.BF16:
        return LazyWeight(tensor.name, shape, "bf16", lambda: data.view(np.uint16).reshape(shape))
    if kind.name not in _QUANTIZED:
        raise UnsupportedError(
            f"tensor {tensor.name!r} of {file} has type {kind.name}: expected F32, F16, BF16, {', '.join(_QUANTIZED)}",
            op=tensor.name,
        )

    def load() -> npt.NDArray[Any]:
        with np.errstate(invalid="ignore", over="ignore"):  # LazyWeight.read refuses what is not finite
            values: npt.NDArray[Any] = dequantize(data.reshape(*shape[:-1], -1), kind)
        return values

    return LazyWeight(tensor.name, shape, "f32", load)


def _tokenizer(
    metadata: _Metadata, architecture: str, config: ModelConfig, path: Path
) -> tuple[bytes | None, GenerationInfo]:
    kind = metadata.get("tokenizer.ggml.model", str)
    if kind is None:
        return None, GenerationInfo()
    if kind != "gpt2":
        raise UnsupportedError(
            f"{path}: tokenizer model {kind!r} is not supported: expected gpt2 (byte-level BPE)",
            op="tokenizer.ggml.model",
            hint="use the model as a Hugging Face folder, which has tokenizer.json",
        )
    tokens: list[str] = metadata.need("tokenizer.ggml.tokens", list)
    merges: list[str] = metadata.need("tokenizer.ggml.merges", list)
    types: list[int] = metadata.get("tokenizer.ggml.token_type", list, [1] * len(tokens))
    if not all(isinstance(text, str) for text in (*tokens[:1], *merges[:1])):  # arrays are of one type
        raise DataLossError(f"{path}: tokens and merges must be texts", op="tokenizer.ggml.tokens")
    vocab = {token: i for i, token in enumerate(tokens)}
    if len(vocab) != len(tokens) or len(types) != len(tokens) or len(tokens) > min(config.vocab_size, _MAX_VOCAB):
        raise DataLossError(
            f"{path}: {len(tokens)} tokens ({len(vocab)} different), {len(types)} types and an embedding of "
            f"{config.vocab_size} rows do not belong together",
            op="tokenizer.ggml.tokens",
        )

    def token_id(name: str) -> int | None:
        value: int | None = metadata.get(f"tokenizer.ggml.{name}_token_id", int)
        if value is not None and not 0 <= value < len(tokens):
            raise DataLossError(f"{path}: {name}_token_id {value} is not one of {len(tokens)} tokens", op=name)
        return value

    bos = token_id("bos")
    ends = [i for i in map(token_id, ("eos", "eot", "eom")) if i is not None]
    default_pre = "gpt-2" if architecture == "gpt2" else "missing"  # files older than the field
    pre = metadata.get("tokenizer.ggml.pre", str, default_pre)
    pre = _PRE_ALIASES.get(pre, pre)
    added = [
        AddedToken(i, token, special=types[i] != _USER_DEFINED)
        for i, token in enumerate(tokens)
        if types[i] in (_CONTROL, _USER_DEFINED, _UNKNOWN) or i in ends or i == bos
    ]
    adds_bos = metadata.get("tokenizer.ggml.add_bos_token", bool, pre == "llama-bpe")
    if metadata.get("tokenizer.ggml.add_eos_token", bool, False):
        raise UnsupportedError(f"{path}: add_eos_token is not supported", op="tokenizer.ggml.add_eos_token")
    if adds_bos and bos is None:
        raise DataLossError(f"{path}: add_bos_token without a bos_token_id", op="tokenizer.ggml.bos_token_id")
    prefix = [AddedToken(bos, tokens[bos], special=True)] if adds_bos and bos is not None else []
    tokenizer_json = byte_level_bpe_json(vocab, merges, pre, added_tokens=added, prefix_tokens=prefix)
    generation = GenerationInfo(bos, tuple(dict.fromkeys(ends)), metadata.get("tokenizer.chat_template", str))
    return tokenizer_json, generation
