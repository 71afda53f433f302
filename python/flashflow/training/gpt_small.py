"""A training run of GPTSmall, from a text file to a trainer that is ready to run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from flashflow.errors import DataLossError, InvalidArgumentError
from flashflow.loaders.checkpoint import save_checkpoint
from flashflow.loaders.loaded_model import TRAINED_PRECISION, GenerationInfo
from flashflow.models.config import GptSmallConfig
from flashflow.models.gpt_small import GptSmall
from flashflow.output_folder import make_output_folder
from flashflow.quantization.qat import prepare_qat
from flashflow.tokenizers.gpt2 import VOCAB_SIZE, gpt2_tokenizer
from flashflow.training.bpe import END_OF_TEXT, train_bpe
from flashflow.training.checkpoint import checkpoints, newest_checkpoint
from flashflow.training.config import TrainConfig
from flashflow.training.data import Dataset, Progress, Tokens, read_text, tokenize_file
from flashflow.training.distributed import World, main_process_first
from flashflow.training.trainer import Trainer

_ALONE = World()


def make_trainer(
    data: Path,
    save_dir: Path,
    config: TrainConfig,
    resume: bool,
    world: World = _ALONE,
    progress: Progress = lambda stage, done: None,
) -> Trainer:
    """Tokenizes, makes the model and restores its state, if asked to.

    Args:
        data: a UTF-8 text file.
        save_dir: of the run.
        config: its hyperparameters.
        resume: go on from the newest checkpoint of save_dir; without it, save_dir must have none.
        world: the processes of the run, all of which call this.
        progress: told what is going on before the training.

    Raises:
        InvalidArgumentError, NotFoundError, DataLossError: as the message says.
    """
    model_config = GptSmallConfig.preset(config.preset, dropout=config.dropout)
    if config.seq_len > model_config.context_length:
        raise InvalidArgumentError(
            f"--seq-len is {config.seq_len}: the context of preset {config.preset} is {model_config.context_length}",
            op="--seq-len",
        )
    with main_process_first(world):
        if resume:
            newest_checkpoint(save_dir)
        elif world.is_main and checkpoints(save_dir):
            raise InvalidArgumentError(
                f"{save_dir} already holds a training run",
                op="--save-dir",
                hint="go on with --resume, or name another folder",
            )
        text = read_text(data)
        make_output_folder(save_dir, "--save-dir")
        tokenizer, tokens = _tokenize(data, text, save_dir, model_config.vocab_size, resume, progress)
    dataset = Dataset.split(tokens, config.seq_len)
    torch.manual_seed(config.seed)
    model = GptSmall(model_config)
    if config.qat:
        prepare_qat(model)
    tokenizer_json = tokenizer.to_str().encode()
    end = tokenizer.token_to_id(END_OF_TEXT)
    generation = GenerationInfo(bos_token_id=end, eos_token_ids=() if end is None else (end,))

    def write_model(folder: Path, weights: Mapping[str, Tensor]) -> None:
        metadata = {TRAINED_PRECISION: config.qat} if config.qat else None
        save_checkpoint(folder, model_config, weights, tokenizer_json, generation, metadata)

    data_hash = hashlib.sha256(tokens.data).hexdigest()
    trainer = Trainer(model, dataset, config, save_dir, write_model, data_hash, world)
    if resume:
        trainer.resume()
    return trainer


def _tokenize(
    data: Path, text: str, save_dir: Path, vocab_size: int, resume: bool, progress: Progress
) -> tuple[Tokenizer, Tokens]:
    """GPT-2's tokenizer for models with its vocabulary, one trained on the text for smaller ones; and the tokens."""
    cache = save_dir / "tokens"
    saved = newest_checkpoint(save_dir) / "tokenizer.json" if resume else None
    if vocab_size == VOCAB_SIZE:
        tokenizer = gpt2_tokenizer()
    elif saved:
        try:
            tokenizer = Tokenizer.from_file(str(saved))
        except Exception as error:  # what the library raises
            raise DataLossError(f"{saved} is damaged: {error}", hint=f"delete {saved.parent}") from error
    else:
        progress(f"learning {vocab_size} tokens from {data}", None)
        tokenizer = train_bpe(text, vocab_size, cache)
    return tokenizer, tokenize_file(data, tokenizer, cache, progress)
