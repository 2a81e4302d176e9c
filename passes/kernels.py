"""From a fused group to kernels: chooses the loop nest and asks for the group's value at every point of it.

A group computes one value. Without folds every element is a parallel point. With folds that all depend on the same
axes of the value, those axes are parallel and the others are swept inside (softmax: rows are parallel, columns swept
after their maximum and sum). A contraction is its own loop nest and the rest of the group its epilogue.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from onnxc.ir.core import Block, Func, Module, Op, Value
from onnxc.ir.dims import Dim, DimLike
from onnxc.ir.types import F32, DType, Mem, Scalar
from onnxc.ops.attention import KERNEL_AXES
from onnxc.ops.fold import parse_spec
from onnxc.passes import trees  # noqa: F401  (gives t.walk its form)
from onnxc.passes.clean import attr_key
from onnxc.passes.epilogues import PRODUCTS, is_elementwise
from onnxc.passes.forms import scattered
from onnxc.passes.indexing import Index, reshape_index
from onnxc.passes.kernel_builder import Demand, NotFusable, element_type
from onnxc.passes.selection import compact_body, nms_body
from onnxc.passes.topk import topk_body

__all__ = ["MOST_FOLDS", "SCATTERS", "Group", "build_kernels"]

SCATTERS = ("t.scatter_elements", "t.scatter_nd")
_SELECTIONS = {"t.compact": compact_body, "t.nms": nms_body, "t.topk": topk_body}

MOST_FOLDS = 4         # in one kernel: softmax and norms have two, and each is a loop that computes all before it again


class Group:
    """What one kernel computes: `root` from the values in `inputs`, through ops that are not in memory."""

    def __init__(self, module: Module, root: Value, inputs: Sequence[Value], taken: frozenset[str], name: str) -> None:
        self.module, self.root, self.inputs, self.taken, self.name = module, root, list(inputs), taken, name

    def ops(self) -> list[Op]:
        """The ops of the group, operands first."""
        seen: set[Value] = set(self.inputs)
        out: list[Op] = []
        stack: list[tuple[Value, bool]] = [(self.root, False)]
        while stack:
            v, done = stack.pop()
            if done:
                if v.op is not None:
                    out.append(v.op)
            elif v not in seen and v.op is not None:
                seen.add(v)
                stack.append((v, True))
                stack.extend((x, False) for x in reversed(v.op.inputs))
        return out

    def key(self) -> Hashable:
        """Equal for groups whose kernels are the same but for names."""
        number: dict[Value | None, int] = {v: i for i, v in enumerate([None, *self.inputs])}
        rows = []
        for op in self.ops():
            attrs = tuple((k, attr_key(a)) for k, a in op.attrs.items())
            rows.append((op.name, tuple(number[v] for v in op.operands), attrs, tuple(r.type for r in op.results)))
            for r in op.results:
                number.setdefault(r, len(number))
        return tuple(v.type for v in self.inputs), number[self.root], tuple(rows)


def build_kernels(g: Group) -> list[Func]:
    """The kernels of a group; each takes the memory of `g.inputs` in order and then that of the result. NotFusable
    names a value that has to be in memory first."""
    ops = g.ops()
    products = [op for op in ops if op.name in PRODUCTS]
    if len(products) > 1:
        raise NotFusable(products[0].result, "a kernel holds one contraction")
    if products:
        return [_attend_kernel(g, products[0]) if products[0].name == "t.attend" else _contract_kernel(g, products[0])]
    root = g.root.op
    if root is not None and root.name == "t.scan":
        return [_scan_kernel(g, root)]
    if root is not None and root.name in _SELECTIONS:
        frame = _Frame(g)
        return [frame.finish(_SELECTIONS[root.name](frame.demand, root, frame.out))]
    if root is not None and root.name == "t.concat":
        return _concat_kernels(g, root)
    if root is not None and root.name in SCATTERS:
        return _scatter_kernels(g, root)
    return [_point_kernel(g, g.root, None)]


class _Frame:
    """A kernel function and its demand; the last argument is the result."""

    def __init__(self, g: Group, suffix: str = "") -> None:
        types = [_mem(v) for v in g.inputs] + [_mem(g.root)]
        names = [v.name or f"x{i}" for i, v in enumerate(g.inputs)] + [g.root.name or "out"]
        self.func = Func(g.name + suffix, types, names, kind="kernel")
        args = dict(zip(g.inputs, self.func.args[:-1], strict=True))
        loc = ", ".join(dict.fromkeys(op.loc for op in g.ops() if op.loc))
        self.func.attrs["nodes"] = loc
        self.demand = Demand(g.module, self.func, args.get, g.taken)
        self.out = self.func.args[-1]

    def finish(self, op: Op) -> Func:
        self.func.body.append(op)
        return self.func


def _mem(v: Value) -> Mem:
    return Mem(v.tensor.dtype, v.dims)


def _loop(name: str, axes: Sequence[Dim], extents: Sequence[DimLike], block: Block) -> Op:
    return Op(name, (), (), {"axes": tuple(axes), "extents": tuple(extents)}, [block])


def _point_kernel(g: Group, value: Value, offset: tuple[int, DimLike] | None, suffix: str = "") -> Func:
    """Every element of `value`; with `offset` (axis, start) stored that far along the result's axis."""
    frame, axes = _try_point(g, value, offset, suffix, None)
    folds = list(zip((v for v, _ in frame.demand.fold_values), frame.demand.folds, strict=True))
    if not folds:
        return frame.func
    if len(folds) > MOST_FOLDS:
        raise NotFusable(folds[-1 - MOST_FOLDS][0], "every fold computes its operand again")
    own = frozenset(map(str, axes))
    for fold, names in folds:
        if names - own:
            raise NotFusable(fold, "a fold inside the loop of another fold")
    outer = max((names for _, names in folds), key=len)
    for fold, names in folds:
        if names != outer:
            raise NotFusable(fold, "folds over different axes in one kernel")
    if outer == {str(a) for a, d in zip(axes, value.dims, strict=True) if d != 1}:
        return frame.func
    if not outer and not all(d == 1 for d in value.dims):
        raise NotFusable(folds[0][0], "a fold of everything, used everywhere")
    return _try_point(g, value, offset, suffix, outer)[0].func


def _try_point(g: Group, value: Value, offset: tuple[int, DimLike] | None, suffix: str,
               outer: frozenset[str] | None) -> tuple[_Frame, list[Dim]]:
    """The loop nest with all axes parallel, or those named in `outer` parallel and the rest swept."""
    frame = _Frame(g, suffix)
    d, shape = frame.demand, value.dims
    axes = [d.axis() for _ in shape]
    inside = [i for i, a in enumerate(axes) if outer is not None and str(a) not in outer]
    parallel = [i for i in range(len(axes)) if i not in inside]
    d.open([axes[i] for i in parallel], [shape[i] for i in parallel])
    if inside:
        d.open([axes[i] for i in inside], [shape[i] for i in inside])
    index: Index = tuple(0 if e == 1 else a for a, e in zip(axes, shape, strict=True))
    target = index if offset is None else tuple(
        i + offset[1] if k == offset[0] else i for k, i in enumerate(index))
    d.store(frame.out, d.at(value, index), target)
    if inside:
        block = d.close()
        d.append(_loop("k.sweep", [axes[i] for i in inside], [shape[i] for i in inside], block))
    frame.finish(_loop("k.parallel", [axes[i] for i in parallel], [shape[i] for i in parallel], d.close()))
    return frame, axes


def _concat_kernels(g: Group, root: Op) -> list[Func]:
    """One kernel a part, each storing to its own stretch of the result."""
    axis, start, out = root.attr("axis") % len(g.root.dims), 0, []
    position: DimLike = start
    for i, v in enumerate(root.inputs):
        out.append(_point_kernel(g, v, (axis, position), f"_{i}"))
        position = position + v.dims[axis]
    return out


def _scatter_kernels(g: Group, op: Op) -> list[Func]:
    """The data is copied to the result; then every update is stored, or folded in, where its index says."""
    frame = _Frame(g, "_updates")
    d, shape, updates = frame.demand, g.root.dims, op.operand(2)
    extents = updates.dims
    axes = [d.axis() for _ in extents]
    d.open(axes, extents)
    index: Index = tuple(0 if e == 1 else a for a, e in zip(axes, extents, strict=True))
    at, where = scattered(d, op, index, shape)
    reduction = str(op.attr("reduction"))
    d.store(frame.out, d.at(updates, index), at, where, None if reduction == "none" else reduction)
    if d.fold_values:
        raise NotFusable(d.fold_values[0][0], "a fold inside the loop over updates")
    return [_point_kernel(g, op.operand(0), None, "_data"), frame.finish(_loop("k.parallel", axes, extents, d.close()))]


def _scan_kernel(g: Group, op: Op) -> Func:
    frame = _Frame(g)
    d, shape = frame.demand, g.root.dims
    scan_axis = op.attr("axis") % len(shape)
    axes = [d.axis() for _ in shape]
    rest = [i for i in range(len(shape)) if i != scan_axis]
    position = shape[scan_axis] - 1 - axes[scan_axis] if op.attr("reverse") else axes[scan_axis]
    index = tuple(position if i == scan_axis else a for i, a in enumerate(axes))
    d.open([axes[i] for i in rest], [shape[i] for i in rest])
    d.open([axes[scan_axis]], [shape[scan_axis]])
    element = d.at(op.operand(0), index)
    d.append(Op("yield", [element]))
    first = d.close()
    second = Block([element.type], ["acc"])
    d.open([axes[scan_axis]], [shape[scan_axis]], second)
    d.store(frame.out, second.args[0], index)
    d.close()
    attrs = {"axis": axes[scan_axis], "extent": shape[scan_axis], "kind": op.attr("kind"),
             "exclusive": op.attr("exclusive")}
    d.append(Op("k.scan", (), (), attrs, [first, second]))
    return frame.finish(_loop("k.parallel", [axes[i] for i in rest], [shape[i] for i in rest], d.close()))


def _contract_kernel(g: Group, op: Op) -> Func:
    frame = _Frame(g)
    d = frame.demand
    spec = parse_spec(op.attr("spec"))
    lhs, rhs = op.operand(0), op.operand(1)
    sizes = spec.sizes(lhs.dims, rhs.dims)
    axes = {c: d.axis() for c in (*spec.batch, *spec.m, *spec.n, *spec.k)}
    accumulate = op.attr("to")

    def region(letters: str, value: Value) -> Block:
        d.open([axes[c] for c in letters], [sizes[c] for c in letters])
        element = d.at(value, tuple(0 if sizes[c] == 1 else axes[c] for c in letters))
        d.append(Op("yield", [d.cast(element, accumulate)]))
        return d.close()

    blocks = [region(spec.lhs, lhs), region(spec.rhs, rhs)]
    epilogue = _epilogue(frame, g.root, op, spec.out, axes, sizes, accumulate)
    lists = {key: tuple((axes[c], sizes[c]) for c in letters)
             for key, letters in (("batch", spec.batch), ("m", spec.m), ("n", spec.n), ("k", spec.k))}
    attrs = {**lists, "accumulate": accumulate, "winograd": ()}
    return frame.finish(Op("k.contract", (), (), attrs, [*blocks, epilogue]))


def _epilogue(frame: _Frame, root: Value, op: Op, letters: str, axes: dict[str, Dim], sizes: dict[str, DimLike],
              accumulate: DType) -> Block:
    """The region that takes an element of the product's result and stores that of `root`."""
    d, block = frame.demand, Block([Scalar(accumulate)], ["sum"])
    d.open([axes[c] for c in letters], [sizes[c] for c in letters], block)
    index: Index = tuple(0 if sizes[c] == 1 else axes[c] for c in letters)
    d.bound[op.result] = (index, d.cast(block.args[0], element_type(accumulate)))
    at = _pushed(op.result, root, index, d)
    d.store(frame.out, d.at(root, at), at)
    return d.close()


def _attend_kernel(g: Group, op: Op) -> Func:
    frame = _Frame(g)
    d, accumulate = frame.demand, F32
    scores, out = parse_spec(op.attr("scores")), parse_spec(op.attr("out"))
    q, k, v, *extras = op.inputs
    sizes = {**scores.sizes(q.dims, k.dims), **dict(zip(out.rhs, v.dims, strict=True))}
    axes = {c: d.axis() for c in sizes}

    def at(letters: str) -> Index:
        return tuple(0 if sizes[c] == 1 else axes[c] for c in letters)

    def region(letters: str, value: Value, index: Index, block: Block | None = None) -> Block:
        d.open([axes[c] for c in letters], [sizes[c] for c in letters], block)
        d.append(Op("yield", [d.cast(d.at(value, index), accumulate)]))
        return d.close()

    body, score = op.regions[0], Block([Scalar(accumulate)], ["product"])
    d.bound[body.args[0]] = (at(scores.out), score.args[0])
    d.outer.update(zip(body.args[1:], extras, strict=True))
    blocks = [region(scores.lhs, q, at(scores.lhs)), region(scores.rhs, k, at(scores.rhs)),
              region(scores.out, body.terminator.operand(0), at(scores.out), score), region(out.rhs, v, at(out.rhs)),
              _epilogue(frame, g.root, op, out.out, axes, sizes, accumulate)]
    if d.fold_values:
        raise NotFusable(d.fold_values[0][0], "a fold inside attention")
    groups = (scores.batch, scores.m, scores.n, scores.k, out.n)
    lists = {key: tuple((axes[c], sizes[c]) for c in letters) for key, letters in zip(KERNEL_AXES, groups, strict=True)}
    attrs = {**lists, "accumulate": accumulate, "missing": op.attr("missing")}
    return frame.finish(Op("k.attend", (), (), attrs, blocks))


def _pushed(start: Value, root: Value, index: Index, d: Demand) -> Index:
    """The index of `root` at which the element `index` of `start` arrives, through one-to-one ops."""
    v = start
    while v is not root:
        op = next((u for u in v.users if u.results), None)
        if op is None:
            raise NotFusable(start, "the product does not reach the result of its group")
        old, new = v.dims, op.result.dims
        if op.name == "t.transpose":
            index = tuple(index[p] for p in op.attr("perm"))
        elif op.name == "t.reshape":
            index = reshape_index(index, new, old, d.bounds())
        elif not (is_elementwise(op) and old == new):
            raise NotFusable(start, f"{op.name} does not keep the product's elements one to one")
        v = op.result
    return index
