"""`onnxc compile`: a model to an artifact."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

import onnxc
from onnxc.cli.console import working
from onnxc.cli.feeds import dim_option, parse_dims
from onnxc.cli.tune import tune_first, tune_options


@click.command()
@click.argument("model", type=click.Path(dir_okay=False))
@click.option("--output", "-o", type=click.Path(dir_okay=False), help="The file to write.  [default: MODEL.onnxc]")
@click.option("--target", help="What to compile for: host, x86-64-v2, x86-64-v3, x86-64-v4, aarch64-neon, or a text as "
                               "`onnxc env` shows it.  [default: ONNXC_TARGET, else host]")
@tune_options
@dim_option
def command(model: str, output: str | None, target: str | None, tune: bool, tune_seconds: float,
            dims: tuple[str, ...]) -> None:
    """Compile MODEL to a file that runs without the compiler."""
    to = output or str(Path(model).with_suffix(".onnxc"))
    if tune:
        tune_first(model, target, parse_dims(dims), tune_seconds)
    elif dims:
        raise click.UsageError("--dim says for which sizes to tune; without --tune a compiled model is for all of them")
    start = time.perf_counter()
    with working(f"compiling {model}") as stage:
        compiled = onnxc.compile(model, to, target=target, hooks=[lambda name, module: stage(name)])
    click.echo(f"{to}: {os.path.getsize(to):,} bytes, {len(compiled.kernels)} kernels for {compiled.target}, "
               f"{time.perf_counter() - start:.2f} s")
