"""The best validation loss so far, and when to give up hope of a better one."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from flashflow.errors import DataLossError


@dataclass
class BestLoss:
    """Follows the evaluations of a run.

    Attributes:
        loss: the smallest validation loss; infinity before the first.
        step: the optimizer step it was measured after.
        worse: evaluations since.
    """

    loss: float = field(default=math.inf)
    step: int = 0
    worse: int = 0

    def see(self, step: int, loss: float) -> bool:
        """Takes an evaluation; whether it is the best so far."""
        if loss < self.loss:
            self.loss, self.step, self.worse = loss, step, 0
            return True
        self.worse += 1
        return False

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {} if math.isinf(self.loss) else asdict(self)

    @staticmethod
    def from_json(saved: object) -> BestLoss:
        """What `to_json` returned.

        Raises:
            DataLossError: it is not that.
        """
        if saved in ({}, None):
            return BestLoss()
        if isinstance(saved, dict) and set(saved) == {"loss", "step", "worse"}:
            counts = [saved["step"], saved["worse"]]
            if isinstance(saved["loss"], float) and all(isinstance(n, int) and n >= 0 for n in counts):
                return BestLoss(**saved)
        raise DataLossError(f"the best evaluation of trainer.json is damaged: {saved!r}")
