"""Engines of chosen precision, of a tiny model and times that are made up: what the file holds is what was chosen."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from flashflow.errors import FlashFlowError, InvalidArgumentError
from flashflow.evaluation.perplexity import EncodedText, text_perplexity
from flashflow.llm import LLM
from flashflow.loaders.checkpoint import load_checkpoint
from flashflow.quantization import auto_precision
from flashflow.quantization.auto_precision import (
    PrecisionOptions,
    build_auto_engine,
    build_float_engine,
)
from flashflow.tiny_model import write_tiny_model

OPTIONS = PrecisionOptions(device="cpu", threads=1, prompt_tokens=16, context=32)
IDS = [(7 * i * i + 3 * i) % 250 for i in range(128)]
HELD_OUT = EncodedText([(5 * i * i + i) % 250 for i in range(96)], 96, 96)


def silent(stage, share):
    pass


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Keeps what is measured of the CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_tiny_model(folder)
    return load_checkpoint(folder)


@pytest.fixture
def times(monkeypatch):
    """Codes take half of what floats do, but for some layers; the whole engine is as fast as `whole` says."""
    slow: list[str] = []
    whole = [2.0, 1.0]

    def operations(engines, options, report):
        floats, codes = (list(llm.plan.roofline(tokens=1, context=16, measure=False)) for llm in engines)
        return [
            [dataclasses.replace(row, achieved_us=10.0) for row in floats],
            [dataclasses.replace(row, achieved_us=20.0 if set(slow) & set(row.weights) else 5.0) for row in codes],
        ]

    monkeypatch.setattr(auto_precision, "_measure_operations", operations)
    monkeypatch.setattr(auto_precision, "_measure_whole", lambda engines, options, report: whole)
    return slow, whole


def tensors(path):
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)


def codes_in(path):
    return {name.removesuffix(".codes") for name in tensors(path) if name.endswith(".codes")}


def build(loaded, path, **changes):
    return build_auto_engine(loaded, path, IDS, HELD_OUT, dataclasses.replace(OPTIONS, **changes), silent)


def test_the_file_has_codes_of_what_was_chosen_alone(loaded, times, tmp_path):
    times[0].append(_layer(loaded))
    found = build(loaded, tmp_path / "m.ff", budget=0.5)
    in_int8 = {name for choice in found.choices if choice.int8 for name in choice.times.weights}
    stays = {name for choice in found.choices if not choice.int8 for name in choice.times.weights}
    assert stays == set(times[0]) and in_int8
    assert codes_in(tmp_path / "m.ff") == in_int8
    assert [path.name for path in tmp_path.iterdir()] == ["m.ff"], "nothing else is left behind"
    assert (found.float_ms, found.chosen_ms, found.device[:3]) == (2.0, 1.0, "CPU")
    llm = LLM(tmp_path / "m.ff", device="cpu")
    assert llm.dtype == "int8"
    again = text_perplexity(llm.logits, HELD_OUT, context=32).perplexity
    assert again == pytest.approx(found.chosen) and found.growth == pytest.approx(again / found.fp32 - 1)
    kept = json.loads(json.loads(llm.engine_info()["config_json"])["metadata"]["precision"])
    assert kept == json.loads(json.dumps(found.to_json()))


def _layer(loaded):
    """A matrix of a layer, whose output nothing else shares."""
    return next(name for name in loaded.weights if "out_proj" in name and name.endswith("weight"))


def test_a_budget_is_kept_by_giving_layers_back(loaded, times, tmp_path):
    everything = build(loaded, tmp_path / "all.ff", budget=0.99)
    assert all(choice.int8 for choice in everything.choices)
    budget = everything.growth / 2 if everything.growth > 0 else everything.growth - 1e-4
    if budget < 0:
        pytest.skip("codes do not raise the perplexity of this model")
    less = build(loaded, tmp_path / "less.ff", budget=budget)
    assert less.growth <= budget and not all(choice.int8 for choice in less.choices)
    assert {choice.reason for choice in less.choices if not choice.int8} == {"given back: the budget of perplexity"}


def test_an_engine_that_is_slower_as_a_whole_stays_floats(loaded, times, tmp_path):
    times[1][:] = [1.0, 1.5]
    found = build(loaded, tmp_path / "m.ff", budget=0.5)
    assert not codes_in(tmp_path / "m.ff") and LLM(tmp_path / "m.ff", device="cpu").dtype == "bfloat16"
    assert {choice.reason for choice in found.choices} == {"all together are not faster: 1.500 ms for 1.000"}
    assert found.chosen_ms == 1.0


def test_what_learned_in_int8_falls_back_to_what_its_codes_stand_for(loaded, times, tmp_path):
    name = _layer(loaded)
    times[0].append(name)
    learned = dataclasses.replace(loaded, metadata={"trained_precision": "int8"})
    assert learned.made_for_int8 and not loaded.made_for_int8
    assert dataclasses.replace(loaded, clips={name: 1.0}).made_for_int8
    build(learned, tmp_path / "m.ff", budget=0.5)
    weight = loaded.weights[name].read().astype(np.float32)
    scale = (np.abs(weight).max(1) / np.float32(127))[:, None]
    codes = np.rint(weight * (np.float32(127) / np.abs(weight).max(1))[:, None])
    fallback = torch.from_numpy((codes * scale).astype(np.float32))
    assert tensors(tmp_path / "m.ff")[name].equal(fallback.to(torch.bfloat16)), "beside codes, floats are bfloat16"
    build_float_engine(learned, tmp_path / "f.ff", "float32", silent)
    assert tensors(tmp_path / "f.ff")[name].equal(fallback)
    positions = torch.from_numpy(loaded.weights["wpe.weight"].read())
    assert tensors(tmp_path / "f.ff")["wpe.weight"].equal(positions), "no codes stand for positions"
    build_float_engine(loaded, tmp_path / "g.ff", "float32", silent)
    assert tensors(tmp_path / "g.ff")[name].tolist() == weight.tolist()


def test_a_device_that_is_not_there_is_refused_before_anything_is_built(loaded, tmp_path):
    stages = []
    options = dataclasses.replace(OPTIONS, device="cuda:99")
    with pytest.raises(FlashFlowError, match="cuda"):
        build_auto_engine(loaded, tmp_path / "m.ff", IDS, HELD_OUT, options, lambda *stage: stages.append(stage))
    assert not stages


@pytest.mark.parametrize(
    "change, message",
    [
        ({"context": 1}, "--context is 1: expected 2.."),
        ({"prompt_tokens": 10**6}, "--prompt-len is 1000000: expected 2.."),
        ({"batch": 0}, "--batch is 0"),
        ({"budget": -0.01}, "--perplexity-budget is -1%: expected 0 to 100"),
    ],
)
def test_bad_options_are_refused(loaded, tmp_path, change, message):
    with pytest.raises(InvalidArgumentError, match=message):
        build(loaded, tmp_path / "m.ff", **change)
