"""k.load and k.store: vector accesses where elements are neighbours, gathers and scatters where they are not.

An access is classified by how its flat index moves along the vector axis: not at all (one scalar access), by one (a
vector access), or otherwise (lane by lane). Nothing outside of what the kernel asks for is ever read or written: lanes
that are masked or whose conditions fail do not touch memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from llvmlite import ir

from onnxc.codegen.accesses import Condition, linear_in
from onnxc.codegen.llvm.abi import I1, I8, I32, I64
from onnxc.codegen.llvm.dims import constant, splat
from onnxc.codegen.llvm.heuristics import NEAR
from onnxc.codegen.llvm.intrinsics import intrinsic
from onnxc.codegen.llvm.loops import counted_loop
from onnxc.codegen.llvm.reduce import combine
from onnxc.codegen.llvm.registers import Element, const, is_packed, memory_type, with_lanes
from onnxc.codegen.llvm.scope import Scope
from onnxc.ir.core import Op, Value
from onnxc.ir.dims import symbols_of
from onnxc.ir.types import BOOL, DType, Mem

__all__ = ["emit_load", "emit_store", "holds", "masked_store"]


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where an access goes. `offset` is an i64 element offset, of lane 0 when lanes are `step` elements apart; a vector
    of offsets when `kind` is "lanes"."""

    kind: str                       # "uniform", "contiguous", "strided" or "lanes"
    offset: ir.Value
    base: ir.Value
    dtype: DType
    step: int = 1


@dataclasses.dataclass(frozen=True)
class _Guard:
    """When an access happens: `uniform` for all lanes (i1), `lanes` for each (vector of i1); None is always."""

    uniform: ir.Value | None
    lanes: ir.Value | None


def emit_load(scope: Scope, op: Op) -> Element:
    """The element (or one a lane) that a k.load gives."""
    place = _place(scope, op, op.operands[1:])
    guard = _guard(scope, op, op.operands[1:])
    other = const(op.attrs["other"], place.dtype)  # type: ignore[arg-type]
    # Conditions that are the same in all lanes stand around the load; lanes that are past the end may hold anything.
    differs = guard.lanes is not scope.mask

    def read(inner: Scope) -> ir.Value:
        return _read(inner, place, guard.lanes, other if differs else None)

    if guard.uniform is None:
        return Element(read(scope), place.dtype)
    return Element(_branch(scope, guard.uniform, read, other.value), place.dtype)


def emit_store(scope: Scope, op: Op) -> None:
    """A k.store, with its conditions and its combination with what is there."""
    place = _place(scope, op, op.operands[2:])
    guard = _guard(scope, op, op.operands[2:])
    value = scope.values[op.operand(1)]

    def write(inner: Scope) -> None:
        if op.attrs["combine"] is None and not is_packed(place.dtype):
            _write(inner, place, guard.lanes, value)
        else:
            _update(inner, place, guard.lanes, value, op.attrs["combine"])  # type: ignore[arg-type]

    if guard.uniform is None:
        write(scope)
        return
    with scope.builder.if_then(guard.uniform):
        write(scope)


# ---- where and when --------------------------------------------------------------------------------------------------

def _operands(scope: Scope, operands: tuple[Value | None, ...]) -> dict[str, ir.Value]:
    return {f"${i}": scope.values[v].value for i, v in enumerate(operands) if v is not None}


def _place(scope: Scope, op: Op, operands: tuple[Value | None, ...]) -> _Place:
    mem = op.operand(0)
    assert isinstance(mem.type, Mem)
    dtype, base = mem.type.dtype, scope.kernel.memory[mem]
    flat = scope.kernel.accesses.flat(op)
    env = _operands(scope, operands)
    if scope.lanes == 1:
        return _Place("uniform", scope.dim(flat, env), base, dtype)
    by_value = any(isinstance(env[s].type, ir.VectorType) for s in symbols_of(flat) if s in env)
    linear = None if by_value else linear_in(flat, scope.axis)
    if linear is not None and linear.stride == 0:
        return _Place("uniform", scope.dim(flat, env), base, dtype)
    if linear is not None and linear.stride == 1:
        rest, first = scope.dim(linear.rest, env), scope.axes[scope.axis]
        if is_packed(dtype):
            return _Place("contiguous", scope.builder.add(rest, first), base, dtype)
        # Two steps, so that the first one leaves the loop over lanes.
        row = scope.builder.gep(base, [rest], source_etype=memory_type(dtype))
        return _Place("contiguous", first, row, dtype)
    if linear is not None and isinstance(linear.stride, int) and linear.stride in NEAR and not is_packed(dtype):
        position = scope.builder.mul(scope.axes[scope.axis], constant(linear.stride))
        first = scope.builder.add(scope.dim(linear.rest, env), position)
        return _Place("strided", first, base, dtype, linear.stride)
    return _Place("lanes", splat(scope.builder, scope.dim(flat, env), scope.lanes), base, dtype)


def _guard(scope: Scope, op: Op, operands: tuple[Value | None, ...]) -> _Guard:
    uniform: ir.Value | None = None
    lanes = scope.mask
    env = _operands(scope, operands)
    for condition in scope.kernel.accesses.conditions(op):
        if condition in scope.known:
            continue
        now = holds(scope, condition, env)
        if isinstance(now.type, ir.VectorType):
            lanes = now if lanes is None else scope.builder.and_(lanes, now)
        else:
            uniform = now if uniform is None else scope.builder.and_(uniform, now)
    return _Guard(uniform, lanes)


def holds(scope: Scope, condition: Condition, env: dict[str, ir.Value]) -> ir.Value:
    """Whether low <= expr < high: expr - low compared unsigned with high - low (an empty range holds nowhere)."""
    expr, low, high = condition
    b = scope.builder
    distance = scope.dim(expr - low, env)
    width = scope.dim(high - low, env)
    if not isinstance(high - low, int):
        zero = constant(0, width.type)
        width = b.select(b.icmp_signed(">", width, zero), width, zero)
    if isinstance(distance.type, ir.VectorType):
        width = splat(b, width, scope.lanes)
    return b.icmp_unsigned("<", distance, width)


def _branch(scope: Scope, condition: ir.Value, read: Callable[[Scope], ir.Value], other: ir.Value) -> ir.Value:
    b = scope.builder
    before = b.block
    with b.if_then(condition):
        value = read(scope)
        inside = b.block
    phi = b.phi(value.type)
    phi.add_incoming(value, inside)
    phi.add_incoming(splat(b, other, value.type.count) if isinstance(value.type, ir.VectorType) else other, before)
    return phi


# ---- reads -----------------------------------------------------------------------------------------------------------

def _read(scope: Scope, place: _Place, mask: ir.Value | None, other: Element | None) -> ir.Value:
    """Register values at `place`. Lanes outside `mask` give `other` (anything at all when it is None)."""
    if place.kind == "uniform":
        if mask is None or other is None:          # at least one lane is real, so the address is good
            return _read_one(scope, place, place.offset)
        place = dataclasses.replace(place, kind="lanes", offset=splat(scope.builder, place.offset, scope.lanes))
    if is_packed(place.dtype):
        return _read_packed(scope, place, mask, other)
    type = ir.VectorType(memory_type(place.dtype), scope.lanes)
    if place.kind == "strided":
        raw = _strided_load(scope, place, type, mask, None if other is None else _in_memory(scope, other, type))
    elif place.kind == "contiguous":
        raw = _vector_load(scope, place, type, mask, _in_memory(scope, other, type))
    else:
        raw = _gather(scope, place.base, place.offset, type, mask, _in_memory(scope, other, type))
    return _from_memory(scope, raw, place.dtype)


def _read_one(scope: Scope, place: _Place, offset: ir.Value) -> ir.Value:
    b = scope.builder
    if is_packed(place.dtype):
        pointer, shift = _packed_place(scope, place, offset)
        return _unpack(scope, b.load(pointer, typ=I8, align=1), shift, place.dtype)
    type = memory_type(place.dtype)
    pointer = b.gep(place.base, [offset], inbounds=True, source_etype=type)
    return _from_memory(scope, b.load(pointer, typ=type, align=_align(place.dtype)), place.dtype)


def _align(dtype: DType) -> int:
    return max(dtype.bits // 8, 1)


def _in_memory(scope: Scope, other: Element | None, type: ir.VectorType) -> ir.Value:
    if other is None:
        return ir.Constant(type, ir.Undefined)
    value = other.value
    assert isinstance(value, ir.Constant)
    element = ir.Constant(type.element, int(value.constant)) if other.dtype == BOOL else value
    return ir.Constant(type, [element] * type.count)


def _from_memory(scope: Scope, raw: ir.Value, dtype: DType) -> ir.Value:
    if dtype != BOOL:
        return raw
    return scope.builder.icmp_unsigned("!=", raw, ir.Constant(raw.type, None))


def _to_memory(scope: Scope, value: ir.Value, dtype: DType) -> ir.Value:
    if dtype != BOOL:
        return value
    lanes = value.type.count if isinstance(value.type, ir.VectorType) else 1
    return scope.builder.zext(value, with_lanes(I8, lanes))


def _vector_load(scope: Scope, place: _Place, type: ir.VectorType, mask: ir.Value | None, other: ir.Value) -> ir.Value:
    b = scope.builder
    pointer = b.gep(place.base, [place.offset], inbounds=mask is None, source_etype=type.element)
    if mask is None:
        return b.load(pointer, typ=type, align=_align(place.dtype))
    function = intrinsic(scope.builder.module, "llvm.masked.load", [type, pointer.type], type,
                         [pointer.type, mask.type, type])
    return _aligned_call(b, function, [pointer, mask, other], 0, _align(place.dtype))


def _strided_load(scope: Scope, place: _Place, type: ir.VectorType, mask: ir.Value | None,
                  other: ir.Value | None) -> ir.Value:
    """Lanes a few elements apart, or backwards: whole vectors from the first lane's element to the last's, shuffled.

    What lies between two elements of a buffer belongs to it; under a mask only the lanes' own elements are read."""
    b, lanes, step = scope.builder, type.count, place.step
    span = (lanes - 1) * abs(step) + 1
    lowest = place.offset if step > 0 else b.add(place.offset, constant(step * (lanes - 1)))
    starts = [min(i * lanes, span - lanes) for i in range(abs(step))]
    wanted = [i * step if step > 0 else (lanes - 1 - i) * -step for i in range(lanes)]
    homes = [max(i for i, start in enumerate(starts) if start <= at) for at in wanted]
    pieces = []
    for i, start in enumerate(starts):
        piece = dataclasses.replace(place, kind="contiguous", offset=b.add(lowest, constant(start)))
        places = {at - start: lane for lane, (at, home) in enumerate(zip(wanted, homes, strict=True)) if home == i}
        pieces.append(_vector_load(scope, piece, type, None if mask is None else _moved_mask(b, mask, places),
                                   ir.Constant(type, ir.Undefined)))
    value = _picked(b, pieces, starts, wanted, homes)
    return value if mask is None or other is None else b.select(mask, value, other)


def _moved_mask(b: ir.IRBuilder, mask: ir.Value, places: dict[int, int]) -> ir.Value:
    """The mask whose lane p is that of lane places[p], and false where there is none."""
    lanes = mask.type.count
    order = [places.get(p, lanes) for p in range(lanes)]
    return b.shuffle_vector(mask, ir.Constant(mask.type, None),
                            ir.Constant(ir.VectorType(I32, lanes), [ir.Constant(I32, x) for x in order]))


def _picked(b: ir.IRBuilder, pieces: list[ir.Value], starts: list[int], wanted: list[int],
            homes: list[int]) -> ir.Value:
    """The vector of elements at the `wanted` positions; piece i holds the positions from starts[i] on, and lane l is to
    be found in piece homes[l]."""
    lanes = len(wanted)
    value = pieces[0]
    for i in range(1, max(len(pieces), 2)):
        other = pieces[i] if i < len(pieces) else pieces[0]
        index = []
        for lane, (at, home) in enumerate(zip(wanted, homes, strict=True)):
            if home == i:
                index.append(lanes + at - starts[i])
            elif i == 1:
                index.append(at if home == 0 else 0)
            else:
                index.append(lane)                  # put in its place by an earlier shuffle
        order = ir.Constant(ir.VectorType(I32, lanes), [ir.Constant(I32, x) for x in index])
        value = b.shuffle_vector(value, other, order)
    return value


def _gather(scope: Scope, base: ir.Value, offset: ir.Value, type: ir.VectorType, mask: ir.Value | None,
            other: ir.Value) -> ir.Value:
    b = scope.builder
    pointers = _lane_pointers(scope, base, offset, type.element)
    if mask is None:
        mask = ir.Constant(ir.VectorType(I1, type.count), [ir.Constant(I1, 1)] * type.count)
    function = intrinsic(scope.builder.module, "llvm.masked.gather", [type, pointers.type], type,
                         [pointers.type, mask.type, type])
    return _aligned_call(b, function, [pointers, mask, other], 0, type.element.width // 8
                         if isinstance(type.element, ir.IntType) else (8 if type.element == ir.DoubleType() else 4))


def _lane_pointers(scope: Scope, base: ir.Value, offset: ir.Value, element: ir.Type) -> ir.Value:
    """base + offset for each lane, as a vector of pointers."""
    b = scope.builder
    vector = ir.VectorType(ir.PointerType(), scope.lanes)
    instruction = _VectorGep(b.block, base, offset, element, vector)
    b._insert(instruction)
    return instruction


class _VectorGep(ir.Instruction):
    """getelementptr of one pointer by a vector of indices, which llvmlite's own instruction does not type."""

    def __init__(self, block: ir.Block, base: ir.Value, offset: ir.Value, element: ir.Type, type: ir.Type) -> None:
        super().__init__(block, type, "getelementptr", [base, offset])
        self.element = element

    def descr(self, buf: list[str]) -> None:
        base, offset = self.operands
        buf.append(f"getelementptr {self.element}, {base.type} {base.get_reference()}, "
                   f"{offset.type} {offset.get_reference()}\n")


def _aligned_call(b: ir.IRBuilder, function: ir.Function, args: list[ir.Value], index: int, align: int) -> ir.Value:
    call = b.call(function, args, arg_attrs={index: ()})
    call.arg_attributes[index].align = align
    return call


# ---- writes ----------------------------------------------------------------------------------------------------------

def _write(scope: Scope, place: _Place, mask: ir.Value | None, value: Element) -> None:
    b = scope.builder
    element = memory_type(place.dtype)
    if scope.lanes == 1:
        pointer = b.gep(place.base, [place.offset], inbounds=True, source_etype=element)
        b.store(_to_memory(scope, value.value, place.dtype), pointer, align=_align(place.dtype))
        return
    data = _to_memory(scope, splat(b, value.value, scope.lanes), place.dtype)
    if place.kind == "contiguous":
        _vector_store(scope, place, data, mask)
        return
    pointers = _lane_pointers(scope, place.base, _lane_offsets(scope, place), element)
    if mask is None:
        mask = ir.Constant(ir.VectorType(I1, scope.lanes), [ir.Constant(I1, 1)] * scope.lanes)
    function = intrinsic(scope.builder.module, "llvm.masked.scatter", [data.type, pointers.type], ir.VoidType(),
                          [data.type, pointers.type, mask.type])
    _aligned_call(b, function, [data, pointers, mask], 1, _align(place.dtype))


def _vector_store(scope: Scope, place: _Place, data: ir.Value, mask: ir.Value | None) -> None:
    b = scope.builder
    pointer = b.gep(place.base, [place.offset], inbounds=mask is None, source_etype=data.type.element)
    if mask is None:
        b.store(data, pointer, align=_align(place.dtype))
    else:
        masked_store(b, data, pointer, mask, _align(place.dtype))


def masked_store(b: ir.IRBuilder, data: ir.Value, pointer: ir.Value, mask: ir.Value, align: int) -> None:
    """Stores those elements of a vector whose lanes are set; `align` in bytes."""
    function = intrinsic(b.module, "llvm.masked.store", [data.type, pointer.type], ir.VoidType(),
                         [data.type, pointer.type, mask.type])
    _aligned_call(b, function, [data, pointer, mask], 1, align)


def _update(scope: Scope, place: _Place, mask: ir.Value | None, value: Element, kind: str | None) -> None:
    """Read, combine and write one element after the other, in the order of lanes: they may be the same element."""
    if scope.lanes == 1:
        _update_one(scope, place, place.offset, value, kind)
        return
    b = scope.builder
    if place.kind == "contiguous" and not is_packed(place.dtype):
        there = _vector_load(scope, place, ir.VectorType(memory_type(place.dtype), scope.lanes), mask,
                             ir.Constant(ir.VectorType(memory_type(place.dtype), scope.lanes), ir.Undefined))
        new = combine(scope, kind or "", Element(_from_memory(scope, there, place.dtype), place.dtype), value)
        _vector_store(scope, place, _to_memory(scope, new.value, place.dtype), mask)
        return
    offsets = _lane_offsets(scope, place)
    data = splat(b, value.value, scope.lanes)

    def lane(_: ir.IRBuilder, i: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
        one = scope.within(lanes=1, axis="", mask=None)
        element = Element(b.extract_element(data, i), value.dtype)
        if mask is None:
            _update_one(one, place, b.extract_element(offsets, i), element, kind)
        else:
            with b.if_then(b.extract_element(mask, i)):
                _update_one(one, place, b.extract_element(offsets, i), element, kind)
        return []

    counted_loop(b, "lane", 0, scope.lanes, 1, [], lane)


def _lane_offsets(scope: Scope, place: _Place) -> ir.Value:
    if place.kind not in ("contiguous", "strided"):
        return splat(scope.builder, place.offset, scope.lanes)
    steps = ir.Constant(ir.VectorType(I64, scope.lanes), [ir.Constant(I64, i * place.step) for i in range(scope.lanes)])
    return scope.builder.add(splat(scope.builder, place.offset, scope.lanes), steps)


def _update_one(scope: Scope, place: _Place, offset: ir.Value, value: Element, kind: str | None) -> None:
    if kind is not None:
        there = Element(_read_one(scope, place, offset), place.dtype)
        value = combine(scope, kind, there, value)
    b = scope.builder
    if is_packed(place.dtype):
        pointer, shift = _packed_place(scope, place, offset)
        field = ir.Constant(I8, (1 << place.dtype.bits) - 1)
        kept = b.and_(b.load(pointer, typ=I8, align=1), b.not_(b.shl(field, shift)))
        b.store(b.or_(kept, b.shl(b.and_(value.value, field), shift)), pointer, align=1)
        return
    pointer = b.gep(place.base, [offset], inbounds=True, source_etype=memory_type(place.dtype))
    b.store(_to_memory(scope, value.value, place.dtype), pointer, align=_align(place.dtype))


# ---- sub-byte elements: packed from the low bits of each byte up -----------------------------------------------------

def _packed_place(scope: Scope, place: _Place, offset: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The byte's address and the element's shift in it."""
    b = scope.builder
    per_byte = 8 // place.dtype.bits
    pointer = b.gep(place.base, [b.lshr(offset, ir.Constant(I64, per_byte.bit_length() - 1))], source_etype=I8)
    return pointer, _shift_of(scope, place.dtype, offset)


def _shift_of(scope: Scope, dtype: DType, offset: ir.Value) -> ir.Value:
    b = scope.builder
    within = b.and_(offset, constant(8 // dtype.bits - 1, offset.type))
    lanes = offset.type.count if isinstance(offset.type, ir.VectorType) else 1
    return b.mul(b.trunc(within, with_lanes(I8, lanes)), constant(dtype.bits, with_lanes(I8, lanes)))


def _unpack(scope: Scope, byte: ir.Value, shift: ir.Value, dtype: DType) -> ir.Value:
    b = scope.builder
    high = constant(8 - dtype.bits, byte.type)
    if dtype.kind == "int":
        return b.ashr(b.shl(b.lshr(byte, shift), high), high)
    return b.and_(b.lshr(byte, shift), constant((1 << dtype.bits) - 1, byte.type))


def _read_packed(scope: Scope, place: _Place, mask: ir.Value | None, other: Element | None) -> ir.Value:
    b = scope.builder
    offsets = _lane_offsets(scope, place)
    per_byte = 8 // place.dtype.bits
    bytes_at = b.lshr(offsets, constant(per_byte.bit_length() - 1, offsets.type))
    type = ir.VectorType(I8, scope.lanes)
    raw = _gather(scope, place.base, bytes_at, type, mask, ir.Constant(type, None))
    value = _unpack(scope, raw, _shift_of(scope, place.dtype, offsets), place.dtype)
    if mask is None or other is None:
        return value
    return b.select(mask, value, splat(b, other.value, scope.lanes))


