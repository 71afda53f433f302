"""Plan: the operations that the runtime executes for a model, and what they cost."""

from __future__ import annotations

import os
from typing import Any

from flashflow.errors import InvalidArgumentError
from flashflow.roofline import Roofline, RooflineRow


class Plan:
    """What the compiler made of an open model for the device that it runs on. Made by LLM.plan."""

    def __init__(self, engine: Any, cache_dir: str | os.PathLike[str] | None = None) -> None:
        self._engine = engine
        self._cache_dir = "" if cache_dir is None else os.fspath(cache_dir)

    def roofline(
        self,
        device: str | None = None,
        *,
        tokens: int = 1,
        context: int | None = None,
        measure: bool = True,
        measure_again: bool = False,
    ) -> Roofline:
        """What each operation of a step costs at least, and what it takes here.

        A step of one token is decoding; one of as many tokens as the context is the prefill of a prompt. On the device
        that the model runs on, the step is run several times, and each operation's median time stands beside its
        floor; other requests wait meanwhile.

        Args:
            device: whose floors: None is the one the model runs on, all 0 for a GPU without known figures; "cpu"
                is this machine's, measured at first use and kept in the user's cache folder; "h200", "h100" and "a100"
                need not be there; a .json file holds another one, as in compiler/analysis/data.
            tokens: of the step, all of one sequence.
            context: tokens of that sequence in the KV cache, the step's own included; None is 512, or as many as the
                model takes, or `tokens`.
            measure: False leaves the times away and runs nothing.
            measure_again: measures this machine's CPU anew, whatever is kept.

        Raises:
            InvalidArgumentError: a step does not take this size.
            NotFoundError: there is no such device.
            FailedPreconditionError: another version compiled the model to other operations.
        """
        for name, value in (("tokens", tokens), ("context", context)):
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise InvalidArgumentError(f"{name} is {value!r}: expected an integer of at least 1", op=name)
        if context is None:
            context = max(tokens, min(512, self._engine.info()["context_length"]))
        found = self._engine.roofline(
            device=device or "",
            tokens=tokens,
            context=context,
            measure=measure,
            measure_again=measure_again,
            cache_folder=self._cache_dir,
        )
        rows = tuple(RooflineRow(**{**row, "achieved_us": row["achieved_us"] or None}) for row in found.pop("rows"))
        return Roofline(**found, tokens=tokens, context=context, rows=rows)
