import sys

import extension
import torch


def test_interpreter_is_the_locked_environment():
    assert sys.prefix != sys.base_prefix, "not a virtual environment"
    assert torch.__version__.startswith("2.13.0")


def test_extension_module_is_built_for_this_interpreter():
    assert extension.cpp_standard() >= 202002


def test_torch_computes():
    a = torch.arange(6, dtype=torch.float64).reshape(2, 3)
    assert (a @ a.T).tolist() == [[5.0, 14.0], [14.0, 50.0]]
