"""Running kernel IR on numpy arrays: the meaning of `k.*` functions, and the oracle between lowering and the emitters.

Vectorised over the axes: inside k axes every value is an array of up to k dims that broadcasts against all of them,
loads are gathers, stores are assignments by index; only `k.scan` runs in order. Knows nothing of schedules. Arithmetic
is done in the element types of the kernel, by the rows' numpy column, so results carry the rounding that a kernel's
have. Sub-byte elements stand one an array element, as numpy carries them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxc.codegen.winograd import winograd_sums
from onnxc.errors import RuntimeException
from onnxc.ir.core import Block, Func, Op, Value
from onnxc.ir.dims import Call, Dim, DimLike, evaluate, symbols_of
from onnxc.ir.registry import lookup
from onnxc.ir.types import DType, Mem, Scalar, dtype_of
from onnxc.ops.attention import KERNEL_AXES, softmax
from onnxc.ops.kernel import ARG_KINDS

__all__ = ["KernelError", "bind_shapes", "identity", "run_kernel", "scratch_count"]


class KernelError(RuntimeException):
    """The kernel breaks a rule of the kernel IR (an index out of range, say), or its arguments do not fit it."""


def run_kernel(func: Func, arrays: Sequence[np.ndarray], dims: Mapping[str, int]) -> list[str]:
    """Run a kernel on its arguments, in place; the messages of the `k.require`s that failed, each once, in order.

    `dims` gives the symbols' values; those that stand alone in an argument's shape may be left out. KernelError names
    the op when the kernel reads or writes out of bounds, or when an array does not fit its argument.
    """
    symbols = bind_shapes(func, arrays, dims)
    run = _Run(dict(zip(func.args, arrays, strict=True)), symbols, func.args[len(func.args) - scratch_count(func):])
    with np.errstate(all="ignore"):
        run.block(func.body)
    return list(run.errors)


def scratch_count(func: Func) -> int:
    """How many of a kernel's last arguments are scratch: memory that each outer point has of its own."""
    count = func.attrs.get("scratch", 0)
    return count if isinstance(count, int) else 0


def bind_shapes(func: Func, arrays: Sequence[np.ndarray], dims: Mapping[str, int]) -> dict[str, int]:
    """The symbols' values: `dims` and what the arrays' shapes say; KernelError where the two disagree."""
    if len(arrays) != len(func.args):
        raise KernelError(f"@{func.name} takes {len(func.args)} buffers, got {len(arrays)}")
    symbols = dict(dims)
    for arg, array in zip(func.args, arrays, strict=True):
        mem = _mem(arg)
        if array.dtype != mem.dtype.numpy or array.ndim != len(mem.shape):
            raise KernelError(f"@{func.name}: %{arg.name} is {mem}, got an array {array.dtype}{list(array.shape)}")
        for dim, size in zip(mem.shape, array.shape, strict=True):
            if isinstance(dim, Dim) and dim.terms == (((str(dim),), 1),):
                symbols.setdefault(str(dim), size)
    for arg, array in zip(func.args, arrays, strict=True):
        unbound = symbols_of(_mem(arg).shape) - symbols.keys()
        if unbound:
            raise KernelError(f"@{func.name}: nothing says how large {', '.join(sorted(unbound))} is; give it in dims")
        wanted = tuple(evaluate(d, symbols) for d in _mem(arg).shape)
        if wanted != array.shape:
            raise KernelError(f"@{func.name}: %{arg.name} is {mem}, so {list(wanted)}; got {list(array.shape)}")
    return symbols


def identity(kind: str, dtype: DType) -> Any:
    """The result of folding no element; of the "arg" kinds, the key."""
    if kind in ("add", "or"):
        return dtype.numpy.type(0)
    if kind == "mul":
        return dtype.numpy.type(1)
    if kind == "and":
        return np.bool_(True) if dtype.kind == "bool" else dtype.numpy.type(~dtype.numpy.type(0))
    lowest = kind == "max" or kind.startswith("argmax")
    if dtype.is_float:
        return dtype.numpy.type(-math.inf if lowest else math.inf)
    if dtype.kind == "bool":
        return np.bool_(not lowest)
    limits = np.iinfo(dtype.numpy)
    return dtype.numpy.type(limits.min if lowest else limits.max)


def _mem(v: Value) -> Mem:
    if not isinstance(v.type, Mem):
        raise KernelError(f"%{v.name} is {v.type}, not memory")
    return v.type


def _element(v: Value) -> DType:
    if not isinstance(v.type, Scalar):
        raise KernelError(f"%{v.name} is {v.type}, not an element")
    return v.type.dtype


class _Run:
    """State of one run: arrays of memories and values, and the positions of each axis in force, laid along its dim."""

    def __init__(self, memory: dict[Value, np.ndarray], symbols: Mapping[str, int],
                 scratch: Sequence[Value] = ()) -> None:
        self.memory = memory
        self.scratch = {v: memory[v].shape for v in scratch}
        self.points: list[int] = []                         # extents of the outer points, while there are any
        self.values: dict[Value, np.ndarray] = {}
        self.symbols: dict[str, np.ndarray] = {s: np.asarray(v, np.int64) for s, v in symbols.items()}
        self.extents: list[int] = []                        # of the dims in force, outermost first
        self.errors: dict[str, None] = {}
        self.active: np.ndarray = np.asarray(True)          # the points whose loop that may end early has not ended

    def block(self, block: Block) -> list[np.ndarray]:
        """Run a block's ops; the values that it yields."""
        for op in block.ops:
            if op.name == "yield":
                return [self.get(v) for v in op.inputs]
            self.op(op)
        return []

    def op(self, op: Op) -> None:
        if op.name.startswith("s."):
            return self.scalar(op)
        handler = getattr(self, "op_" + op.name.removeprefix("k."), None)
        if not op.name.startswith("k.") or handler is None:
            raise KernelError(f"{op.name} has no place in a kernel")
        return handler(op)

    def get(self, v: Value) -> np.ndarray:
        """The value with a dim for each axis in force (size 1 where it does not vary)."""
        a = self.values[v]
        return a.reshape(a.shape + (1,) * (len(self.extents) - a.ndim))

    def full(self, a: np.ndarray) -> np.ndarray:
        return np.broadcast_to(a.reshape(a.shape + (1,) * (len(self.extents) - a.ndim)), self.extents)

    def scalar(self, op: Op) -> None:
        row = lookup(op.name)
        if row is None or row.ref is None:
            raise KernelError(f"{op.name} has no numpy meaning")
        result = row.ref(op.attrs, *(self.get(v) for v in op.inputs))
        self.values[op.result] = np.asarray(result, _element(op.result).numpy)

    # ---- index expressions -------------------------------------------------------------------------------------------
    def dim(self, d: DimLike, operands: Sequence[Value] = ()) -> np.ndarray:
        """The value of an index expression at every point, `$n` being the operands."""
        if not isinstance(d, Dim):
            return np.asarray(d, np.int64)
        total = np.asarray(0, np.int64)
        for mono, coef in d.terms:
            part = np.asarray(coef, np.int64)
            for atom in mono:
                part = part * (self.call(atom, operands) if isinstance(atom, Call) else self.symbol(atom, operands))
            total = total + part
        return total

    def symbol(self, name: str, operands: Sequence[Value]) -> np.ndarray:
        if name.startswith("$"):
            return self.get(operands[int(name[1:])])
        if name not in self.symbols:
            raise KernelError(f"the symbol {name} is neither an axis in force nor a bound dim")
        a = self.symbols[name]
        return a.reshape(a.shape + (1,) * (len(self.extents) - a.ndim))

    def call(self, call: Call, operands: Sequence[Value]) -> np.ndarray:
        args = [self.dim(a, operands) for a in call.args]
        apply = {"floordiv": np.floor_divide, "mod": np.mod, "min": np.minimum, "max": np.maximum}[call.fn]
        total = args[0]
        for a in args[1:]:
            total = apply(total, a)
        return total

    def extent(self, d: DimLike) -> int:
        value = self.dim(d)
        if value.size != 1:
            raise KernelError(f"the extent {d} varies over an enclosing axis")
        return int(value.reshape(())[()])

    # ---- memory ------------------------------------------------------------------------------------------------------
    def place(self, op: Op, mem: Value, operands: Sequence[Value]) -> tuple[list[np.ndarray], np.ndarray]:
        """The index arrays and where the access happens; KernelError if it happens out of bounds."""
        index = [self.dim(d, operands) for d in _tuple(op, "index")]
        if mem in self.scratch:                             # all points run at once: each has a row of its own
            index = [*np.indices(self.points, sparse=True), *index]
            index = [i.reshape(i.shape + (1,) * (len(self.extents) - i.ndim)) for i in index]
        happens = self.active.reshape(self.active.shape + (1,) * (len(self.extents) - self.active.ndim))
        for expr, low, high in _tuple(op, "where"):
            value = self.dim(expr, operands)
            happens = happens & (self.dim(low, operands) <= value) & (value < self.dim(high, operands))
        for i, (at, size) in enumerate(zip(index, self.memory[mem].shape, strict=True)):
            bad = happens & ((at < 0) | (at >= size))
            if all(self.extents) and bad.any():
                wrong = np.broadcast_to(at, bad.shape)[bad].flat[0]
                raise KernelError(f"{op.name} of %{mem.name}: index {wrong} in dim {i}, which has size {size}")
        return index, happens

    def op_load(self, op: Op) -> None:
        mem, operands = op.operand(0), op.inputs[1:]
        index, happens = self.place(op, mem, operands)
        shape = np.broadcast_shapes(happens.shape, *(at.shape for at in index))
        out = np.empty(shape, _element(op.result).numpy)
        out[...] = np.asarray(op.attrs["other"], out.dtype)
        chosen = np.broadcast_to(happens, shape)
        if all(self.extents):                               # a loop that does not run reads nothing
            out[chosen] = self.memory[mem][tuple(np.broadcast_to(at, shape)[chosen] for at in index)]
        self.values[op.result] = out

    def op_store(self, op: Op) -> None:
        mem, value, operands = op.operand(0), op.operand(1), op.inputs[2:]
        index, happens = self.place(op, mem, operands)
        chosen = self.full(happens)
        at = tuple(self.full(i)[chosen] for i in index)
        values = self.full(self.get(value))[chosen]
        target = self.memory[mem]
        if not at:                                          # a buffer of rank 0, seen as one of a single element
            target, at = target.reshape(1), (np.zeros(values.shape, np.int64),)
        combine = {None: None, "add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}
        ufunc = combine[op.attrs.get("combine")]  # type: ignore[index]
        if ufunc is None:
            target[at] = values
        else:
            ufunc.at(target, at, values)

    def op_index(self, op: Op) -> None:
        self.values[op.result] = self.dim(op.attrs["expr"], op.inputs)  # type: ignore[arg-type]

    def op_require(self, op: Op) -> None:
        inactive = ~self.active.reshape(self.active.shape + (1,) * (len(self.extents) - self.active.ndim))
        if not np.all(self.full(self.get(op.operand(0)) | inactive)):
            self.errors[str(op.attrs["message"])] = None

    # ---- loops -------------------------------------------------------------------------------------------------------
    def enter(self, axes: Sequence[DimLike], extents: Sequence[DimLike]) -> int:
        """Put axes in force; how many were before."""
        depth = len(self.extents)
        sizes = [self.extent(e) for e in extents]
        self.extents += sizes
        for k, (axis, size) in enumerate(zip(axes, sizes, strict=True)):
            self.symbols[str(axis)] = np.arange(size, dtype=np.int64).reshape((1,) * (depth + k) + (size,))
        return depth

    def leave(self, depth: int, axes: Sequence[DimLike]) -> None:
        del self.extents[depth:]
        for axis in axes:
            del self.symbols[str(axis)]

    def nest(self, axes: Sequence[DimLike], extents: Sequence[DimLike], region: Block) -> list[np.ndarray]:
        """Run a region under axes; its yields, with a dim for each of them."""
        depth = self.enter(axes, extents)
        out = [self.full(v) for v in self.block(region)]
        self.leave(depth, axes)
        return out

    def op_parallel(self, op: Op) -> None:
        self.points = [self.extent(e) for e in _tuple(op, "extents")]
        for v, shape in self.scratch.items():
            self.memory[v] = np.full((*self.points, *shape), 0xA5, np.uint8).astype(_mem(v).dtype.numpy)
        self.op_sweep(op)

    def op_sweep(self, op: Op) -> None:
        self.nest(_tuple(op, "axes"), _tuple(op, "extents"), op.regions[0])

    def op_reduce(self, op: Op) -> None:
        depth = len(self.extents)
        yields = self.nest(_tuple(op, "axes"), _tuple(op, "extents"), op.regions[0])
        outer = yields[0].shape[:depth]
        flat = [y.reshape(*outer, math.prod(y.shape[depth:])) for y in yields]
        results = iter(op.results)
        i = 0
        for kind in _tuple(op, "kinds"):
            if kind in ARG_KINDS:
                key, at = _fold_arg(kind, flat[i], flat[i + 1])
                folded, i = [key, at], i + 2
            else:
                folded, i = [_fold(kind, flat[i])], i + 1
            for value in folded:
                result = next(results)
                self.values[result] = np.asarray(value, _element(result).numpy)

    def op_scan(self, op: Op) -> None:
        axis, kind = str(op.attrs["axis"]), str(op.attrs["kind"])
        element = op.regions[1].args[0]
        depth = len(self.extents)
        running = np.full((1,) * depth, identity(kind, _element(element)))
        for position in range(self.extent(op.attrs["extent"])):  # type: ignore[arg-type]
            self.symbols[axis] = np.full((1,) * depth, position, np.int64)
            (value,) = self.block(op.regions[0])
            following = _UFUNCS[kind](running, value)
            self.values[element] = running if op.attrs["exclusive"] else following
            self.block(op.regions[1])
            running = following
        self.symbols.pop(axis, None)

    def op_iterate(self, op: Op) -> None:
        axis, region = str(op.attrs["axis"]), op.regions[0]
        depth = len(self.extents)
        carried = [self.get(v) for v in op.inputs]
        for position in range(self.extent(op.attrs["extent"])):  # type: ignore[arg-type]
            self.symbols[axis] = np.full((1,) * depth, position, np.int64)
            self.values.update(zip(region.args, carried, strict=True))
            if not op.attrs["conditional"]:
                carried = self.block(region)
                continue
            outer, here = self.active, self.active & carried[0]
            if not here.any():
                break
            self.active = here
            carried = [np.where(here, new, old) for new, old in zip(self.block(region), carried, strict=True)]
            self.active = outer
        self.symbols.pop(axis, None)
        self.values.update(zip(op.results, carried, strict=False))

    def op_contract(self, op: Op) -> None:
        batch, m, n, k = (list(zip(*_tuple(op, group), strict=True)) or [(), ()] for group in ("batch", "m", "n", "k"))
        (lhs,) = self.nest(batch[0] + m[0] + k[0], batch[1] + m[1] + k[1], op.regions[0])
        (rhs,) = self.nest(batch[0] + n[0] + k[0], batch[1] + n[1] + k[1], op.regions[1])
        wide = op.attrs["accumulate"].numpy  # type: ignore[union-attr]
        b, folded = lhs.shape[:len(batch[0])], math.prod(lhs.shape[len(lhs.shape) - len(k[0]):])
        rows, columns = lhs.shape[len(b):lhs.ndim - len(k[0])], rhs.shape[len(b):rhs.ndim - len(k[0])]
        left = lhs.reshape(*b, math.prod(rows), folded).astype(wide)
        right = rhs.reshape(*b, math.prod(columns), folded).astype(wide)
        total = np.matmul(left, np.swapaxes(right, -1, -2)) if not op.attrs["winograd"] else \
            self.winograd(op, lhs.astype(wide), rhs.astype(wide))
        axes = batch[0] + m[0] + n[0]
        depth = self.enter(axes, batch[1] + m[1] + n[1])
        self.values[op.regions[2].args[0]] = total.reshape((*b, *rows, *columns))
        self.block(op.regions[2])
        self.leave(depth, axes)

    def winograd(self, op: Op, lhs: np.ndarray, rhs: np.ndarray) -> np.ndarray:
        """The sums by Winograd's method: [batch..., m..., n...]."""
        axes = {key: [str(axis) for axis, _ in _tuple(op, key)] for key in ("batch", "m", "n", "k")}
        pairs = [(axes["m"].index(str(row)), axes["k"].index(str(tap))) for row, tap in _tuple(op, "winograd")]
        return winograd_sums(lhs, rhs, len(axes["batch"]), len(axes["m"]), pairs)

    def op_attend(self, op: Op) -> None:
        """The product of queries and keys and that of weights and values in f64, each place of the softmax once."""
        batch, m, n, k, columns = (list(zip(*_tuple(op, group), strict=True)) or [(), ()] for group in KERNEL_AXES)
        b = len(batch[0])

        def operand(region: int, first: list[Any], last: list[Any]) -> np.ndarray:
            """[batch..., first, last]."""
            (a,) = self.nest(batch[0] + first[0] + last[0], batch[1] + first[1] + last[1], op.regions[region])
            shape = a.shape[:b], a.shape[b:b + len(first[0])], a.shape[b + len(first[0]):]
            return a.reshape(*shape[0], math.prod(shape[1]), math.prod(shape[2])).astype(np.float64)

        q, keys, values = operand(0, m, k), operand(1, n, k), operand(3, n, columns)
        product = np.matmul(q, np.swapaxes(keys, -1, -2)).astype(np.float32)
        axes, extents = batch[0] + m[0] + n[0], batch[1] + m[1] + n[1]
        depth = self.enter(axes, extents)
        self.values[op.regions[2].args[0]] = product.reshape([self.extent(e) for e in extents])
        (scores,) = (self.full(v) for v in self.block(op.regions[2]))
        self.leave(depth, axes)
        weights = softmax(scores.reshape(*scores.shape[:b], -1, scores.shape[-1]).astype(np.float64)
                          if scores.size else np.zeros((*product.shape,)), bool(op.attrs["missing"]))
        total = np.matmul(weights, values).astype(np.float32)
        axes, extents = batch[0] + m[0] + columns[0], batch[1] + m[1] + columns[1]
        depth = self.enter(axes, extents)
        self.values[op.regions[4].args[0]] = total.reshape([self.extent(e) for e in extents])
        self.block(op.regions[4])
        self.leave(depth, axes)


_UFUNCS = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum,
           "and": np.bitwise_and, "or": np.bitwise_or}


def _tuple(op: Op, name: str) -> tuple[Any, ...]:
    value = op.attrs.get(name)
    if not isinstance(value, (tuple, list)):
        raise KernelError(f"{op.name}: attribute '{name}' is {value!r}, not a list")
    return tuple(value)


def _fold(kind: str, values: np.ndarray) -> np.ndarray:
    """Fold the last dim."""
    if kind not in _UFUNCS:
        raise KernelError(f"k.reduce knows no kind '{kind}'")
    start = identity(kind, dtype_of(values.dtype))
    return _UFUNCS[kind].reduce(values, axis=-1, initial=start, dtype=values.dtype)


def _fold_arg(kind: str, keys: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The winning key of the last dim and its position: NaN before all, then the first or last of equals."""
    largest = kind.startswith("argmax")
    best = _fold("max" if largest else "min", keys)[..., None]
    winners = (keys == best) | ((keys != keys) & (best != best))
    if not keys.shape[-1]:
        return best[..., 0], np.zeros(best.shape[:-1], np.int64)
    last = keys.shape[-1] - 1
    at = last - winners[..., ::-1].argmax(-1) if kind.endswith("_last") else winners.argmax(-1)
    return best[..., 0], np.take_along_axis(positions, at[..., None], -1)[..., 0]
