"""What the command line shows beside its results: progress, warnings and errors, all on stderr."""

from __future__ import annotations

import logging
import sys
import time
from typing import TextIO

from flashflow.errors import FlashFlowError

_REWRITE_S = 0.1  # the line of a stage is rewritten at most this often
_ERASE = "\r\x1b[2K"  # a line that is shown on a terminal


class ProgressLine:
    """Says what is going on and how long it has taken: one line, rewritten, on a terminal; a line a stage elsewhere.

    Args:
        stream: where to; None is stderr at the time of use.
        quiet: show nothing.
    """

    def __init__(self, stream: TextIO | None = None, quiet: bool = False) -> None:
        self._stream = stream
        self._quiet = quiet
        self._began = time.monotonic()
        self._stage = ""
        self._shown = ""
        self._shown_at = 0.0

    def __call__(self, stage: str, fraction: float | None = None) -> None:
        """Shows a stage, such as "compiling", and how much of it is done (0 to 1), if that is known."""
        out = self._stream or sys.stderr
        if self._quiet:
            return
        elapsed = time.monotonic() - self._began
        percent = "" if fraction is None else f" {fraction:.0%}"
        if not out.isatty():
            if stage != self._stage:
                out.write(f"[{elapsed:6.1f} s] {stage}\n")
                out.flush()
        elif stage != self._stage or elapsed - self._shown_at >= _REWRITE_S:
            self._shown = f"{stage}{percent} ({elapsed:.0f} s)"
            self._shown_at = elapsed
            out.write(f"{_ERASE}{self._shown}")
            out.flush()
        self._stage = stage

    def done(self, text: str) -> None:
        """Ends it with a last line, which stays."""
        out = self._stream or sys.stderr
        self.clear()
        if not self._quiet:
            out.write(f"{text}\n")
            out.flush()

    def clear(self) -> None:
        """Takes the rewritten line away, so that something else can be shown."""
        if self._shown:
            out = self._stream or sys.stderr
            out.write(_ERASE)
            out.flush()
            self._shown = ""


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"{_in_place_of_progress()}{record.levelname.lower()}: {record.getMessage()}"


def show_log(verbose: bool) -> None:
    """Lets warnings and errors of the `flashflow` logger appear on stderr; with `verbose`, information too."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter())
    log = logging.getLogger("flashflow")
    log.addHandler(handler)
    log.setLevel(logging.INFO if verbose else logging.WARNING)
    log.propagate = False


def show_error(error: BaseException) -> None:
    """One line about an error, and one with what to do about it, if that is known."""
    hint = ""
    if isinstance(error, FlashFlowError):
        message, hint = error.message, error.hint
        if error.op and error.op not in message:
            message = f"{error.op}: {message}"
    elif isinstance(error, OSError) and error.strerror:
        message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        message = f"{type(error).__name__}: {error}"
        hint = "this is a fault of FlashFlow; --debug shows where"
    sys.stderr.write(f"{_in_place_of_progress()}error: {_one_line(message)}\n")
    if hint:
        sys.stderr.write(f"hint: {_one_line(hint)}\n")
    sys.stderr.flush()


def _in_place_of_progress() -> str:
    """What to write first where a line of progress may be shown, which has no end yet."""
    return _ERASE if sys.stderr.isatty() else ""


def _one_line(text: str) -> str:
    return " ".join(text.split())
