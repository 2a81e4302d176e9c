"""The command `onnxc`: one file a verb, and no logic beyond reading arguments and showing results.

Exit status: 0 done, 1 an error or a comparison that failed, 2 wrong usage.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

import click

import onnxc
from onnxc.errors import OnnxcError

__all__ = ["main"]

_VERBS = {
    "run": "Run a model once on files or random inputs.",
    "compile": "Compile a model to a file that runs without the compiler.",
    "inspect": "Show a compilation: its stages, kernels and generated code.",
    "opt": "Run passes on a text of the IR.",
    "bench": "Measure how fast a model runs, alone or against another engine.",
    "ops": "List the operators that can be compiled.",
    "cache": "Show or empty the folder of compiled models.",
    "env": "Show versions, the processor and settings.",
}
_EXPECTED = (OnnxcError, OSError, MemoryError, ValueError, RuntimeError, ImportError)


class _Verbs(click.Group):
    """Loads a verb's file when the verb is used, and turns every error into one message."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _VERBS:
            return None
        command: click.Command = import_module(f"onnxc.cli.{name}").command
        command.short_help = _VERBS[name]
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_VERBS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if os.environ.get("ONNXC_DEBUG", "0") not in ("", "0"):
                raise
            raise click.ClickException(_message(error)) from error


def _message(error: Exception) -> str:
    if isinstance(error, OnnxcError):
        return f"{type(error).__name__}: {error.message}"
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, _EXPECTED):
        return text
    return f"{text}\nThis is a defect of onnxc. ONNXC_DEBUG=1 shows where it happened."


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(onnxc.__version__, prog_name="onnxc")
def main() -> None:
    """Compiles ONNX models to machine code, and runs them."""
