"""Exports the models of the decode and prefill suites: export_graphs FOLDER writes FOLDER/<model>.json each."""

import sys
from pathlib import Path

from tools.bench.decoder_shape import SHAPES, DecoderShape

from flashflow.frontend.export import export, graph_text
from flashflow.models.build import build_model
from flashflow.models.config import Gpt2Config, LlamaConfig, ModelConfig


def config_of(shape: DecoderShape) -> ModelConfig:
    """The config whose module has the shape."""
    if not shape.gated:
        return Gpt2Config(
            vocab_size=shape.vocab_size,
            context_length=shape.context_length,
            hidden_size=shape.hidden_size,
            n_layers=shape.n_layers,
            n_heads=shape.n_heads,
            mlp_size=shape.mlp_size,
        )
    return LlamaConfig(
        vocab_size=shape.vocab_size,
        context_length=shape.context_length,
        hidden_size=shape.hidden_size,
        n_layers=shape.n_layers,
        n_heads=shape.n_heads,
        n_kv_heads=shape.n_kv_heads,
        head_dim=shape.head_dim,
        mlp_size=shape.mlp_size,
        rope_theta=shape.rope_theta,
        tied_head=True,
    )


def main(folder: Path) -> None:
    for shape in SHAPES.values():
        config = config_of(shape)
        graph = export(build_model(config), config, shape.name).graph
        (folder / f"{shape.name}.json").write_text(graph_text(graph))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
