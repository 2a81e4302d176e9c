"""The kernel of `t.topk`, in two forms: folds of the row for each element that is looked for, where these are few, and
else a sort by digits of the elements that can be among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from onnxc.ir.core import Block, Op, Value
from onnxc.ir.dims import Dim, DimLike, ceildiv, mod
from onnxc.ir.types import I64, DType, Mem
from onnxc.passes.indexing import Index, Where
from onnxc.passes.kernel_builder import Demand, element_type

__all__ = ["topk_body"]

_SHORT = 4096           # elements looked for times the length of a row: up to here folds are faster than the sort
_UNKNOWN = 1024         # assumed length of a row of symbolic length
_GROUP = 16             # elements of which the largest bounds what can be among the largest of the row
_STRETCH = 64           # neighbours that are skipped together when none of them can be among the largest
_DIGIT = 8              # bits


def topk_body(d: Demand, op: Op, out: Value) -> Op:
    """The positions of the largest keys of each row, in the order of falling keys and growing positions."""
    n, k = op.operand(0).dims[int(op.attr("axis"))], op.attr("k")
    few = isinstance(k, int) and (k <= 1 or k * (n if isinstance(n, int) else _UNKNOWN) <= _SHORT)
    return (_ByFolds if few else _ByDigits)(d, op, out).build()


class _Rows:
    """What both forms know of the kernel: the outer points are the rows along the axis."""

    def __init__(self, d: Demand, op: Op, out: Value) -> None:
        self.d, self.keys, self.out = d, op.operand(0), out
        self.shape = self.keys.dims
        self.axis = int(op.attr("axis")) % len(self.shape)
        self.n, self.k = self.shape[self.axis], op.attr("k")
        self.dtype: DType = element_type(self.keys.tensor.dtype)
        limits = np.iinfo(self.dtype.numpy)
        self.least, self.most, self.bits = int(limits.min), int(limits.max), int(limits.bits)
        self.axes = [d.axis() for _ in self.shape]

    def build(self) -> Op:
        rest = [i for i in range(len(self.shape)) if i != self.axis]
        axes, extents = tuple(self.axes[i] for i in rest), tuple(self.shape[i] for i in rest)
        self.d.open(axes, extents)
        self.row()
        return Op("k.parallel", (), (), {"axes": axes, "extents": extents}, [self.d.close()])

    def row(self) -> None:
        raise NotImplementedError

    def key(self, position: DimLike, where: Where = ()) -> Value:
        index: Index = tuple(position if i == self.axis else 0 if e == 1 else a
                             for i, (a, e) in enumerate(zip(self.axes, self.shape, strict=True)))
        return self.d.at(self.keys, index, where, self.least)

    def give(self, place: DimLike, position: Value) -> None:
        """Store the position of the element at `place` of the order."""
        self.d.store(self.out, position, tuple(place if i == self.axis else a for i, a in enumerate(self.axes)))

    def const(self, value: int) -> Value:
        return self.d.const(value, self.dtype)

    def fold(self, kind: str, extent: DimLike, element: Callable[[Dim], Value]) -> Value:
        d = self.d
        r = d.axis("r")
        d.open([r], [extent])
        value = element(r)
        d.append(Op("yield", [value]))
        attrs = {"axes": (r,), "extents": (extent,), "kinds": (kind,)}
        return d.append(Op("k.reduce", (), [value.type], attrs, [d.close()])).result

    def iterate(self, extent: DimLike, inits: Sequence[Value], body: Callable[..., Sequence[Value]],
                conditional: bool = False) -> None:
        """`body(axis, *carried)` gives what the next iteration carries."""
        d = self.d
        region = Block([v.type for v in inits], [f"c{i}" for i in range(len(inits))])
        axis = d.axis()
        d.open([axis], [extent], region)
        region.append(Op("yield", body(axis, *region.args)))
        d.close()
        d.append(Op("k.iterate", inits, (), {"axis": axis, "extent": extent, "conditional": conditional}, [region]))


class _ByFolds(_Rows):
    """k times: of the keys that come after the one found before, the largest, and the first position that has it."""

    def row(self) -> None:
        self.iterate(self.k, [self.const(self.most), self.d.const(-1, I64)], self.step)

    def step(self, place: Dim, last: Value, at: Value) -> Sequence[Value]:
        d = self.d

        def left(r: Dim) -> Value:
            """Whether an element comes after the last one."""
            behind = d.apply("and", d.apply("eq", self.key(r), last), d.apply("gt", d.index_value(r), at))
            return d.apply("or", d.apply("lt", self.key(r), last), behind)

        best = self.fold("max", self.n, lambda r: d.apply("select", left(r), self.key(r), self.const(self.least)))
        nowhere = int(np.iinfo(np.int64).max)
        found = self.fold("min", self.n, lambda r: d.apply(
            "select", d.apply("and", left(r), d.apply("eq", self.key(r), best)), d.index_value(r),
            d.const(nowhere, I64)))
        self.give(place, found)
        return [best, found]


class _ByDigits(_Rows):
    """The row is cut into groups. Where k groups have a largest key of at least some bound, so have k elements, and
    no smaller one is among the largest k. Elements from the best such bound on are copied to scratch, in the order of
    positions, and sorted by their digits, the lowest first, each time keeping the order of equals."""

    def row(self) -> None:
        d = self.d
        self.groups = ceildiv(self.n, _GROUP)
        args: list[tuple[str, DType, tuple[DimLike, ...]]] = [
            ("largest", self.dtype, (self.groups,)), ("bound", self.dtype, (1,)), ("found", I64, (1,)),
            ("ranks", self.dtype, (2, self.n)), ("places", I64, (2, self.n)), ("starts", I64, (1 << _DIGIT,))]
        self.largest, self.bound, self.found, self.ranks, self.places, self.starts = (
            d.func.body.add_arg(Mem(dtype, shape), name) for name, dtype, shape in args)
        d.func.attrs["scratch"] = len(args)
        self.sweep(self.groups, self.fold_group)
        self.iterate(self.bits, [self.const(0)], self.find_bound)
        d.store(self.found, d.const(0, I64), (0,))
        self.iterate(ceildiv(self.n, _STRETCH), [], self.copy_stretch)
        self.iterate(self.bits // _DIGIT, [], self.sort_by_digit)
        self.sweep(self.k, lambda i: self.give(i, self.read(self.places, 0, i)))

    def sweep(self, extent: DimLike, body: Callable[[Dim], None]) -> None:
        d = self.d
        axis = d.axis()
        d.open([axis], [extent])
        body(axis)
        d.append(Op("k.sweep", (), (), {"axes": (axis,), "extents": (extent,)}, [d.close()]))

    def read(self, mem: Value, *index: DimLike) -> Value:
        return self.d.load(mem, index, (), 0)

    def symbol(self, value: Value, axis: Dim) -> Dim:
        return self.d.given_index(value, frozenset((str(axis),)))

    # ---- which elements can be among the largest ---------------------------------------------------------------------
    def fold_group(self, j: Dim) -> None:
        """Elements of a group are as far apart as there are groups, so that neighbours belong to other groups."""
        def element(r: Dim) -> Value:
            position = r * self.groups + j
            return self.key(position, ((position, 0, self.n),))

        self.d.store(self.largest, self.fold("max", _GROUP, element), (j,))

    def find_bound(self, b: Dim, above: Value) -> Sequence[Value]:
        """Bit for bit, the highest first: whether k groups still reach the bound with this bit. As in all of this
        class, keys whose sign is turned around are ordered as bits."""
        d, least = self.d, self.const(self.least)
        bit = d.apply("lshift", self.const(1), d.cast(d.index_value(self.bits - 1 - b), self.dtype))
        tried = d.apply("bit_or", above, bit)
        bound, one, none = d.apply("bit_xor", tried, least), d.const(1, I64), d.const(0, I64)
        count = self.fold("add", self.groups, lambda r: d.apply(
            "select", d.apply("ge", self.read(self.largest, r), bound), one, none))
        kept = d.apply("select", d.apply("ge", count, d.index_value(self.k)), tried, above)
        d.store(self.bound, d.apply("bit_xor", kept, least), (0,))
        return [kept]

    def copy_stretch(self, c: Dim) -> Sequence[Value]:
        d, bound = self.d, self.read(self.bound, 0)

        def key(i: Dim) -> Value:
            position = c * _STRETCH + i
            return self.key(position, ((position, 0, self.n),))

        def element(i: Dim, some: Value, found: Value) -> Sequence[Value]:
            position = d.index_value(c * _STRETCH + i)
            taken = d.apply("and", d.apply("ge", key(i), bound), d.apply("lt", position, d.index_value(self.n)))
            counted = d.cast(taken, I64)
            where, at = ((self.symbol(counted, i), 1, 2),), self.symbol(found, i)
            d.store(self.ranks, d.apply("bit_xor", key(i), self.const(self.most)), (0, at), where)
            d.store(self.places, position, (0, at), where)
            after = d.apply("add", found, counted)
            d.store(self.found, after, (0,))
            return [some, after]

        some = d.apply("ge", self.fold("max", _STRETCH, key), bound)
        self.iterate(_STRETCH, [some, self.read(self.found, 0)], element, conditional=True)
        return []

    # ---- their order -------------------------------------------------------------------------------------------------
    def sort_by_digit(self, p: Dim) -> Sequence[Value]:
        """Ranks (the bits of keys, turned around, so that the largest comes first) and places go from one half of the
        scratch to the other. There is an even number of digits, so that the last one leaves them in the first half."""
        d, here, there = self.d, mod(p, 2), 1 - mod(p, 2)
        shift = d.cast(d.index_value(p * _DIGIT), self.dtype)

        def digit(i: Dim) -> tuple[Value, Dim]:
            rank = self.read(self.ranks, here, i)
            low = d.apply("bit_and", d.apply("rshift", rank, shift), self.const((1 << _DIGIT) - 1))
            return rank, self.symbol(low, i)

        def count(i: Dim) -> None:
            _, at = digit(i)
            d.store(self.starts, d.apply("add", self.read(self.starts, at), d.const(1, I64)), (at,))

        def start(j: Dim, before: Value) -> Sequence[Value]:
            after = d.apply("add", before, self.read(self.starts, j))
            d.store(self.starts, before, (j,))
            return [after]

        def move(i: Dim) -> None:
            rank, at = digit(i)
            free = self.read(self.starts, at)
            target = self.symbol(free, i)
            d.store(self.ranks, rank, (there, target))
            d.store(self.places, self.read(self.places, here, i), (there, target))
            d.store(self.starts, d.apply("add", free, d.const(1, I64)), (at,))

        self.sweep(1 << _DIGIT, lambda j: d.store(self.starts, d.const(0, I64), (j,)))
        self.each(count)
        self.iterate(1 << _DIGIT, [d.const(0, I64)], start)
        self.each(move)
        return []

    def each(self, body: Callable[[Dim], None]) -> None:
        """Over the elements that were copied, in order."""
        d, found = self.d, self.read(self.found, 0)

        def element(i: Dim, _: Value) -> Sequence[Value]:
            body(i)
            return [d.apply("lt", d.index_value(i + 1), found)]

        self.iterate(self.n, [d.apply("gt", found, d.const(0, I64))], element, conditional=True)
