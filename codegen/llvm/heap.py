"""Memory whose size is only known as the run goes: native code takes it from the heap, and gives it back when the run
ends.

`onnxc_run` keeps one slot for each p.heap, and one for the scratch of a launch. A step that runs again frees what it
took before. Outputs of that kind are the caller's: it finds their address in the table of outputs, and has to free
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from llvmlite import ir

from onnxc.codegen.llvm import abi
from onnxc.codegen.llvm.abi import I64, PTR, VOID
from onnxc.codegen.llvm.dims import CheckedDims, constant
from onnxc.codegen.llvm.intrinsics import intrinsic
from onnxc.ir.core import Value
from onnxc.ir.dims import DimLike, Shape, product, provably_nonneg
from onnxc.ir.types import DType, Mem

__all__ = ["Run", "give", "heap_buffer", "room", "wrap"]

_ALIGN = abi.SCRATCH_ALIGN


class Run(Protocol):
    """What is needed of the emitter of a run."""

    b: ir.IRBuilder
    buffers: dict[Value, ir.Value]
    values: dict[str, ir.Value]
    heap: ir.Value | None

    def fail(self, message: str) -> None: ...


def wrap(module: ir.Module, run: ir.Function, slots: int) -> ir.Function:
    """A function for the steps of a run, which `run` calls with a table of `slots` empty slots behind its own
    arguments, and whose slots it frees afterwards."""
    steps = ir.Function(module, ir.FunctionType(I64, [*run.function_type.args, PTR]), "onnxc_steps")
    steps.linkage = "internal"
    b = ir.IRBuilder(run.append_basic_block("entry"))
    table = abi.stack_slots(b, slots)
    for i in range(slots):
        b.store(constant(0), abi.slot_pointer(b, table, i))
    result = b.call(steps, [*run.args, table])
    for i in range(slots):
        b.call(_free(module), [abi.load_slot(b, table, i)])
    b.ret(result)
    return steps


def heap_buffer(run: Run, value: Value, slot: int) -> None:
    """Take memory for a buffer of the size that its dims have now."""
    assert isinstance(value.type, Mem)
    run.buffers[value] = room(run, value.type.dtype, value.type.shape, slot, f"a tensor of type {value.type}")


def room(run: Run, dtype: DType | None, shape: Shape, slot: int, purpose: str) -> ir.Value:
    """Memory for elements (bytes where there is no dtype), noted in a slot of the heap's table."""
    b, heap = run.b, run.heap
    assert heap is not None
    b.call(_free(b.module), [abi.load_slot(b, heap, slot)])
    b.store(constant(0), abi.slot_pointer(b, heap, slot))
    pointer = _take(run, _bytes(run, dtype, shape, purpose), purpose)
    b.store(pointer, abi.slot_pointer(b, heap, slot))
    return pointer


def give(run: Run, source: Value, outputs: ir.Value, position: int) -> None:
    """Copy a buffer to memory of its own, and write where that is into the table of outputs."""
    b = run.b
    assert isinstance(source.type, Mem)
    purpose = f"an output of type {source.type}"
    size = _bytes(run, source.type.dtype, source.type.shape, purpose)
    pointer = _take(run, size, purpose)
    copy = intrinsic(b.module, "llvm.memcpy", [PTR, PTR, I64], VOID, [PTR, PTR, I64, abi.I1])
    b.call(copy, [pointer, run.buffers[source], size, ir.Constant(abi.I1, 0)])
    b.store(pointer, abi.slot_pointer(b, outputs, position))


def _bytes(run: Run, dtype: DType | None, shape: Sequence[DimLike], purpose: str) -> ir.Value:
    """The bytes of a shape; a run ends where they are negative or too many."""
    b = run.b
    dims = CheckedDims(b, run.values)
    for d in shape:
        if not provably_nonneg(d):
            dims.failed = b.or_(dims.failed, b.icmp_signed("<", dims(d), constant(0)))
    count = product(shape)
    size = dims(count if dtype is None else dtype.nbytes(count))
    wrong = b.or_(dims.failed, b.icmp_unsigned(">", size, constant(1 << 62)))
    with b.if_then(wrong, likely=False):
        run.fail(f"the size of {purpose} is negative, or does not fit into memory")
    return size


def _take(run: Run, size: ir.Value, purpose: str) -> ir.Value:
    b = run.b
    rounded = b.and_(b.add(size, constant(2 * _ALIGN - 1)), constant(-_ALIGN))
    take = _declared(b.module, "aligned_alloc", ir.FunctionType(PTR, [I64, I64]))
    pointer = b.call(take, [constant(_ALIGN), rounded])
    with b.if_then(b.icmp_unsigned("==", pointer, ir.Constant(PTR, None)), likely=False):
        run.fail(f"there is no memory for {purpose}")
    return pointer


def _free(module: ir.Module) -> ir.Function:
    return _declared(module, "free", ir.FunctionType(VOID, [PTR]))


def _declared(module: ir.Module, name: str, type: ir.FunctionType) -> ir.Function:
    return module.globals[name] if name in module.globals else ir.Function(module, type, name)
