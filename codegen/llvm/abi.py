"""The calling convention between a compiled program, its kernels and the thread pool.

A kernel is `void (ptr frame, i64 begin, i64 end, i64 thread)`: it runs jobs [begin, end) of one launch on one thread.
The frame and the context are arrays of 8-byte slots; this module owns which slot holds what, and nothing else does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llvmlite import ir

from onnxc.errors import NotImplemented
from onnxc.ir.dims import DimLike, ceildiv

I1, I8, I16, I32, I64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))
PTR = ir.PointerType()
VOID = ir.VoidType()

FRAME_SYMBOLS = 0
"""Pointer to the i64 values of the program's symbols."""
FRAME_CONTEXT = 1
"""Pointer to the context."""
FRAME_SCRATCH = 2
"""Pointer to the launch's scratch; thread t owns the bytes from `t * scratch` on."""
FRAME_MEMORY = 3
"""Pointers to the kernel's memory arguments, in order, from here on."""

CONTEXT_POOL = 0
"""The thread pool, or null."""
CONTEXT_CANCEL = 1
"""Pointer to the i32 word that is non-zero when the run shall stop."""
CONTEXT_ERROR = 2
"""i64: 0, or 1 + the smallest error code that was recorded."""
CONTEXT_PROFILE = 3
"""Null, or a pointer to two i64 times in nanoseconds for each step: before and after it."""
CONTEXT_SLOTS = 4

SLOT_BYTES = 8
SCRATCH_ALIGN = 64
"""Alignment of the arena, of scratch, and of every thread's piece of it."""


def aligned(size: DimLike) -> DimLike:
    """`size` bytes, rounded up so that what follows them is aligned."""
    return ceildiv(size, SCRATCH_ALIGN) * SCRATCH_ALIGN


KERNEL_TYPE = ir.FunctionType(VOID, [PTR, I64, I64, I64])
FAIL_TYPE = ir.FunctionType(VOID, [PTR, I64])
FAIL = "onnxc_fail"


class KernelError(NotImplemented):
    """A kernel or program that this backend cannot emit; the text says which op, why, and what would do."""


@dataclass(frozen=True)
class KernelCode:
    """An emitted kernel and what its caller needs to launch it.

    `total` jobs are handed out at least `grain` at a time; a thread needs `scratch` bytes. All are dims over symbols.
    """

    function: ir.Function
    total: DimLike
    grain: DimLike
    scratch: DimLike


def load_slot(builder: ir.IRBuilder, base: ir.Value, slot: int, type: ir.Type = PTR) -> ir.Value:
    """The content of a slot of a frame or context."""
    return builder.load(slot_pointer(builder, base, slot), typ=type, align=SLOT_BYTES)


def slot_pointer(builder: ir.IRBuilder, base: ir.Value, slot: int) -> ir.Value:
    """The address of a slot of a frame or context."""
    return builder.gep(base, [ir.Constant(I64, slot)], inbounds=True, source_etype=I64)


def stack_slots(builder: ir.IRBuilder, count: int) -> ir.Value:
    """An array of slots on the stack; to be called in the function's entry block."""
    slots = builder.alloca(ir.ArrayType(I64, count))
    slots.type = PTR                # llvmlite types it by its content, and then refuses to use it as plain memory
    return slots


def load_symbols(builder: ir.IRBuilder, table: ir.Value, order: Sequence[str],
                 wanted: frozenset[str]) -> dict[str, ir.Value]:
    """The values of the `wanted` symbols out of the table whose order is `order`."""
    return {name: load_slot(builder, table, i, I64) for i, name in enumerate(order) if name in wanted}


def fail_function(module: ir.Module) -> ir.Function:
    """`void onnxc_fail(ptr context, i64 code)`: records an error; of several, the smallest code stays."""
    found = module.globals.get(FAIL)
    if found is not None:
        return found
    function = ir.Function(module, FAIL_TYPE, FAIL)
    function.linkage = "internal"
    function.attributes.add("noinline")
    function.attributes.add("cold")
    context, code = function.args
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    word = slot_pointer(builder, context, CONTEXT_ERROR)
    wanted = builder.add(code, ir.Constant(I64, 1))
    first = builder.load_atomic(word, "monotonic", SLOT_BYTES, typ=I64)
    again, swap, done = (function.append_basic_block(n) for n in ("again", "swap", "done"))
    entry = builder.block
    builder.branch(again)
    builder.position_at_end(again)
    seen = builder.phi(I64)
    seen.add_incoming(first, entry)
    free = builder.icmp_unsigned("==", seen, ir.Constant(I64, 0))
    builder.cbranch(builder.or_(free, builder.icmp_unsigned("<", wanted, seen)), swap, done)
    builder.position_at_end(swap)
    result = builder.cmpxchg(word, seen, wanted, "monotonic", "monotonic")
    seen.add_incoming(builder.extract_value(result, 0), swap)
    builder.cbranch(builder.extract_value(result, 1), done, again)
    builder.position_at_end(done)
    builder.ret_void()
    return function
