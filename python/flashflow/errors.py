"""The exceptions of FlashFlow.

Each is a FlashFlowError and also the built-in that a caller would expect (ValueError or RuntimeError), and carries
`code` (the name of an absl status code), `op` (the operation, tensor or file it is about, "" when there is none) and
`hint` (what to do about it, "" when there is nothing to add).
"""

from __future__ import annotations

__all__ = [
    "DataLossError",
    "FailedPreconditionError",
    "FlashFlowError",
    "InternalError",
    "InvalidArgumentError",
    "NotFoundError",
    "ResourceExhaustedError",
    "UnsupportedError",
    "make_error",
]


class FlashFlowError(Exception):
    """The base of every error that FlashFlow raises on purpose."""

    code: str = "UNKNOWN"

    def __init__(self, message: str, *, op: str = "", hint: str = "", code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.op = op
        self.hint = hint
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        text = self.message
        if self.op and self.op not in text:
            text = f"{self.op}: {text}"
        return f"{text} (hint: {self.hint})" if self.hint else text

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.op, self.hint, self.code))


def _rebuild(cls: type[FlashFlowError], message: str, op: str, hint: str, code: str) -> FlashFlowError:
    return cls(message, op=op, hint=hint, code=code)


class InvalidArgumentError(FlashFlowError, ValueError):
    """A parameter or an input is wrong in itself."""

    code = "INVALID_ARGUMENT"


class NotFoundError(FlashFlowError, ValueError):
    """A file, model or tensor that was asked for does not exist."""

    code = "NOT_FOUND"


class DataLossError(FlashFlowError, ValueError):
    """A file is damaged, truncated or not what it says it is."""

    code = "DATA_LOSS"


class UnsupportedError(FlashFlowError, ValueError):
    """A model, format or option that FlashFlow does not support; it is named."""

    code = "UNIMPLEMENTED"


class FailedPreconditionError(FlashFlowError, RuntimeError):
    """The system is not in the state that the call needs, such as a device that is not there."""

    code = "FAILED_PRECONDITION"


class ResourceExhaustedError(FlashFlowError, RuntimeError):
    """A limit was met: memory, cache pages, file sizes."""

    code = "RESOURCE_EXHAUSTED"


class InternalError(FlashFlowError, RuntimeError):
    """A fault of FlashFlow itself."""

    code = "INTERNAL"


_CLASS_OF_CODE: dict[str, type[FlashFlowError]] = {
    "INVALID_ARGUMENT": InvalidArgumentError,
    "OUT_OF_RANGE": InvalidArgumentError,
    "ALREADY_EXISTS": InvalidArgumentError,
    "NOT_FOUND": NotFoundError,
    "DATA_LOSS": DataLossError,
    "UNIMPLEMENTED": UnsupportedError,
    "FAILED_PRECONDITION": FailedPreconditionError,
    "UNAVAILABLE": FailedPreconditionError,
    "PERMISSION_DENIED": FailedPreconditionError,
    "RESOURCE_EXHAUSTED": ResourceExhaustedError,
}


def make_error(code: str, message: str, op: str = "", hint: str = "") -> FlashFlowError:
    """The exception for an absl status code's name, e.g. "DATA_LOSS"; InternalError for codes of our own faults."""
    return _CLASS_OF_CODE.get(code, InternalError)(message, op=op, hint=hint, code=code)
