import json
import math
import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from flashflow.errors import DataLossError, FailedPreconditionError, InvalidArgumentError, NotFoundError
from flashflow.training.checkpoint import checkpoints
from flashflow.training.config import TrainConfig
from flashflow.training.data import Dataset
from flashflow.training.optimizer import make_adamw
from flashflow.training.trainer import Trainer

VOCAB = 11


class Model(nn.Module):
    """The smallest thing with a tied head, a vector parameter and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, 8)
        self.norm = nn.LayerNorm(8)
        self.drop = nn.Dropout(0.2)

    def forward(self, input_ids, position_ids):
        assert position_ids.shape == input_ids.shape and (position_ids[:, -1] == input_ids.shape[1] - 1).all()
        return functional.linear(self.drop(self.norm(self.embed(input_ids))), self.embed.weight)


def make_trainer(save_dir, data_hash="d", **options):
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

    def write_model(folder):
        save_file(model.state_dict(), folder / "model.safetensors")
        (folder / "config.json").write_text("{}")

    return Trainer(model, Dataset.split(tokens, 6), config, save_dir, write_model, data_hash)


def state_of(folder):
    return {
        **{"w." + k: v for k, v in load_file(folder / "model.safetensors").items()},
        **{"o." + k: v for k, v in load_file(folder / "optimizer.safetensors").items()},
    }


def test_it_learns(tmp_path):
    trainer = make_trainer(tmp_path, steps=60)
    before = trainer.evaluate()
    result = trainer.run()
    assert before > 0.8 * math.log(VOCAB)
    assert result.validation_loss < 0.7 * before
    assert result.step == 60 and not result.interrupted


def test_resumed_run_is_bit_identical(tmp_path):
    whole = make_trainer(tmp_path / "whole", steps=12, grad_accum=2).run()
    stop_at = 5
    first = make_trainer(tmp_path / "parts", steps=12, grad_accum=2)
    first.should_stop = lambda: first.step == stop_at
    assert first.run().interrupted
    second = make_trainer(tmp_path / "parts", steps=12, grad_accum=2)
    torch.manual_seed(12345)  # what a new process would start from matters not
    second.resume()
    assert second.step == stop_at
    result = second.run()
    a, b = state_of(whole.checkpoint), state_of(result.checkpoint)
    assert a.keys() == b.keys() and "o.rng.cpu" in a
    assert [k for k in a if not torch.equal(a[k], b[k])] == []
    steps = [json.loads(line) for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in steps if "loss" in m] == list(range(1, 13))


def test_metrics_past_the_checkpoint_are_dropped_when_resumed(tmp_path):
    make_trainer(tmp_path, steps=4).run()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "loss": 1}\n{"step": 6, "lo')
    trainer = make_trainer(tmp_path, steps=6)
    trainer.resume()
    trainer.run()
    steps = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in steps if "loss" in m] == [1, 2, 3, 4, 5, 6]


def test_same_seed_same_run_other_seed_another(tmp_path):
    runs = [make_trainer(tmp_path / str(i), steps=3, seed=seed).run() for i, seed in enumerate((1, 1, 2))]
    a, b, c = (state_of(run.checkpoint)["w.norm.weight"] for run in runs)
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_accumulation_equals_the_larger_batch(tmp_path):
    """Same data either way: the accumulated gradient is the mean over both halves."""
    grads = []
    for accumulate in (1, 2):
        trainer = make_trainer(
            tmp_path / str(accumulate), steps=1, grad_accum=accumulate, batch_size=4 // accumulate, grad_clip=0.0
        )
        trainer.model.drop.p = 0.0
        batches = [trainer.dataset.train_batch(0, i, 2) for i in range(2)]
        joined = tuple(np.concatenate(part) for part in zip(*batches, strict=True))
        table = [joined] if accumulate == 1 else batches
        object.__setattr__(trainer.dataset, "train_batch", lambda seed, index, size, table=table: table[index])
        trainer._train_step()
        grads.append(trainer.model.embed.weight.grad.clone())
    # Two sums of 24 fp32 terms in different order.
    assert torch.allclose(grads[0], grads[1], rtol=0, atol=24 * 2**-23 * grads[0].abs().max().item())


def test_each_pass_gets_the_next_batch(tmp_path):
    trainer = make_trainer(tmp_path, steps=3, grad_accum=2)
    asked = []
    batch = trainer.dataset.train_batch
    object.__setattr__(trainer.dataset, "train_batch", lambda seed, i, size: asked.append(i) or batch(seed, i, size))
    trainer.run()
    assert asked == [0, 1, 2, 3, 4, 5]


def test_gradient_is_clipped(tmp_path):
    trainer = make_trainer(tmp_path, steps=1, grad_clip=1e-3)
    metrics = trainer._train_step()
    assert metrics["grad_norm"] > 1e-2  # reported before clipping
    norm = math.sqrt(sum(p.grad.square().sum().item() for p in trainer.model.parameters()))
    assert norm == pytest.approx(1e-3, rel=1e-3)


def test_only_matrices_decay():
    groups = make_adamw(Model(), lr=1.0, weight_decay=0.5).param_groups
    assert [(g["weight_decay"], sorted(p.dim() for p in g["params"])) for g in groups] == [(0.5, [2]), (0.0, [1, 1])]


def test_the_last_checkpoints_are_kept_and_the_newest_is_linked(tmp_path):
    result = make_trainer(tmp_path, steps=5, save_every=1, keep_last=2).run()
    assert [p.name for p in checkpoints(tmp_path)] == ["step-00000004", "step-00000005"]
    assert result.checkpoint == tmp_path / "step-00000005"
    assert set(load_file(tmp_path / "model.safetensors")) == {"embed.weight", "norm.weight", "norm.bias"}
    assert os.path.samefile(tmp_path / "config.json", result.checkpoint / "config.json")
    assert not [p for p in tmp_path.rglob("*.part")]


def test_evaluations_are_recorded(tmp_path):
    make_trainer(tmp_path, steps=5, eval_every=2).run()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    evaluations = [m for m in lines if "validation_loss" in m]
    assert [m["step"] for m in evaluations] == [2, 4, 5]
    assert evaluations[0]["perplexity"] == pytest.approx(math.exp(evaluations[0]["validation_loss"]))


@pytest.mark.parametrize("option", [{"lr": 0.1}, {"seed": 3}, {"batch_size": 2}, {"grad_accum": 2}])
def test_another_run_cannot_be_resumed(tmp_path, option):
    make_trainer(tmp_path, steps=2).run()
    (name,) = option
    with pytest.raises(InvalidArgumentError, match="--" + name.replace("_", "-")):
        make_trainer(tmp_path, **{"steps": 4, **option}).resume()


def test_other_data_cannot_be_resumed(tmp_path):
    make_trainer(tmp_path, steps=2).run()
    with pytest.raises(InvalidArgumentError, match="other data"):
        make_trainer(tmp_path, steps=4, data_hash="other").resume()


def test_fewer_steps_than_done_are_refused(tmp_path):
    make_trainer(tmp_path, steps=3).run()
    with pytest.raises(InvalidArgumentError, match="--steps is 2.*step 3"):
        make_trainer(tmp_path, steps=2).resume()


def test_finished_run_resumes_to_its_end(tmp_path):
    first = make_trainer(tmp_path, steps=2).run()
    trainer = make_trainer(tmp_path, steps=2)
    trainer.resume()
    assert trainer.run() == first


def test_nothing_to_resume_is_refused(tmp_path):
    with pytest.raises(NotFoundError, match="no checkpoint"):
        make_trainer(tmp_path).resume()


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "trainer.json"])
def test_damaged_checkpoint_is_refused_by_name(tmp_path, file):
    folder = make_trainer(tmp_path, steps=2).run().checkpoint
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataLossError, match=file):
        make_trainer(tmp_path, steps=4).resume()


def test_divergence_is_an_error_and_not_saved(tmp_path):
    trainer = make_trainer(tmp_path, steps=4)
    with torch.no_grad():
        trainer.model.norm.weight.fill_(math.nan)
    with pytest.raises(FailedPreconditionError, match="diverged at step 1: loss nan"):
        trainer.run()
    assert not checkpoints(tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_missing_gpu_is_refused(tmp_path):
    with pytest.raises(FailedPreconditionError, match="no CUDA device"):
        make_trainer(tmp_path, device="cuda")


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("steps", 0),
        ("batch_size", 0),
        ("seq_len", 0),
        ("grad_accum", 0),
        ("warmup", -1),
        ("lr", 0.0),
        ("lr", math.nan),
        ("lr", "fast"),
        ("weight_decay", -0.1),
        ("grad_clip", -1.0),
        ("keep_last", 0),
        ("save_every", -1),
        ("seed", -1),
        ("seed", 1.5),
        ("device", "tpu"),
    ],
)
def test_hyperparameter_out_of_range_is_refused_by_flag(name, bad):
    with pytest.raises(InvalidArgumentError, match="^--" + name.replace("_", "-") + " is"):
        TrainConfig(**{name: bad})
