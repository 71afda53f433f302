"""transformers' GPT-2 as a model of onnxruntime-genai, whose own builder does not take it.

The graph has the operators that the builder uses for other models: attention that appends to a KV cache in place,
norms that add the residual, products with their biases. Logits are of the last token alone.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np


class _Graph:
    """Nodes and weights; a node's first output has the node's name."""

    def __init__(self, state: dict[str, Any]) -> None:
        self._state = state
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []

    def weight(self, name: str) -> str:
        return self.constant(name, self._state[name].numpy())

    def constant(self, name: str, value: Any) -> str:
        from onnx import numpy_helper

        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, kind: str, name: str, inputs: list[str], more: tuple[str, ...] = (), **attributes: Any) -> str:
        """An operator of ONNX, or with a leading "+" of onnxruntime."""
        from onnx import helper

        domain = "com.microsoft" if kind[0] == "+" else ""
        outputs = [name, *more]
        self.nodes.append(helper.make_node(kind.lstrip("+"), inputs, outputs, name=name, domain=domain, **attributes))
        return name


def _body(graph: _Graph, layers: int, heads: int, epsilon: float) -> None:
    """Everything from input_ids to logits."""
    rows = graph.node("Gather", "tokens", [graph.weight("wte.weight"), "input_ids"])
    where = graph.node("Gather", "positions", [graph.weight("wpe.weight"), "position_ids"])
    x = graph.node("Add", "embedding", [rows, where])
    one = graph.constant("one", np.array([1], np.int64))
    tokens = graph.node("ReduceSum", "mask_sum", ["attention_mask", one], keepdims=0)
    last = graph.node("Cast", "last", [graph.node("Sub", "mask_sum_1", [tokens, one])], to=6)
    shape = graph.node("Shape", "mask_shape", ["attention_mask"])
    size = graph.node("Gather", "mask_size", [shape, graph.constant("axis", np.array(1, np.int64))])
    total = graph.node("Cast", "total", [size], to=6)
    norm = [graph.weight("h.0.ln_1.weight"), graph.weight("h.0.ln_1.bias")]
    normed = graph.node("LayerNormalization", "h.0.normed", [x, *norm], epsilon=epsilon)
    for i in range(layers):
        of = f"h.{i}."
        qkv = graph.node("MatMul", of + "qkv_product", [normed, graph.weight(of + "attn.c_attn.weight")])
        qkv = graph.node("Add", of + "qkv", [qkv, graph.weight(of + "attn.c_attn.bias")])
        past = [f"past_key_values.{i}.key", f"past_key_values.{i}.value"]
        attended = graph.node(
            "+GroupQueryAttention",
            of + "attended",
            [qkv, "", "", *past, last, total],
            (f"present.{i}.key", f"present.{i}.value"),
            num_heads=heads,
            kv_num_heads=heads,
        )
        out = graph.node("MatMul", of + "out", [attended, graph.weight(of + "attn.c_proj.weight")])
        names = [of + "ln_2.weight", of + "ln_2.bias", of + "attn.c_proj.bias"]
        inputs = [x, out, *map(graph.weight, names)]
        x = of + "middle"
        normed = graph.node("+SkipLayerNormalization", of + "normed_2", inputs, ("", "", x), epsilon=epsilon)
        up = graph.node("MatMul", of + "up", [normed, graph.weight(of + "mlp.c_fc.weight")])
        up = graph.node("+FastGelu", of + "gelu", [up, graph.weight(of + "mlp.c_fc.bias")])
        down = graph.node("MatMul", of + "down", [up, graph.weight(of + "mlp.c_proj.weight")])
        following = f"h.{i + 1}.ln_1" if i + 1 < layers else "ln_f"
        names = [following + ".weight", following + ".bias", of + "mlp.c_proj.bias"]
        inputs = [x, down, *map(graph.weight, names)]
        x = of + "end"
        normed = graph.node("+SkipLayerNormalization", of + "normed_3", inputs, ("", "", x), epsilon=epsilon)
    final = graph.node("Gather", "final", [normed, graph.constant("end", np.array([-1], np.int64))], axis=1)
    graph.node("MatMul", "logits", [final, graph.weight("head")])


def write(model: Any, folder: Path) -> None:
    """model.onnx and genai_config.json of a GPT2LMHeadModel in float32."""
    import onnx
    from onnx import TensorProto, helper

    config = model.config
    assert config.activation_function == "gelu_new" and config.scale_attn_weights
    state = {name.removeprefix("transformer."): value.detach() for name, value in model.state_dict().items()}
    state["head"] = state["wte.weight"].T
    graph = _Graph(state)
    _body(graph, config.n_layer, config.n_head, config.layer_norm_epsilon)

    def value(name: str, kind: int, *shape: str | int) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    head = config.n_embd // config.n_head
    caches = [f"{i}.{part}" for i in range(config.n_layer) for part in ("key", "value")]
    inputs = [
        value("input_ids", TensorProto.INT64, "batch", "tokens"),
        value("attention_mask", TensorProto.INT64, "batch", "total"),
        value("position_ids", TensorProto.INT64, "batch", "tokens"),
        *(value(f"past_key_values.{c}", TensorProto.FLOAT, "batch", config.n_head, "past", head) for c in caches),
    ]
    outputs = [
        value("logits", TensorProto.FLOAT, "batch", 1, config.vocab_size),
        *(value(f"present.{c}", TensorProto.FLOAT, "batch", config.n_head, "total", head) for c in caches),
    ]
    proto = helper.make_model(
        helper.make_graph(graph.nodes, "gpt2", inputs, outputs, graph.initializers),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)],
        ir_version=10,
    )
    folder.mkdir(parents=True)
    onnx.save(proto, folder / "model.onnx")
    decoder = {
        "session_options": {},
        "filename": "model.onnx",
        "head_size": head,
        "hidden_size": config.n_embd,
        "num_attention_heads": config.n_head,
        "num_hidden_layers": config.n_layer,
        "num_key_value_heads": config.n_head,
        "inputs": {
            **{name: name for name in ("input_ids", "attention_mask", "position_ids")},
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
    described = {
        "type": "llama",  # a decoder with a cache per layer; "gpt2" is one with keys and values in one tensor
        "context_length": config.n_positions,
        "vocab_size": config.vocab_size,
        "bos_token_id": config.vocab_size - 1,
        "eos_token_id": config.vocab_size - 1,
        "pad_token_id": config.vocab_size - 1,
        "decoder": decoder,
    }
    search = {"max_length": config.n_positions, "past_present_share_buffer": True}
    (folder / "genai_config.json").write_text(json.dumps({"model": described, "search": search}))
