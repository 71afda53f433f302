"""The learning rate over a run."""

from __future__ import annotations

import math


def cosine_with_warmup(step: int, *, steps: int, warmup: int, peak: float, floor_ratio: float = 0.1) -> float:
    """Linear from 0 to `peak` over `warmup` steps, then half a cosine down to `floor_ratio * peak` at the last step.

    Args:
        step: from 0; the first step of a run with warmup has peak / warmup, not 0, so that it learns something.
        steps: of the whole run.
        warmup: steps.
        peak: the highest learning rate.
        floor_ratio: of the last step's to the highest.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - 1 - warmup)
    floor = peak * floor_ratio
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
