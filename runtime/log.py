"""What onnxc says while it works goes to the logger 'onnxc', at ONNX Runtime's severities."""

from __future__ import annotations

import logging
from collections.abc import Callable

__all__ = ["LOG", "SEVERITIES", "Log", "check_severity", "set_default_logger_severity", "set_default_logger_verbosity"]

LOG = logging.getLogger("onnxc")
Log = Callable[..., None]
"""Takes a level of logging, a text with places for values, and the values."""
#: The level of logging for each severity: verbose, info, warning, error, fatal.
SEVERITIES = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)


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
