"""The rules themselves can fail: each is shown the fault that it is there to find."""

import numpy as np
import pytest
from tests.e2e.quality import assert_argmax, assert_fp32_logits

ORACLE = np.random.default_rng(0).normal(size=(200, 50)).astype(np.float32)


def test_equal_logits_pass():
    assert assert_fp32_logits(ORACLE, ORACLE) == 0
    assert_argmax(ORACLE, ORACLE)


def test_one_logit_off_is_found():
    ours = ORACLE.copy()
    ours[17, 3] += 2e-4 * np.abs(ORACLE[17]).max()
    with pytest.raises(AssertionError, match="position 17"):
        assert_fp32_logits(ours, ORACLE)


def test_nan_and_shape_are_found():
    ours = ORACLE.copy()
    ours[0, 0] = np.nan
    with pytest.raises(AssertionError, match="finite"):
        assert_fp32_logits(ours, ORACLE)
    with pytest.raises(AssertionError, match="oracle has"):
        assert_fp32_logits(ORACLE[:-1], ORACLE)


def test_another_token_is_found():
    ours = ORACLE.copy()
    ours[5, ORACLE[5].argmax()] = -10
    with pytest.raises(AssertionError, match=r"\[5\]"):
        assert_argmax(ours, ORACLE)


def test_mostly_ties_are_refused():
    with pytest.raises(AssertionError, match="near ties"):
        assert_argmax(np.zeros_like(ORACLE), np.zeros_like(ORACLE) + 1)
