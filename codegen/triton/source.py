"""What emitting a kernel gives: its Triton source, and all that compiling and launching it need to know.

Imports no triton, so that sources can be made, printed and stored where it is not installed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from onnxc.codegen.schedule import Schedule
from onnxc.errors import NotImplemented
from onnxc.ir.dims import DimLike

__all__ = ["ERROR_LIMIT", "Argument", "KernelSource", "TritonUnsupported", "error_code"]

#: The error word holds 0, or this number less the smallest code recorded: so it starts at 0 and grows by atomic max.
ERROR_LIMIT = 2**31 - 1


class TritonUnsupported(NotImplemented):
    """The kernel asks for something that the Triton emitter does not have; the text names the op and the kernel."""


@dataclasses.dataclass(frozen=True, slots=True)
class Argument:
    """A parameter of the kernel, in order of the signature.

    `kind` is "mem" (`name` is the function's argument, by its position), "symbol" (a dim symbol's value), "error" (the
    i32 error word of the run) or "error_base" (the code of the kernel's first message). `type` is Triton's type text.
    """

    kind: str
    name: str
    type: str


@dataclasses.dataclass(frozen=True, slots=True)
class KernelSource:
    """A kernel's source text and its launch.

    `grid` is the number of programs (0: nothing to launch). The source is right only for symbol values with
    `symbol <= limits[symbol]` and `symbol % multiples[symbol] == 0`; with `index_bits` 32, only while no argument holds
    2**31 elements or more. Message i of `errors` has code error_base + i. Buffers start at multiples of 16 bytes.
    """

    name: str
    text: str
    arguments: tuple[Argument, ...]
    grid: DimLike
    schedule: Schedule
    errors: tuple[str, ...] = ()
    index_bits: int = 64
    limits: tuple[tuple[str, int], ...] = ()
    multiples: tuple[tuple[str, int], ...] = ()

    def parameters(self, addresses: Sequence[int], dims: Mapping[str, int], error: int = 0,
                   error_base: int = 0) -> list[tuple[str, int]]:
        """Type and value of each parameter of a launch. `addresses` are those of the memory arguments, `error` is that
        of the error word, which a kernel with messages needs."""
        memory = iter(addresses)
        values = {"error": error, "error_base": error_base}
        return [(a.type, next(memory) if a.kind == "mem" else dims[a.name] if a.kind == "symbol" else values[a.kind])
                for a in self.arguments]


def error_code(word: int) -> int | None:
    """The code that the error word of a finished run holds; None when there is no error."""
    return None if word == 0 else ERROR_LIMIT - word
