"""Two processes, started as users start them, compute what one does with batches of twice the size."""

import functools
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from flashflow.errors import FailedPreconditionError, InvalidArgumentError
from flashflow.models.config import GptSmallConfig
from flashflow.training.checkpoint import newest_checkpoint
from flashflow.training.distributed import World, joined_processes, parallelize
from flashflow.training.trainer_testing import make_gpt_trainer

MODEL = GptSmallConfig(vocab_size=61, context_length=16, hidden_size=20, n_layers=2, n_heads=2, mlp_size=36)
STEPS, ROWS = 6, 4
# Rows of a weight that two processes cannot halve (61) included. Evaluations: 18 sequences in 5 batches, an odd number.
OPTIONS = {"steps": STEPS, "grad_accum": 2, "eval_every": 3, "save_every": 3, "eval_batches": 5, "keep_last": 1}


def main(folder, options):
    """What each process runs."""
    with joined_processes("cpu") as world:
        stop_at, failing = options.pop("stop_at", None), options.pop("failing", [])
        if world.rank in failing:
            raise ValueError("this is why")
        trainer = make_gpt_trainer(Path(folder), MODEL, world, **options)
        if stop_at:
            trainer.should_stop = lambda: trainer.step == stop_at and world.rank == 1  # all must hear of it
        elif (Path(folder) / "latest").exists():
            trainer.resume()
        trainer.run()


def torchrun(folder, status=0, **options):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__]
    options = {**OPTIONS, "batch_size": ROWS, **options}
    done = subprocess.run([*command, str(folder), json.dumps(options)], capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert not re.search(r"\w*Warning: .*", done.stderr), done.stderr
    return folder if status == 0 else done.stderr


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def series(folder, name):
    return np.array([m[name] for m in lines(folder) if name in m])


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    make_gpt_trainer(folder, MODEL, **{**OPTIONS, "batch_size": 2 * ROWS}).run()
    return folder


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_equal_one_with_twice_the_batch(one, tmp_path, parallel):
    """And so does a run whose first half one made and whose second half two.

    The gradient is the same sum of N * S * grad_accum terms in another order, which is 7 roundings deep as a tree and
    up to 256 as a chain: its relative error is at most 256 * 2**-24 where terms do not cancel. Adam passes it on to the
    weights, and each step adds its own.
    """
    bound = 2 * ROWS * MODEL.context_length * 2 * 2.0**-24 * STEPS * 8
    two = torchrun(tmp_path / "two", parallel=parallel)
    for name in ("loss", "grad_norm", "validation_loss"):
        a, b = series(one, name), series(two, name)
        assert len(a) == len(b) and np.abs(a - b).max() <= bound * a.max(), (name, np.abs(a - b).max())
    assert (np.diff(series(two, "loss")) != 0).all() and series(two, "loss")[-1] < series(two, "loss")[0]
    assert series(two, "tokens").tolist() == series(one, "tokens").tolist()
    a, b = (load_file(newest_checkpoint(folder) / "model.safetensors") for folder in (one, two))
    assert a.keys() == b.keys()
    assert max((a[name] - b[name]).abs().max().item() for name in a) <= bound
    kept = load_file(newest_checkpoint(two) / "optimizer.safetensors")
    assert kept["exp_avg.wte.weight"].shape == (61, 20) and "rng.cpu.1" in kept


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_learn_int8_as_one_does(tmp_path, parallel):
    """Sums in another order tip codes over: fewer than one in 10,000, each by one step.

    A code in error by a step adds a twelfth more to the mean square of its row's errors than rounding has there to
    begin with, so the losses are sqrt(12 * 1e-4) of the bound apart that training for int8 keeps from fp32
    (qat_training_test.py). The running maxima are those of both processes' rows: as exact as the activations.
    """
    roundings, tokens = 2 * (4 * MODEL.n_layers + 1) + 1, 2 * ROWS * 2 * MODEL.context_length
    bound = math.sqrt(12e-4) * 8 * math.sqrt(roundings / tokens) / 254
    options = {"qat": "int8", "eval_every": 0}
    make_gpt_trainer(tmp_path / "one", MODEL, **{**OPTIONS, **options, "batch_size": 2 * ROWS}).run()
    two = torchrun(tmp_path / "two", parallel=parallel, **options)
    for name in ("loss", "validation_loss"):
        a, b = series(tmp_path / "one", name), series(two, name)
        assert len(a) == len(b) and np.abs(a - b).max() <= bound * a.max(), (name, np.abs(a - b).max())
    a, b = (load_file(newest_checkpoint(folder) / "model.safetensors") for folder in (tmp_path / "one", two))
    clips = [name for name in a if name.endswith(("max_abs", "ratio"))]
    assert len(clips) == 2 * (4 * MODEL.n_layers + 1) and a.keys() == b.keys()
    assert [name for name in clips if abs(a[name] / b[name] - 1).item() > 1e-3] == []


def test_interrupted_processes_resume(one, tmp_path):
    """One kind of process may go on where the other stopped."""
    torchrun(tmp_path, parallel="fsdp", stop_at=2)
    assert newest_checkpoint(tmp_path).name == "step-00000002"
    torchrun(tmp_path, parallel="ddp")
    a, b = series(one, "loss"), series(tmp_path, "loss")
    assert len(b) == STEPS and np.abs(a - b).max() <= 1e-3 * a.max()
    # One process goes on with the batches of two, and so with as many rows as both had.
    trainer = make_gpt_trainer(tmp_path, MODEL, **{**OPTIONS, "steps": STEPS + 1, "batch_size": 2 * ROWS})
    trainer.resume()
    assert trainer.run().step == STEPS + 1
    with pytest.raises(InvalidArgumentError, match=f"--batch-size is {ROWS}, but the run to resume has {2 * ROWS}"):
        make_gpt_trainer(tmp_path, MODEL, **{**OPTIONS, "steps": 9, "batch_size": ROWS}).resume()


def test_scaled_fp16_under_fsdp_tracks_one_process(tmp_path):
    options = {"amp_dtype": "fp16", "steps": 2, "eval_every": 0, "save_every": 0}
    make_gpt_trainer(tmp_path / "one", MODEL, **{**OPTIONS, **options, "batch_size": 2 * ROWS}).run()
    two = torchrun(tmp_path / "two", parallel="fsdp", **options)
    a, b = series(tmp_path / "one", "loss"), series(two, "loss")
    assert np.abs(a - b).max() <= 2.0**-11 * a.max()
    assert series(two, "loss_scale").tolist() == [65536, 65536]


@pytest.mark.parametrize("failing", [[1], [0, 1]])
def test_one_process_says_why_it_failed(tmp_path, failing):
    """Not each of those that failed alike, and not those that waited for one that failed."""
    said = torchrun(tmp_path, status=1, failing=failing)
    assert said.count("ValueError: this is why") == 1 and "gloo" not in said, said


@pytest.fixture
def joined_to(monkeypatch):
    """Makes joined_processes join one process, with a store, to another that is not there."""

    def join(store):
        monkeypatch.setattr(dist, "init_process_group", lambda *arguments, **options: None)
        monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", lambda: store)
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setenv("WORLD_SIZE", "2")
        return joined_processes("cpu")

    return join


def test_process_that_is_gone_without_a_word_is_named(joined_to):
    closed = RuntimeError("[pair.cc:553] Connection closed by peer [127.0.0.1]:62697. GLHF!")
    store = dist.HashStore()
    with pytest.raises(FailedPreconditionError, match="another process of the run has ended"), joined_to(store):
        raise closed
    with pytest.raises(SystemExit), joined_to(store):  # and when another has said so, nothing is left to say
        raise closed
    with pytest.raises(RuntimeError, match="an error of its own"), joined_to(dist.HashStore()):
        raise RuntimeError("an error of its own")


def test_process_whose_store_is_gone_ends_in_silence(joined_to):
    class Gone:
        def add(self, key, number):
            raise dist.DistNetworkError("Broken pipe")

    with pytest.raises(SystemExit), joined_to(Gone()):
        raise ValueError


def leave_with_a_model(rank, folder, times):
    """Leaves groups whose last tensors are still in the hands of their threads, with a model that outlives them."""
    for time in range(times):
        store = dist.FileStore(str(folder / str(time)), 2)
        init = functools.partial(dist.init_process_group, store=store, rank=rank, world_size=2)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dist, "init_process_group", init)
            patch.setenv("RANK", str(rank))
            patch.setenv("WORLD_SIZE", "2")
            with joined_processes("cpu") as world:
                model = parallelize(torch.nn.Linear(3, 3), "ddp", world)
                model(torch.ones(1, 3)).sum().backward()
                world.gather(torch.ones(5000))
        del model


def test_processes_leave_with_a_model(tmp_path):
    processes = torch.multiprocessing.spawn(leave_with_a_model, (tmp_path, 50), nprocs=2, join=False).processes
    try:
        for process in processes:
            process.join(300)
        assert [process.exitcode for process in processes] == [0, 0]  # None: it waits forever
    finally:
        for process in processes:
            process.kill()


def test_alone_nothing_is_wrapped(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined_processes("cpu") as world:
        assert world == World() and world.is_main
        module = object()
        assert parallelize(module, "fsdp", world) is module


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
