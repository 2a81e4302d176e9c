"""Sizes and positions that data decides: elements of integer tensors as dims that get their value during the run."""

from __future__ import annotations

from collections.abc import Sequence

from onnxc.ir.core import Value
from onnxc.ir.dims import Dim, DimLike
from onnxc.ir.types import I64
from onnxc.lowerings.context import Lowering

__all__ = ["data_reshape", "data_slice", "elements_of", "read_dim", "sizes_of"]

Element = DimLike | Value


def elements_of(b: Lowering, v: Value, what: str) -> list[Element]:
    """The elements of an integer vector or scalar: dims where they are known before a run, i64 scalars elsewhere."""
    known = b.known(v)
    if known is not None:
        return [d if isinstance(d, Dim) else int(d) for d in known.ravel()]
    t = b.type(v)
    if not t.dtype.is_integer or t.rank > 1 or not isinstance(t.size, int):
        b.refuse(f"{what} (%{v.name}) of type {t} is computed from data; it has to be integers, a known number of them")
    if v.op is not None and v.op.name == "t.concat":
        return [e for part in v.op.inputs for e in elements_of(b, part, what)]
    wide = b.cast(v, I64)
    if t.rank == 0:
        return [wide]
    parts = [b.value("t.slice", wide, starts=(i,), sizes=(1,), steps=(1,)) for i in range(t.size)]
    return [b.reshape(p, ()) for p in parts]


def sizes_of(b: Lowering, v: Value, what: str, bound: DimLike | None = None) -> list[DimLike]:
    """The elements of an integer vector or scalar, which are sizes: a negative one is an error of the run."""
    return [read_dim(b, e, what, bound) if isinstance(e, Value) else e for e in elements_of(b, v, what)]


def read_dim(b: Lowering, v: Value, what: str, bound: DimLike | None = None) -> Dim:
    """An integer scalar as a dim."""
    symbol = b.symbols.fresh("u", bound)
    limit = "is negative" if bound is None else f"is not between 0 and {bound}"
    b.op("t.read_dim", [v], {"defines": (str(symbol),), "bounds": (bound,),
                             "message": f"{b.loc or b.node.name}: {what} {limit}"})
    return symbol


def _value(b: Lowering, e: Element) -> Value:
    return e if isinstance(e, Value) else b.dim(e)


def data_slice(b: Lowering, start: Element, end: Element, step: int, extent: DimLike) -> tuple[DimLike, DimLike]:
    """Start and size of a slice of one axis under ONNX's rule: counted from the end where negative, then clamped."""
    zero, n, last = b.scalar(0, I64), b.dim(extent), b.dim(extent - 1)

    def clamped(e: Element, low: Value, high: Value) -> Value:
        v = _value(b, e)
        v = b.map("select", b.map("lt", v, zero), b.map("add", v, n), v)
        return b.map("max", b.map("min", v, high), low)

    first = clamped(start, zero, n if step > 0 else last)
    stop = clamped(end, zero, n) if step > 0 else clamped(end, b.scalar(-1, I64), last)
    whole = b.map("add", b.map("sub", stop, first), b.scalar(step - 1 if step > 0 else step + 1, I64))
    # An axis of no elements has no last one to begin at: the count is 0 there as well.
    size = b.map("min", b.map("max", b.map("div", whole, b.scalar(step, I64)), zero), n)
    return read_dim(b, first, "the start of a slice", extent), read_dim(b, size, "the size of a slice", extent)


def data_reshape(b: Lowering, data: Value, wanted: Sequence[Element], keeps_zero: bool) -> list[DimLike]:
    """The dims of a reshape to elements of which data decides some: 0 copies a dim (unless `keeps_zero`), one -1 is
    what the others leave."""
    have = b.shape(data)
    one = b.scalar(1, I64)
    dims: list[Value] = []
    for i, e in enumerate(wanted):
        v = _value(b, e)
        if not keeps_zero and i < len(have):
            v = b.map("select", b.map("eq", v, b.scalar(0, I64)), b.dim(have[i]), v)
        dims.append(v)
    known = [b.map("select", b.map("lt", v, b.scalar(0, I64)), one, v) for v in dims]
    total = one
    for v in known:
        total = b.map("mul", total, v)
    rest = b.map("div", b.dim(b.type(data).size), b.map("max", total, one))
    out: list[DimLike] = []
    for i, (e, v) in enumerate(zip(wanted, dims, strict=True)):
        if not isinstance(e, Value) and (isinstance(e, Dim) or e > 0):
            out.append(e)
        elif not isinstance(e, Value) and e == 0 and not keeps_zero and i < len(have):
            out.append(have[i])
        else:
            minus_one = b.map("eq", v, b.scalar(-1, I64))
            out.append(read_dim(b, b.map("select", minus_one, rest, v), f"dim {i} of the target shape"))
    return out
