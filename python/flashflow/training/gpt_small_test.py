import dataclasses
import json

import numpy as np
import pytest
import torch

from flashflow.errors import DataLossError, InvalidArgumentError, NotFoundError
from flashflow.loaders.resolve import resolve
from flashflow.tokenizers.gpt2 import END_OF_TEXT_ID
from flashflow.tokenizers.tokenizer import Tokenizer
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


def test_mini_has_a_vocabulary_of_its_own(data, tmp_path):
    config = dataclasses.replace(CONFIG, preset="mini", dropout=0.1)
    whole = make_trainer(data, tmp_path / "whole", config, resume=False).run()
    first = make_trainer(data, tmp_path / "parts", config, resume=False)
    assert {p.suffix for p in (tmp_path / "parts" / "tokens").iterdir()} == {".npy", ".json"}
    first.should_stop = lambda: first.step == 1
    first.run()
    for path in (tmp_path / "parts" / "tokens").iterdir():
        path.unlink()  # a cache: the checkpoint has the tokenizer
    second = make_trainer(data, tmp_path / "parts", config, resume=True)
    result = second.run()
    loaded, other = (resolve(run.checkpoint).load() for run in (whole, result))
    assert [n for n in loaded.weights if not np.array_equal(loaded.weights[n].read(), other.weights[n].read())] == []
    assert loaded.tokenizer_json == other.tokenizer_json and loaded.config.vocab_size == 8192
    tokenizer = Tokenizer(loaded.tokenizer_json, loaded.generation, loaded.config.vocab_size)
    assert loaded.generation.eos_token_ids == (0,)
    assert len(tokenizer.encode("The quick brown fox")) == 4
    assert tokenizer.decode(tokenizer.encode("any text, ünïcode 日本 too")) == "any text, ünïcode 日本 too"
    ids = second.dataset.train
    assert tokenizer.decode(ids[:5]).startswith("The quick brown fox jumps") and len(ids) < 200


def test_damaged_tokenizer_of_a_checkpoint_is_refused(data, tmp_path):
    config = dataclasses.replace(CONFIG, preset="mini", steps=1)
    folder = make_trainer(data, tmp_path, config, resume=False).run().checkpoint
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(DataLossError, match="tokenizer.json is damaged"):
        make_trainer(data, tmp_path, dataclasses.replace(config, steps=2), resume=True)


def test_checkpoint_of_another_config_is_refused(data, tmp_path):
    folder = make_trainer(data, tmp_path, CONFIG, resume=False).run().checkpoint
    with pytest.raises(InvalidArgumentError, match="--preset is 'mini', but the run to resume has 'tiny'"):
        make_trainer(data, tmp_path, dataclasses.replace(CONFIG, preset="mini"), resume=True)
    state = json.loads((folder / "trainer.json").read_text())
    state["config"]["preset"] = "small"  # and with it the files of another model
    (folder / "trainer.json").write_text(json.dumps(state))
    with pytest.raises(InvalidArgumentError, match="model.safetensors lacks tensor blocks.10.*--preset"):
        make_trainer(data, tmp_path, dataclasses.replace(CONFIG, preset="small"), resume=True)


def test_text_shorter_than_the_context_is_refused(tmp_path):
    (tmp_path / "short.txt").write_text("Short. " * 4)
    with pytest.raises(InvalidArgumentError, match="sequences of 16 need at least 34.*smaller --seq-len"):
        make_trainer(tmp_path / "short.txt", tmp_path / "run", CONFIG, resume=False)


def test_unknown_preset_is_refused(data, tmp_path):
    with pytest.raises(InvalidArgumentError, match="huge"):
        make_trainer(data, tmp_path, TrainConfig(preset="huge"), resume=False)


def test_damaged_weights_of_a_checkpoint_are_refused(data, tmp_path):
    folder = make_trainer(data, tmp_path, CONFIG, resume=False).run().checkpoint
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(DataLossError, match="model.safetensors"):
        make_trainer(data, tmp_path, CONFIG, resume=True)


def test_data_that_cannot_be_read_leaves_no_folder(tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"abc \xff")
    with pytest.raises(InvalidArgumentError, match="not UTF-8"):
        make_trainer(tmp_path / "bad.txt", tmp_path / "run", CONFIG, resume=False)
    assert not (tmp_path / "run").exists()
