"""The one logger, `flashflow`: what the Python code and the C++ library have to say goes there.

The library never prints. An application decides what becomes of the records, by the usual means of `logging`.
"""

from __future__ import annotations

import logging

logger = logging.getLogger("flashflow")
logger.addHandler(logging.NullHandler())

_core_logger = logger.getChild("core")
# absl::LogSeverity -> logging
_LEVELS = (logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)


def log_from_core(severity: int, message: str, file: str, line: int) -> None:
    """Takes one record of the C++ library.

    Args:
        severity: absl's: 0 info, 1 warning, 2 error, 3 fatal.
        message: the text.
        file: the C++ source file.
        line: in that file.
    """
    level = _LEVELS[min(max(severity, 0), len(_LEVELS) - 1)]
    if _core_logger.isEnabledFor(level):
        record = _core_logger.makeRecord(_core_logger.name, level, file, line, message, (), None)
        _core_logger.handle(record)
