"""The pass `pack`: constant right operands of contractions in the order in which their tiles read them.

For each launch of a scheduled contraction whose right operand is computed from constants alone, the panels are computed
now, by the kernel interpreter where they are more than a view of one constant, and the kernel's region becomes a load from
them: [batch..., panels, k, columns], zero past the last column. The program's text shows the new constant and stays true.

Right operands that are not constant are packed by the kernel itself, panel by panel, where they cannot be read in place: a
panel is needed again soon and by the same thread, so that memory and a launch for the packed whole would be in vain.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np

from onnxc.codegen.accesses import Accesses, kernel_symbols, linear_in
from onnxc.codegen.interp import run_kernel
from onnxc.codegen.llvm.contract_form import Axes, axes_of, clone_region, contraction_of, place_of
from onnxc.codegen.llvm.contract_plan import single_load
from onnxc.codegen.llvm.prepare import is_contraction
from onnxc.codegen.llvm.program import structure_of
from onnxc.codegen.llvm.target import Target
from onnxc.codegen.schedule import Schedule
from onnxc.ir.core import Block, Func, Module, Op, Ref, Value
from onnxc.ir.dims import DimLike, floordiv, mod, sym, symbols_of
from onnxc.ir.types import DType, Mem, Scalar, dtype_of

__all__ = ["pack"]

_ALIGNMENT = 64
# An operand is left to be packed at run time when its panels would take more bytes than its constants do by this factor:
# a small table that is repeated many times is better read from cache.
_MOST_GROWTH = 8


def pack(module: Module, target: Target) -> None:
    """Pack the constant right operands of every launched contraction of `module`, whose kernels have schedules."""
    packer = _Packer(module)
    for op in list(module.main.body.ops):
        if op.name == "p.launch":
            packer.launch(op)
    packer.drop_unused()


@dataclasses.dataclass(frozen=True)
class _Operand:
    """A right operand that can be packed: its axes, all of known extent, and the arrays behind the arguments it reads."""

    batch: Axes
    n: Axes
    k: Axes
    arrays: dict[Value, np.ndarray]
    constants: tuple[str, ...]


class _Packer:
    def __init__(self, module: Module) -> None:
        self.module = module
        self.made: dict[tuple, Value] = {}  # what was packed and how -> its p.const

    def launch(self, op: Op) -> None:
        func = self.module.funcs[_name(op.attrs["kernel"])]
        schedule = func.attrs.get("schedule")
        if not is_contraction(func) or not isinstance(schedule, str):
            return
        operand = self.operand(func, op)
        if operand is None:
            return
        columns = Schedule.parse(schedule).vectors * Schedule.parse(schedule).lanes
        key = (operand.constants, _text(func, operand), columns)
        if key not in self.made:
            panels = _panels(func, operand, columns)
            if panels is None:
                return
            self.made[key] = self.constant(panels, operand.constants[0], op)
        _read_panels(func, operand, columns, self.made[key].type)  # type: ignore[arg-type]
        op.set_operands([*op.inputs, self.made[key]])
        _drop_unused_arguments(func, op)

    def operand(self, func: Func, launch: Op) -> _Operand | None:
        """The kernel's right operand if it consists of constants and known extents; None when it has to wait."""
        contraction = contraction_of(func)
        region = contraction.regions[1]
        batch, n, k = (axes_of(contraction, g) for g in ("batch", "n", "k"))
        batch = [a for a in batch if _depends(region, a[0])]
        if not all(isinstance(e, int) for _, e in (*batch, *n, *k)) or _packed_already(region, n):
            return None
        arrays: dict[Value, np.ndarray] = {}
        names: list[str] = []
        for argument in dict.fromkeys(v for inner in _ops(region) for v in inner.inputs if v in func.args):
            name = _constant_name(launch.operand(func.args.index(argument)))
            if name is None or symbols_of(argument.type.shape):  # type: ignore[attr-defined]
                return None
            arrays[argument] = self.module.constants[name]
            names.append(name)
        operand = _Operand(batch, n, k, arrays, tuple(names))
        return operand if names and not kernel_symbols(_alone(func, operand, (1,), (0,))[0]) else None

    def constant(self, panels: np.ndarray, stem: str, before: Op) -> Value:
        name = self.module.fresh_name(f"{stem}.panels")
        self.module.constants[name] = panels
        op = Op("p.const", (), [Mem(dtype_of(panels.dtype), panels.shape)], {"ref": Ref(name)}, names=[name])
        block = self.module.main.body
        block.insert(op, block.first)
        return op.result

    def drop_unused(self) -> None:
        """Constants that only packed operands were made of."""
        main = self.module.main.body
        for op in list(main.reversed_ops()):
            if op.name in ("p.const", "p.view") and not op.result.uses:
                op.erase()
        used = {_name(op.attrs["ref"]) for op in main.ops if op.name == "p.const"}
        for name in [n for n in self.module.constants if n not in used]:
            del self.module.constants[name]


def _name(ref: object) -> str:
    return ref.name if isinstance(ref, Ref) else str(ref)


def _constant_name(value: Value) -> str | None:
    while value.op is not None and value.op.name == "p.view":
        value = value.op.operand(0)
    return _name(value.op.attrs["ref"]) if value.op is not None and value.op.name == "p.const" else None


def _ops(region: Block) -> Iterable[Op]:
    for op in region.ops:
        yield from op.walk()


def _depends(region: Block, axis: str) -> bool:
    dims: list[DimLike] = []
    for op in _ops(region):
        if op.name == "k.index":
            dims.append(op.attrs["expr"])  # type: ignore[arg-type]
        elif op.name == "k.load":
            dims.extend(op.attrs["index"])  # type: ignore[arg-type]
            dims.extend(d for c in op.attrs["where"] for d in c)  # type: ignore[union-attr, misc]
    return axis in symbols_of(dims)


def _packed_already(region: Block, n: Axes) -> bool:
    """Whether the region reads panels: a load whose last index is the column within one."""
    first = region.first
    if first is None or first.name != "k.load" or not n:
        return False
    index: tuple = first.attrs["index"]  # type: ignore[assignment]
    width = first.operand(0).type.shape[-1:]  # type: ignore[attr-defined]
    return len(index) > 1 and isinstance(width[0], int) and index[-1] == mod(sym(n[0][0]), width[0])


def _text(func: Func, operand: _Operand) -> str:
    """What the region computes, with its axes numbered: equal for operands of equal content."""
    alone, _ = _alone(func, operand, (1,), (0,))
    return structure_of(alone)


# ---- computing panels ------------------------------------------------------------------------------------------------


def _panels(func: Func, operand: _Operand, columns: int) -> np.ndarray | None:
    """[batch..., panels, k, columns], zero past the last column; None where packing it would be no gain."""
    batch = [int(e) for _, e in operand.batch]  # type: ignore[arg-type]
    n, k = (math.prod(int(e) for _, e in axes) for axes in (operand.n, operand.k))  # type: ignore[arg-type]
    accumulate: DType = contraction_of(func).attrs["accumulate"]  # type: ignore[assignment]
    count = -(-n // columns)
    size = math.prod(batch) * count * k * columns * accumulate.numpy.itemsize
    if size > _MOST_GROWTH * max(sum(a.nbytes for a in operand.arrays.values()), 1 << 16):
        return None
    plain = _view(func, operand, [*batch, k, n])
    if plain is None:
        plain = _computed(func, operand, [*batch, k, n], accumulate)
    if plain is None:
        return None
    panels = _zeros((*batch, count, k, columns), accumulate.numpy)
    for p in range(count):
        part = plain[..., p * columns : (p + 1) * columns]
        panels[..., p, :, : part.shape[-1]] = part
    return panels


def _view(func: Func, operand: _Operand, shape: Sequence[int]) -> np.ndarray | None:
    """The operand [batch..., k, n] as a view of a constant, where it is one."""
    op = contraction_of(func)
    load = single_load(op.regions[1], op.attrs["accumulate"])  # type: ignore[arg-type]
    if load is None or load.attrs["where"] or 0 in shape:
        return None
    flat: DimLike = Accesses(func).flat(load)
    axes = [*operand.batch, *operand.k, *operand.n]
    strides: list[int] = []
    for name, _ in axes:
        linear = linear_in(flat, name)
        if linear is None or not isinstance(linear.stride, int) or linear.stride < 0:
            return None
        strides.append(linear.stride)
        flat = linear.rest
    if not isinstance(flat, int):
        return None
    (array,) = operand.arrays.values()
    line = np.ascontiguousarray(array).reshape(-1)[flat:]
    extents = [int(e) for _, e in axes]  # type: ignore[arg-type]
    if sum((e - 1) * s for e, s in zip(extents, strides)) >= line.size:
        return None
    view = np.lib.stride_tricks.as_strided(line, extents, [s * line.itemsize for s in strides], writeable=False)
    return view.reshape(shape)


def _computed(func: Func, operand: _Operand, shape: Sequence[int], accumulate: DType) -> np.ndarray | None:
    """The operand [batch..., k, n] by running its region; None when it records an error, which has to happen in a run."""
    index = [*(sym(name) for name, _ in operand.batch), place_of(operand.k), place_of(operand.n)]
    alone, arguments = _alone(func, operand, shape, index)
    out = np.zeros(shape, accumulate.numpy)
    arrays = [np.ascontiguousarray(operand.arrays[a]).reshape(tuple(a.type.shape)) for a in arguments]  # type: ignore
    return None if run_kernel(alone, [*arrays, out], {}) else out


def _alone(func: Func, operand: _Operand, shape: Sequence[int], index: Sequence[DimLike]) -> tuple[Func, list[Value]]:
    """The region as a kernel that stores the operand's elements, and the arguments of `func` that it takes."""
    op = contraction_of(func)
    arguments = list(operand.arrays)
    accumulate: DType = op.attrs["accumulate"]  # type: ignore[assignment]
    types = [*(a.type for a in arguments), Mem(accumulate, tuple(shape))]
    alone = Func("panels", types, [*(a.name for a in arguments), "out"], kind="kernel")
    body = Block()
    (element,) = clone_region(op.regions[1], body, values=dict(zip(arguments, alone.args)))
    body.append(Op("k.store", [alone.args[-1], element], [], {"index": tuple(index), "where": (), "combine": None}))
    axes = [*operand.batch, *operand.k, *operand.n]
    alone.body.append(
        Op("k.parallel", (), (), {"axes": tuple(sym(a) for a, _ in axes), "extents": tuple(e for _, e in axes)}, [body])
    )
    return alone, arguments


def _zeros(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """Zeros at a multiple of a cache line."""
    size = math.prod(shape) * dtype.itemsize
    room = np.zeros(size + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    return room[start : start + size].view(dtype).reshape(tuple(shape))


# ---- reading panels --------------------------------------------------------------------------------------------------


def _read_panels(func: Func, operand: _Operand, columns: int, type: Mem) -> None:
    """The region becomes a load from a new last argument."""
    op = contraction_of(func)
    region = op.regions[1]
    argument = func.body.add_arg(type, "panels")
    column = place_of(operand.n)
    index = (
        *(sym(name) for name, _ in operand.batch),
        floordiv(column, columns),
        place_of(operand.k),
        mod(column, columns),
    )
    region.clear()
    load = region.append(Op("k.load", [argument], [Scalar(type.dtype)], {"index": index, "where": (), "other": 0}))
    region.append(Op("yield", [load.result]))


def _drop_unused_arguments(func: Func, launch: Op) -> None:
    """Arguments that only the packed region read; what the launch writes keeps its positions' meaning."""
    writes = [int(i) for i in launch.attrs["writes"]]  # type: ignore[union-attr, arg-type]
    for i in range(len(func.args) - 1, -1, -1):
        if not func.args[i].uses and i not in writes:
            func.body.remove_arg(i)
            launch.set_operands([v for j, v in enumerate(launch.inputs) if j != i])
            writes = [w - (w > i) for w in writes]
    launch.attrs["writes"] = tuple(writes)
