"""Mixed precision: autocast, and for fp16 a loss scaler (Micikevicius et al., 2018)."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from flashflow.errors import UnsupportedError

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """How a run computes: parameters, moments and the loss stay fp32, products and attention take the narrow dtype.

    bf16 has fp32's range and needs no scaling. fp16 has not: the loss is multiplied by a scale that is halved when a
    gradient overflows (that step is skipped) and doubled after 2,000 steps without.

    Args:
        device: of the run.
        amp_dtype: bf16 | fp16; None computes in fp32.

    Raises:
        UnsupportedError: the device cannot compute in that dtype.
    """

    def __init__(self, device: torch.device, amp_dtype: str | None) -> None:
        self._device_type = device.type
        self._dtype = _DTYPES[amp_dtype] if amp_dtype else None
        if self._dtype is not None:
            _check_support(device, self._dtype)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self._dtype is torch.float16)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """To compute the loss in."""
        if self._dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device_type, dtype=self._dtype)

    def state(self) -> dict[str, Any]:
        """The scaler's, as JSON values; empty without one."""
        return dict(self.scaler.state_dict())

    def restore(self, state: dict[str, Any]) -> None:
        """Takes what `state` returned."""
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state)


def _check_support(device: torch.device, dtype: torch.dtype) -> None:
    flag = "--amp-dtype"
    if (
        device.type == "cuda"
        and dtype is torch.bfloat16
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise UnsupportedError(
            f"{torch.cuda.get_device_name(device)} has no bf16 arithmetic",
            op=flag,
            hint="use --amp-dtype fp16, or train in fp32 without --amp-dtype",
        )
    try:
        ones = torch.ones(2, 2, device=device, dtype=dtype, requires_grad=True)
        (ones @ ones).sum().backward()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise UnsupportedError(
            f"torch {torch.__version__} cannot compute in {dtype} on {device.type}: {error}",
            op=flag,
            hint="train in fp32 without --amp-dtype, or on another --device",
        ) from error
