"""`onnxc ops`: the operators that can be compiled, and how many of ONNX's there are."""

from __future__ import annotations

from typing import Any

import click

from onnxc.cli.console import print_table

_DOMAINS = ("", "ai.onnx.ml")


@click.command()
@click.option("--coverage", is_flag=True, help="Also list the operators that ONNX defines and onnxc cannot compile.")
def command(coverage: bool) -> None:
    """List the operators that can be compiled.

    An operator has a lowering of its own ("lowering"), or ONNX defines it by others, which are compiled in its place
    ("function"). Some on texts, sequences and maps run in Python between native segments of a program ("host").
    """
    rows = [(domain or "ai.onnx", name, how) for (domain, name), how in sorted(_operators().items())]
    shown = rows if coverage else [row for row in rows if row[2] != "none"]
    print_table(("domain", "operator", "compiled by"), shown)
    for domain in dict.fromkeys(row[0] for row in rows):
        of_domain = [row for row in rows if row[0] == domain]
        done = sum(row[2] != "none" for row in of_domain)
        click.echo(f"{domain}: {done} of {len(of_domain)} operators, {done / len(of_domain):.0%}")


def _operators() -> dict[tuple[str, str], str]:
    """How each operator that onnxc compiles or ONNX defines (deprecated ones apart) is compiled."""
    from onnx import defs

    from onnxc.lowerings.table import LOWERINGS, lowering_of
    from onnxc.runtime.host_ops import HOST_OPS
    lowering_of("")         # loads the families
    found = {_key(name): "lowering" for name in LOWERINGS}
    schemas: Any = defs.get_all_schemas()       # the type stub lacks the functions
    for schema in schemas:
        if schema.domain in _DOMAINS and not schema.deprecated:
            body = schema.has_function or schema.has_context_dependent_function
            host = f"{schema.domain}.{schema.name}".lstrip(".") in HOST_OPS
            found.setdefault((schema.domain, schema.name), "host" if host else "function" if body else "none")
    return found


def _key(name: str) -> tuple[str, str]:
    domain, _, kind = name.rpartition(".")
    return domain, kind
