"""Child processes of the stress tests: started with a piece of code, watched against a deadline."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def start(code: str, *arguments: str, **settings: str) -> subprocess.Popen[str]:
    """A Python process that runs `code`; its output is text in pipes."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True,
                            env={**os.environ, "PYTHONPATH": path, "PYTHONFAULTHANDLER": "1", **settings})


def finish(child: subprocess.Popen[str], seconds: float) -> tuple[int, str, str]:
    """Exit status, output and errors of a child. At the deadline it is ended (status -6) and its threads' stacks are in
    its errors."""
    try:
        out, err = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGABRT)
        out, err = child.communicate()
    return child.returncode, out, err
