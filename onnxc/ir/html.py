"""The compilation of a model as one HTML page: a column for each stage, to be read from left to right.

The page needs no server and no network. Stages whose text is that of the stage before share its column. Which value
goes where is shown by colours that a click gives to a name, what a pass changed by shading; `assets/viewer.js` does
both. Here is what the page holds: all lines once, and for each column which of them it shows, with its rewrites.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from onnxc.ir.rewrite import RewriteLog

__all__ = ["Stage", "render_html", "write_html"]

_ASSETS = Path(__file__).parent / "assets"
_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>
{css}</style>
<style id="colours"></style>
</head>
<body>
<header><h1>{title}</h1><button id="show-all">show all</button><button id="hide-all">hide all</button>\
<span>click a title to show or hide its column, a %value or @name to colour it everywhere, Esc to clear</span></header>
<main id="columns"></main>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A column: the text after a pass with the log of its rewrites, or any other text (kernels, source, memory map)."""

    title: str
    text: str
    log: RewriteLog | None = None


def write_html(stages: Sequence[Stage], path: str | os.PathLike[str], title: str = "onnxc") -> None:
    """Write the page for `stages` to `path`."""
    Path(path).write_text(render_html(stages, title), encoding="ascii")


def render_html(stages: Sequence[Stage], title: str = "onnxc") -> str:
    """The page for `stages`, in ASCII; nothing that a stage holds can act as markup or script."""
    script = (_ASSETS / "viewer.js").read_text(encoding="ascii")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    css = (_ASSETS / "viewer.css").read_text(encoding="ascii")
    shown = html.escape(title).encode("ascii", "xmlcharrefreplace").decode()
    return _PAGE.format(policy=policy, title=shown, css=css, data=_as_data(_page_data(stages)), script=script)


def _as_data(value: Any) -> str:
    """JSON that cannot end the element that it stands in."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _page_data(stages: Sequence[Stage]) -> dict[str, Any]:
    numbers: dict[str, int] = {}
    columns = []
    for group in _equal_neighbours(stages):
        lines = group[0].text.rstrip("\n").split("\n")
        columns.append({
            "titles": [s.title for s in group],
            "lines": [numbers.setdefault(line, len(numbers)) for line in lines],
            "log": [row for s in group if s.log is not None for row in _log_rows(s.log)],
        })
    return {"lines": list(numbers), "columns": columns}


def _equal_neighbours(stages: Iterable[Stage]) -> list[list[Stage]]:
    groups: list[list[Stage]] = []
    for stage in stages:
        if groups and groups[-1][0].text == stage.text:
            groups[-1].append(stage)
        else:
            groups.append([stage])
    return groups


def _log_rows(log: RewriteLog) -> list[dict[str, Any]]:
    """A row a rule: how often it applied, at which serial numbers, and how many ops it refused for which reason."""
    rows = []
    for rule in dict.fromkeys([a.rule for a in log.applied] + [name for name, _ in log.refused]):
        applied = [a for a in log.applied if a.rule == rule]
        rows.append({
            "rule": rule,
            "place": applied[0].place if applied else "",
            "applied": len(applied),
            "serials": _ranges([a.serial for a in applied]),
            "refused": [[n, reason] for (name, reason), n in log.refused.most_common() if name == rule],
        })
    return rows


def _ranges(numbers: Sequence[int]) -> str:
    """`1-3, 7` for 1, 2, 3, 7."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1][1:] = [n]
        else:
            runs.append([n])
    return ", ".join("-".join(map(str, run)) for run in runs)
