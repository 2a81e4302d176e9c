"""The pass `pack`: constant operands of kernels in the order in which they are read.

For each launch of a scheduled contraction, an operand that constants alone make is computed now: the right one as
panels [batch..., panels, k, columns], zero past the last column; the left one, where it cannot be read in place, as
rows [batch..., m, k]. In plain loops, a constant that is not contiguous across the lanes is copied so that it is. The
kernel then loads from the new constant, so that the program's text shows it and stays true.

Operands that are not constant are packed by the kernel itself, panel by panel and row by row, where they cannot be read
in place: what is packed is needed again soon and by the same thread, so that memory and a launch for the packed whole
would be in vain.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from typing import cast

import numpy as np

from onnxc.codegen.accesses import Accesses, accesses_of, dims_of, kernel_symbols, linear_in, where_of
from onnxc.codegen.llvm.contract_form import Axes, axes_of, contraction_of, extent_of, place_of
from onnxc.codegen.llvm.contract_plan import group_index, plan_of
from onnxc.codegen.llvm.narrow import Narrow, code_index, group_of, narrow_operand, parameter_index
from onnxc.codegen.llvm.prepack_arrays import (
    Operand,
    alone,
    in_groups,
    in_panels,
    in_rows,
    in_winograd_panels,
    strided_copy,
)
from onnxc.codegen.llvm.prepack_narrow import in_narrow_panels, is_grouped
from onnxc.codegen.llvm.prepare import is_contraction
from onnxc.codegen.llvm.program import structure_of
from onnxc.codegen.llvm.schedule_winograd import apply_winograd
from onnxc.codegen.llvm.target import Target
from onnxc.codegen.schedule import Schedule
from onnxc.codegen.winograd import TAPS
from onnxc.ir.core import Block, Func, Module, Op, Ref, Value
from onnxc.ir.dims import DimLike, floordiv, mod, sym, symbols_of
from onnxc.ir.types import F32, DType, Mem, Scalar, dtype_of

__all__ = ["pack"]

# An operand is left to be packed at run time when it would take more bytes than its constants do by this factor: a
# small table that is repeated many times is better read from cache.
_MOST_GROWTH = 8
_SMALL = 1 << 16


def pack(module: Module, target: Target) -> None:
    """Pack the constant operands of every launched kernel of `module` that has a schedule."""
    packer = _Packer(module)
    launches = [op for op in module.main.walk() if op.name == "p.launch"]
    times = Counter(_name(op.attrs["kernel"]) for op in launches)
    for op in launches:
        if times[_name(op.attrs["kernel"])] == 1:  # else what one launch's constants allow would not hold for another's
            packer.launch(op)
    packer.drop_unused()


class _Packer:
    def __init__(self, module: Module) -> None:
        self.module = module
        self.made: dict[Hashable, Value] = {}  # what was packed and how -> its p.const
        self.narrow: dict[Hashable, list[Value | None]] = {}  # codes, scales and zero points likewise

    def launch(self, op: Op) -> None:
        func = self.module.funcs[_name(op.attrs["kernel"])]
        text = func.attrs.get("schedule")
        if not isinstance(text, str):
            return
        schedule = Schedule.parse(text)
        if is_contraction(func):
            self.right(func, op, schedule)
            self.left(func, op, schedule)
        elif schedule.lanes > 1:
            self.loads(func, op, schedule.vector)
        _drop_unused_arguments(func, op)

    # ---- operands of contractions
    # --------------------------------------------------------------------------------------

    def right(self, func: Func, launch: Op, schedule: Schedule) -> None:
        operand = self.operand(func, launch, 1)
        columns = schedule.vectors * schedule.lanes
        if operand is None or _packed_already(contraction_of(func).regions[1], operand.own):
            return
        if schedule.dot:
            self.right_bytes(func, launch, operand, columns, schedule)
            return
        if schedule.winograd:
            self.right_winograd(func, launch, operand, columns, schedule.winograd)
            return
        narrow = narrow_operand(func)
        if narrow is not None and is_grouped(narrow, operand):
            self.right_narrow(func, launch, operand, narrow, columns)
            return
        column = place_of(operand.own)
        index = (floordiv(column, columns), place_of(operand.k), mod(column, columns))
        self.replace(func, launch, operand, ("panels", columns), index, lambda: in_panels(func, operand, columns))

    def right_bytes(self, func: Func, launch: Op, operand: Operand, columns: int, schedule: Schedule) -> None:
        dot = schedule.dot
        plan = plan_of(func, columns, schedule.lanes, dot)
        taps = extent_of(plan.taps)
        if plan.panels is not None or not isinstance(taps, int):
            return
        index = group_index(place_of(operand.own), plan.taps, plan.depth, columns)
        layout = ("groups", columns, taps, dot)
        self.replace(func, launch, operand, layout, index, lambda: in_groups(func, operand, columns, taps, dot))

    def right_narrow(self, func: Func, launch: Op, operand: Operand, narrow: Narrow, columns: int) -> None:
        """The region becomes (code - zero) * scale of three packed constants, as far as they differ from 0 and 1."""
        names = tuple(self.name(launch.operand(func.args.index(a))) for a in operand.arrays)
        key = (columns, names, structure_of(alone(func, operand, (1,), (0,))))
        if key not in self.narrow:
            packed = zip(in_narrow_panels(func, operand, narrow, columns), ("codes", "scales", "zeros"), strict=True)
            self.narrow[key] = [None if a is None else self.constant(a, f"{names[0]}.{stem}") for a, stem in packed]
        codes, scales, zeros = (None if c is None else self.pass_to(func, launch, c) for c in self.narrow[key])
        assert codes is not None
        column, step = place_of(operand.own), place_of(operand.k)
        place = code_index(column, step, columns, group_of(narrow.dtype))
        at = parameter_index(column, step, columns, narrow.block)
        region = contraction_of(func).regions[1]
        region.clear()
        code = region.append(_load(codes, place)).result
        element = region.append(_cast(code, F32)).result
        for name, memory in (("s.sub", zeros), ("s.mul", scales)):
            if memory is not None:
                other = region.append(_load(memory, at)).result
                element = region.append(Op(name, [element, other], [Scalar(F32)])).result
        region.append(Op("yield", [element]))

    def right_winograd(self, func: Func, launch: Op, operand: Operand, columns: int, size: int) -> None:
        """Transformed weights; the sum becomes Winograd's."""
        taps = [i for i, (_, extent) in enumerate(operand.k) if extent == TAPS]
        panels = in_winograd_panels(func, operand, columns, taps, size)
        if panels is None:
            return
        operand = dataclasses.replace(operand, k=apply_winograd(func, size))
        column = place_of(operand.own)
        index = (floordiv(column, columns), place_of(operand.k), mod(column, columns))
        self.replace(func, launch, operand, ("winograd", columns, size), index, lambda: panels)

    def left(self, func: Func, launch: Op, schedule: Schedule) -> None:
        if plan_of(func, schedule.vectors * schedule.lanes, schedule.lanes, schedule.dot).rows is not None:
            return
        operand = self.operand(func, launch, 0)
        if operand is not None:
            index = (place_of(operand.own), place_of(operand.k))
            self.replace(func, launch, operand, ("rows",), index, lambda: in_rows(func, operand))

    def operand(self, func: Func, launch: Op, region: int) -> Operand | None:
        """An operand that consists of constants and known extents; None when it has to wait for the run."""
        contraction = contraction_of(func)
        block = contraction.regions[region]
        batch, own, k = (axes_of(contraction, g) for g in ("batch", "mn"[region], "k"))
        batch = [axis for axis in batch if _depends(block, axis[0])]
        if not all(isinstance(extent, int) for _, extent in (*batch, *own, *k)):
            return None
        arrays: dict[Value, np.ndarray] = {}
        for argument in dict.fromkeys(v for op in _ops(block) for v in op.inputs if v in func.args):
            array = self.array(launch.operand(func.args.index(argument)))
            if array is None:
                return None
            arrays[argument] = array
        operand = Operand(region, batch, own, k, arrays)
        size = int(np.prod(operand.shape)) * 4
        if not arrays or size > _MOST_GROWTH * max(sum(a.nbytes for a in arrays.values()), _SMALL):
            return None
        return None if kernel_symbols(alone(func, operand, (1,), (0,))) else operand

    def replace(
        self,
        func: Func,
        launch: Op,
        operand: Operand,
        layout: tuple[Hashable, ...],
        index: tuple[DimLike, ...],
        compute: Callable[[], np.ndarray | None],
    ) -> None:
        """The operand's region becomes a load, at `index` behind the batch axes, of what `compute` gives."""
        names = tuple(self.name(launch.operand(func.args.index(a))) for a in operand.arrays)
        key = (layout, names, structure_of(alone(func, operand, (1,), (0,))))
        if key not in self.made:
            array = compute()
            if array is None:
                return
            self.made[key] = self.constant(array, f"{names[0]}.{layout[0]}")
        memory = self.pass_to(func, launch, self.made[key])
        region = contraction_of(func).regions[operand.region]
        region.clear()
        place = (*(sym(name) for name, _ in operand.batch), *index)
        element = region.append(_load(memory, place)).result
        accumulate = cast(DType, contraction_of(func).attrs["accumulate"])
        if cast(Mem, memory.type).dtype != accumulate:
            element = region.append(_cast(element, accumulate)).result
        region.append(Op("yield", [element]))

    # ---- loads of plain loops
    # -----------------------------------------------------------------------------------------

    def loads(self, func: Func, launch: Op, across: str) -> None:
        """Constants whose elements are apart across the lanes are copied with that axis last."""
        accesses = Accesses(func)
        for load in [op for op in accesses_of(func.body) if op.name == "k.load" and len(op.operands) == 1]:
            position = func.args.index(load.operand(0)) if load.operand(0) in func.args else len(launch.operands)
            array = self.array(launch.operand(position)) if position < len(launch.operands) else None
            flat = accesses.flat(load)
            linear = linear_in(flat, across)
            if array is None or linear is None or linear.stride in (0, 1) or where_of(load):
                continue
            inner = [
                (a.name, a.extent) for a in accesses.axes.values() if a.name in symbols_of(flat) and a.name != across
            ]
            axes: Axes = [*inner, (across, accesses.axes[across].extent)]
            if not all(isinstance(extent, int) for _, extent in axes) or symbols_of(flat) - {name for name, _ in axes}:
                continue
            self.move(func, launch, load, array, flat, axes)

    def move(self, func: Func, launch: Op, load: Op, array: np.ndarray, flat: DimLike, axes: Axes) -> None:
        place = place_of(axes)
        key = ("loop", self.name(launch.operand(func.args.index(load.operand(0)))), _shape_of(flat, axes))
        if key not in self.made:
            copy = strided_copy(array, flat, axes)
            if copy is None or copy.nbytes > _MOST_GROWTH * max(array.nbytes, _SMALL):
                return
            self.made[key] = self.constant(copy.reshape(-1), f"{key[1]}.lanes")
        memory = self.pass_to(func, launch, self.made[key])
        load.set_operands([memory])
        load.attrs["index"] = (place,)

    # ---- constants ---------------------------------------------------------------------------------------------------

    def array(self, value: Value) -> np.ndarray | None:
        name = _constant_name(value)
        return None if name is None else self.module.constants[name]

    def name(self, value: Value) -> str:
        return _constant_name(value) or ""

    def constant(self, array: np.ndarray, stem: str) -> Value:
        name = self.module.fresh_name(stem)
        self.module.constants[name] = array
        op = Op("p.const", (), [Mem(dtype_of(array.dtype), array.shape)], {"ref": Ref(name)}, names=[name])
        body = self.module.main.body
        body.insert(op, body.first)
        return op.result

    def pass_to(self, func: Func, launch: Op, constant: Value) -> Value:
        """A new argument of the kernel for `constant`: the last that launches pass, in front of the kernel's
        scratch."""
        position = len(launch.inputs)
        launch.set_operands([*launch.inputs, constant])
        return func.body.add_arg(constant.type, "packed", position)

    def drop_unused(self) -> None:
        """Constants that only packed operands were made of."""
        for op in list(self.module.main.walk())[::-1]:
            if op.name in ("p.const", "p.view") and not op.result.uses:
                op.erase()
        used = {value.name for op in self.module.walk() for value in op.attrs.values() if isinstance(value, Ref)}
        for name in [n for n in self.module.constants if n not in used]:
            del self.module.constants[name]


def _name(ref: object) -> str:
    return ref.name if isinstance(ref, Ref) else str(ref)


def _constant_name(value: Value) -> str | None:
    while value.op is not None and value.op.name == "p.view":
        value = value.op.operand(0)
    return _name(value.op.attrs["ref"]) if value.op is not None and value.op.name == "p.const" else None


def _ops(region: Block) -> Iterator[Op]:
    for op in region.ops:
        yield from op.walk()


def _depends(region: Block, axis: str) -> bool:
    return any(axis in symbols_of(dims_of(op)) for op in _ops(region))


def _load(memory: Value, index: tuple[DimLike, ...]) -> Op:
    assert isinstance(memory.type, Mem)
    return Op("k.load", [memory], [Scalar(memory.type.dtype)], {"index": index, "where": (), "other": 0})


def _cast(element: Value, to: DType) -> Op:
    return Op("s.cast", [element], [Scalar(to)], {"to": to, "saturate": True})


def _packed_already(region: Block, n: Axes) -> bool:
    """Whether the region reads panels: a load whose last index is the column within one."""
    first = region.first
    if first is None or first.name != "k.load" or not n:
        return False
    memory, index = cast(Mem, first.operand(0).type), cast("tuple[DimLike, ...]", first.attrs["index"])
    width = memory.shape[-1] if memory.shape else 0
    return len(index) > 1 and isinstance(width, int) and width > 0 and index[-1] == mod(place_of(n), width)


def _shape_of(flat: DimLike, axes: Axes) -> Hashable:
    """What decides a copy's content: the strides and extents in its order, and the offset."""
    rest, strides = flat, []
    for name, extent in axes:
        linear = linear_in(rest, name)
        if linear is None:
            return None
        strides.append((linear.stride, extent))
        rest = linear.rest
    return (*strides, rest)


def _drop_unused_arguments(func: Func, launch: Op) -> None:
    """Arguments that only a packed operand read; what the launch writes keeps its positions' meaning."""
    writes = [int(cast(int, i)) for i in cast("tuple[object, ...]", launch.attrs["writes"])]
    for i in range(len(func.args) - 1, -1, -1):
        if not func.args[i].uses and i not in writes:
            func.body.remove_arg(i)
            launch.set_operands([v for j, v in enumerate(launch.inputs) if j != i])
            writes = [w - (w > i) for w in writes]
    launch.attrs["writes"] = tuple(writes)
