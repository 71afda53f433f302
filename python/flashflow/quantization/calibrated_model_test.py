"""A calibrated checkpoint: the model it holds, a head that is untied, what is refused."""

import numpy as np
import pytest
import torch

from flashflow.errors import InvalidArgumentError, UnsupportedError
from flashflow.evaluation.perplexity import EncodedText
from flashflow.loaders.checkpoint import load_checkpoint, save_checkpoint
from flashflow.loaders.torch_weights import read_tensors
from flashflow.models.build import build_model
from flashflow.models.config import GptSmallConfig, LlamaConfig
from flashflow.quantization.calibrated_model import CalibrationOptions, calibrate_model, logits_of

SHAPE = dict(vocab_size=61, context_length=32, hidden_size=32, n_layers=2, n_heads=4, mlp_size=48)
TIED = LlamaConfig(**SHAPE, n_kv_heads=2, head_dim=8, tied_head=True)
IDS = np.random.default_rng(0).integers(0, 61, 128).tolist()


def model_of(config, folder):
    generator = torch.Generator().manual_seed(3)
    weights = {n: torch.randn(s, generator=generator) * 0.2 for n, s in config.weight_shapes().items()}
    save_checkpoint(folder, config, weights, metadata={"license": "free"})
    return load_checkpoint(folder)


def run(loaded, out, **options):
    return calibrate_model(
        loaded, IDS[:64], EncodedText(IDS[64:], 64, 64), out, CalibrationOptions(context=32, **options), lambda *_: None
    )


def logits(folder):
    loaded = load_checkpoint(folder)
    return logits_of(build_model(loaded.config, read_tensors(loaded.weights)))(IDS[:20])


def test_an_untied_head_is_smoothed_and_the_function_stays(tmp_path):
    loaded = model_of(TIED, tmp_path / "float")
    result = run(loaded, tmp_path / "int8", untie_head=True, alpha=0.5)
    found = load_checkpoint(tmp_path / "int8")
    assert not found.config.tied_head and found.metadata == {"license": "free", "calibrated_precision": "int8"}
    assert "head.weight" in result.smoothed and found.clips == result.clips
    table, head = found.weights["embed.weight"].read(), found.weights["head.weight"].read()
    assert np.array_equal(table, loaded.weights["embed.weight"].read()) and not np.allclose(table, head)
    expected = logits(tmp_path / "float")
    assert np.abs(logits(tmp_path / "int8") - expected).max() < 1e-4 * np.abs(expected).max()
    assert result.fp32.perplexity == pytest.approx(run(loaded, tmp_path / "tied").fp32.perplexity)
    assert load_checkpoint(tmp_path / "tied").config == TIED


def test_a_budget_keeps_floats_and_less_is_lost(tmp_path):
    loaded = model_of(TIED, tmp_path / "float")
    assert run(loaded, tmp_path / "codes", budget=0.9).kept == []
    result = run(loaded, tmp_path / "floats", budget=0.0)
    kept = load_checkpoint(tmp_path / "floats").float_weights
    assert set(kept) == set(result.kept) and len(kept) >= 10
    assert abs(result.growth) < abs(run(loaded, tmp_path / "int8").growth)
    with pytest.raises(InvalidArgumentError, match="--budget is -1"):
        run(loaded, tmp_path / "bad", budget=-0.01)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")
def test_a_gpu_finds_what_the_cpu_finds(tmp_path):
    loaded = model_of(TIED, tmp_path / "float")
    here, there = (run(loaded, tmp_path / name, device=name) for name in ("cpu", "cuda"))
    assert there.smoothed == here.smoothed
    assert there.clips == pytest.approx(here.clips, rel=1e-3)
    assert there.int8.perplexity == pytest.approx(here.int8.perplexity, rel=1e-3)
    assert run(loaded, tmp_path / "kept", device="cuda", budget=0.0).kept


@pytest.mark.parametrize("config", [GptSmallConfig(**SHAPE), LlamaConfig(**SHAPE, n_kv_heads=2, head_dim=8)])
def test_a_head_that_cannot_be_untied_is_refused(tmp_path, config):
    with pytest.raises(UnsupportedError, match="has no tied head"):
        run(model_of(config, tmp_path / "float"), tmp_path / "int8", untie_head=True)
