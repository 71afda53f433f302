import importlib.util
import json
import math
import os
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from flashflow.errors import (
    DataLossError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    UnsupportedError,
)
from flashflow.training.checkpoint import checkpoints, load_trainer_state
from flashflow.training.config import TrainConfig
from flashflow.training.optimizer import make_adamw
from flashflow.training.precision import Precision
from flashflow.training.trainer_testing import VOCAB, Model, make_trainer, state_of


def test_it_learns(tmp_path):
    trainer = make_trainer(tmp_path, steps=60)
    before = trainer.evaluate()
    result = trainer.run()
    assert before > 0.8 * math.log(VOCAB)
    assert result.validation_loss < 0.7 * before
    assert result.step == 60 and not result.interrupted


@pytest.mark.parametrize("amp_dtype", [None, "bf16", "fp16"])
def test_resumed_run_is_bit_identical(tmp_path, amp_dtype):
    options = {"steps": 12, "grad_accum": 2, "amp_dtype": amp_dtype}
    whole = make_trainer(tmp_path / "whole", **options).run()
    stop_at = 5
    first = make_trainer(tmp_path / "parts", **options)
    first.should_stop = lambda: first.step == stop_at
    assert first.run().interrupted
    second = make_trainer(tmp_path / "parts", **options)
    torch.manual_seed(12345)  # what a new process would start from matters not
    second.resume()
    assert second.step == stop_at
    result = second.run()
    a, b = state_of(whole.checkpoint), state_of(result.checkpoint)
    assert a.keys() == b.keys() and "o.rng.cpu" in a
    assert [k for k in a if not torch.equal(a[k], b[k])] == []
    a, b = (load_trainer_state(run.checkpoint)["loss_scaler"] for run in (whole, result))
    assert a == b and bool(a) == (amp_dtype == "fp16")
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
        trainer.train_step()
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
    trainer.train_step()
    assert trainer.read_metrics()["grad_norm"] > 1e-2  # reported before clipping
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


@pytest.mark.parametrize(
    "option", [{"lr": 0.1}, {"seed": 3}, {"batch_size": 2}, {"grad_accum": 2}, {"amp_dtype": "bf16"}]
)
def test_another_run_cannot_be_resumed(tmp_path, option):
    make_trainer(tmp_path, steps=2).run()
    (name,) = option
    with pytest.raises(InvalidArgumentError, match="--" + name.replace("_", "-")):
        make_trainer(tmp_path, **{"steps": 4, **option}).resume()


def test_how_it_is_computed_may_differ(tmp_path):
    whole = make_trainer(tmp_path / "whole", steps=4).run()
    make_trainer(tmp_path / "parts", steps=2).run()
    changed = make_trainer(
        tmp_path / "parts", steps=4, activation_checkpointing=True, log_every=2, keep_last=1, parallel="fsdp"
    )
    changed.config.check_resumes({**changed.config.to_json(), "compile": True})
    changed.resume()
    a, b = state_of(whole.checkpoint), state_of(changed.run().checkpoint)
    assert a["w.embed.weight"].shape == b["w.embed.weight"].shape and changed.step == 4


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
    with pytest.raises(FailedPreconditionError, match="diverged at step 1: loss nan.*there is no checkpoint yet"):
        trainer.run()
    assert not checkpoints(tmp_path)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_divergence_between_two_lines_names_its_step_and_the_last_good_checkpoint(tmp_path, where):
    """Nothing is read back between steps 3 and 8, and step 6 would have been saved."""
    trainer = make_trainer(tmp_path, steps=9, save_every=3, log_every=4)
    forward = trainer.loss.forward
    poison = torch.full((), math.nan) if where == "loss" else _InfiniteGradient.apply

    def diverge(inputs, targets):
        loss = forward(inputs, targets)
        if trainer.step != 4:
            return loss
        return loss * poison if where == "loss" else poison(loss)

    trainer.loss.forward = diverge
    with pytest.raises(FailedPreconditionError, match=r"diverged at step 5: .*last good checkpoint is .*step-00000003"):
        trainer.run()
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000003"]


class _InfiniteGradient(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient * math.inf


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
        ("dropout", 1.0),
        ("amp_dtype", "fp8"),
        ("compile", 1),
        ("patience", -1),
        ("log_every", 0),
        ("parallel", "tensor"),
    ],
)
def test_hyperparameter_out_of_range_is_refused_by_flag(name, bad):
    with pytest.raises(InvalidArgumentError, match="^--" + name.replace("_", "-") + " is"):
        TrainConfig(**{name: bad})


def test_lines_come_every_log_every_steps_and_at_the_end(tmp_path):
    make_trainer(tmp_path, steps=7, log_every=3, save_every=2).run()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in lines if "loss" in m] == [3, 6, 7]
    assert [m["tokens"] for m in lines if "loss" in m] == [3 * 24, 6 * 24, 7 * 24]
    assert [m["checkpoint"] for m in lines if "checkpoint" in m] == [f"step-0000000{i}" for i in (2, 4, 6, 7)]


def with_losses(trainer, losses):
    """The validation losses that the trainer is to see."""
    remaining = iter(losses)
    trainer.evaluate = lambda: next(remaining)
    return trainer


def test_it_stops_when_the_loss_falls_no_more_and_keeps_the_best(tmp_path):
    options = {"steps": 20, "eval_every": 1, "patience": 2, "keep_last": 1}
    result = with_losses(make_trainer(tmp_path, **options), [3.0, 2.0, 2.5, 1.5, 1.6, 1.5, 0.1]).run()
    assert result.stopped_early and result.step == 6 and not result.interrupted
    assert result.best == tmp_path / "step-00000004" and result.best_validation_loss == 1.5
    assert [p.name for p in checkpoints(tmp_path)] == ["step-00000004", "step-00000006"]
    assert os.readlink(tmp_path / "best") == "step-00000004" and os.readlink(tmp_path / "latest") == "step-00000006"

    again = make_trainer(tmp_path, **options)
    again.resume()
    assert with_losses(again, [1.7]).run().step == 6  # as hopeless as before
    patient = make_trainer(tmp_path, **{**options, "patience": 3})
    patient.resume()
    result = with_losses(patient, [1.4, 1.5, 1.5, 1.5]).run()
    assert result.step == 10 and result.best == tmp_path / "step-00000007"
    assert [p.name for p in checkpoints(tmp_path)] == ["step-00000007", "step-00000010"]


def test_the_patience_survives_a_resumption(tmp_path):
    options = {"steps": 20, "eval_every": 1, "patience": 3}
    first = with_losses(make_trainer(tmp_path, **options), [3.0, 2.0, 2.1])
    first.should_stop = lambda: first.step == 4
    assert first.run().interrupted
    second = make_trainer(tmp_path, **options)
    second.resume()
    result = with_losses(second, [2.2, 2.3, 2.4, 2.5]).run()
    assert result.step == 6 and result.best == tmp_path / "step-00000002"


def test_without_a_patience_it_goes_on_to_the_end(tmp_path):
    result = with_losses(make_trainer(tmp_path, steps=4, eval_every=1), [1.0, 2.0, 3.0, 4.0]).run()
    assert result.step == 4 and not result.stopped_early and result.best is None
    assert not (tmp_path / "best").exists()


def test_overflow_in_fp16_skips_the_step_and_halves_the_scale(tmp_path):
    trainer = make_trainer(tmp_path, steps=3, amp_dtype="fp16", log_every=1)
    trainer.precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)  # fp16 ends at 65504
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train_step()
    metrics = trainer.read_metrics()
    assert metrics["loss_scale"] == 2.0**23 and metrics["grad_norm"] is None and math.isfinite(metrics["loss"])
    assert all(torch.equal(before[name], value) for name, value in trainer.model.state_dict().items())


def test_scale_that_falls_without_end_is_divergence(tmp_path):
    trainer = make_trainer(tmp_path, steps=40, amp_dtype="fp16")
    trainer.loss.register_forward_hook(lambda module, inputs, loss: _InfiniteGradient.apply(loss))
    with pytest.raises(FailedPreconditionError, match="diverged at step 17.*bf16 in place of fp16"):  # 2**16, halved
        trainer.run()


def test_gpu_without_bf16_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA V100")
    with pytest.raises(UnsupportedError, match="V100 has no bf16 arithmetic.*--amp-dtype fp16"):
        Precision(torch.device("cuda"), "bf16")


def test_dtype_that_torch_cannot_multiply_is_refused(monkeypatch):
    def refuse(self, other):
        raise RuntimeError('"addmm_impl_cpu_" not implemented')

    monkeypatch.setattr(torch.Tensor, "__matmul__", refuse)
    with pytest.raises(UnsupportedError, match="cannot compute in torch.float16 on cpu"):
        Precision(torch.device("cpu"), "fp16")


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is optional")
def test_tensorboard_gets_the_scalars(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    make_trainer(tmp_path, steps=3, eval_every=2, tensorboard=True).run()
    trainer = make_trainer(tmp_path, steps=4, eval_every=2, tensorboard=True)
    trainer.resume()
    trainer.run()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for name in ("loss", "lr", "grad_norm", "tokens_per_s", "validation_loss"):
        wanted = {m["step"]: m[name] for m in lines if name in m}
        assert {e.step: e.value for e in events.Scalars(name)} == pytest.approx(wanted), name


def test_missing_tensorboard_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(FailedPreconditionError, match="pip install tensorboard"):
        make_trainer(tmp_path, steps=1, tensorboard=True).run()
