"""What the compiler of kernels refuses. That it works: kernel_metadata_test and, on a GPU, triton_kernel_test."""

import dataclasses

import pytest
from kernels.triton.compile_kernel import Spec, compile_kernel

MERGE = Spec(
    kernel="fused_attention.merge_kernel",
    arch=80,
    signature={"partial": "*fp32:16", "o": "*bf16:16"},
    constants={"BLOCK_D": 64, "HEADS": 2, "HEAD_DIM": 64, "SPLITS": 2},
    num_warps=1,
    num_stages=1,
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def test_metadata_names_the_arguments_in_order_and_the_architecture():
    cubin, metadata = compile_kernel(MERGE)
    assert metadata["parameters"] == [
        {"name": "partial", "type": "*fp32", "multiple_of": 16},
        {"name": "o", "type": "*bf16", "multiple_of": 16},
    ]
    assert (metadata["arch"], metadata["threads"], metadata["cubin_bytes"]) == ("sm_80", 32, len(cubin))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"signature": {"partial": "*fp32"}}, r"wrong: \['o'\]"),
        ({"constants": {**MERGE.constants, "NORM": 1}}, r"wrong: \['NORM'\]"),
        ({"signature": {"partial": "*fp32:8", "o": "*bf16"}}, r"partial: expected a type, or a type and :16"),
    ],
)
def test_a_spec_that_does_not_fit_the_kernel_is_refused(change, says):
    with pytest.raises(ValueError, match=says):
        compile_kernel(dataclasses.replace(MERGE, **change))
