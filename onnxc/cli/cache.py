"""`onnxc cache`: what the compile cache holds, and emptying it."""

from __future__ import annotations

import datetime

import click

from onnxc.cli.console import print_table
from onnxc.runtime.cache import open_cache


@click.command()
@click.option("--list", "listing", is_flag=True, help="Show every entry, the longest unused first.")
@click.option("--clear", is_flag=True, help="Remove every entry. Sessions that are open keep theirs.")
def command(listing: bool, clear: bool) -> None:
    """Show the folder of compiled models and its size, list its entries, or remove them."""
    cache = open_cache()
    if cache is None:
        click.echo("The compile cache is off, or its folder is not there or not trusted (see ONNXC_CACHE).")
        return
    entries = cache.entries()
    if listing and entries:
        print_table(("entry", "MiB", "last used"), [
            (e.path.stem, e.size / 2**20, datetime.datetime.fromtimestamp(e.used).isoformat(" ", "seconds"))
            for e in entries])
    size = sum(e.size for e in entries)
    if not clear:
        click.echo(f"{cache.folder}: {len(entries)} entries, {size / 2**20:.1f} of {cache.most_bytes / 2**20:.0f} MiB")
    elif not cache.writable:
        raise click.UsageError("ONNXC_CACHE=ro: the cache is only read.")
    else:
        click.echo(f"{cache.folder}: removed {cache.clear()} entries, {size / 2**20:.1f} MiB")
