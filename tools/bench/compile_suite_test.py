"""The compile suite on a tiny model: every stage runs, and says what it imported."""

import pytest
from tools.bench import compile_suite

from flashflow import FlashFlowError
from flashflow.tiny_model import write_tiny_model


def test_every_stage_is_measured(tmp_path):
    write_tiny_model(tmp_path / "tiny")
    said = []
    rows = compile_suite.run(str(tmp_path / "tiny"), ["float32"], said.append)
    assert len(said) == 5
    assert len(rows) == 3 * len(said)
    assert all(row.value > 0 for row in rows)
    without_torch = [row.what.split(": ")[1] for row in rows if row.against == "without torch"]
    assert without_torch == ["graph.json to plan, CPU", "engine to 8 tokens, CPU"]
    assert "x the weights of" in rows[-1].against


def test_a_stage_that_fails_says_why(tmp_path):
    with pytest.raises(FlashFlowError, match=r"^graph\.json to plan: .*No such file"):
        compile_suite.measure("graph.json to plan", str(tmp_path / "nowhere.json"))
