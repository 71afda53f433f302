import logging
import subprocess
import sys

import pytest

from flashflow.log import log_from_core


@pytest.mark.parametrize(
    ("severity", "level"),
    [(0, logging.INFO), (1, logging.WARNING), (2, logging.ERROR), (3, logging.CRITICAL), (9, logging.CRITICAL)],
)
def test_core_records_keep_level_text_and_place(caplog, severity, level):
    with caplog.at_level(logging.DEBUG, logger="flashflow"):
        log_from_core(severity, "100% of it {}", "runtime/core/executor.cc", 12)
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (level, "100% of it {}")
    assert (record.pathname, record.lineno, record.name) == ("runtime/core/executor.cc", 12, "flashflow.core")


def test_records_below_the_level_are_dropped(caplog):
    with caplog.at_level(logging.ERROR, logger="flashflow"):
        log_from_core(1, "a warning", "x.cc", 1)
    assert not caplog.records


def test_library_prints_nothing_unless_asked():
    code = "from flashflow.log import logger; logger.error('secret'); logger.getChild('core').critical('secret')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=child_env())
    assert done.stdout == "" and done.stderr == ""


def child_env():
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
