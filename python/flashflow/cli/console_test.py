import io
import logging

import pytest

from flashflow.cli import console
from flashflow.cli.console import ProgressLine, show_error, show_log
from flashflow.errors import DataLossError


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_file_gets_one_line_a_stage():
    out = io.StringIO()
    line = ProgressLine(out)
    for stage, fraction in (("loading", None), ("compiling", 0.0), ("compiling", 0.5), ("ready", None)):
        line(stage, fraction)
    line.done("done: 1")
    assert [text.split("] ")[-1] for text in out.getvalue().splitlines()] == [
        "loading",
        "compiling",
        "ready",
        "done: 1",
    ]
    assert "\x1b" not in out.getvalue() and "\r" not in out.getvalue()


def test_a_terminal_gets_one_line_rewritten(monkeypatch):
    out = Terminal()
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    line = ProgressLine(out)
    for seconds, fraction in ((0, 0.5), (0.05, 0.6), (0.2, 0.75)):  # the second comes too soon after the first
        now[0] = 100.5 + seconds
        line("compiling", fraction)
    line.done("done")
    assert out.getvalue().count("\r\x1b[2K") == 3
    assert "compiling 50%" in out.getvalue() and "compiling 75%" in out.getvalue() and "60%" not in out.getvalue()
    assert out.getvalue().endswith("\r\x1b[2Kdone\n")


def test_quiet_is_quiet():
    for out in (io.StringIO(), Terminal()):
        line = ProgressLine(out, quiet=True)
        line("compiling", 0.5)
        line.done("done")
        assert out.getvalue() == ""


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (DataLossError("too short", op="wte.weight"), ["error: wte.weight: too short"]),
        (DataLossError("wte.weight is\n too short", op="wte.weight"), ["error: wte.weight is too short"]),
        (DataLossError("bad", hint="mend it"), ["error: bad", "hint: mend it"]),
        (FileNotFoundError(2, "No such file or directory", "x/y"), ["error: x/y: No such file or directory"]),
        (KeyError("k"), ["error: KeyError: 'k'", "hint: this is a fault of FlashFlow; --debug shows where"]),
    ],
)
def test_errors_are_one_line_and_one_of_advice(capsys, error, lines):
    show_error(error)
    shown = capsys.readouterr()
    assert shown.err.splitlines() == lines and shown.out == ""


def test_errors_and_warnings_take_the_place_of_progress(monkeypatch):
    out = Terminal()
    monkeypatch.setattr(console.sys, "stderr", out)
    monkeypatch.setattr(console.time, "monotonic", lambda: 100.0)
    log = logging.getLogger("flashflow")
    state = (list(log.handlers), log.level, log.propagate)
    try:
        show_log(False)
        ProgressLine()("loading")
        log.warning("watch out")
        ProgressLine()("compiling")
        show_error(DataLossError("too short"))
    finally:
        log.handlers[:], log.level, log.propagate = state
    first, second, end = out.getvalue().split("\n")
    assert first == "\r\x1b[2Kloading (0 s)\r\x1b[2Kwarning: watch out"
    assert second == "\r\x1b[2Kcompiling (0 s)\r\x1b[2Kerror: too short" and end == ""


@pytest.mark.parametrize("verbose", [False, True])
def test_log_goes_to_stderr(capsys, verbose):
    log = logging.getLogger("flashflow")
    state = (list(log.handlers), log.level, log.propagate)
    try:
        show_log(verbose)
        log.getChild("core").info("small talk")
        log.getChild("core").warning("watch out")
    finally:
        log.handlers[:], log.level, log.propagate = state
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == (["info: small talk"] if verbose else []) + ["warning: watch out"]
