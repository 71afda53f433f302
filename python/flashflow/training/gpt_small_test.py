import numpy as np
import pytest
import torch

from flashflow.errors import DataLossError, InvalidArgumentError, NotFoundError
from flashflow.loaders.resolve import resolve
from flashflow.tokenizers.gpt2 import END_OF_TEXT_ID
from flashflow.training.checkpoint import checkpoints
from flashflow.training.config import TrainConfig
from flashflow.training.gpt_small import make_trainer

CONFIG = TrainConfig(steps=2, batch_size=1, seq_len=16, warmup=0, eval_batches=1, save_every=1, device="cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "text.txt"
    path.write_text("The quick brown fox jumps over the lazy dog. " * 20)
    return path


def test_checkpoint_is_a_model(data, tmp_path):
    trainer = make_trainer(data, tmp_path / "run", CONFIG, resume=False)
    result = trainer.run()
    assert 0 < result.validation_loss < 12
    for folder in (result.checkpoint, tmp_path / "run"):  # the run's folder is its newest checkpoint
        loaded = resolve(folder).load()
        assert loaded.config == trainer.model.config and loaded.tokenizer_json is not None
        assert loaded.generation.eos_token_ids == (END_OF_TEXT_ID,)
        for name, parameter in trainer.model.state_dict().items():
            assert np.array_equal(loaded.weights[name].read(), parameter.numpy())


def test_resumed_model_is_bit_identical(data, tmp_path):
    make_trainer(data, tmp_path / "whole", CONFIG, resume=False).run()
    first = make_trainer(data, tmp_path / "parts", CONFIG, resume=False)
    first.should_stop = lambda: first.step == 1
    assert first.run().interrupted
    second = make_trainer(data, tmp_path / "parts", CONFIG, resume=True)
    assert second.step == 1
    second.run()
    whole, parts = (resolve(tmp_path / name).load().weights for name in ("whole", "parts"))
    assert [name for name in whole if not np.array_equal(whole[name].read(), parts[name].read())] == []


def test_same_seed_same_weights(data, tmp_path):
    runs = [make_trainer(data, tmp_path / str(i), CONFIG, resume=False).model.state_dict() for i in range(2)]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_folder_with_a_run_is_not_overwritten(data, tmp_path):
    make_trainer(data, tmp_path, CONFIG, resume=False).run()
    with pytest.raises(InvalidArgumentError, match="already holds a training run") as caught:
        make_trainer(data, tmp_path, CONFIG, resume=False)
    assert "--resume" in caught.value.hint
    assert len(checkpoints(tmp_path)) == 2


def test_what_makes_a_run_impossible_leaves_no_folder(data, tmp_path):
    with pytest.raises(NotFoundError, match="no checkpoint to resume from"):
        make_trainer(data, tmp_path / "run", CONFIG, resume=True)
    with pytest.raises(InvalidArgumentError, match="--save-dir: the folder .*text.txt cannot be made"):
        make_trainer(data, data, CONFIG, resume=False)
    assert not (tmp_path / "run").exists()


def test_sequence_past_the_context_is_refused(data, tmp_path):
    with pytest.raises(InvalidArgumentError, match="--seq-len is 257: the context of preset tiny is 256"):
        make_trainer(data, tmp_path, TrainConfig(seq_len=257), resume=False)


def test_unknown_preset_is_refused(data, tmp_path):
    with pytest.raises(InvalidArgumentError, match="huge"):
        make_trainer(data, tmp_path, TrainConfig(preset="huge"), resume=False)


def test_damaged_weights_of_a_checkpoint_are_refused(data, tmp_path):
    folder = make_trainer(data, tmp_path, CONFIG, resume=False).run().checkpoint
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(DataLossError, match="model.safetensors"):
        make_trainer(data, tmp_path, CONFIG, resume=True)
