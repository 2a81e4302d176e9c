"""Kernel IR to Triton source: the kernel's frame (parameters, grid, program ids), and the dispatch of its ops.

A program of the grid runs one block of outer points. Equal expressions get one name, so rows that fit a block are
loaded and computed once, however many loops read them. How fast a kernel is, its schedule decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from onnxc.codegen.schedule import Schedule
from onnxc.codegen.triton.context import Context
from onnxc.codegen.triton.contract import emit_contract
from onnxc.codegen.triton.dtypes import pointer_type
from onnxc.codegen.triton.heuristics import schedule_kernel
from onnxc.codegen.triton.loops import emit_reduce, emit_scan, emit_sweep
from onnxc.codegen.triton.memory import emit_index, emit_load, emit_require, emit_store, needs_order
from onnxc.codegen.triton.nests import emit_program_ids, groups_of, run_nest
from onnxc.codegen.triton.scalars import emit_scalar
from onnxc.codegen.triton.source import Argument, KernelSource
from onnxc.codegen.triton.text import Val
from onnxc.ir.core import Block, Func, Op
from onnxc.ir.dims import DimLike
from onnxc.ir.types import I32, I64, Mem

__all__ = ["emit_kernel", "offset_bits"]

_HEADER = '''import triton
import triton.language as tl
'''


def offset_bits(func: Func) -> int:
    """Bits that offsets into the kernel's arguments need, as far as their shapes say: 32 or 64."""
    sizes = [v.type.size for v in func.args if isinstance(v.type, Mem)]
    return 32 if all(isinstance(s, int) and s < 2**31 for s in sizes) else 64


def emit_kernel(func: Func, schedule: Schedule | None = None, *, index_bits: int | None = None,
                limits: Mapping[str, int] | None = None, multiples: Mapping[str, int] | None = None,
                tf32: bool = False) -> KernelSource:
    """The Triton source of a kernel function.

    `schedule` is the heuristics' when None. `limits` (greatest values) and `multiples` (divisors, of which 16 counts)
    of symbols specialise the source: whoever launches it keeps to them. `index_bits` 32 makes offsets i32, for
    arguments of fewer than 2**31 elements; None takes what the shapes prove. `tf32` lets contractions of f32 use tensor
    cores, which read 10 bits of the fraction. TritonUnsupported where there is no form.
    """
    limits, multiples = dict(limits or {}), dict(multiples or {})
    bits = index_bits if index_bits is not None else offset_bits(func)
    schedule = schedule if schedule is not None else schedule_kernel(func, limits, multiples, bits)
    ctx = Context(func, I32 if bits == 32 else I64, limits)
    ctx.tf32 = tf32
    ctx.run_block = dispatch = _Dispatch(schedule)
    for k, arg in enumerate(func.args):
        ctx.memory[arg] = f"m{k}_{_identifier(arg.name)}"
    ctx.written = {op.operand(0) for op in func.walk() if op.name == "k.store"}
    ctx.serial = any(op.name == "k.store" and needs_order(op) for op in func.walk())
    grid = _emit_body(ctx, func, schedule, dispatch)
    return _assemble(ctx, func, schedule, grid, bits, limits, multiples)


class _Dispatch:
    """Runs the ops of a block; gives the values that it yields."""

    def __init__(self, schedule: Schedule) -> None:
        self.blocks = dict(schedule.blocks)
        self.loops: dict[str, Callable[[Context, Op, Mapping[str, int]], None]] = {
            "k.reduce": emit_reduce, "k.scan": emit_scan, "k.sweep": emit_sweep}
        self.plain: dict[str, Callable[[Context, Op], None]] = {
            "k.load": emit_load, "k.store": emit_store, "k.index": emit_index, "k.require": emit_require}

    def __call__(self, ctx: Context, block: Block) -> list[Val]:
        for op in block.ops:
            if op.name == "yield":
                return [ctx.get(v) for v in op.inputs]
            self.op(ctx, op)
        return []

    def op(self, ctx: Context, op: Op) -> None:
        if op.name.startswith("s."):
            emit_scalar(ctx, op)
        elif op.name in self.loops:
            self.loops[op.name](ctx, op, {} if ctx.serial else self.blocks)
        elif op.name in self.plain:
            self.plain[op.name](ctx, op)
        else:
            raise ctx.unsupported(op, "it has no Triton form here")


def _emit_body(ctx: Context, func: Func, schedule: Schedule, dispatch: _Dispatch) -> DimLike:
    """Emit the function's ops; the grid of the launch."""
    grid: DimLike = 1
    frames = 0
    for op in func.body.ops:
        if op.name in ("k.parallel", "k.contract"):
            frames += 1
            if frames > 1:
                raise ctx.unsupported(op, "a kernel has one k.parallel or one k.contract")
        if op.name == "k.parallel":
            grid = _emit_parallel(ctx, op, schedule)
        elif op.name == "k.contract":
            grid = emit_contract(ctx, op, schedule)
        elif op.name not in ("return", "yield"):
            dispatch.op(ctx, op)
    return grid


def _emit_parallel(ctx: Context, op: Op, schedule: Schedule) -> DimLike:
    attrs: dict[str, Any] = op.attrs
    blocks = {} if ctx.serial else dict(schedule.blocks)
    groups = groups_of(attrs["axes"], attrs["extents"], blocks)
    inner = 0 if ctx.serial else _deepest(op.regions[0], blocks)
    ctx.blocks = [1] * (sum(g.block > 1 for g in groups) + inner)

    def body() -> None:
        ctx.run_block(ctx, op.regions[0])

    if ctx.serial:                                          # points that may meet, in order, by one program
        run_nest(ctx, groups, body)
        return 1
    grid = emit_program_ids(ctx, groups)
    body()
    return grid


def _deepest(block: Block, blocks: Mapping[str, int]) -> int:
    """How many dims of the tile the loops in a block own at once, at most."""
    most = 0
    for op in block.ops:
        if op.name in ("k.reduce", "k.sweep"):
            groups = groups_of(op.attrs["axes"], op.attrs["extents"], blocks)  # type: ignore[arg-type]
            own = sum(g.block > 1 for g in groups)
        elif op.name == "k.scan":
            own = int(blocks.get(str(op.attrs["axis"]), 1) > 1)
        else:
            continue
        most = max(most, own + max((_deepest(r, blocks) for r in op.regions), default=0))
    return most


def _identifier(name: str) -> str:
    """A piece of an identifier out of any text."""
    kept = "".join(c if c.isascii() and c.isalnum() else "_" for c in name)[:40]
    return kept or "_"


def _assemble(ctx: Context, func: Func, schedule: Schedule, grid: DimLike, bits: int, limits: Mapping[str, int],
              multiples: Mapping[str, int]) -> KernelSource:
    """The whole source: device functions, signature, constants, body."""
    word = "i32" if bits == 32 else "i64"
    arguments = [Argument("mem", ctx.memory[v], pointer_type(v.type.dtype)) for v in func.args
                 if isinstance(v.type, Mem)]
    arguments += [Argument("symbol", symbol, word) for symbol in ctx.symbols]
    parameters = [*ctx.memory.values(), *ctx.symbols.values()]
    if ctx.errors:
        arguments += [Argument("error", "error", "*i32"), Argument("error_base", "error_base", "i32")]
        parameters += ["error", "error_base"]
    name = "k_" + _identifier(func.name)
    parts = [_HEADER]
    parts += [f"@triton.jit\n{ctx.helpers[helper]}" for helper in sorted(ctx.helpers)]
    constants = [f"    {constant} = {text}" for text, constant in ctx.constants.items()]
    body = [*constants, *ctx.writer.lines] or ["    pass"]
    parts.append("\n".join(["@triton.jit", f"def {name}({', '.join(parameters)}):", *body]) + "\n")
    return KernelSource(name, "\n\n".join(parts), tuple(arguments), grid, schedule, tuple(ctx.errors), bits,
                        tuple(sorted(limits.items())), tuple(sorted(multiples.items())))
