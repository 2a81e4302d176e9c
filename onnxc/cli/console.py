"""What verbs share to show things: tables on standard output, progress on standard error."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["print_table", "working"]

_PATIENCE = 1.0     # seconds without a word


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None) -> None:
    """A table with texts to the left and numbers to the right; as wide as its content where output is no terminal."""
    console = Console(width=None if Console().is_terminal else 10_000)
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for i, name in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[i], (int, float)) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        table.add_row(*[_plain(cell) for cell in row])
    console.print(table)


def _plain(cell: object) -> Text:
    """A cell as text; control characters, which names in a model may hold, are escaped."""
    text = f"{cell:,.3f}" if isinstance(cell, float) else "" if cell is None else str(cell)
    return Text("".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text))


@contextlib.contextmanager
def working(what: str) -> Iterator[Callable[[str], None]]:
    """Says what is being done when it takes over a second. Gives a function that refines it: the stage under way."""
    console = Console(stderr=True)
    status = console.status(what)
    lock, state = threading.Lock(), {"text": what, "shown": False, "over": False}

    def show() -> None:
        with lock:
            if state["over"]:
                return
            state["shown"] = True
            if console.is_terminal:
                status.update(str(state["text"]))
                status.start()
            else:
                console.print(f"{state['text']} ...", markup=False, highlight=False)

    def refine(stage: str) -> None:
        with lock:
            state["text"] = f"{what}: {stage}"
            if state["shown"] and console.is_terminal:
                status.update(str(state["text"]))

    timer = threading.Timer(_PATIENCE, show)
    timer.daemon = True
    timer.start()
    try:
        yield refine
    finally:
        timer.cancel()
        with lock:
            state["over"] = True
            status.stop()
