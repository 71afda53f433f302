"""Writes a model's graph.json: what //python:export_fx_graph does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flashflow.errors import InvalidArgumentError, NotFoundError
from flashflow.frontend.export import export_graph, graph_text
from flashflow.loaders.resolve import resolve
from flashflow.models.build import build_model

__all__ = ["export_fx_graph"]


def export_fx_graph(model_name: str, out: Path) -> dict[str, Any]:
    """Exports a model to a file.

    Args:
      model_name: what `--model` takes elsewhere: a known name, a folder or a .gguf file.
      out: the file to write; replaced whole.

    Returns:
      the graph.json object.

    Raises:
      FlashFlowError: the model cannot be found, read or exported, or out cannot be written.
    """
    source = resolve(model_name)
    if source.kind == "engine":
        raise InvalidArgumentError(
            f"{model_name} is a built engine", op="model-name", hint="export the checkpoint that it was built from"
        )
    loaded = source.load()
    graph = export_graph(build_model(loaded.config), loaded.config, loaded.name)
    graph["metadata"].update(loaded.graph_metadata())
    partial = out.with_name(out.name + ".partial")
    try:
        partial.write_text(graph_text(graph), encoding="utf-8")
        partial.replace(out)
    except OSError as error:
        raise NotFoundError(f"cannot write {out}: {error.strerror}", op="out") from error
    return graph
