import json
import math
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from flashflow.errors import InvalidArgumentError, UnsupportedError
from flashflow.frontend.export import export, export_graph, graph_text
from flashflow.models.build import build_model
from flashflow.models.config import Gpt2Config, GptSmallConfig, LlamaConfig

GPT = dict(vocab_size=97, context_length=33, hidden_size=24, n_layers=2, n_heads=3, mlp_size=40)
CONFIGS = {
    "gpt_small": GptSmallConfig(**GPT, dropout=0.1),
    "gpt_small_no_bias": GptSmallConfig(**GPT, bias=False, activation="gelu"),
    "gpt2": Gpt2Config(**GPT, scale_by_layer=True, tied_head=False),
    "llama_gqa": LlamaConfig(**{**GPT, "n_heads": 4}, n_kv_heads=2, head_dim=10, qkv_bias=True, tied_head=True),
    "llama_mqa": LlamaConfig(**GPT, n_kv_heads=1, head_dim=8),
    "two_positions": LlamaConfig(**{**GPT, "context_length": 2}, n_kv_heads=3, head_dim=8),
}
DTYPES = {"f32": torch.float32, "i64": torch.int64, "bool": torch.bool}


def random_weights(config):
    generator = torch.Generator().manual_seed(7)
    return {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in config.weight_shapes().items()}


def dim(text, sizes):
    assert re.fullmatch(r"[BS0-9+\-* ]+", text)
    return eval(text, {}, sizes)


def run_graph(graph, weights, input_ids, position_ids):
    """Evaluates graph.json with torch, going by nothing but the text."""
    sizes = dict(zip("BS", input_ids.shape, strict=True))
    values = {"input_ids": input_ids, "position_ids": position_ids}
    values.update({weight["id"]: weights[weight["name"]] for weight in graph["weights"]})

    def decode(value):
        if isinstance(value, list):
            return [decode(part) for part in value]
        if not isinstance(value, dict):
            return value
        ((kind, content),) = value.items()
        if kind == "ref":
            return values[content]
        if kind == "dim":
            return dim(content, sizes)
        return {"dtype": DTYPES.get, "float": float}[kind](content)

    for node in graph["nodes"]:
        arguments = decode(node["args"])
        if node["target"] == "getitem":
            values[node["id"]] = arguments[0][arguments[1]]
            continue
        namespace, op, overload = node["target"].split(".")
        function = getattr(getattr(getattr(torch.ops, namespace), op), overload)
        kwargs = {key: decode(value) for key, value in node["kwargs"].items() if key not in ("device", "pin_memory")}
        result = values[node["id"]] = function(*arguments, **kwargs)
        types = node.get("results") or [node]
        for type_, tensor in zip(types, result if "results" in node else [result], strict=True):
            assert DTYPES[type_["dtype"]] == tensor.dtype
            assert [d if isinstance(d, int) else dim(d, sizes) for d in type_["shape"]] == list(tensor.shape)
    return values[graph["outputs"][0]["id"]]


@pytest.mark.parametrize("name", CONFIGS)
def test_graph_computes_what_the_module_computes(name):
    config = CONFIGS[name]
    weights = random_weights(config)
    exported = export(build_model(config), config, name)
    model = build_model(config, weights)
    for batch, length in [(1, 1), (3, 2), (2, config.context_length)]:
        ids = torch.randint(config.vocab_size, (batch, length), generator=torch.Generator().manual_seed(length))
        positions = torch.arange(length).expand(batch, length)
        with torch.no_grad():
            expected = model(ids, positions)
            found = run_graph(exported.graph, {**weights, **exported.constants}, ids, positions)
        assert torch.equal(found, expected)


@pytest.mark.parametrize("name", CONFIGS)
def test_export_is_deterministic_and_names_no_machine(name):
    config = CONFIGS[name]
    first, second = (graph_text(export_graph(build_model(config), config, name)) for _ in range(2))
    assert first == second
    assert str(Path(__file__).parent) not in first
    assert str(Path(torch.__file__).parent) not in first
    sources = {node["source"].partition(":")[0] for node in json.loads(first)["nodes"]}
    assert sources <= {f"python/flashflow/models/{f}.py" for f in ("gpt_small", "gpt2", "llama", "transformer_blocks")}


def test_locations_point_at_the_calls():
    graph = export_graph(build_model(CONFIGS["llama_gqa"]), CONFIGS["llama_gqa"])
    node = next(node for node in graph["nodes"] if node["target"] == "aten.scaled_dot_product_attention.default")
    assert node["module"] == "layers.0.attn"
    file, _, line = node["source"].partition(":")
    path = Path(__file__).parents[1] / Path(file).relative_to("python/flashflow")
    assert "scaled_dot_product_attention(" in path.read_text().splitlines()[int(line) - 1]


def check(condition, *what):
    assert condition, what


def validate(graph):
    """The schema of docs/graph_json.md."""
    top = {
        "format": str, "version": int, "producer": dict, "name": str, "metadata": dict, "symbols": list,
        "inputs": list, "weights": list, "nodes": list, "outputs": list,
    }  # fmt: skip
    check(list(graph) == list(top) and all(type(graph[key]) is kind for key, kind in top.items()), list(graph))
    check(graph["format"] == "flashflow.graph" and graph["version"] == 1)
    check(set(graph["producer"]) == {"flashflow", "torch"} and "+" not in graph["producer"]["torch"])
    check(all(type(value) in (int, float, str, bool) for value in graph["metadata"].values()), graph["metadata"])
    check([symbol["name"] for symbol in graph["symbols"]] == ["B", "S"])
    check(all(set(s) == {"name", "min", "max"} and 1 == s["min"] <= s["max"] for s in graph["symbols"]))
    check([i["name"] for i in graph["inputs"]] == ["input_ids", "position_ids"])
    check(len(graph["outputs"]) == 1 and graph["outputs"][0]["name"] == "logits")
    seen = set()

    def check_type(value):
        check(value["dtype"] in ("f32", "f16", "bf16", "i8", "i32", "i64", "bool"), value)
        for size in value["shape"]:
            check(type(size) is int and size >= 0 or re.fullmatch(r"-?[BS\d*]+( [+-] [BS\d*]+)*", size), value)

    def check_argument(value):
        if isinstance(value, list):
            for part in value:
                check_argument(part)
        elif isinstance(value, dict):
            ((kind, content),) = value.items()
            check(kind in ("ref", "dim", "dtype", "float", "other") and isinstance(content, str), value)
            check(kind != "ref" or content in seen, value)
        else:
            check(value is None or type(value) in (bool, int, str) or math.isfinite(value), value)

    for value in [*graph["inputs"], *graph["weights"]]:
        check(set(value) == {"id", "name", "dtype", "shape"} and value["id"] not in seen, value)
        check_type(value)
        seen.add(value["id"])
    for node in graph["nodes"]:
        check(node["id"] not in seen, node)
        check(node["target"] == "getitem" or re.fullmatch(r"aten\.\w+\.\w+", node["target"]), node)
        check(set(node) - {"results"} <= {"id", "target", "args", "kwargs", "dtype", "shape", "module", "source"}, node)
        for argument in [*node["args"], *node["kwargs"].values()]:
            check_argument(argument)
        for value in node.get("results", [node]):
            check_type(value)
        check(re.fullmatch(r"[\w/.-]+:\d+|", node["source"]), node)
        seen.add(node["id"])
    check(graph["outputs"][0]["id"] in seen)


@pytest.mark.parametrize("name", CONFIGS)
def test_graph_follows_the_documented_schema(name):
    graph = export_graph(build_model(CONFIGS[name]), CONFIGS[name], name)
    validate(json.loads(graph_text(graph)))
    assert graph["metadata"]["architecture"] == CONFIGS[name].architecture
    assert graph["symbols"][1]["max"] == CONFIGS[name].context_length
    assert {weight["name"] for weight in graph["weights"]} >= set(CONFIGS[name].weight_shapes())


class ToyConfig:
    context_length = 16

    def metadata(self):
        return {"architecture": "toy"}


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0, 4.0]))

    def forward(self, input_ids, position_ids):
        return self.head(self.middle(self.embed(input_ids), input_ids))

    def middle(self, x, ids):
        return x


def toy(middle):
    return type("Changed", (Toy,), {"middle": middle})().eval()


def test_odd_but_allowed_forms():
    def middle(self, x, ids):
        a, b = x.split(2, dim=-1)
        table = torch.full((ids.shape[1], ids.shape[0]), float("-inf"))
        x = torch.cat((b, a), dim=-1) * torch.tensor([4.0, 3.0, 2.0, 1.0]) + self.scale.detach()
        x = x + torch.arange(20 - ids.shape[1]).sum()
        return x + torch.arange(2 * ids.shape[1] - 1)[: ids.shape[1], None] + table.exp().sum()

    model = toy(middle)
    exported = export(model, ToyConfig())
    validate(json.loads(graph_text(exported.graph)))
    assert set(exported.constants) == {"scale", "lifted_tensor_0"}
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    weights = {**dict(model.named_parameters()), **exported.constants}
    assert torch.equal(run_graph(exported.graph, weights, ids, ids), model(ids, ids))
    assert '{"dim": "-S + 20"}' in json.dumps(exported.graph)
    assert '{"dim": "2*S - 1"}' in json.dumps(exported.graph)
    assert '{"float": "-inf"}' in json.dumps(exported.graph)
    assert any("results" in node for node in exported.graph["nodes"])


def test_tied_parameters_share_a_name_and_unused_ones_are_left_out():
    class Tied(Toy):
        def __init__(self):
            super().__init__()
            self.tied = nn.Linear(4, 7, bias=False)
            self.tied.weight = self.head.weight
            self.unused = nn.Linear(3, 3)

        def forward(self, input_ids, position_ids):
            return self.head(self.embed(input_ids)) + self.tied(self.embed(input_ids))

    names = [weight["name"] for weight in export_graph(Tied().eval(), ToyConfig())["weights"]]
    assert set(names) == {"embed.weight", "head.weight"}


REFUSED = {
    "control flow depends on a tensor's values": lambda self, x, ids: x + 1 if x.sum() > 0 else x,
    "depends on a tensor's values": lambda self, x, ids: x * int(ids[0, 0].item()),
    "fixes the batch or sequence size": lambda self, x, ids: x + torch.zeros(2, 3, 4),
    "fixes the batch or sequence": lambda self, x, ids: x * 2 if x.shape[1] > 5 else x,
    "changes a tensor in place": lambda self, x, ids: x + self.scale.add_(1),
    "complex64": lambda self, x, ids: x.to(torch.complex64).real,
    "boo": lambda self, x, ids: raise_("boo"),
    "must return f32 logits": lambda self, x, ids: x[:, 0],
    "not a polynomial": lambda self, x, ids: x + torch.arange(ids.shape[1] // 2 + 7).sum(),
}


def raise_(text):
    raise RuntimeError(text)


@pytest.mark.parametrize("message", REFUSED)
def test_refusals_say_what_and_where(message, capfd):
    with pytest.raises((UnsupportedError, InvalidArgumentError), match=message) as caught:
        export_graph(toy(REFUSED[message]), ToyConfig())
    if "fixes" not in message and "logits" not in message:
        assert "export_test.py:" in str(caught.value)
    assert capfd.readouterr().out == ""


def test_training_mode_wrong_signature_and_length_are_refused():
    with pytest.raises(InvalidArgumentError, match="training mode"):
        export_graph(Toy(), ToyConfig())
    with pytest.raises(InvalidArgumentError, match=r"model\(input_ids, position_ids\)"):
        export_graph(nn.MultiheadAttention(4, 2).eval(), ToyConfig())
    with pytest.raises(UnsupportedError, match="context_length 1"):
        export_graph(build_model(LlamaConfig(**{**GPT, "context_length": 1}, n_kv_heads=3, head_dim=8)), OneToken())


class OneToken(ToyConfig):
    context_length = 1
