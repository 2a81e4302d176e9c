"""Native code of the program's loops, branches and run symbols.

A run symbol has a slot in the table of symbols, behind those of the inputs: what gives it a value writes the slot, for
kernels, and notes the value, for the program itself. The table belongs to one run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from llvmlite import ir

from onnxc.codegen.llvm import abi
from onnxc.codegen.llvm.abi import I32, I64, PTR
from onnxc.codegen.llvm.dims import CheckedDims, DimEmitter, constant
from onnxc.ir.core import Block, Op, Value
from onnxc.ir.dims import DimLike
from onnxc.ir.types import I32 as ELEMENT_I32
from onnxc.ir.types import Mem

__all__ = ["Run", "makers"]


class Run(Protocol):
    """What is needed of the emitter of a run."""

    b: ir.IRBuilder
    buffers: dict[Value, ir.Value]
    values: dict[str, ir.Value]

    @property
    def dim(self) -> DimEmitter: ...
    def define(self, symbol: str, value: ir.Value) -> None: ...
    def recall(self, symbol: str) -> None: ...
    def block(self, block: Block) -> list[Value]: ...
    def leave_if_cancelled(self) -> None: ...
    def fail(self, message: str) -> None: ...


def makers(run: Run) -> dict[str, Callable[[Op], None]]:
    """What emits each op."""
    return {"p.loop": lambda op: _loop(run, op), "p.if": lambda op: _if(run, op), "p.row": lambda op: _row(run, op),
            "p.set": lambda op: _set(run, op), "p.read": lambda op: _read(run, op),
            "p.require": lambda op: _require(run, op)}


def _flag(run: Run, mem: Value) -> ir.Value:
    """The bool scalar in a buffer."""
    return run.b.icmp_unsigned("!=", run.b.load(run.buffers[mem], typ=abi.I8), ir.Constant(abi.I8, 0))


def _row(run: Run, op: Op) -> None:
    mem = op.result.type
    assert isinstance(mem, Mem)
    offset = run.b.mul(run.dim(op.attrs["at"]), run.dim(mem.nbytes))  # type: ignore[arg-type]
    run.buffers[op.result] = run.b.gep(run.buffers[op.operand(0)], [offset], source_etype=abi.I8)


def _loop(run: Run, op: Op) -> None:
    b, region = run.b, op.regions[0]
    conditional = bool(op.attrs["conditional"])
    state = op.inputs[int(conditional):]
    extent = _checked(run, op.attrs["extent"])  # type: ignore[arg-type]
    before = b.block
    first_flag = _flag(run, op.operand(0)) if conditional else None
    head, body, done = (b.function.append_basic_block(f"loop.{part}") for part in ("head", "body", "done"))
    b.branch(head)
    b.position_at_end(head)
    position = b.phi(I64, "iteration")
    position.add_incoming(constant(0), before)
    buffers = [b.phi(PTR) for _ in state]
    for phi, v in zip(buffers, state, strict=True):
        phi.add_incoming(run.buffers[v], before)
    flag = b.phi(abi.I1) if first_flag is not None else None
    runs = b.icmp_signed("<", position, extent)
    if flag is not None:
        flag.add_incoming(first_flag, before)
        runs = b.and_(runs, flag)
    b.cbranch(runs, body, done)
    b.position_at_end(body)
    run.leave_if_cancelled()
    run.define(str(op.attrs["symbol"]), position)
    run.buffers.update(zip(region.args, buffers, strict=True))
    yielded = run.block(region)
    following = b.add(position, constant(1))
    position.add_incoming(following, b.block)
    if flag is not None:
        again = _flag(run, yielded[0])
        flag.add_incoming(again, b.block)
    for phi, v in zip(buffers, yielded[int(conditional):], strict=True):
        phi.add_incoming(run.buffers[v], b.block)
    b.branch(head)
    b.position_at_end(done)
    run.buffers.update(zip(op.results, buffers, strict=True))
    if op.attrs["count"]:
        run.define(str(op.attrs["count"]), position)


def _if(run: Run, op: Op) -> None:
    b = run.b
    blocks = [b.function.append_basic_block(f"if.{part}") for part in ("then", "else", "done")]
    b.cbranch(_flag(run, op.operand(0)), blocks[0], blocks[1])
    given: list[tuple[list[ir.Value], ir.Block]] = []
    for region, block in zip(op.regions, blocks, strict=False):
        b.position_at_end(block)
        given.append(([run.buffers[v] for v in run.block(region)], b.block))
        b.branch(blocks[2])
    b.position_at_end(blocks[2])
    for i, result in enumerate(op.results):
        phi = b.phi(PTR)
        for values, block in given:
            phi.add_incoming(values[i], block)
        run.buffers[result] = phi
    for inner in op.regions[0].ops:
        if inner.name == "p.set":
            run.recall(str(inner.attrs["symbol"]))


def _set(run: Run, op: Op) -> None:
    run.define(str(op.attrs["symbol"]), _checked(run, op.attrs["value"]))  # type: ignore[arg-type]


def _checked(run: Run, d: DimLike) -> ir.Value:
    """The value of a dim; a run ends where it does not fit an i64."""
    dim = CheckedDims(run.b, run.values)
    value = dim(d)
    with run.b.if_then(dim.failed, likely=False):
        run.fail(f"a size of {d} does not fit into memory")
    return value


def _read(run: Run, op: Op) -> None:
    b, mem = run.b, op.operand(0)
    assert isinstance(mem.type, Mem)
    narrow = mem.type.dtype == ELEMENT_I32
    value = b.load(run.buffers[mem], typ=I32 if narrow else I64)
    value = b.sext(value, I64) if narrow else value
    wrong = b.icmp_signed("<", value, constant(0))
    bound = op.attrs["bound"]
    if bound is not None:
        wrong = b.or_(wrong, b.icmp_signed(">", value, run.dim(bound)))  # type: ignore[arg-type]
    with b.if_then(wrong, likely=False):
        run.fail(str(op.attrs["message"]))
    run.define(str(op.attrs["symbol"]), value)


def _require(run: Run, op: Op) -> None:
    b = run.b
    dim = CheckedDims(b, run.values)        # sizes that are equal only after wrapping around are not
    left, right = dim(op.attrs["left"]), dim(op.attrs["right"])  # type: ignore[arg-type]
    wrong = b.icmp_signed("!=", left, right)
    if op.attrs["kind"] == "broadcast":
        wrong = b.and_(wrong, b.icmp_signed("!=", left, constant(1)))
    with b.if_then(b.or_(wrong, dim.failed), likely=False):
        run.fail(str(op.attrs["message"]))
