"""Steps of the host program that are no launches: loops, branches, and dims read out of data.

A loop carries buffers, not contents. What an iteration computes for the next one goes to a buffer that nothing reads
any more: a carried value has its first buffer and two more that take turns, or none of its own where what is yielded
stands still in memory anyway (a row of a stacked result, a value from outside of the loop).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from onnxc.ir.core import Block, Op, Value
from onnxc.ir.dims import sym
from onnxc.ir.types import BOOL, Mem, Tensor
from onnxc.ops.control import carried_of

__all__ = ["Program", "emit_step", "writes_to_target"]


class Program(Protocol):
    """What steps need of the program under construction (`to_kernel`)."""

    block: Block
    buffers: dict[Value, Value]
    targets: dict[Value, Value]

    def emit(self, name: str, operands: list[Value], types: list[Mem], attrs: dict, loc: str = "",
             label: str = "") -> Op: ...
    def alloc(self, mem: Mem, label: str) -> Value: ...
    def buffer(self, v: Value) -> Value: ...
    def result_buffer(self, v: Value) -> Value: ...
    def view(self, v: Value, want: Mem) -> Value: ...
    def steps(self, block: Block) -> None: ...


def emit_step(program: Program, op: Op) -> None:
    """The steps of one op with the trait "step"."""
    emitters = {"t.loop": _loop, "t.if": _if, "t.read_dim": _read_dim, "t.require": _require}
    if op.name not in emitters:
        raise ValueError(f"{op.name} of '{op.loc}' has no form as a step of a program")
    emitters[op.name](program, op)


def writes_to_target(v: Value) -> bool:
    """Whether what makes `v` can write to a buffer that is given: a kernel, or a loop for the rows that it stacks."""
    op = v.op
    return op is not None and (op.name == "t.fused" or (op.name == "t.loop" and v.index >= carried_of(op)))


def _mem(v: Value) -> Mem:
    assert isinstance(v.type, Tensor)
    return Mem(v.tensor.dtype, v.dims)


def _source(v: Value) -> Value:
    """The value of which `v` is a reshape."""
    while v.op is not None and v.op.name == "t.reshape":
        v = v.op.operand(0)
    return v


def _constants(program: Program, block: Block) -> None:
    """Name the constants that a region reads from memory in front of it."""
    for op in block.ops:
        if op.name == "t.const" and op.result.uses:
            program.buffer(op.result)
        if op.name != "t.fused":
            for region in op.regions:
                _constants(program, region)


# ---- loops ---------------------------------------------------------------------------------------------------------
def _loop(program: Program, op: Op) -> None:
    region, n = op.regions[0], carried_of(op)
    flags = [program.buffer(v) for v in op.inputs[:1]] if op.attr("conditional") else []
    operands = op.inputs[len(flags):]
    for arg, v in zip(region.args[n:], operands[n:], strict=True):
        program.buffers[arg] = program.buffer(v)
    _constants(program, region)
    stacked = [program.result_buffer(r) for r in op.results[n:]]
    yielded = list(region.terminator.inputs)
    state = [_Carried(program, region, region.args[i], v, yielded[len(flags) + i]) for i, v in enumerate(operands[:n])]
    body = Block()
    outer, program.block = program.block, body
    rows = _targets(program, op, stacked, yielded[len(flags) + n:])
    for c in state:
        c.open(body)
    program.steps(region)
    _fill_rows(program, rows)
    goes_on = [program.view(v, Mem(BOOL, ())) for v in yielded[:len(flags)]]
    body.append(Op("yield", [*goes_on, *(v for c in state for v in c.close())]))
    program.block = outer
    first = [*flags, *(v for c in state for v in c.first)]
    count = op.attr("defines")[0] if op.attr("defines") else ""
    loop = Op("p.loop", first, [v.type for v in first[len(flags):]], {
        "symbol": op.attr("symbol"), "extent": op.attr("extent"), "conditional": bool(flags), "count": count},
        [body], op.loc,
        [name for c, r in zip(state, op.results, strict=False) for name in (r.name, "", "")[:len(c.first)]])
    outer.append(loop)
    results = iter(loop.results)
    for c, r in zip(state, op.results, strict=False):
        program.buffers[r], *_ = [next(results) for _ in c.first]


def _targets(program: Program, op: Op, stacked: Sequence[Value], yielded: Sequence[Value]) -> list[tuple[Value, Value]]:
    """The rows of this iteration, with what has to get into each; kernels of the region write to them directly."""
    out = []
    for mem, v in zip(stacked, yielded, strict=True):
        assert isinstance(mem.type, Mem)
        row = program.emit("p.row", [mem], [Mem(mem.mem.dtype, mem.mem.shape[1:])],
                           {"at": sym(str(op.attr("symbol")))}, label=f"{mem.name}.row").result
        source = _source(v)
        if _made_here(source, op.regions[0]) and source not in program.targets:
            program.targets[source] = row
        out.append((v, row))
    return out


def _made_here(v: Value, region: Block) -> bool:
    return writes_to_target(v) and v.op is not None and v.op.block is region


def _fill_rows(program: Program, rows: Sequence[tuple[Value, Value]]) -> None:
    for v, row in rows:
        if program.targets.get(_source(v)) is not row:
            assert isinstance(row.type, Mem)
            program.emit("p.copy", [program.view(v, row.type), row], [], {})


class _Carried:
    """A value that a loop carries: its buffers before, in and after an iteration."""

    def __init__(self, program: Program, region: Block, arg: Value, init: Value, following: Value) -> None:
        self.program, self.region, self.arg, self.following = program, region, arg, following
        self.type = _mem(arg)
        self.first = [program.buffer(init)]
        source = _source(following)
        self.stands_still = source is arg or self._outside(source) or self._is_row(source)
        if not self.stands_still:
            self.first += [program.alloc(self.type, arg.name) for _ in range(2)]
        self.current: list[Value] = []

    def _outside(self, source: Value) -> bool:
        """Whether it is memory that the loop does not write: a constant, or a value from outside."""
        parent = self.region.parent
        carried = carried_of(parent) if isinstance(parent, Op) else 0
        return (source.op is not None and source.op.name == "t.const") or \
            (source.owner is self.region and source.index >= carried)

    def _is_row(self, source: Value) -> bool:
        """Whether a kernel writes it to a row of a stacked result."""
        parent = self.region.parent
        assert isinstance(parent, Op)
        start = int(bool(parent.attr("conditional"))) + carried_of(parent)
        return _made_here(source, self.region) and any(
            _source(v) is source for v in self.region.terminator.inputs[start:])

    def open(self, body: Block) -> None:
        """Give the region its arguments, and the kernel that computes the following value its target."""
        names = (self.arg.name, "", "")
        self.current = [body.add_arg(v.type, name) for v, name in zip(self.first, names, strict=False)]
        self.program.buffers[self.arg] = self.current[0]
        source = _source(self.following)
        self.writes = not self.stands_still and _made_here(source, self.region) and source not in self.program.targets
        if self.writes:
            self.program.targets[source] = self.current[1]

    def close(self) -> list[Value]:
        """What the region yields for this value."""
        if self.stands_still:
            return [self.program.view(self.following, self.type)]
        _, following, other = self.current
        if not self.writes:
            self.program.emit("p.copy", [self.program.view(self.following, self.type), following], [], {})
        return [following, other, following]


# ---- branches ------------------------------------------------------------------------------------------------------
def _if(program: Program, op: Op) -> None:
    cond = program.view(op.operand(0), Mem(BOOL, ()))
    blocks = []
    for region in op.regions:
        for arg, v in zip(region.args, op.inputs[1:], strict=True):
            program.buffers[arg] = program.buffer(v)
        _constants(program, region)
    for region in op.regions:
        outer, program.block = program.block, Block()
        program.steps(region)
        given = region.terminator.inputs
        _set_sizes(program, op, given)
        program.block.append(Op("yield", [program.buffer(v) for v in given]))
        blocks.append(program.block)
        program.block = outer
    branch = Op("p.if", [cond], [_mem(r) for r in op.results], {}, blocks, op.loc, [r.name for r in op.results])
    program.block.append(branch)
    program.buffers.update(zip(op.results, branch.results, strict=True))


def _set_sizes(program: Program, op: Op, given: Sequence[Value]) -> None:
    attrs: dict[str, Any] = op.attrs
    for name, (i, axis) in zip(attrs["defines"], attrs["sizes"], strict=True):
        program.emit("p.set", [], [], {"symbol": name, "value": _mem(given[i]).shape[axis]})


# ---- dims out of data ----------------------------------------------------------------------------------------------
def _read_dim(program: Program, op: Op) -> None:
    (name,), (bound,) = op.attr("defines"), op.attr("bounds")
    program.emit("p.read", [program.buffer(op.operand(0))], [], {"symbol": name, "bound": bound,
                                                                 "message": op.attr("message")}, op.loc)


def _require(program: Program, op: Op) -> None:
    program.emit("p.require", [], [], dict(op.attrs), op.loc)
