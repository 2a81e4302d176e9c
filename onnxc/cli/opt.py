"""`onnxc opt`: text of the IR in, named passes, text out."""

from __future__ import annotations

from typing import Any, TextIO

import click

from onnxc.cli.console import working


@click.command()
@click.argument("file", type=click.File("r"))
@click.option("--passes", "-p", "names", default="", metavar="NAME,...", help="Passes to run, in this order.")
@click.option("--output", "-o", type=click.File("w"), default="-", help="The file to write, or - for standard output.")
@click.option("--target", help="What schedules are for.  [default: ONNXC_TARGET, else host]")
@click.option("--list", "listed", is_flag=True, expose_value=False, is_eager=True,
              callback=lambda ctx, _, value: _list(ctx) if value else None, help="List the passes and end.")
@click.option("--log", is_flag=True, help="Print the rewrites of each pass on standard error.")
def command(file: TextIO, names: str, output: TextIO, target: str | None,
            log: bool) -> None:
    """Run passes on FILE ('-' is standard input), a module in the IR's text form."""
    from onnxc import driver
    from onnxc.ir.parser import parse_module
    from onnxc.ir.printer import print_module
    from onnxc.ir.verify import verify
    from onnxc.ops import load_all
    from onnxc.passes import pipeline
    load_all()
    module = parse_module(file.read())
    verify(module)
    chosen = pipeline.passes_named([name.strip() for name in names.split(",") if name.strip()])
    options = driver.CompileOptions.from_config(**({} if target is None else {"target": target}))
    context = driver.pass_context(options)
    with working("running passes") as say:
        def after(name: str, changed: Any) -> None:
            say(name)
            verify(changed)

        pipeline.run(module, context, chosen, hooks=[after])
    output.write(print_module(module, inline=True))
    if log:
        click.echo(str(context.log), err=True)


def _list(ctx: click.Context) -> None:
    from onnxc.cli.console import print_table
    from onnxc.passes.pipeline import PIPELINE
    print_table(("pass", "level", "required", "why it stands there"),
                [(p.name, p.level, "yes" if p.required else "", p.why) for p in PIPELINE])
    ctx.exit()
