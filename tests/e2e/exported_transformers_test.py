"""transformers' own models, exported as they are written, become step graphs: masks, norms and activations recognized,
and every pass proven on them."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.e2e.quality import assert_fp32_logits
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from flashflow.core import core
from flashflow.frontend.export import export, graph_text

_CONTEXT = 64
_LOOKUPS = {"embedding", "add", "gather_rows", "mul", "cast", "concat", "cos", "sin", "constant", "reshape"}
_OPT = Path(__file__).parents[2] / "tools/opt/opt_without_models"


class _Logits(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=input_ids, position_ids=position_ids, use_cache=False).logits
        return logits


class _LogitsOfOwnPositions(nn.Module):
    """transformers' models count positions themselves where none are given."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=input_ids, use_cache=False).logits
        return logits


@dataclass(frozen=True)
class _Config:
    context_length: int = _CONTEXT

    def metadata(self) -> dict[str, int | float | str | bool]:
        return {"context_length": self.context_length}


def _gpt2(attention: str) -> nn.Module:
    shape = dict(n_embd=32, n_layer=2, n_head=4, n_positions=_CONTEXT, vocab_size=61, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(GPT2Config(**shape, attn_implementation=attention))


def _llama(attention: str) -> nn.Module:
    shape = dict(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=61,
        max_position_embeddings=_CONTEXT,
        bos_token_id=0,
        eos_token_id=0,
    )
    return LlamaForCausalLM(LlamaConfig(**shape, attn_implementation=attention))


@pytest.mark.parametrize("interface", [_Logits, _LogitsOfOwnPositions])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("make", [_gpt2, _llama])
def test_becomes_a_fused_step_graph(make, attention: str, interface, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    graph = tmp_path / "graph.json"
    graph.write_text(graph_text(export(interface(make(attention)).eval(), _Config()).graph))
    done = subprocess.run(
        [_OPT, str(graph), "--verify-each", "-o", str(tmp_path / "step.ffir")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "whole graph compared" in done.stdout + done.stderr
    step = (tmp_path / "step.ffir").read_text()
    nodes = [line.split(" = ")[1].split("(")[0] for line in step.splitlines() if line.startswith("  %")]
    assert nodes.count("cached_attention") == 2
    for written_out in ("softmax", "matmul", "cumsum", "where", "reduce_mean", "tanh", "pow"):
        assert written_out not in nodes


@pytest.mark.parametrize("interface", [_Logits, _LogitsOfOwnPositions])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("make", [_gpt2, _llama])
def test_runs_fully_fused_with_transformers_logits(make, attention: str, interface, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    model = interface(make(attention)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.2) if parameter.dim() > 1 else parameter.add_(torch.randn_like(parameter) * 0.2)
    exported = export(model, _Config())
    weights = {name: value.detach().numpy() for name, value in model.named_parameters()}
    weights |= {name: value.contiguous().numpy() for name, value in exported.constants.items()}

    text = core().import_graph(json.dumps(exported.graph))
    plan = json.loads(core().compile_plan(text))
    # Five steps a layer, tables and head beside them: of GPT-2's weights, which are stored transposed, none is moved.
    steps = [step["op"] for step in plan["steps"]]
    assert set(steps) - {"cached_attention", "fused_linear"} <= _LOOKUPS
    assert steps.count("cached_attention") == 2
    assert steps.count("fused_linear") == 9
    assert any(weight["transposed"] for weight in plan["weights"]) == (make is _gpt2)

    engine = str(tmp_path / "model.ff")
    config = {"name": "model", **_Config().metadata(), "vocab_size": 61}
    core().build_engine(engine, json.dumps(exported.graph), weights, json.dumps(config))
    ids = np.random.default_rng(1).integers(1, 61, size=40)
    positions = [torch.arange(40)[None]] if interface is _Logits else []
    with torch.no_grad():
        oracle = model(torch.from_numpy(ids)[None], *positions)[0].numpy()
    assert_fp32_logits(core().Engine(engine, "cpu").forward(ids.tolist()), oracle)
