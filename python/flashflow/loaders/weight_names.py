"""How the weights of our modules are called in Hugging Face's and in GGUF's files."""

from __future__ import annotations

from collections.abc import Callable

from flashflow.errors import InternalError

__all__ = ["gguf_name", "hf_name", "is_hf_buffer"]

_HF_LLAMA = {
    "embed": "model.embed_tokens",
    "norm": "model.norm",
    "head": "lm_head",
    "layers": "model.layers",
    "attn_norm": "input_layernorm",
    "attn.q_proj": "self_attn.q_proj",
    "attn.k_proj": "self_attn.k_proj",
    "attn.v_proj": "self_attn.v_proj",
    "attn.out_proj": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
    "mlp.gate_proj": "mlp.gate_proj",
    "mlp.up_proj": "mlp.up_proj",
    "mlp.down_proj": "mlp.down_proj",
}
_HF_GPT2 = {
    "wte": "transformer.wte",
    "wpe": "transformer.wpe",
    "norm": "transformer.ln_f",
    "head": "lm_head",
    "blocks": "transformer.h",
    "attn_norm": "ln_1",
    "attn.qkv_proj": "attn.c_attn",
    "attn.out_proj": "attn.c_proj",
    "mlp_norm": "ln_2",
    "mlp.up_proj": "mlp.c_fc",
    "mlp.down_proj": "mlp.c_proj",
}
_GGUF = {
    "embed": "token_embd",
    "wte": "token_embd",
    "wpe": "position_embd",
    "norm": "output_norm",
    "head": "output",
    "layers": "blk",
    "blocks": "blk",
    "attn_norm": "attn_norm",
    "attn.qkv_proj": "attn_qkv",
    "attn.q_proj": "attn_q",
    "attn.k_proj": "attn_k",
    "attn.v_proj": "attn_v",
    "attn.out_proj": "attn_output",
    "mlp_norm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def _translate(name: str, table: dict[str, str]) -> str:
    """name is "module.kind" or "list.N.module.kind", kind being weight or bias."""
    module, _, kind = name.rpartition(".")
    head, _, rest = module.partition(".")
    if head in ("layers", "blocks"):
        index, _, module = rest.partition(".")
        return f"{table[head]}.{index}.{table[module]}.{kind}"
    return f"{table[module]}.{kind}"


_HF: dict[str, dict[str, str]] = {"llama": _HF_LLAMA, "gpt2": _HF_GPT2}


def hf_name(architecture: str, name: str) -> str:
    """Hugging Face's name for a weight of our module of this architecture."""
    if architecture not in _HF:
        raise InternalError(f"no Hugging Face names for {architecture}")
    return _translate(name, _HF[architecture])


def gguf_name(name: str) -> str:
    """GGUF's name for a weight of our Llama or Gpt2."""
    return _translate(name, _GGUF)


# Buffers that old checkpoints carry: causal masks and rotary frequencies, which follow from the config.
_HF_BUFFERS: dict[str, Callable[[str], bool]] = {
    "llama": lambda name: name.endswith(".rotary_emb.inv_freq"),
    "gpt2": lambda name: name.endswith((".attn.bias", ".attn.masked_bias")),
}


def is_hf_buffer(architecture: str, name: str) -> bool:
    """Whether a tensor of a Hugging Face file is a buffer that nothing needs."""
    return _HF_BUFFERS[architecture](name)
