"""A run that is killed before any of its operations on files can be resumed, to the bits of one that was not.

Python announces every such operation to audit hooks; one that raises is a process that ends there, but for its memory.
"""

import json
import os
import resource
import sys

import pytest
import torch
from safetensors.torch import load_file

from flashflow.errors import FailedPreconditionError
from flashflow.training.checkpoint import checkpoints, load_trainer_state, newest_checkpoint
from flashflow.training.trainer_testing import make_trainer, state_of

OPTIONS = {"steps": 3, "save_every": 1, "keep_last": 1, "eval_every": 1, "patience": 5}
_CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.chmod", "os.truncate", "os.link")


class Killed(BaseException):
    pass


class Killer:
    """Lets so many operations pass and none after, as no dead process does anything."""

    def __init__(self) -> None:
        self.left = None  # None: not at work
        self.seen = 0
        sys.addaudithook(self)  # for the rest of the process

    def __call__(self, event, arguments):
        if self.left is None:
            return
        if event not in _CHANGES and not (event == "open" and self._writes(arguments)):
            return
        self.seen += 1
        if self.seen > self.left:
            raise Killed

    @staticmethod
    def _writes(arguments):
        path, mode, flags = arguments
        return not isinstance(path, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


@pytest.fixture(scope="module")
def killer():
    return Killer()


def test_run_killed_at_any_moment_resumes_to_the_same_bits(tmp_path, killer):
    whole = make_trainer(tmp_path / "whole", **OPTIONS).run()
    wanted = state_of(whole.checkpoint)
    after = 0
    while True:
        folder = tmp_path / str(after)
        trainer = make_trainer(folder, **OPTIONS)
        killer.left, killer.seen = after, 0
        try:
            trainer.run()
            break
        except Killed:
            pass
        finally:
            killer.left = None
        resume_and_compare(folder, wanted)
        after += 1
    assert after > 60  # three checkpoints, each of two model files, two links to the checkpoint and one a file


def resume_and_compare(folder, wanted):
    saved = checkpoints(folder)
    for path in saved:  # whole, each of them
        assert load_trainer_state(path)["step"] == int(path.name[5:])
        assert load_file(path / "model.safetensors") and load_file(path / "optimizer.safetensors")
    if (folder / "latest").exists() and (folder / "model.safetensors").exists():  # and DIR, if it is one, is a model
        assert load_file(folder / "model.safetensors")
    trainer = make_trainer(folder, **OPTIONS)
    torch.manual_seed(99)
    if saved:
        trainer.resume()
        best = trainer.best.step
        assert os.path.samefile(folder / "best", folder / f"step-{best:08d}")
    else:
        trainer = make_trainer(folder, **OPTIONS)
    result = trainer.run()
    got = state_of(result.checkpoint)
    assert wanted.keys() == got.keys() and [k for k in wanted if not torch.equal(wanted[k], got[k])] == []
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in lines if "loss" in m] == [1, 2, 3]
    names = {path.name for path in folder.iterdir()}
    assert names == {"metrics.jsonl", "model.safetensors", "config.json", "latest", "best", "step-00000003"}


def test_damaged_newest_checkpoint_can_be_deleted(tmp_path):
    """What the error says to do."""
    make_trainer(tmp_path, steps=3, save_every=1, keep_last=3).run()
    newest = newest_checkpoint(tmp_path)
    (newest / "trainer.json").write_text("{")
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()
    trainer = make_trainer(tmp_path, steps=3, save_every=1, keep_last=3)
    trainer.resume()
    assert trainer.step == 2 and os.readlink(tmp_path / "latest") == "step-00000002"
    assert trainer.run().step == 3


@pytest.fixture
def limit_files():
    """Sets how many bytes a file may have: a disk that is full for what is longer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size=before[0]: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("fits", [100, 800])  # not even the model; the model but not the optimizer
def test_full_disk_is_an_error_and_leaves_the_checkpoint_before(tmp_path, limit_files, fits):
    whole = make_trainer(tmp_path / "whole", steps=2).run()
    trainer = make_trainer(tmp_path / "full", steps=2)
    trainer.train_step()
    before = trainer.save()
    trainer.train_step()
    sizes = [os.path.getsize(before / f"{name}.safetensors") for name in ("model", "optimizer")]
    assert 100 < sizes[0] <= 800 < sizes[1], sizes
    limit_files(fits)
    with pytest.raises(FailedPreconditionError, match="step 2 cannot be written into .*too large") as caught:
        trainer.save()
    assert "--resume goes on from step-00000001" in caught.value.hint
    assert sorted(p.name for p in (tmp_path / "full").iterdir() if "step" in p.name) == ["step-00000001"]
    limit_files()
    again = make_trainer(tmp_path / "full", steps=2)
    again.resume()
    wanted, got = state_of(whole.checkpoint), state_of(again.run().checkpoint)
    assert [k for k in wanted if not torch.equal(wanted[k], got[k])] == []
