"""The ops of a kernel's regions as code, in order, and what of them is moved in front of a loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from llvmlite import ir

from onnxc.codegen.accesses import Accesses, dims_of, loop_axes
from onnxc.codegen.llvm import abi
from onnxc.codegen.llvm.abi import KernelError
from onnxc.codegen.llvm.dims import constant
from onnxc.codegen.llvm.intrinsics import intrinsic
from onnxc.codegen.llvm.memory import emit_load, emit_store
from onnxc.codegen.llvm.nests import Form, forms_for, scalar_nest, vector_axis, vector_nest
from onnxc.codegen.llvm.reduce import emit_iterate, emit_reduce, emit_scan, reduce_together
from onnxc.codegen.llvm.registers import Element, const
from onnxc.codegen.llvm.scope import Scope
from onnxc.ir.core import Block, Op, Value
from onnxc.ir.dims import DimLike, symbols_of
from onnxc.ir.types import I64, DType, Mem

__all__ = ["emit_block", "emit_together", "hoist"]


def emit_block(scope: Scope, block: Block) -> list[Element]:
    """Emits the ops of a region in order; gives what it yields."""
    values = dict(scope.values)
    for op in block.ops:
        if op.name == "yield":
            return [values[v] for v in op.inputs]
        if all(r in values for r in op.results) and op.results:
            continue                                       # emitted in front of the loop already
        results = _emit_op(scope.within(values=values), op)
        values.update(zip(op.results, results, strict=True))
    return []


def emit_together(scopes: Sequence[Scope], block: Block) -> None:
    """Emits the ops of a region, which yields nothing, at several outer points: the loops of a reduction once for all
    of them."""
    values = [dict(scope.values) for scope in scopes]
    for op in block.ops:
        if op.results and all(r in values[0] for r in op.results):
            continue
        inner = [scope.within(values=known) for scope, known in zip(scopes, values, strict=True)]
        found = reduce_together(inner, op) if op.name == "k.reduce" else [_emit_op(scope, op) for scope in inner]
        for known, results in zip(values, found, strict=True):
            known.update(zip(op.results, results, strict=True))


def _emit_op(scope: Scope, op: Op) -> list[Element]:
    if op.name.startswith("s."):
        return [_emit_scalar(scope, op)]
    if op.name == "k.load":
        return [emit_load(scope, op)]
    if op.name == "k.index":
        operands = {f"${i}": scope.values[v].value for i, v in enumerate(op.inputs)}
        return [Element(scope.dim(cast("DimLike", op.attrs["expr"]), operands), I64)]
    if op.name == "k.reduce":
        return emit_reduce(scope, op)
    if op.name == "k.iterate":
        return emit_iterate(scope, op)
    effects = {"k.store": emit_store, "k.scan": emit_scan, "k.sweep": _emit_sweep,
               "k.require": _emit_require}
    if op.name not in effects:
        raise KernelError(f"kernel @{scope.kernel.func.name}: {op.name} cannot stand inside k.parallel")
    effects[op.name](scope, op)
    return []


def _emit_scalar(scope: Scope, op: Op) -> Element:
    args, attrs = [scope.values[v] for v in op.inputs], cast("dict[str, Any]", op.attrs)
    if op.name == "s.const":
        return const(attrs["value"], cast(DType, attrs["dtype"]))
    if op.name == "s.cast":
        return scope.scalars.cast(args[0], attrs["to"], bool(attrs.get("saturate", True)))
    if op.name == "s.bitcast":
        return scope.scalars.bitcast(args[0], attrs["to"])
    return scope.scalars.apply(op.name[2:], args)


def _emit_sweep(scope: Scope, op: Op) -> None:
    extents = [e for _, e in loop_axes(op)]
    if all(isinstance(e, int) and e > 0 for e in extents):
        _run_sweep(scope, op)
        return
    b = scope.builder
    runs: ir.Value = ir.Constant(abi.I1, 1)
    for extent in extents:
        runs = b.and_(runs, b.icmp_signed(">", scope.dim(extent), constant(0)))
    with b.if_then(runs):
        _run_sweep(scope, op)


def _run_sweep(scope: Scope, op: Op) -> None:
    """A sweep that has at least one iteration."""
    axes, region = loop_axes(op), op.regions[0]
    scope = hoist(scope, region, {n for n, _ in axes})
    name = scope.kernel.vectorised.get(op)
    if name is None or scope.lanes > 1:
        scalar_nest(scope, axes, [], lambda inner, carried: emit_block(inner, region) and [])
        return
    extent = dict(axes)[name]
    forms = forms_for(scope, region, name, extent)
    vector = vector_axis(scope, region, name, constant(0), scope.dim(extent))

    def body(form: Form, inner: Scope, carried: list[ir.Value]) -> list[ir.Value]:
        emit_block(inner, region)
        return carried

    vector_nest(scope, [(n, e) for n, e in axes if n != name], vector, forms, [[] for _ in forms], body)


def _emit_require(scope: Scope, op: Op) -> None:
    """Records the error when the condition fails in any real lane; the call stands outside the hot path."""
    b = scope.builder
    failed = b.not_(scope.values[op.operand(0)].value)
    if isinstance(failed.type, ir.VectorType):
        if scope.mask is not None:
            failed = b.and_(failed, scope.mask)
        any_lane = intrinsic(b.module, "llvm.vector.reduce.or", [failed.type], abi.I1, [failed.type])
        failed = b.call(any_lane, [failed])
    code = scope.kernel.errors(str(op.attrs["message"]))
    with b.if_then(failed, likely=False):
        b.call(abi.fail_function(b.module), [scope.kernel.context, constant(code)])


# ---- what does not depend on a loop ----------------------------------------------------------------------------------

def hoist(scope: Scope, region: Block, axes: set[str]) -> Scope:
    """A scope in which the region's loads and scalars that do not depend on `axes` are emitted already.

    The loop is known to run, for an index is in range only where its load happens; and only unconditional loads of
    memory that the kernel does not write are taken. LLVM cannot do this: the stores in the loop might change what is
    loaded.
    """
    accesses, values = scope.kernel.accesses, dict(scope.values)
    for op in region.ops:
        if not _invariant(op, values, accesses, axes):
            continue
        (result,) = op.results
        values[result] = _emit_op(scope.within(values=values), op)[0]
    return scope.within(values=values)


def _invariant(op: Op, values: dict[Value, Element], accesses: Accesses, axes: set[str]) -> bool:
    if not op.name.startswith("s.") and op.name not in ("k.load", "k.index"):
        return False
    if op.name == "k.load":
        if op.operand(0) in accesses.written or accesses.conditions(op):
            return False
    used = [v for v in op.inputs if not isinstance(v.type, Mem)]
    return all(v in values for v in used) and not symbols_of(dims_of(op)) & axes


