"""Collects everything that is wrong with a model, so that one error can list it all."""

from __future__ import annotations

from onnxc.errors import OnnxcError

__all__ = ["Problems", "printable"]

_SHOWN = 20
_KEPT = 1000


class Problems:
    """A list of errors found so far; the first decides the class of the exception."""

    def __init__(self) -> None:
        self._found: dict[tuple[type[OnnxcError], str], None] = {}
        #: How often `add` was called.
        self.reported = 0

    def add(self, kind: type[OnnxcError], message: str) -> None:
        """Report an error; it is raised by `raise_if_any`."""
        self.reported += 1
        if len(self._found) < _KEPT:
            self._found.setdefault((kind, message))

    def raise_if_any(self) -> None:
        """Raise one exception with all messages, if there are any."""
        if not self._found:
            return
        kind = next(iter(self._found))[0]
        messages = [m for _, m in self._found]
        if len(messages) == 1:
            raise kind(messages[0])
        count = f"{len(messages)}{' or more' if len(messages) == _KEPT else ''}"
        lines = [f"The model has {count} errors:", *(f"  {m}" for m in messages[:_SHOWN])]
        if len(messages) > _SHOWN:
            lines.append(f"  and {len(messages) - _SHOWN} more")
        raise kind("\n".join(lines))


def printable(text: str, width: int = 200) -> str:
    """A name from a model as it may stand in a message: control characters escaped, cut to `width`."""
    cut = text if len(text) <= width else text[:width] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in cut)
