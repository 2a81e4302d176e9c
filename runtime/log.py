"""What onnxc says while it works goes to the logger 'onnxc', at ONNX Runtime's severities."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from contextvars import ContextVar

__all__ = ["LOG", "SEVERITIES", "Log", "check_severity", "during_run", "say", "set_default_logger_severity",
           "set_default_logger_verbosity"]

LOG = logging.getLogger("onnxc")
Log = Callable[..., None]
"""Takes a level of logging, a text with places for values, and the values."""
#: The level of logging for each severity: verbose, info, warning, error, fatal.
SEVERITIES = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)

#: Severity and name of the run that is under way in this context, where it has its own.
_RUN: ContextVar[tuple[int, str]] = ContextVar("run", default=(-1, ""))


@contextlib.contextmanager
def during_run(severity: int, name: str) -> Iterator[None]:
    """What is said inside has this severity for its least, not that of the session, if it is no less than 0; `name`
    stands behind that of the session."""
    before = _RUN.set((severity, name))
    try:
        yield
    finally:
        _RUN.reset(before)


def say(severity: int, name: str, level: int, text: str, *values: object) -> None:
    """Says something on behalf of a session called `name`, if the level is that of its severity or above."""
    own, run = _RUN.get()
    least = own if own >= 0 else severity
    if least < 0 or level >= SEVERITIES[least]:
        LOG.log(level, "".join(f"{n}: " for n in (name, run) if n) + text, *values)


def check_severity(severity: int, least: int = 0) -> None:
    """Raises RuntimeError for a number that is no severity."""
    if not least <= severity < len(SEVERITIES):
        raise RuntimeError(f"Invalid logging severity {severity}; expected {least} to {len(SEVERITIES) - 1}")


def set_default_logger_severity(severity: int) -> None:
    """Sets the level of the logger 'onnxc': 0 verbose, 1 info, 2 warning, 3 error, 4 fatal; RuntimeError for others."""
    if not isinstance(severity, int):
        raise TypeError(f"a severity is an int, not {severity!r}")
    check_severity(severity)
    LOG.setLevel(SEVERITIES[severity])


def set_default_logger_verbosity(verbosity: int) -> None:
    """Accepted: there is one degree of verbosity, the severity 0."""
    if not isinstance(verbosity, int):
        raise TypeError(f"a verbosity is an int, not {verbosity!r}")
