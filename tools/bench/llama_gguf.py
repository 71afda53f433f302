"""transformers' GPT-2 and Llama as GGUF files in float32, without a vocabulary, for llama.cpp."""

from pathlib import Path
from typing import Any

import gguf


def write(model: Any, path: Path) -> None:
    """The file of a GPT2LMHeadModel or LlamaForCausalLM.

    Raises:
        ValueError: the model is neither.
    """
    config = model.config
    kind = config.model_type
    if kind not in ("gpt2", "llama"):
        raise ValueError(f"no GGUF of a {kind} model is known here")
    arch = gguf.MODEL_ARCH.GPT2 if kind == "gpt2" else gguf.MODEL_ARCH.LLAMA
    layers, width, heads = config.num_hidden_layers, config.hidden_size, config.num_attention_heads
    writer = gguf.GGUFWriter(path, kind)
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(config.vocab_size)
    writer.add_block_count(layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(width)
    writer.add_head_count(heads)
    if kind == "gpt2":
        writer.add_feed_forward_length(config.n_inner or 4 * width)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    else:
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_rope_dimension_count(width // heads)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    names = gguf.get_tensor_name_map(arch, layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        value = tensor.detach()
        if kind == "gpt2" and name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight")):
            value = value.T
        if kind == "llama" and ".q_proj." in name:
            value = _pairs_side_by_side(value, heads)
        if kind == "llama" and ".k_proj." in name:
            value = _pairs_side_by_side(value, config.num_key_value_heads)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), value.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _pairs_side_by_side(weight: Any, heads: int) -> Any:
    """Rows in the order that llama.cpp rotates a head in: the two of a pair next to each other."""
    return weight.reshape(heads, 2, -1, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)
