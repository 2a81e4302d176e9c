"""Shapes: asking for them, and giving the same elements another one."""

from __future__ import annotations

from collections.abc import Sequence

from onnxc.ir.core import Value
from onnxc.ir.dims import DimLike, dim_max, floordiv, product
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.data_sizes import data_reshape, elements_of, sizes_of
from onnxc.lowerings.table import lowering

__all__: list[str] = []


@lowering
def Shape(b: Lowering, data: Value, *, start: int = 0, end: int | None = None) -> Value:
    rank = b.rank(data)
    first, last = (min(max(v + rank if v < 0 else v, 0), rank) for v in (start, rank if end is None else end))
    return b.dims(b.shape(data)[first:max(first, last)])


@lowering
def Size(b: Lowering, data: Value) -> Value:
    return b.dim(b.type(data).size)


@lowering
def Identity(b: Lowering, input: Value) -> Value:
    return input


@lowering
def Reshape(b: Lowering, data: Value, shape: Value, *, allowzero: int = 0) -> Value:
    have, found = list(b.shape(data)), elements_of(b, shape, "the target shape")
    want = [e for e in found if not isinstance(e, Value)]
    if len(want) < len(found):
        return b.reshape(data, data_reshape(b, data, found, bool(allowzero)))
    if want.count(-1) > 1:
        b.refuse(f"the target shape {_text(want)} has more than one -1")
    if allowzero and -1 in want and 0 in want:
        b.refuse(f"the target shape {_text(want)} has both 0 and -1 although allowzero is set")
    for i, d in enumerate(want):
        if d != -1:
            b.extent(d, f"dim {i} of the target shape {_text(want)}")
        if not allowzero and isinstance(d, int) and d == 0:
            if i >= len(have):
                b.refuse(f"the target shape {_text(want)} copies dim {i}, but the input has rank {len(have)}")
            want[i] = have[i]
    if -1 in want:
        i = want.index(-1)
        want[i] = _rest(have, want[:i] + want[i + 1:])
    return b.reshape(data, want)


def _text(dims: Sequence[DimLike]) -> str:
    return f"[{', '.join(map(str, dims))}]"


def _rest(have: Sequence[DimLike], want: Sequence[DimLike]) -> DimLike:
    """What the elements of shape `have` leave for one more dim beside `want`."""
    left, by = list(have), []
    for d in want:
        if d in left:
            left.remove(d)
        else:
            by.append(d)
    divisor = product(by)
    whole = floordiv(product(left), divisor) if not isinstance(divisor, int) or divisor > 0 else 0
    if isinstance(divisor, int) or whole * divisor == product(left):
        return whole
    return floordiv(product(left), dim_max(divisor, 1))      # a divisor of 0 leaves nothing to divide


@lowering
def Flatten(b: Lowering, input: Value, *, axis: int = 1) -> Value:
    shape = b.shape(input)
    if not -len(shape) <= axis <= len(shape):
        b.refuse(f"axis {axis} is out of range for rank {len(shape)}")
    at = axis + len(shape) if axis < 0 else axis
    return b.reshape(input, (product(shape[:at]), product(shape[at:])))


@lowering
def Squeeze(b: Lowering, data: Value, axes: Value | None = None) -> Value:
    shape = b.shape(data)
    given = b.ints_of(axes, "the list of axes")
    if given is None:
        if not b.type(data).is_static:
            b.refuse(f"which dims of {b.type(data)} are 1 is only known at run time; give the axes")
        gone = [i for i, d in enumerate(shape) if d == 1]
    else:
        gone = [b.axis(a, data) for a in given]
    for i in gone:
        b.guard("eq", shape[i], 1, f"axis {i} is squeezed but is not 1")
    return b.reshape(data, [d for i, d in enumerate(shape) if i not in gone])


@lowering
def Unsqueeze(b: Lowering, data: Value, axes: Value) -> Value:
    given = b.ints_of(axes, "the list of axes") or []
    rank = b.rank(data) + len(given)
    if any(not -rank <= a < rank for a in given) or len({a % rank for a in given}) != len(given):
        b.refuse(f"axes {given} are out of range for rank {rank} or repeat")
    new = {a % rank for a in given}
    rest = iter(b.shape(data))
    return b.reshape(data, [1 if i in new else next(rest) for i in range(rank)])


@lowering
def Expand(b: Lowering, input: Value, shape: Value) -> Value:
    have, want = b.shape(input), sizes_of(b, shape, "a dim of the target shape")
    for d in want:
        b.extent(d, f"a dim of the target shape {_text(want)}")
    return b.broadcast_to(input, b.joint_shape(have, want))


@lowering
def Transpose(b: Lowering, data: Value, *, perm: Sequence[int] | None = None) -> Value:
    rank = b.rank(data)
    order = list(reversed(range(rank))) if perm is None else [p + rank if p < 0 else p for p in perm]
    return b.transpose(data, order) if len(order) == rank else b.refuse(f"perm {order} for an input of rank {rank}")


@lowering
def Tile(b: Lowering, input: Value, repeats: Value) -> Value:
    shape, times = b.shape(input), sizes_of(b, repeats, "the number of repeats")
    if len(times) != len(shape):
        b.refuse(f"repeats {_text(times)} for an input of type {b.type(input)}")
    for t in times:
        b.extent(t, f"one of the repeats {_text(times)}")
    if all(t == 1 for t in times):
        return input
    apart = b.reshape(input, [d for pair in ((1, d) for d in shape) for d in pair])
    spread = b.broadcast_to(apart, [d for pair in zip(times, shape, strict=True) for d in pair])
    return b.reshape(spread, [t * d for t, d in zip(times, shape, strict=True)])


@lowering
def DepthToSpace(b: Lowering, input: Value, *, blocksize: int, mode: str = "DCR") -> Value:
    n, c, h, w = _image(b, input, blocksize)
    if mode not in ("DCR", "CRD"):
        b.refuse(f"mode '{mode}' is neither DCR nor CRD")
    s = blocksize
    depth = floordiv(c, s * s)
    b.guard("eq", depth * (s * s), c, f"the channels are not a multiple of the {s}x{s} block")
    if mode == "DCR":
        out = b.transpose(b.reshape(input, (n, s, s, depth, h, w)), (0, 3, 4, 1, 5, 2))
    else:
        out = b.transpose(b.reshape(input, (n, depth, s, s, h, w)), (0, 1, 4, 2, 5, 3))
    return b.reshape(out, (n, depth, h * s, w * s))


@lowering
def SpaceToDepth(b: Lowering, input: Value, *, blocksize: int, mode: str = "DCR") -> Value:
    n, c, h, w = _image(b, input, blocksize)
    if mode not in ("DCR", "CRD"):
        b.refuse(f"mode '{mode}' is neither DCR nor CRD")
    s = blocksize
    rows, columns = floordiv(h, s), floordiv(w, s)
    b.guard("eq", rows * s, h, f"the height is not a multiple of {s}")
    b.guard("eq", columns * s, w, f"the width is not a multiple of {s}")
    order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    out = b.transpose(b.reshape(input, (n, c, rows, s, columns, s)), order)
    return b.reshape(out, (n, c * (s * s), rows, columns))


def _image(b: Lowering, v: Value, block: int) -> tuple[DimLike, DimLike, DimLike, DimLike]:
    if b.rank(v) != 4 or block < 1:
        b.refuse(f"blocks of {block} in an input of type {b.type(v)}, which must have rank 4")
    n, c, h, w = b.shape(v)
    return n, c, h, w
