"""Which device torch computes on."""

import pytest
import torch

from flashflow.errors import FailedPreconditionError
from flashflow.torch_device import torch_device


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    chosen = []
    monkeypatch.setattr("torch.cuda.set_device", chosen.append)
    return chosen


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_each_process_has_a_gpu_of_its_own(two_gpus, name):
    assert torch_device(name, 1) == torch.device("cuda", 1)
    assert two_gpus == [torch.device("cuda", 1)]
    with pytest.raises(FailedPreconditionError, match="process 2 of this machine has no GPU.*at most 2"):
        torch_device(name, 2)


def test_a_cpu_is_for_any_process(two_gpus):
    assert torch_device("cpu", 7) == torch.device("cpu")
    assert not two_gpus


def test_without_a_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert torch_device("auto") == torch.device("cpu")
    with pytest.raises(FailedPreconditionError, match="finds no CUDA device"):
        torch_device("cuda")
