"""Control flow: If, Loop and Scan. What is decided before a run leaves no trace: the branch that is taken stands in
place of its node."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxc.ir.core import Block, Value
from onnxc.ir.dims import Dim, DimLike, dim_max, substitute, symbols_of
from onnxc.ir.types import BOOL, I64, Tensor
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.regions import adopt, captured_by, enter
from onnxc.lowerings.table import lowering

__all__: list[str] = []

_ENDLESS = 1 << 62


# ---- If ------------------------------------------------------------------------------------------------------------
@lowering
def If(b: Lowering, cond: Value, *, else_branch: int, then_branch: int) -> tuple[Value, ...]:
    decided = b.constant(cond)
    if decided is not None and decided.size == 1:
        region = b.node.regions[then_branch if decided.reshape(()).item() else else_branch]
        return b.inline(region, [v for v in b.captured if v is not None])
    if b.dtype(cond) != BOOL:
        b.refuse(f"a condition of type {cond.type}; it has to be one bool")
    values, passed = captured_by(b)
    blocks, yields = [], []
    for i in (then_branch, else_branch):
        block = Block()
        inner = b.inside(block)
        yields.append(adopt(inner, b.node.regions[i], enter(inner, block, values)))
        inner.op("yield", yields[-1], types=())
        blocks.append(block)
    asked = _asked_of_dims(b, cond)
    if asked is not None and any(b.rank(v) < b.rank(w) for v, w in zip(*yields, strict=True)):
        return _assumed(b, asked, blocks[0], passed)
    types, sizes = _merged_types(b, *yields)
    attrs = {"defines": tuple(str(d) for d, _, _ in sizes), "bounds": tuple(bound for _, bound, _ in sizes),
             "sizes": tuple(place for _, _, place in sizes)}
    return tuple(b.op("t.if", [b.reshape(cond, ()), *passed], attrs, types, blocks).results)


def _asked_of_dims(b: Lowering, cond: Value) -> tuple[DimLike, DimLike] | None:
    """The two sizes that a condition compares; None for other conditions."""
    while cond.op is not None and cond.op.name == "t.reshape":
        cond = cond.op.operand(0)
    if cond.op is None or cond.op.name != "t.eq":
        return None
    sides = [b.known(v) for v in cond.op.inputs]
    if any(side is None or side.size != 1 for side in sides):
        return None
    left, right = (side.reshape(()).item() for side in sides if side is not None)
    return left, right


def _assumed(b: Lowering, asked: tuple[DimLike, DimLike], block: Block, passed: Sequence[Value]) -> tuple[Value, ...]:
    """The branch for equal sizes, which are demanded. Exporters write "drop this axis if its size is 1" where a program
    drops an axis: the other branch, with one axis more, is for sizes that the program is not meant for."""
    b.guard("eq", *asked, "an axis is dropped whose size has to be 1")
    return b.inline(block, passed)


def _merged_types(b: Lowering, then: Sequence[Value], other: Sequence[Value],
                  ) -> tuple[list[Tensor], list[tuple[Dim, DimLike | None, tuple[int, int]]]]:
    """The types of the results, and new symbols where the branches' dims differ: (symbol, bound, (result, axis))."""
    types: list[Tensor] = []
    made: list[tuple[Dim, DimLike | None, tuple[int, int]]] = []
    for i, (v, w) in enumerate(zip(then, other, strict=True)):
        s, t = b.type(v), b.type(w)
        if s.dtype != t.dtype or s.rank != t.rank:
            b.refuse(f"one branch gives {s} and the other {t} as output {i}; element type and rank have to be equal")
        dims: list[DimLike] = []
        for axis, (d, e) in enumerate(zip(s.dims, t.dims, strict=True)):
            if d != e:
                bounds = [b.symbols.at_most(x) for x in (d, e)]
                most = None if None in bounds else dim_max(*(x for x in bounds if x is not None))
                symbol = b.symbols.fresh("u", most)
                made.append((symbol, most, (i, axis)))
                d = symbol
            dims.append(d)
        types.append(Tensor(s.dtype, tuple(dims)))
    return types, made


# ---- Loop ----------------------------------------------------------------------------------------------------------
@lowering
def Loop(b: Lowering, M: Value | None = None, cond: Value | None = None, *v_initial: Value, body: int) -> tuple[Value,
    ...]:
    region, count = b.node.regions[body], len(v_initial)
    extent, bounded = _trip_count(b, M)
    values, passed = captured_by(b)
    i = b.symbols.fresh("it", extent - 1 if bounded else None)
    block = Block([b.type(v) for v in v_initial], [v.name for v in v_initial])
    inner = b.inside(block)
    formals = [inner.reshape(inner.dim(i), _shape_of_formal(region, 0)),
               inner.reshape(inner.scalar(True, BOOL), _shape_of_formal(region, 1)), *block.args]
    goes_on, *yielded = adopt(inner, region, [*formals, *enter(inner, block, values)])
    first = True if cond is None else b.constant(cond)
    conditional = not (_is_true(first) and _is_true(b.constant(goes_on)))
    rows = [_row(inner, r, i) for r in yielded[count:]]
    if rows and not bounded and (conditional or extent == _ENDLESS):
        b.refuse("how many rows are stacked is computed from data, and nothing that is known before bounds it")
    following = [_kept_type(inner, new, old, k) for k, (new, old) in enumerate(zip(yielded, block.args[:count],
                                                                                   strict=False))]
    flags = [inner.reshape(goes_on, ())] if conditional else []
    inner.op("yield", [*flags, *following, *rows], types=())
    start = [b.scalar(True, BOOL) if cond is None else b.reshape(cond, ())] if conditional else []
    return _loop(b, extent, i, block, start, v_initial, passed, rows, bounded)


def _loop(b: Lowering, extent: DimLike, i: Dim, block: Block, start: Sequence[Value], inits: Sequence[Value],
          passed: Sequence[Value], rows: Sequence[Value], bounded: bool = True) -> tuple[Value, ...]:
    """The t.loop; one with a condition says how often it ran."""
    number, defines, bounds = extent, (), ()
    if start:
        ran = b.symbols.fresh("n", extent if bounded else None)
        number, defines, bounds = ran, (str(ran),), (extent if bounded else None,)  # type: ignore[assignment]
    types = [*(b.type(v) for v in inits), *(Tensor(b.dtype(r), (number, *b.shape(r))) for r in rows)]
    attrs = {"symbol": str(i), "extent": extent, "carried": len(inits), "conditional": bool(start),
             "row_types": tuple(r.type for r in rows), "defines": defines, "bounds": bounds}
    return tuple(b.op("t.loop", [*start, *inits, *passed], attrs, types, [block]).results)


def _row(b: Lowering, v: Value, i: Dim) -> Value:
    """A value that is stacked, which has to have one shape in all iterations: that of the first one."""
    dims = [substitute(d, {str(i): 0}) for d in b.shape(v)]
    if b.dtype(v).bits < 8 or any(b.symbols.is_younger(d, i) for d in dims):
        b.refuse(f"rows of type {v.type}: they have to be of whole bytes, and of one size in all iterations")
    for have, want in zip(b.shape(v), dims, strict=True):
        b.guard("eq", have, want, "rows that are stacked differ in shape")
    return v if tuple(dims) == b.shape(v) else b.value("t.reshape", v, shape=tuple(dims))


def _shape_of_formal(region: Block, i: int) -> tuple[DimLike, ...]:
    """Iteration number and condition are scalars; exporters also declare them as vectors of one."""
    t = region.args[i].type
    return (1,) if isinstance(t, Tensor) and t.shape is not None and len(t.shape) == 1 else ()


def _is_true(found: np.ndarray | bool | None) -> bool:
    return found is not None and bool(np.asarray(found).reshape(-1)[0])


def _trip_count(b: Lowering, m: Value | None) -> tuple[DimLike, bool]:
    """How often a loop runs at most, and whether that is known when a run starts."""
    if m is None:
        return _ENDLESS, False
    known = b.known(m)
    if known is not None and known.size == 1:
        value = known.reshape(-1)[0]
        value = value if isinstance(value, Dim) else int(value)
        return dim_max(value, 0), not isinstance(value, int) or value < 1 << 40
    size = b.symbols.fresh("u", None)
    b.op("t.read_dim", [b.map("max", b.reshape(b.cast(m, I64), ()), b.scalar(0, I64))],
         {"defines": (str(size),), "bounds": (None,), "message": f"{b.loc}: the trip count is negative"})
    return size, False


def _kept_type(b: Lowering, new: Value, old: Value, k: int) -> Value:
    """A carried value, which has to keep its type from one iteration to the next."""
    s, t = b.type(new), b.type(old)
    if s.dtype != t.dtype or s.rank != t.rank:
        b.refuse(f"the carried value {k} begins as {t} and goes on as {s}")
    for d, e in zip(s.dims, t.dims, strict=True):
        if d != e and symbols_of(d) == symbols_of(e):
            b.refuse(f"the carried value {k} begins as {t} and goes on as {s}; its shape has to stay the same")
        b.guard("eq", d, e, f"the carried value {k} changes its shape")
    return new if s == t else b.value("t.reshape", new, shape=t.dims)


# ---- Scan ----------------------------------------------------------------------------------------------------------
@lowering
def Scan(b: Lowering, *initial_state_and_scan_inputs: Value, body: int, num_scan_inputs: int,
         scan_input_axes: Sequence[int] | None = None, scan_input_directions: Sequence[int] | None = None,
         scan_output_axes: Sequence[int] | None = None,
         scan_output_directions: Sequence[int] | None = None) -> tuple[Value, ...]:
    count = len(initial_state_and_scan_inputs) - num_scan_inputs
    inits, sequences = initial_state_and_scan_inputs[:count], initial_state_and_scan_inputs[count:]
    if not sequences or count < 0:
        b.refuse(f"{num_scan_inputs} scan inputs of {len(initial_state_and_scan_inputs)} inputs")
    axes = [b.axis(a, v) for a, v in zip(scan_input_axes or [0] * num_scan_inputs, sequences, strict=True)]
    extent = b.shape(sequences[0])[axes[0]]
    for a, v in zip(axes, sequences, strict=True):
        b.guard("eq", b.shape(v)[a], extent, "the scan inputs are of different lengths")
    values, passed = captured_by(b)
    i = b.symbols.fresh("it", extent - 1)
    block = Block([b.type(v) for v in (*inits, *sequences)], [v.name for v in (*inits, *sequences)])
    inner = b.inside(block)
    backwards = scan_input_directions or [0] * num_scan_inputs
    elements = [_element(inner, v, a, extent - 1 - i if back else i)
                for v, a, back in zip(block.args[count:], axes, backwards, strict=True)]
    yielded = adopt(inner, b.node.regions[body], [*block.args[:count], *elements, *enter(inner, block, values)])
    following = [_kept_type(inner, new, old, k) for k, (new, old) in enumerate(zip(yielded, block.args[:count],
                                                                                   strict=False))]
    rows = [_row(inner, r, i) for r in yielded[count:]]
    inner.op("yield", [*following, *rows], types=())
    out = _loop(b, extent, i, block, [], inits, [*sequences, *passed], rows)
    places = scan_output_axes or [0] * len(rows)
    turned = scan_output_directions or [0] * len(rows)
    stacked = [_placed(b, v, a, bool(back)) for v, a, back in zip(out[count:], places, turned, strict=True)]
    return (*out[:count], *stacked)


def _element(b: Lowering, v: Value, axis: int, at: DimLike) -> Value:
    """The slice of `v` at one position of an axis, which goes."""
    shape = b.shape(v)
    starts: list[DimLike] = [0] * len(shape)
    sizes = list(shape)
    starts[axis], sizes[axis] = at, 1
    part = b.value("t.slice", v, starts=tuple(starts), sizes=tuple(sizes), steps=(1,) * len(shape))
    return b.reshape(part, [d for i, d in enumerate(shape) if i != axis])


def _placed(b: Lowering, v: Value, axis: int, turned: bool) -> Value:
    """Stacked rows with their new axis at `axis`, from last to first if `turned`."""
    shape, at = b.shape(v), b.axis(axis, v)
    if turned:
        v = b.value("t.slice", v, starts=(shape[0] - 1, *[0] * (len(shape) - 1)), sizes=shape,
                    steps=(-1, *[1] * (len(shape) - 1)))
    order = list(range(1, len(shape)))
    return b.transpose(v, [*order[:at], 0, *order[at:]])
