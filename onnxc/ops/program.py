"""Program-level ops (`p.*`): the host program, a list of steps over buffers; its text shows exactly what will happen.

`@main` of kind "program" takes the model's inputs and then its outputs as `mem<...>` arguments. Its attributes:
`symbols`, the dim symbols in the order in which their values are passed; `inputs`, how many arguments are inputs;
`guards`, a list of [kind, left, right, message] that must hold when a run starts ("eq": left == right; "broadcast":
left is 1 or right); `arena`, the bytes of the arena once memory is planned.

- `p.const {ref}`: a constant of the module, read only.
- `p.alloc {offset}`: a buffer in the arena, at a byte offset (a dim expression) once memory is planned.
- `p.view(%mem)`: the same bytes under another shape of the same size.
- `p.launch(%mem...) {kernel, writes}`: run a kernel; `writes` lists the operand positions that it stores to.
- `p.copy(%from, %to)`: copy all bytes of one buffer to another of the same size.

`caches` lists, as [input, output, axis, symbol, symbol], outputs that begin with an input and grow along an axis; the
two memories have room along it, which is the value of the one and the other symbol. The launch that takes these two
buffers alone copies the input; it is left out where both are the same memory. `rooms` lists the symbols with the dim
that is their value unless the caller says otherwise.

Run symbols get their value during the run; from then on everything reads them like other symbols. `run_symbols` of
`@main` lists them as [name, bound], the bound a dim over symbols before it (none: not known). Buffers have the real
dims; memory is planned for the bounds, and where there is none it comes from the heap as the run goes.

- `p.heap()`: a buffer from the heap, of the size that its dims have now; it lives until the run ends, or until the
  same step runs again.
- `p.give(%mem, %out)`: the contents of a buffer become an output for which nobody could make room before the run.
- `p.row(%mem) {at}`: row number `at` along the first axis, the same bytes.
- `p.loop(%mem...) {symbol, extent, conditional, count} (%mem...) {... yield(%mem...)}`: runs the region `extent`
  times, the symbol counting from 0. It carries buffers, not contents: the region takes the operands at first and what
  it yielded before after that; the results are what it yielded last. With `conditional` the first operand and the
  first of what is yielded are bool scalars that the region does not take: the loop ends when one is false. `count`,
  if not empty, is the run symbol that becomes the number of iterations.
- `p.if(%cond) () {... yield(%mem...)} () {... yield(%mem...)}`: runs one region; the results are the buffers it yields.
- `p.set {symbol, value}`: gives a run symbol the value of a dim.
- `p.read(%mem) {symbol, bound, message}`: gives a run symbol the value of an i32 or i64 scalar; below 0 or above the
  bound (if any) it ends the run with an error.
- `p.require {kind, left, right, message}`: a guard at this place; it ends the run with an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from onnxc.ir.core import Func, Op
from onnxc.ir.dims import Bounds, DimLike, Shape, product, sym, symbols_of
from onnxc.ir.registry import REQUIRED, TypeInferenceError, register
from onnxc.ir.types import BOOL, I32, I64, Mem, Type

__all__ = ["STEPS", "at_most", "copies_of_inputs", "most_elements"]

STEPS = ("p.launch", "p.copy", "p.give", "p.loop", "p.if", "p.set", "p.read", "p.require")
"""What a program does, as opposed to what it names."""


def at_most(d: DimLike, run_symbols: Sequence[tuple[str, DimLike | None]]) -> DimLike | None:
    """`d` with every run symbol at its bound; None where a bound is not known, or `d` does not simply grow or fall
    with it."""
    bounds = dict(run_symbols)
    if any(s in bounds and bounds[s] is None for s in symbols_of(d)):
        return None
    out = Bounds({s: b for s, b in bounds.items() if b is not None}).eliminate(d, lowest=False)
    return None if symbols_of(out) & bounds.keys() else out


def most_elements(shape: Shape, run_symbols: Sequence[tuple[str, DimLike | None]]) -> DimLike | None:
    """The most elements that a buffer of this shape can have, over the dims that a run starts with; None if not
    known."""
    dims = [at_most(d, run_symbols) for d in shape]
    return None if None in dims else product(d for d in dims if d is not None)


def copies_of_inputs(main: Func) -> set[Op]:
    """The launches that copy an input to the output that continues it (`caches`)."""
    caches: Any = main.attrs.get("caches") or ()
    inputs: Any = main.attrs.get("inputs") or 0
    pairs = [(main.args[c[0]], main.args[inputs + c[1]]) for c in caches]
    return {op for op in main.body.ops if op.name == "p.launch" and op.inputs in pairs}


def _row(types: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    mem = types[0]
    if not isinstance(mem, Mem) or not mem.shape or mem.dtype.bits < 8:
        raise TypeInferenceError(f"p.row of {mem}: rows are those of memory of rank 1 and more, of whole bytes")
    return [Mem(mem.dtype, mem.shape[1:])]


def _flag(op: Op, types: Sequence[Type], what: str) -> Iterator[str]:
    if not types or types[0] != Mem(BOOL, ()):
        yield f"{what} of {op.name} is no bool scalar in memory"


def _yields(op: Op, region: int, wanted: Sequence[Type]) -> Iterator[str]:
    last = op.regions[region].last
    found = [v.type for v in last.inputs] if last is not None and last.name == "yield" else []
    if found != list(wanted):
        yield f"region {region} of {op.name} yields ({', '.join(map(str, found))}), not ({', '.join(map(str, wanted))})"


def _loop(op: Op) -> Iterator[str]:
    given: list[Type] = [v.type for v in op.inputs]
    flags: list[Type] = [Mem(BOOL, ())] if op.attrs["conditional"] else []
    if flags:
        yield from _flag(op, given, "the condition")
    state = given[len(flags):]
    if [a.type for a in op.regions[0].args] != state or [r.type for r in op.results] != state:
        yield f"{op.name} carries ({', '.join(map(str, state))}), but its region or results are of other types"
    yield from _yields(op, 0, [*flags, *state])


def _if(op: Op) -> Iterator[str]:
    yield from _flag(op, [v.type for v in op.inputs], "the condition")
    for i, region in enumerate(op.regions):
        last = region.last
        found = [v.type for v in last.inputs] if last is not None and last.name == "yield" else []
        if region.args or [t.dtype for t in found if isinstance(t, Mem)] != [
                r.type.dtype for r in op.results if isinstance(r.type, Mem)]:
            yield f"region {i} of {op.name} has arguments, or does not yield what the op gives"


def _read(op: Op) -> Iterator[str]:
    t = op.operand(0).type
    if not isinstance(t, Mem) or t.dtype not in (I32, I64) or t.size != 1:
        yield f"{op.name} of {t}: a dim is one element of i32 or i64"
    sym(str(op.attrs["symbol"]))


register("p.const", "", attrs={"ref": REQUIRED}, traits="pure", doc="a constant buffer")
register("p.alloc", "", attrs={"offset": None}, traits="alloc", doc="a buffer in the arena")
register("p.view", "mem", traits="pure view", doc="the same bytes under another shape")
register("p.launch", "mems*", "", attrs={"kernel": REQUIRED, "writes": REQUIRED}, traits="write", doc="run a kernel")
register("p.copy", "source, target", "", traits="write", doc="copy a buffer")
register("p.heap", "", attrs={}, traits="alloc", doc="a buffer from the heap")
register("p.give", "source, target", "", traits="write", doc="the contents of a buffer become an output")
register("p.row", "mem", attrs={"at": REQUIRED}, traits="pure view", infer=_row, doc="one row of a buffer, in place")
register("p.loop", "mems*", "results*",
         attrs={"symbol": REQUIRED, "extent": REQUIRED, "conditional": False, "count": ""}, traits="control",
         regions=1, check=_loop, doc="run a region again and again")
register("p.if", "cond", "results*", traits="control", regions=2, check=_if, doc="run one of two regions")
register("p.set", "", "", attrs={"symbol": REQUIRED, "value": REQUIRED}, traits="write",
         doc="give a run symbol its value")
register("p.read", "mem", "", attrs={"symbol": REQUIRED, "bound": None, "message": ""}, traits="write", check=_read,
         doc="make an element of memory a run symbol")
register("p.require", "", "", attrs={"kind": "eq", "left": REQUIRED, "right": REQUIRED, "message": ""}, traits="write",
         doc="end the run with an error unless the guard holds")
register("return", "values*", "", traits="terminator", doc="end of a function, with its results")
register("yield", "values*", "", traits="terminator", doc="end of a region, with its results")
