"""The rules by which our logits and tokens are held against an oracle's."""

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]

FP32_BOUND = 1e-4  # of the largest logit of the position: fp32 sums of up to a few thousand terms in another order


def assert_fp32_logits(ours: Logits, oracle: Logits, bound: float = FP32_BOUND) -> float:
    """Checks logits [T, V] position by position: max|a - b| <= bound * max|b|. Returns the largest ratio found."""
    assert ours.shape == oracle.shape, f"{ours.shape} logits, the oracle has {oracle.shape}"
    assert np.isfinite(ours).all(), "logits are not finite"
    error = np.abs(ours - oracle).max(axis=1) / np.abs(oracle).max(axis=1)
    worst = int(error.argmax())
    assert error[worst] <= bound, f"position {worst}: relative error {error[worst]:.2e}, allowed {bound:.0e}"
    return float(error[worst])


def assert_argmax(ours: Logits, oracle: Logits, bound: float = FP32_BOUND, most_skipped: float = 0.02) -> None:
    """Checks teacher-forced tokens: the same argmax wherever the oracle's top-2 margin exceeds twice the bound.

    Positions with a smaller margin could go either way by rounding alone; they are skipped and counted.
    """
    top = np.sort(oracle, axis=1)[:, -2:]
    decided = top[:, 1] - top[:, 0] > 2 * bound * np.abs(oracle).max(axis=1)
    skipped = 1 - decided.mean()
    assert skipped < most_skipped, f"{skipped:.1%} of the positions are near ties: the test says too little"
    differ = np.flatnonzero(decided & (ours.argmax(axis=1) != oracle.argmax(axis=1)))
    assert differ.size == 0, f"another token than the oracle's at positions {differ.tolist()}"
