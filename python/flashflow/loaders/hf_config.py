"""Hugging Face's config.json -> our configs. Every field is honored, known not to matter, or refused by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flashflow.errors import DataLossError, UnsupportedError
from flashflow.models.config import Gpt2Config, LlamaConfig, ModelConfig, RopeScaling

__all__ = ["HF_MODEL_TYPES", "config_from_hf"]

_HINT = "FlashFlow would compute something else than this model; use a checkpoint without it"

# Bookkeeping, training and tokenizer fields: no part of the forward pass in eval mode. A name that begins with an
# underscore is the writing library's own bookkeeping, too.
_HARMLESS_TEXT = """
    architectures attention_dropout bos_token_id chunk_size_feed_forward dtype eos_token_id finetuning_task id2label
    initializer_range is_decoder is_llama_config label2id model_type name_or_path output_attentions
    output_hidden_states output_past pad_token_id pretraining_tp problem_type return_dict sep_token_id
    task_specific_params tokenizer_class torch_dtype transformers.js_config transformers_version unk_token_id use_cache
"""
_GPT2_HARMLESS_TEXT = """
    attn_pdrop embd_pdrop n_ctx reorder_and_upcast_attn resid_pdrop summary_activation summary_first_dropout
    summary_proj_to_labels summary_type summary_use_proj gradient_checkpointing n_special
    predict_special_tokens
"""
_HARMLESS = frozenset(_HARMLESS_TEXT.split())
_GPT2_HARMLESS = _HARMLESS | frozenset(_GPT2_HARMLESS_TEXT.split())
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_fast": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


class _Fields:
    """config.json's object; remembers which keys were read, so that the rest can be refused."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields
        self._read: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self._read.add(name)
        value = self._fields.get(name)
        return default if value is None else value

    def need(self, name: str) -> Any:
        value = self.get(name)
        if value is None:
            raise DataLossError(f"config.json lacks {name!r}", op=name)
        return value

    def activation(self, name: str, default: str) -> str:
        value = self.get(name, default)
        if not isinstance(value, str) or value not in _ACTIVATIONS:
            raise UnsupportedError(
                f"config.json: {name} {value!r} is not supported: expected one of {', '.join(_ACTIVATIONS)}", op=name
            )
        return _ACTIVATIONS[value]

    def refuse_unread(self, harmless: frozenset[str]) -> None:
        """Refuses what nobody asked for, unless it is harmless or switched off (null, false, 0 or empty)."""
        for name, value in sorted(self._fields.items()):
            if value and name not in self._read and name not in harmless and not name.startswith("_"):
                raise UnsupportedError(f"config.json: {name} = {value!r} is not supported", op=name, hint=_HINT)


def _gpt2(fields: _Fields) -> ModelConfig:
    hidden_size = fields.need("n_embd")
    config = Gpt2Config(
        vocab_size=fields.need("vocab_size"),
        context_length=fields.need("n_positions"),
        hidden_size=hidden_size,
        n_layers=fields.need("n_layer"),
        n_heads=fields.need("n_head"),
        mlp_size=fields.get("n_inner", 4 * hidden_size if isinstance(hidden_size, int) else 0),
        norm_eps=fields.get("layer_norm_epsilon", 1e-5),
        activation=fields.activation("activation_function", "gelu_new"),
        scale_by_sqrt_head=fields.get("scale_attn_weights", True),
        scale_by_layer=fields.get("scale_attn_by_inverse_layer_idx", False),
        tied_head=fields.get("tie_word_embeddings", True),
    )
    fields.refuse_unread(_GPT2_HARMLESS)
    return config


def _llama(fields: _Fields, **biases: bool) -> ModelConfig:
    hidden_size, n_heads = fields.need("hidden_size"), fields.need("num_attention_heads")
    head_dim = fields.get("head_dim")
    if head_dim is None:
        if not isinstance(hidden_size, int) or not isinstance(n_heads, int) or n_heads < 1 or hidden_size % n_heads:
            raise DataLossError(
                f"config.json: hidden_size {hidden_size!r} is not a multiple of num_attention_heads {n_heads!r}, and "
                "there is no head_dim",
                op="head_dim",
            )
        head_dim = hidden_size // n_heads
    theta, scaling = _rope(fields)
    config = LlamaConfig(
        vocab_size=fields.need("vocab_size"),
        context_length=fields.need("max_position_embeddings"),
        hidden_size=hidden_size,
        n_layers=fields.need("num_hidden_layers"),
        n_heads=n_heads,
        mlp_size=fields.need("intermediate_size"),
        norm_eps=fields.get("rms_norm_eps", 1e-6),
        n_kv_heads=fields.get("num_key_value_heads", n_heads),
        head_dim=head_dim,
        rope_theta=theta,
        rope_scaling=scaling,
        activation=fields.activation("hidden_act", "silu"),
        tied_head=fields.get("tie_word_embeddings", False),
        **biases,
    )
    layer_types = fields.get("layer_types", [])
    if not isinstance(layer_types, list) or any(kind != "full_attention" for kind in layer_types):
        raise UnsupportedError("config.json: layer_types must all be full_attention", op="layer_types", hint=_HINT)
    fields.refuse_unread(_HARMLESS)
    return config


def _rope(fields: _Fields) -> tuple[float, RopeScaling]:
    """The base and the scaling: in rope_parameters since transformers 5, in rope_theta and rope_scaling before."""
    parameters = fields.get("rope_parameters", fields.get("rope_scaling", {}))
    fields.get("rope_scaling")  # older readers' copy of rope_parameters
    if not isinstance(parameters, dict) or any(isinstance(value, dict) for value in parameters.values()):
        raise UnsupportedError(f"config.json: rope parameters {parameters!r} are not supported", op="rope_parameters")
    rope = _Fields(parameters)
    theta = rope.get("rope_theta", fields.get("rope_theta", 10000.0))
    fields.get("rope_theta")
    rotated = rope.get("partial_rotary_factor", fields.get("partial_rotary_factor", 1.0))
    if rotated != 1.0:
        raise UnsupportedError(
            f"config.json: partial_rotary_factor = {rotated!r} is not supported", op="partial_rotary_factor", hint=_HINT
        )
    kind = rope.get("rope_type", rope.get("type", "default"))
    rope.get("type")
    if kind == "default":
        scaling = RopeScaling()
    elif kind == "linear":
        scaling = RopeScaling("linear", factor=rope.need("factor"))
    elif kind == "llama3":
        scaling = RopeScaling(
            "llama3",
            factor=rope.need("factor"),
            low_freq_factor=rope.need("low_freq_factor"),
            high_freq_factor=rope.need("high_freq_factor"),
            original_context_length=rope.need("original_max_position_embeddings"),
        )
    else:
        raise UnsupportedError(
            f"config.json: rope_type {kind!r} is not supported: expected default, linear or llama3",
            op="rope_type",
            hint=_HINT,
        )
    rope.refuse_unread(frozenset())
    return theta, scaling


def _plain_llama(fields: _Fields) -> ModelConfig:
    attention_bias = fields.get("attention_bias", False)
    return _llama(fields, qkv_bias=attention_bias, out_bias=attention_bias, mlp_bias=fields.get("mlp_bias", False))


def _mistral(fields: _Fields) -> ModelConfig:
    window, context = fields.get("sliding_window"), fields.need("max_position_embeddings")
    if window is not None and not (isinstance(window, int) and isinstance(context, int) and window >= context):
        raise UnsupportedError(f"config.json: sliding_window = {window!r} is not supported", op="sliding_window")
    return _llama(fields)


def _qwen2(fields: _Fields) -> ModelConfig:
    if fields.get("use_sliding_window", False):
        raise UnsupportedError("config.json: use_sliding_window is not supported", op="use_sliding_window", hint=_HINT)
    fields.get("sliding_window")
    fields.get("max_window_layers")
    return _llama(fields, qkv_bias=True)


HF_MODEL_TYPES: dict[str, Callable[[_Fields], ModelConfig]] = {
    "gpt2": _gpt2,
    "llama": _plain_llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
}


def config_from_hf(fields: Mapping[str, Any]) -> ModelConfig:
    """The config that a config.json describes.

    Raises:
      UnsupportedError: a model_type or a field that we do not compute; its name is in `op`.
      DataLossError: a field that the architecture needs is not there.
      InvalidArgumentError: a value is out of its range.
    """
    model_type = fields.get("model_type")
    if not isinstance(model_type, str) or model_type not in HF_MODEL_TYPES:
        raise UnsupportedError(
            f"config.json: model_type {model_type!r} is not supported: expected one of {', '.join(HF_MODEL_TYPES)}",
            op="model_type",
        )
    return HF_MODEL_TYPES[model_type](_Fields(fields))
