"""`onnxc env`: what there is to run with, and the settings in force."""

from __future__ import annotations

import platform
from importlib import metadata

import click

import onnxc
from onnxc.cli.console import print_table
from onnxc.config import config, settings
from onnxc.runtime.cache import open_cache
from onnxc.runtime.entries import RUN_ENTRIES, SESSION_ENTRIES
from onnxc.runtime.options import RunOptions, SessionOptions, documented
from onnxc.runtime.threads import default_threads

_PACKAGES = ("numpy", "ml_dtypes", "onnx", "llvmlite", "triton", "onnxruntime")


@click.command()
@click.option("--options", is_flag=True, help="Show what each of ONNX Runtime's options does here, instead.")
def command(options: bool) -> None:
    """Show versions, the processor that code is made for, and every setting."""
    if options:
        _show_options()
        return
    print_table(("package", "version"), [("onnxc", onnxc.__version__), ("python", platform.python_version()),
                                         *((name, _version(name)) for name in _PACKAGES)])
    click.echo(f"\nsystem   {platform.platform()}\nthreads  {default_threads()}\nhost     {_host()}\n"
               f"cache    {_cache()}\n")
    for setting in settings(config()):
        value = setting.value if setting.value not in (None, ()) else "unset"
        click.echo(f"{setting.variable} = {value}" + ("" if setting.value == setting.default else "  (changed)"))
        click.echo(f"    {setting.doc}")


def _show_options() -> None:
    parts = {"SessionOptions": documented(SessionOptions), "SessionOptions.add_session_config_entry": SESSION_ENTRIES,
             "RunOptions": documented(RunOptions), "RunOptions.add_run_config_entry": RUN_ENTRIES}
    for title, rows in parts.items():
        click.echo(f"{title}")
        for name, text in rows.items():
            click.echo(f"  {name}\n    {text}")


def _cache() -> str:
    cache = open_cache()
    if cache is None:
        return "off, or its folder is not there or not trusted"
    entries = cache.entries()
    return f"{cache.folder}, {len(entries)} entries of {sum(e.size for e in entries) / 2**20:.1f} MiB"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _host() -> str:
    try:
        from onnxc.codegen.llvm.target import Target
    except ImportError as error:
        return f"unknown without llvmlite ({error})"
    return str(Target.host())
