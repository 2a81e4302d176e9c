"""What a lowering works with: a builder that also knows shapes, known values, broadcasting and guards."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import numpy as np

from onnxc.ir.builder import Builder, constant_of
from onnxc.ir.core import Block, Func, Module, Op, Ref, Value
from onnxc.ir.dims import Dim, DimLike, Shape, dim_joint, dim_max, sym, symbols_of
from onnxc.ir.types import BOOL, I64, DType, Tensor, dtype_named
from onnxc.ops.known import KnownValues
from onnxc.ops.program import at_most
from onnxc.ops.tensor import normal_axis

__all__ = ["Guard", "Lowering", "Poisoned", "Refused", "RunSymbols"]

Guard = tuple[str, DimLike, DimLike, str]      # ("eq" | "broadcast", left, right, message)


class Poisoned(Exception):
    """An op inside a region of the node has been refused already."""


class Refused(Exception):
    """The op cannot be lowered in this form; the text is the reason."""


class Contradiction(Refused):
    """The op cannot run at all: what is known of its inputs contradicts itself."""


class RunSymbols:
    """Names for dims that get their value during a run; `taken` are the names that there are."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self.taken = set(taken)
        self.made: dict[str, DimLike | None] = {}        # name -> bound (None: not known), in the order of making

    def fresh(self, stem: str, bound: DimLike | None) -> Dim:
        """A new symbol that will be at most `bound`."""
        n = 0
        while f"{stem}{n}" in self.taken:
            n += 1
        self.taken.add(f"{stem}{n}")
        self.made[f"{stem}{n}"] = bound
        return sym(f"{stem}{n}")

    def at_most(self, d: DimLike) -> DimLike | None:
        """The most that a dim can become, over the dims of inputs; None when that is not known."""
        return at_most(d, list(self.made.items()))

    def is_younger(self, d: DimLike, than: Dim) -> bool:
        """Whether a dim holds `than`, or a symbol that was made after it."""
        names = list(self.made)
        return bool(symbols_of(d) & set(names[names.index(str(than)):]))


class Lowering(Builder):
    """Builds the tensor ops of one ONNX op, in front of it. `lower_block` lowers the ops of a region."""

    def __init__(self, module: Module, op: Op, known: KnownValues, guards: list[Guard], symbols: RunSymbols | None =
    None,
                 lower_block: Callable[[Block], None] | None = None) -> None:
        if op.block is None:
            raise ValueError(f"{op.name} is in no block")
        super().__init__(module, op.block, op, op.loc)
        self.node, self._known, self._guards = op, known, guards
        self.symbols = RunSymbols() if symbols is None else symbols
        self.lower_block = lower_block
        self.inner = not isinstance(op.block.parent, Func)  # whether what is built may not run, or runs several times
        self.first_inlined: Op | None = None         # the first op that `inline` brought and that is not lowered yet

    @property
    def captured(self) -> tuple[Value | None, ...]:
        """The outer values that the node's regions use, which are their last arguments."""
        count = self.node.attrs.get("captured", 0)
        return self.node.operands[-count:] if isinstance(count, int) and count else ()

    # ---- questions -------------------------------------------------------------------------------------------------
    def refuse(self, reason: str) -> NoReturn:
        """Give up on this op."""
        raise Refused(reason)

    @staticmethod
    def type(v: Value) -> Tensor:
        """The tensor type of a value; refused when it is no tensor or its rank is not known."""
        if not isinstance(v.type, Tensor) or v.type.shape is None:
            raise Refused(f"input {v!r} is not a tensor of known rank")
        return v.type

    def dtype(self, v: Value) -> DType:
        return self.type(v).dtype

    def shape(self, v: Value) -> Shape:
        """The dims of a value."""
        return self.type(v).dims

    def rank(self, v: Value) -> int:
        return self.type(v).rank

    def axis(self, axis: int, v: Value) -> int:
        """`axis` of `v` counted from the front; out of range is refused."""
        return normal_axis(axis, self.rank(v), self.node.name)

    def constant(self, v: Value | None) -> np.ndarray | None:
        """The array of a constant, or of a small value computed from constants; None for absent and other ones."""
        array = constant_of(self.module, v)
        return self._known.array(v) if array is None else array

    def array(self, attribute: Any) -> np.ndarray:
        """A tensor attribute as an array; refused when it is a sparse one."""
        array = self.module.constants[attribute.name] if isinstance(attribute, Ref) else attribute
        if not isinstance(array, np.ndarray):
            self.refuse(f"the value is {type(array).__name__}, not a dense tensor")
        return array

    def known(self, v: Value) -> np.ndarray | None:
        """The elements of an integer or bool value as ints, bools and Dims; None when they depend on data."""
        return self._known.of(v)

    def dims_of(self, v: Value, what: str) -> list[DimLike]:
        """The elements of an integer vector (or scalar) as dims; refused when they depend on data."""
        known = self._known.of(v)
        if known is None:
            self.refuse(f"{what} (%{v.name}) is computed from data; it has to follow from the shapes of inputs")
        return [d if isinstance(d, Dim) else int(d) for d in known.ravel()]

    def ints_of(self, v: Value | None, what: str) -> list[int] | None:
        """The elements of an integer vector as ints; None when the input is absent; refused when not constant."""
        if v is None:
            return None
        out = self.dims_of(v, what)
        for d in out:
            if not isinstance(d, int):
                self.refuse(f"{what} (%{v.name}) is {d}; it has to be constant")
        return out  # type: ignore[return-value]

    def wants(self, i: int) -> bool:
        """Whether output i of the node exists and is used."""
        return i < len(self.node.results) and bool(self.node.results[i].uses)

    def guard(self, kind: str, left: DimLike, right: DimLike, message: str) -> None:
        """Demand at run time that left == right ("eq"), or that left is 1 or right ("broadcast")."""
        if left == right or (kind == "broadcast" and left == 1):
            return
        if isinstance(left, int) and isinstance(right, int):
            raise Contradiction(f"{message}: {left} and {right}")
        if self.inner or symbols_of((left, right)) & self.symbols.made.keys():
            self.op("t.require", (), {"kind": kind, "left": left, "right": right,
                                      "message": f"{self.loc or self.node.name}: {message}"})
            return
        self._guards.append((kind, left, right, f"{self.loc or self.node.name}: {message}"))

    def extent(self, d: DimLike, what: str) -> DimLike:
        """`d`, which must not be negative, as a size; compared when a run starts if that cannot be told now."""
        self.at_most(0, d, f"{what} is negative")
        return d

    def at_most(self, low: DimLike, high: DimLike, message: str) -> None:
        """Demand that low <= high."""
        self.guard("eq", dim_max(low, high), high, message)

    # ---- regions ---------------------------------------------------------------------------------------------------
    def inline(self, region: Block, args: Sequence[Value]) -> tuple[Value, ...]:
        """Move the ops of a region in front of the node, with `args` for its arguments; gives what it yields.

        The ops are lowered next; what they give has the types of the model until then.
        """
        for formal, actual in zip(region.args, args, strict=True):
            formal.replace_by(actual)
        last = region.terminator
        out = last.inputs
        last.erase()
        for op in region.ops:
            region.unlink(op)
            self.insert(op)
            self.first_inlined = self.first_inlined or op
        return out

    def inside(self, block: Block) -> Lowering:
        """The same, building at the end of `block`."""
        other = copy.copy(self)
        other.block, other.before, other.inner = block, None, True
        return other

    def loop(self, extent: DimLike, inits: Sequence[Value], captured: Sequence[Value],
             body: Callable[[Lowering, Dim, list[Value], list[Value]], tuple[Sequence[Value], Sequence[Value]]],
             ) -> list[Value]:
        """A loop of `extent` iterations. `body(builder, iteration, carried, captured)` builds one and gives the next
        carried values, of the types of `inits`, and rows; the results are the last carried values and the rows
        stacked."""
        i = self.symbols.fresh("it", extent - 1)
        block = Block([v.type for v in (*inits, *captured)], [v.name for v in (*inits, *captured)])
        b = self.inside(block)
        following, rows = body(b, i, block.args[:len(inits)], [b.sunk(v, arg) for v, arg in
                                                               zip(captured, block.args[len(inits):], strict=True)])
        b.op("yield", [*following, *rows], types=())
        types = [Tensor(self.dtype(r), (extent, *self.shape(r))) for r in rows]
        return self.op("t.loop", [*inits, *captured], {"symbol": str(i), "extent": extent, "carried": len(inits),
                                                       "row_types": tuple(r.type for r in rows)},
                       [*(v.type for v in inits), *types], [block]).results

    def sunk(self, v: Value, arg: Value) -> Value:
        """A captured value inside of a region: constants stand there as constants, others are its argument."""
        op = v.op
        return arg if op is None or op.name != "t.const" else self.op("t.const", (), op.attrs, [v.type]).result

    # ---- making ----------------------------------------------------------------------------------------------------
    def scalar(self, value: float | int | bool, like: Value | DType) -> Value:
        """A rank-0 constant of the element type of `like`."""
        dtype = like if isinstance(like, DType) else self.dtype(like)
        return self.const(np.asarray(value).astype(dtype.numpy))

    def dims(self, values: Sequence[DimLike], dtype: DType = I64) -> Value:
        """Dims as a vector value."""
        return self.value("t.dims", values=tuple(values), vector=True, dtype=dtype)

    def dim(self, value: DimLike, dtype: DType = I64) -> Value:
        """A dim as a scalar value."""
        return self.value("t.dims", values=(value,), vector=False, dtype=dtype)

    def cast(self, v: Value, to: DType, **attrs: Any) -> Value:
        return v if self.dtype(v) == to else self.value("t.cast", v, to=to, **attrs)

    def reshape(self, v: Value, shape: Sequence[DimLike]) -> Value:
        """`v` with another shape; sizes that cannot be compared now are compared when a run starts."""
        if tuple(shape) == self.shape(v):
            return v
        out = self.value("t.reshape", v, shape=tuple(shape))
        self.guard("eq", self.type(v).size, self.type(out).size, "the number of elements changes in a reshape")
        return out

    def transpose(self, v: Value, perm: Sequence[int]) -> Value:
        return v if list(perm) == list(range(len(perm))) else self.value("t.transpose", v, perm=tuple(perm))

    def broadcast_to(self, v: Value, shape: Sequence[DimLike]) -> Value:
        """`v` repeated to `shape`, every dim being 1 or the wanted one."""
        have, want = self.shape(v), tuple(shape)
        if have == want:
            return v
        for d, e in zip(have, want[len(want) - len(have):], strict=False):
            self.guard("broadcast", d, e, f"a dim of {d} cannot be broadcast to {e}")
        return self.value("t.broadcast", v, shape=want)

    def common_shape(self, *values: Value) -> Shape:
        """The shape that `values` broadcast to together."""
        return self.joint_shape(*map(self.shape, values))

    def joint_shape(self, *shapes: Sequence[DimLike]) -> Shape:
        """The shape that `shapes` broadcast to together."""
        rank = max(map(len, shapes))
        padded = [(1,) * (rank - len(s)) + tuple(s) for s in shapes]
        return tuple(self.joint_dim(dims) for dims in zip(*padded, strict=True))

    def joint_dim(self, dims: Sequence[DimLike]) -> DimLike:
        """The dim that `dims` broadcast to together; refused when there is none."""
        rest = list(dict.fromkeys(d for d in dims if d != 1))
        fixed = [d for d in rest if isinstance(d, int)]
        if len(set(fixed)) > 1:
            self.refuse(f"dims {' and '.join(map(str, fixed))} cannot be broadcast together")
        if fixed:
            return fixed[0]
        return dim_joint(*rest) if rest else 1      # symbols that are not known to be equal: some of them may be 1

    def align(self, *values: Value) -> list[Value]:
        """`values` with shapes that elementwise ops combine: explicit broadcasts where types alone do not tell."""
        shape = self.common_shape(*values)
        return [self.spread(v, shape) for v in values]

    def spread(self, v: Value, shape: Sequence[DimLike]) -> Value:
        """`v`, which has to broadcast to `shape` (ONNX: unidirectional), repeated where its type does not show how."""
        have = self.shape(v)
        if len(have) > len(shape):
            self.refuse(f"a value of type {v.type} cannot be broadcast to rank {len(shape)}")
        want = tuple(shape[len(shape) - len(have):])
        return v if all(d in (1, e) for d, e in zip(have, want, strict=True)) else self.broadcast_to(v, want)

    def map(self, name: str, *values: Value) -> Value:
        """The elementwise op `t.<name>` on values that broadcast."""
        return self.value(f"t.{name}", *self.align(*values))

    def widen(self, v: Value) -> Value:
        """`v` in the element type its arithmetic is done in: f32 for smaller floats, itself otherwise."""
        dtype = self.dtype(v)
        return self.cast(v, dtype_named(dtype.compute)) if dtype.is_float else v

    def wide(self, body: Callable[[Value], Value], v: Value) -> Value:
        """`body` of the widened `v`, rounded once to the element type of `v`: for ops of several steps."""
        return self.cast(body(self.widen(v)), self.dtype(v))

    def reduce(self, v: Value, kind: str, axes: Sequence[int], keepdims: bool = True) -> Value:
        """Fold over `axes` (normalised); they stay as 1 with `keepdims`. Sums of small floats want `widen` first."""
        out = self.value("t.reduce", v, kind=kind, axes=tuple(axes)) if axes else v
        if keepdims and axes:
            out = self.value("t.reshape", out, shape=tuple(1 if i in axes else d for i, d in enumerate(self.shape(v))))
        return out

    def mean(self, v: Value, axes: Sequence[int], keepdims: bool = True) -> Value:
        """The mean over `axes` (normalised); integers divide towards zero."""
        return self.map("div", self.reduce(v, "add", axes, keepdims), self.count(v, axes, self.dtype(v)))

    def iota(self, n: DimLike, rank: int = 1, axis: int = 0, dtype: DType = I64) -> Value:
        """0 ... n-1 along `axis` of a shape of `rank` axes that are 1 elsewhere."""
        return self.value("t.iota", shape=tuple(n if i == axis else 1 for i in range(rank)), axis=axis, dtype=dtype)

    def per_channel(self, v: Value, rank: int, axis: int = 1) -> Value:
        """A vector laid along `axis` of a shape of `rank` axes."""
        if self.rank(v) != 1:
            self.refuse(f"%{v.name} of type {v.type} must be a vector")
        return self.reshape(v, (*self.shape(v), *[1] * (rank - axis - 1)))

    def count(self, v: Value, axes: Sequence[int], dtype: DType) -> Value:
        """The number of elements folded by a reduction over `axes`, as a scalar of `dtype`."""
        total: DimLike = 1
        for a in axes:
            total = total * self.shape(v)[a]
        return self.scalar(total, dtype) if isinstance(total, int) else self.cast(self.dim(total), dtype)

    def require_dtype(self, v: Value, *kinds: str) -> None:
        """Refuse element types outside `kinds`."""
        if self.dtype(v).kind not in kinds and not (self.dtype(v) == BOOL and "bool" in kinds):
            self.refuse(f"element type {self.dtype(v)} is not supported")
