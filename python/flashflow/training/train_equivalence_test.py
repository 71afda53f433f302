"""What must not change what is learned, or by how much it may: precision, recomputation, compilation."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from flashflow.models.config import GptSmallConfig
from flashflow.training.trainer_testing import make_gpt_trainer

STEPS, LAYERS, BATCH = 40, 2, 8
MODEL = GptSmallConfig(
    vocab_size=61, context_length=32, hidden_size=32, n_layers=LAYERS, n_heads=2, mlp_size=64, dropout=0.1
)


def make_trainer(folder, model=MODEL, **options):
    return make_gpt_trainer(folder, model, **{"steps": STEPS, "batch_size": BATCH, **options})


def losses(folder, **options):
    lines = []
    trainer = make_trainer(folder, **options)
    trainer.on_metrics = lambda metrics: lines.append(metrics)
    trainer.run()
    return np.array([m["loss"] for m in lines if "loss" in m])


@pytest.fixture(scope="module")
def fp32(tmp_path_factory):
    return losses(tmp_path_factory.mktemp("fp32"))


def test_the_task_is_learned(fp32):
    assert fp32[0] == pytest.approx(math.log(MODEL.vocab_size), rel=0.05)
    assert fp32[-5:].mean() < 0.75 * fp32[0]


@pytest.mark.parametrize(("amp_dtype", "eps"), [("bf16", 2.0**-8), ("fp16", 2.0**-11)])
def test_mixed_precision_tracks_fp32(tmp_path, fp32, amp_dtype, eps):
    """The curves differ by at most 2 * sqrt(P / N) * eps * loss at every step.

    The unit roundoff eps of the narrow dtype enters once for each of the P roundings on the way from tokens to logits:
    weight, operand and result of the four products of a layer and of the head, operands and results in attention. They
    are independent, so together they move a token's loss by about sqrt(P) * eps of its size, and the mean over the N
    tokens of a batch by sqrt(N) times less. Weights that were trained on such gradients differ too; Adam's division by
    the gradient's size keeps that as small, hence the factor 2.
    """
    roundings = 3 * (4 * LAYERS + 1) + 4 * LAYERS
    bound = 2 * math.sqrt(roundings / (BATCH * MODEL.context_length)) * eps
    difference = np.abs(losses(tmp_path, amp_dtype=amp_dtype) - fp32)
    assert (difference <= bound * fp32).all(), (difference / fp32).max() / bound
    assert difference.max() > 0  # it did compute otherwise


def test_autocast_narrows_products_and_keeps_the_loss_wide(tmp_path):
    trainer = make_trainer(tmp_path, amp_dtype="bf16")
    seen = {}
    trainer.model.blocks[0].mlp.up_proj.register_forward_hook(lambda module, x, y: seen.update(product=y.dtype))
    trainer.loss.register_forward_hook(lambda module, x, y: seen.update(loss=y.dtype))
    trainer.train_step()
    assert seen == {"product": torch.bfloat16, "loss": torch.float32}
    state = trainer.optimizer.state[trainer.model.wte.weight]
    assert {p.dtype for p in trainer.model.parameters()} == {state["exp_avg"].dtype} == {torch.float32}


def test_activation_checkpointing_changes_no_bit_and_runs_blocks_twice(tmp_path, fp32):
    """Dropout included: the second run of a block draws what the first drew."""
    calls = []
    trainer = make_trainer(tmp_path / "calls", activation_checkpointing=True)
    trainer.model.blocks[0].mlp.register_forward_hook(lambda module, x, y: calls.append(1))
    trainer.train_step()
    assert len(calls) == 2
    assert (losses(tmp_path / "run", activation_checkpointing=True) == fp32).all()


def test_compiled_step_tracks_eager(tmp_path):
    """Without dropout, which compiled code draws otherwise. Sums of up to 64 fp32 terms are reassociated, in each of
    the products on the way and in each step before."""
    steps = 4
    options = {"model": dataclasses.replace(MODEL, dropout=0.0), "steps": steps, "eval_every": 2}
    eager, compiled = (losses(tmp_path / str(c), compile=c, **options) for c in (False, True))
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    # Adam divides by the gradient's own size: after one step a weight differs by up to lr times the relative error of
    # its gradient, which sums of mixed signs may make a hundred times larger than that of their terms.
    bound = 64 * 2.0**-24 * (4 * LAYERS + 1) * 100 * steps
    assert np.abs(compiled - eager).max() <= bound
    assert (np.diff(compiled) != 0).all()
