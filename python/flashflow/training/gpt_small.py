"""A training run of GPTSmall, from a text file to a trainer that is ready to run."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from flashflow.errors import InvalidArgumentError
from flashflow.loaders.checkpoint import save_checkpoint
from flashflow.loaders.loaded_model import GenerationInfo
from flashflow.models.config import GptSmallConfig
from flashflow.models.gpt_small import GptSmall
from flashflow.output_folder import make_output_folder
from flashflow.tokenizers.gpt2 import END_OF_TEXT_ID, gpt2_tokenizer
from flashflow.training.checkpoint import checkpoints, newest_checkpoint
from flashflow.training.config import TrainConfig
from flashflow.training.data import Dataset, tokenize_file
from flashflow.training.trainer import Trainer


def make_trainer(data: Path, save_dir: Path, config: TrainConfig, resume: bool) -> Trainer:
    """Tokenizes, makes the model and restores its state, if asked to.

    Args:
        data: a UTF-8 text file.
        save_dir: of the run.
        config: its hyperparameters.
        resume: go on from the newest checkpoint of save_dir; without it, save_dir must have none.

    Raises:
        InvalidArgumentError, NotFoundError, DataLossError: as the message says.
    """
    if resume:
        newest_checkpoint(save_dir)
    elif checkpoints(save_dir):
        raise InvalidArgumentError(
            f"{save_dir} already holds a training run",
            op="--save-dir",
            hint="go on with --resume, or name another folder",
        )
    model_config = GptSmallConfig.preset(config.preset)
    if config.seq_len > model_config.context_length:
        raise InvalidArgumentError(
            f"--seq-len is {config.seq_len}: the context of preset {config.preset} is {model_config.context_length}",
            op="--seq-len",
        )
    make_output_folder(save_dir, "--save-dir")
    tokenizer = gpt2_tokenizer()
    tokens = tokenize_file(data, tokenizer, save_dir / "tokens")
    dataset = Dataset.split(tokens, config.seq_len)
    torch.manual_seed(config.seed)
    model = GptSmall(model_config)
    tokenizer_json = tokenizer.to_str().encode()
    generation = GenerationInfo(bos_token_id=END_OF_TEXT_ID, eos_token_ids=(END_OF_TEXT_ID,))

    def write_model(folder: Path) -> None:
        save_checkpoint(folder, model_config, model.state_dict(), tokenizer_json, generation)

    data_hash = hashlib.sha256(tokens.tobytes()).hexdigest()
    trainer = Trainer(model, dataset, config, save_dir, write_model, data_hash)
    if resume:
        trainer.resume()
    return trainer
