"""Runs that are over in a second, for tests."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from flashflow.models.config import GptSmallConfig
from flashflow.models.gpt_small import GptSmall
from flashflow.quantization.qat import prepare_qat
from flashflow.training.config import TrainConfig
from flashflow.training.data import Dataset
from flashflow.training.distributed import World
from flashflow.training.trainer import Trainer

VOCAB = 11


class Model(nn.Module):
    """The smallest thing with a tied head, a vector parameter and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, 8)
        self.norm = nn.LayerNorm(8)
        self.drop = nn.Dropout(0.2)

    def forward(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        assert position_ids.shape == input_ids.shape and (position_ids[:, -1] == input_ids.shape[1] - 1).all()
        return functional.linear(self.drop(self.norm(self.embed(input_ids))), self.embed.weight)


def make_trainer(save_dir: Path, data_hash: str = "d", **options: Any) -> Trainer:
    """The smallest run."""
    config = TrainConfig(
        **{
            "batch_size": 4,
            "seq_len": 6,
            "lr": 0.05,
            "warmup": 2,
            "eval_every": 0,
            "save_every": 0,
            "device": "cpu",
            "keep_last": 9,
            **options,
        }
    )
    torch.manual_seed(config.seed)
    tokens = np.tile(np.arange(VOCAB, dtype=np.uint16), 40)  # each token says which comes next
    model = Model()

    def write_model(folder: Path, weights: Mapping[str, Tensor]) -> None:
        save_file(dict(weights), folder / "model.safetensors")
        (folder / "config.json").write_text("{}")

    return Trainer(model, Dataset.split(tokens, 6), config, save_dir, write_model, data_hash)


def state_of(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint."""
    return {
        **{"w." + k: v for k, v in load_file(folder / "model.safetensors").items()},
        **{"o." + k: v for k, v in load_file(folder / "optimizer.safetensors").items()},
    }


def make_gpt_trainer(save_dir: Path, model: GptSmallConfig, world: World | None = None, **options: Any) -> Trainer:
    """A GptSmall on a walk over its vocabulary whose steps are drawn from four: at best log(4) nats a token."""
    config = TrainConfig(
        **{
            "batch_size": 8,
            "seq_len": model.context_length,
            "lr": 1e-2,
            "warmup": 5,
            "eval_every": 0,
            "save_every": 0,
            "device": "cpu",
            **options,
        }
    )
    torch.manual_seed(config.seed)
    module = GptSmall(model)
    if config.qat:
        prepare_qat(module)
    random = np.random.default_rng(5)
    tokens = np.cumsum(random.choice([1, 3, 7, 12], size=6000)) % model.vocab_size
    data = Dataset.split(tokens.astype(np.uint16), config.seq_len)

    def write_model(folder: Path, weights: Mapping[str, Tensor]) -> None:
        save_file(dict(weights), folder / "model.safetensors")

    return Trainer(module, data, config, save_dir, write_model, "d", world or World())
