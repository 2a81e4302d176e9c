"""Hypothesis strategies for the IR: dims, types, attributes, arrays of every element type, and whole modules."""

import numpy as np
from hypothesis import strategies as st

from onnxc.ir.core import Block, Func, Module, Op, Ref
from onnxc.ir.dims import Dim, dim_max, dim_min, floordiv, mod, sym
from onnxc.ir.registry import lookup
from onnxc.ir.types import ALL_DTYPES, Map, Mem, Opt, Scalar, Seq, Sparse, Tensor

NAMES = st.one_of(
    st.sampled_from(["x", "0", "7", "a:0", "a:", "a b", "_", "layer/0.x", "%", '"', "\\", "é", "x_1", "-", "\n", ")("]),
    st.text(st.characters(codec="utf-8"), max_size=6),
)
SYMBOLS = ("N", "M", "seq_len", "u0", "$1")


def _combined(inner):
    pair = st.tuples(inner, inner)
    divided = st.tuples(inner, st.one_of(st.integers(1, 5), st.sampled_from([sym("N"), sym("M") * 2])))
    return st.one_of(
        pair.map(lambda p: p[0] + p[1]),
        pair.map(lambda p: p[0] - p[1]),
        pair.map(lambda p: p[0] * p[1]),
        divided.map(lambda p: floordiv(*p)),
        divided.map(lambda p: mod(*p)),
        pair.map(lambda p: dim_min(*p)),
        pair.map(lambda p: dim_max(*p)),
    )


DIMS = st.recursive(st.one_of(st.integers(-4, 9), st.sampled_from(SYMBOLS).map(sym)), _combined, max_leaves=6)
EXTENTS = DIMS.filter(lambda d: isinstance(d, Dim) or d >= 0)
SHAPES = st.lists(EXTENTS, max_size=3).map(tuple)
DTYPES = st.sampled_from(ALL_DTYPES)
TENSORS = st.builds(Tensor, DTYPES, st.none() | SHAPES)
TYPES = st.recursive(
    st.one_of(
        TENSORS, st.builds(Sparse, TENSORS), st.builds(Mem, DTYPES, SHAPES), st.builds(Scalar, DTYPES)
    ),
    lambda inner: st.one_of(st.builds(Seq, inner), st.builds(Opt, inner), st.builds(Map, DTYPES, inner)),
    max_leaves=3,
)
FLOATS = st.one_of(st.sampled_from([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-310, 0.1, 1e22]), st.floats())


@st.composite
def arrays(draw, dtype=None):
    """Small arrays of any element type; floats from random bits, so with NaN, infinities and subnormals among them."""
    t = draw(DTYPES) if dtype is None else dtype
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    size = int(np.prod(shape))
    if t.kind == "str":
        items = draw(st.lists(st.text(max_size=4), min_size=size, max_size=size))
        out = np.empty(shape, object)
        out[...] = np.array(items, object).reshape(shape)
        return out
    if t.kind == "bool":
        return np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)), bool).reshape(shape)
    if t.is_integer:
        least = -(1 << t.bits - 1) if t.is_signed else 0
        items = draw(st.lists(st.integers(least, least + (1 << t.bits) - 1), min_size=size, max_size=size))
        wide = np.uint64 if t.name == "u64" else np.int64
        return np.array(items, wide).astype(t.numpy).reshape(shape)
    raw = draw(st.binary(min_size=size * t.numpy.itemsize, max_size=size * t.numpy.itemsize))
    if t.name == "f4e2m1":
        raw = bytes(b & 15 for b in raw)         # four bits in a byte
    return np.frombuffer(raw, t.numpy).reshape(shape)


ATTRS = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), FLOATS, st.text(max_size=6), st.binary(max_size=4),
        DIMS, DTYPES, TYPES, NAMES.map(Ref), arrays(),
    ),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=4,
)
ATTR_MAPS = st.dictionaries(NAMES, ATTRS, max_size=3)
_OP_NAMES = st.one_of(st.sampled_from(["test.a", "onnx.com.microsoft.X", "onnx.od d", "loc", "func", ""]), NAMES)
OPAQUE_OPS = _OP_NAMES.filter(lambda name: lookup(name) is None)      # a row would add its defaults


@st.composite
def blocks(draw, visible, depth, args=None):
    """A block whose ops use the visible values and its own."""
    types = draw(st.lists(TYPES, max_size=2)) if args is None else args
    block = Block(types, [draw(NAMES) for _ in types])
    seen = [*visible, *block.args]
    for _ in range(draw(st.integers(0, 3))):
        operands = draw(st.lists(st.sampled_from([None, *seen]), max_size=3))
        results = draw(st.lists(TYPES, max_size=2))
        regions = [draw(blocks(seen, depth - 1)) for _ in range(draw(st.integers(0, 2)) if depth else 0)]
        loc, names = draw(st.sampled_from(["", "n", 'a"\nb'])), [draw(NAMES) for _ in results]
        op = Op(draw(OPAQUE_OPS), operands, results, draw(ATTR_MAPS), regions, loc, names)
        block.append(op)
        seen += op.results
    return block


@st.composite
def modules(draw):
    """A module of ops that no table knows."""
    module = Module()
    for name in draw(st.lists(NAMES, max_size=2, unique=True)):
        module.constants[name] = draw(arrays())
    for name in draw(st.lists(NAMES, max_size=2, unique=True)):
        func = Func(name, kind=draw(st.sampled_from(["graph", "kernel", "a b"])), attrs=draw(ATTR_MAPS),
                    result_types=draw(st.lists(TYPES, max_size=2)))
        func.body = draw(blocks([], 2))
        func.body.parent = func
        module.add(func)
    return module
