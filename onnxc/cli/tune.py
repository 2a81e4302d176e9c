"""What `--tune` of several verbs does before they compile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from onnxc.cli.console import working

__all__ = ["tune_first", "tune_options"]

_Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
_flag: _Decorator = click.option("--tune", is_flag=True, help="First time schedules of the kernels, on the sizes that "
                                                              "--dim gives, and keep the fastest in the cache folder.")
_seconds: _Decorator = click.option("--tune-seconds", default=60.0, show_default=True, type=click.FloatRange(0.0),
                                    help="Of tuning, at most about.")


def tune_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options `--tune` and `--tune-seconds` of a verb."""
    return _flag(_seconds(command))


def tune_first(model: str, target: str | None, dims: Mapping[str, int], seconds: float) -> None:
    """Tunes the kernels of a model, and says how many got another schedule."""
    from onnxc.driver import CompileOptions
    from onnxc.tuning import tune_model
    options = CompileOptions.from_config(**({} if target is None else {"target": target}))
    with working(f"tuning {model}") as say:
        tuned = tune_model(model, options, dims, seconds, say)
    left = tuned.kernels - tuned.timed
    click.echo(f"{tuned.timed} kernels timed, {tuned.faster} of them have a faster schedule now"
               + (f"; there was no time for {left}" if left else ""))
