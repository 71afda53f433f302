import json

import pytest

from flashflow.errors import InvalidArgumentError, NotFoundError
from flashflow.frontend.export_fx_graph import export_fx_graph
from flashflow.loaders.checkpoint import save_checkpoint
from flashflow.models.build import build_model
from flashflow.models.config import GptSmallConfig

CONFIG = GptSmallConfig(vocab_size=61, context_length=19, hidden_size=24, n_layers=1, n_heads=4, mlp_size=40)


def test_a_checkpoint_becomes_a_file(tmp_path):
    save_checkpoint(tmp_path / "run", CONFIG, build_model(CONFIG).state_dict())
    graph = export_fx_graph(str(tmp_path / "run"), tmp_path / "graph.json")
    text = (tmp_path / "graph.json").read_text()
    assert json.loads(text) == graph
    assert (graph["name"], graph["metadata"]["vocab_size"]) == ("run", 61)
    export_fx_graph(str(tmp_path / "run"), tmp_path / "graph.json")
    assert (tmp_path / "graph.json").read_text() == text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["graph.json", "run"]


def test_what_cannot_be_exported(tmp_path):
    with pytest.raises(NotFoundError, match="no model 'nothing'"):
        export_fx_graph("nothing", tmp_path / "graph.json")
    (tmp_path / "model.ff").write_bytes(b"")
    with pytest.raises(InvalidArgumentError, match="built engine"):
        export_fx_graph(str(tmp_path / "model.ff"), tmp_path / "graph.json")
    save_checkpoint(tmp_path / "run", CONFIG, build_model(CONFIG).state_dict())
    with pytest.raises(NotFoundError, match="cannot write"):
        export_fx_graph(str(tmp_path / "run"), tmp_path / "no" / "graph.json")
