"""Register-tiled contraction micro-kernels as LLVM IR.

One family serves matrix products and convolutions alike (an indirect GEMM): a micro-kernel computes a tile

    tile[r, c] (+)= sum over t < taps, k < depth of  row(t, r)[k] * b[t, k, c]

of `rows` rows by `vectors` vectors, held in registers while it walks taps and depth. The left operand is a table of
row pointers, one row of the table a tap, so that a matrix, a strided view and a convolution's shifted windows with
their zero padding look the same. The right operand is a panel: rows of `vectors` vectors at a fixed stride.

Operands have the accumulator's type; widening narrower ones, packing panels and looping over a whole problem belong
to other modules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llvmlite import ir

from onnxc.codegen.llvm.loops import I64, Body, counted_loop, i64

I1 = ir.IntType(1)
I8 = ir.IntType(8)
I32 = ir.IntType(32)
POINTER = ir.PointerType()

ACCUMULATORS: dict[str, ir.Type] = {
    "f32": ir.FloatType(),
    "f64": ir.DoubleType(),
    "i32": ir.IntType(32),
    "i64": ir.IntType(64),
}

ITEM_BYTES: dict[str, int] = {"f32": 4, "f64": 8, "i32": 4, "i64": 8}

STEPS = {"vnni": 4, "pairs": 4, "amx": 64}
"""How products of bytes may be summed -> the steps of depth that are taken at once."""

BLOCK_ROWS = 16
"""Rows that a matrix unit computes at once."""

# Two FMAs start a cycle and take four (Zen 2-5, Skylake and later): with fewer accumulators than this a tile waits for
# its own results.
_FMAS_IN_FLIGHT = 8
# So many accumulators leave registers for operands where there are 32 (those of 64 bytes).
_SUMS_HELD = 16
# Each sum reads a part of the panel of its own, and asks for what lies this far ahead in it: cores keep more lines on
# the way from memory for several places than for one. Two threads read 1.5 times as fast from eight places each as
# from one (Sapphire Rapids, weights of 256 MiB).
_STREAM_BYTES = 2048

# A narrow panel, one cache line a step, moves on too slowly for the cores' own prefetchers once four rows share it.
# Weights that come from memory then ran at 45 GFLOP/s and with this prefetch at 67 (6x4096x4096 floats, AVX2, Zen 4),
# those that are in cache no slower. Wider panels and fewer rows lost up to a third by it.
_PREFETCH_BYTES = 1024
_PREFETCH_ROWS = 4
_CACHE_LINE = 64


@dataclass(frozen=True)
class Coding:
    """How a panel holds weights narrower than the tile multiplies: as signed integers of type `dtype`, (code - zero) *
    scale, where `block` steps of depth share a scale (if `scaled`) and a zero point (if `shifted`), or as floats of 16
    bits. `odd` says that depth, or a block, may end within the steps that are taken together; `lookup` that one
    instruction finds what codes stand for: those of sixteen lanes in a table, or an f16's value."""

    dtype: str
    block: int
    scaled: bool
    shifted: bool
    odd: bool
    lookup: bool

    @property
    def is_float(self) -> bool:
        return self.dtype in ("f16", "bf16")

    @property
    def bits(self) -> int:
        return 16 if self.is_float else int(self.dtype[1:])

    @property
    def group(self) -> int:
        """Steps of depth in one word of the panel."""
        return 32 // self.bits if self.bits < 8 else 1

    @property
    def name(self) -> str:
        parts = [self.dtype, f"b{self.block}"]
        flags = (self.scaled, "s"), (self.shifted, "z"), (self.odd, "o"), (self.lookup, "l")
        return "_".join([*parts, "".join(letter for flag, letter in flags if flag)])


@dataclass(frozen=True)
class Microkernel:
    """One member of the family: `rows` by `vectors` vectors of `lanes` elements of type `dtype`.

    `pitch` is the number of pointers in one row of the pointer table: the tile of fewer rows at a problem's edge
    shares the table of the full tile.

    With a `dot` the operands are bytes that are taken four steps at a time (`microkernel_bytes`, `microkernel_amx`);
    `signs` then says of the left and the right one whether it is unsigned, "u", or signed, "s". With a `coding` the
    panel is of weights that are widened on the way (`microkernel_narrow`). With `ahead` the panel comes from
    memory: each step asks for one line of what another argument points to, the panel's next block, to be brought near
    while this one is multiplied; where there are several `sums`, for what each of them reads soon.
    """

    dtype: str
    rows: int
    vectors: int
    lanes: int
    pitch: int
    dot: str = ""
    signs: str = ""
    coding: Coding | None = None
    ahead: bool = False
    rows_ahead: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in ACCUMULATORS:
            raise ValueError(f"no micro-kernel accumulates in {self.dtype!r}: use one of {', '.join(ACCUMULATORS)}")
        if not 1 <= self.rows <= self.pitch:
            raise ValueError(f"{self.rows} rows do not fit a pointer table of {self.pitch} a row")
        if self.vectors < 1 or self.lanes < 1:
            raise ValueError(f"vectors and lanes must be positive in {self}")
        if self.dot and (self.dot not in STEPS or self.dtype != "i32" or len(self.signs) != 2):
            raise ValueError(f"{self} sums products of bytes by none of {', '.join(STEPS)} into i32")

    @property
    def name(self) -> str:
        """The symbol: unique among the micro-kernels of one module."""
        kind = f"{self.signs}_{self.dot}" if self.dot else self.dtype
        if self.coding is not None:
            kind = f"{kind}_{self.coding.name}"
        ahead = "_ahead" * self.ahead + "_rows" * self.rows_ahead
        return f"mk_{kind}_{self.rows}x{self.vectors}x{self.lanes}_p{self.pitch}{ahead}"

    @property
    def group(self) -> int:
        """Steps of depth that lie together in a column of the panel."""
        return 4 if self.dot else 1

    @property
    def steps(self) -> int:
        """Steps of depth that are read together, past its end too: panels have zeros there."""
        return STEPS[self.dot] if self.dot else 1

    @property
    def is_matrix(self) -> bool:
        """Whether a matrix unit computes the tile: its rows lie at one stride, in one tap, and are made in blocks."""
        return self.dot == "amx"

    @property
    def block(self) -> int:
        """Rows that are computed together, whatever the rows of a tile."""
        return BLOCK_ROWS if self.is_matrix else 1

    @property
    def left_bytes(self) -> int:
        """Bytes of an element of the left operand."""
        return 1 if self.dot else ITEM_BYTES[self.dtype]

    @property
    def flips(self) -> bool:
        """Whether both operands are bytes of one sign, so that the left one's is changed on the way."""
        return bool(self.dot) and not self.is_matrix and self.signs[0] == self.signs[1]

    @property
    def item_type(self) -> ir.Type:
        return ACCUMULATORS[self.dtype]

    @property
    def vector_type(self) -> ir.Type:
        return ir.VectorType(self.item_type, self.lanes)

    @property
    def vector_bytes(self) -> int:
        return self.lanes * ITEM_BYTES[self.dtype]

    @property
    def panel_row(self) -> int:
        """Bytes of a step of the panel; with codes of less than a byte, of those that fill words."""
        if self.coding is None or self.coding.group > 1:
            return self.vectors * self.vector_bytes
        return self.vectors * self.lanes * self.coding.bits // 8

    @property
    def sums(self) -> int:
        """How many independent sums each element of the tile is split into, a power of two: sum i takes the i-th of
        as many equal parts of depth, and one iteration of the inner loop takes a step of each.

        Full tiles need one. Unrolling them further measured no gain (less than noise at 1, 2, 4 and 8 steps) and
        costs compile time. Integers need one because only their additions, of one cycle, depend on each other, and
        weights that are widened because that takes as long as the additions.
        """
        if isinstance(self.item_type, ir.IntType) or (self.coding is not None and not self.coding.is_float):
            return 1
        cells = self.rows * self.vectors
        wanted = 1 << (-(-_FMAS_IN_FLIGHT // cells) - 1).bit_length()
        if self.vector_bytes < _CACHE_LINE:
            return wanted
        return max(wanted, 1 << (_SUMS_HELD // cells).bit_length() >> 1)

    @property
    def prefetches(self) -> bool:
        """Whether a step of depth asks for the panel's line `_PREFETCH_BYTES` further on."""
        return self.rows >= _PREFETCH_ROWS and self.vectors * self.vector_bytes == _CACHE_LINE


def function_type(spec: Microkernel) -> ir.FunctionType:
    """The signature that every micro-kernel has, whatever its tile and type; with a coding, pointers to the panel's
    scales and zero points follow.

    (taps, depth, table, offset, panel, row_stride, tap_stride, tile, tile_stride, accumulate): `table` is
    ptr[taps][pitch]; `offset` bytes are added to every row pointer; step k of tap t of the panel is at
    `panel + t * tap_stride + k * row_stride` and row r of the tile at `tile + r * tile_stride`, all in bytes.
    The tile is added to when `accumulate` is set, else written. Then comes `ahead`, if there is one,
    and then `next_rows` and `pace` of `rows_ahead`.
    """
    parameters = ([POINTER, POINTER] if spec.coding is not None else []) + [POINTER] * spec.ahead
    parameters += [POINTER, I64] * spec.rows_ahead
    return ir.FunctionType(ir.VoidType(), [I64, I64, POINTER, I64, POINTER, I64, I64, POINTER, I64, I1, *parameters])


def microkernel(module: ir.Module, spec: Microkernel) -> ir.Function:
    """The function of `spec` in `module`, emitted on first use with internal linkage."""
    existing = module.globals.get(spec.name)
    if existing is not None:
        return existing
    function = declared(module, spec)
    Emitter(spec, function).emit()
    return function


def declared(module: ir.Module, spec: Microkernel) -> ir.Function:
    """The function of `spec`, without its body."""
    function = ir.Function(module, function_type(spec), spec.name)
    function.linkage = "internal"
    function.attributes.add("nounwind")
    function.attributes.add("noinline")
    names = "taps depth table offset panel row_stride tap_stride tile tile_stride accumulate".split()
    names += ["scales", "zeros"] if spec.coding is not None else []
    names += ["ahead"] * spec.ahead + ["next_rows", "pace"] * spec.rows_ahead
    for argument, name in zip(function.args, names, strict=True):
        argument.name = name
    return function


class Emitter:
    """Emits one micro-kernel's body. Accumulators are flat lists: sums of rows of vectors."""

    def __init__(self, spec: Microkernel, function: ir.Function) -> None:
        self.spec = spec
        self.function = function
        (self.taps, self.depth, self.table, self.offset, self.panel) = function.args[:5]
        (self.row_stride, self.tap_stride, self.tile, self.tile_stride, self.accumulate) = function.args[5:10]

    def emit(self) -> None:
        builder = ir.IRBuilder(self.function.append_basic_block("entry"))
        part = builder.udiv(self.depth, i64(self.spec.sums), name="part")
        accumulators = self.initial(builder)

        def tap(b: ir.IRBuilder, t: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            return self._tap(b, t, part, carried)

        *accumulators, _ = counted_loop(builder, "tap", 0, self.taps, 1, [*accumulators, self.panel], tap)
        for pointer, value in zip(self.cells(builder), self._folded(builder, accumulators), strict=True):
            builder.store(value, pointer, align=self._align)
        builder.ret_void()

    @property
    def _align(self) -> int:
        return ITEM_BYTES[self.spec.dtype]

    def initial(self, builder: ir.IRBuilder) -> list[ir.Value]:
        """The accumulators' first values: the tile's when adding to it, which keeps one order of summation
        however depth is blocked, and zero else."""
        spec = self.spec
        cells, zero = spec.rows * spec.vectors, ir.Constant(spec.vector_type, None)
        entry = builder.block
        load, start = builder.append_basic_block("resume"), builder.append_basic_block("start")
        builder.cbranch(self.accumulate, load, start)
        builder.position_at_end(load)
        loaded = [builder.load(p, typ=spec.vector_type, align=self._align) for p in self.cells(builder)]
        builder.branch(start)
        builder.position_at_end(start)
        first = []
        for value in loaded:
            phi = builder.phi(spec.vector_type)
            phi.add_incoming(zero, entry)
            phi.add_incoming(value, load)
            first.append(phi)
        return first + [zero] * (cells * (spec.sums - 1))

    def cells(self, builder: ir.IRBuilder) -> Iterator[ir.Value]:
        """Pointers to the tile's vectors, row by row."""
        for r in range(self.spec.rows):
            row = byte_offset(builder, self.tile, builder.mul(self.tile_stride, i64(r)))
            for v in range(self.spec.vectors):
                yield byte_offset(builder, row, i64(v * self.spec.vector_bytes))

    def _tap(
        self, builder: ir.IRBuilder, tap: ir.Value, part: ir.Value, carried: list[ir.Value]
    ) -> list[ir.Value]:
        """All of depth for one tap. `carried` ends with the tap's panel pointer."""
        rows, (*accumulators, panel) = self.row_pointers(builder, tap), carried
        if self.spec.ahead:
            done = builder.mul(builder.mul(tap, self.depth), i64(_CACHE_LINE))
            self.next = byte_offset(builder, self.function.args[10], done)
        starts = [builder.mul(part, i64(i)) for i in range(self.spec.sums + 1)]

        def steps(starts: Sequence[ir.Value]) -> Body:
            return lambda b, k, values: self._steps(b, k, starts, rows, values[:-1], values[-1])

        *accumulators, _ = counted_loop(builder, "k", 0, part, 1, [*accumulators, panel], steps(starts[:-1]))
        if self.spec.sums > 1:
            rest = byte_offset(builder, panel, builder.mul(starts[-1], self.row_stride))
            carried = [*accumulators, rest]
            *accumulators, _ = counted_loop(builder, "rest", starts[-1], self.depth, 1, carried, steps([i64(0)]))
        return [*accumulators, byte_offset(builder, panel, self.tap_stride)]

    def row_pointers(self, builder: ir.IRBuilder, tap: ir.Value) -> list[ir.Value]:
        line = byte_offset(builder, self.table, builder.mul(tap, i64(self.spec.pitch * 8)))
        pointers = []
        for r in range(self.spec.rows):
            pointer = builder.load(byte_offset(builder, line, i64(8 * r)), typ=POINTER, align=8)
            pointers.append(byte_offset(builder, pointer, self.offset))
        return pointers

    def _steps(
        self,
        builder: ir.IRBuilder,
        k: ir.Value,
        starts: Sequence[ir.Value],
        rows: Sequence[ir.Value],
        sums: list[ir.Value],
        panel: ir.Value,
    ) -> list[ir.Value]:
        """A step for each sum: step k from where its part of depth starts. The first part's panel row is at `panel`."""
        spec = self.spec
        cells = spec.rows * spec.vectors
        sums = list(sums)
        for part, start in enumerate(starts):
            place = byte_offset(builder, panel, builder.mul(start, self.row_stride)) if part else panel
            self._ask_ahead(builder, place, k)
            right = self.right(builder, place)
            index = builder.add(k, start, flags=["nsw"]) if part else k
            for r in range(spec.rows):
                pointer = builder.gep(rows[r], [index], source_etype=spec.item_type)
                left = splat(builder, builder.load(pointer, typ=spec.item_type, align=self._align), spec.lanes)
                for v in range(spec.vectors):
                    cell = part * cells + r * spec.vectors + v
                    sums[cell] = multiply_add(builder, left, right[v], sums[cell])
        return [*sums, byte_offset(builder, panel, self.row_stride)]

    def right(self, builder: ir.IRBuilder, place: ir.Value) -> list[ir.Value]:
        """The panel's row at `place`."""
        places = [byte_offset(builder, place, i64(v * self.spec.vector_bytes)) for v in range(self.spec.vectors)]
        return [builder.load(p, typ=self.spec.vector_type, align=self._align) for p in places]

    def _ask_ahead(self, builder: ir.IRBuilder, place: ir.Value, k: ir.Value) -> None:
        """Ask for what a step that reads the panel's row at `place` should bring near."""
        spec = self.spec
        if spec.prefetches:
            prefetch(builder, place)
        if spec.sums > 1 and (spec.ahead or spec.coding is not None):
            for offset in range(0, spec.panel_row, _CACHE_LINE):
                _prefetch(builder, byte_offset(builder, place, i64(_STREAM_BYTES + offset)), 3)
        elif spec.ahead:
            _prefetch(builder, byte_offset(builder, self.next, builder.mul(k, i64(_CACHE_LINE))), 2)
        if spec.rows_ahead and spec.sums == 1:
            next_rows, pace = self.function.args[-2:]
            _prefetch(builder, byte_offset(builder, next_rows, builder.mul(k, pace)), 3)

    def _folded(self, builder: ir.IRBuilder, accumulators: list[ir.Value]) -> list[ir.Value]:
        cells = self.spec.rows * self.spec.vectors
        total = accumulators[:cells]
        for s in range(1, self.spec.sums):
            part = accumulators[s * cells : (s + 1) * cells]
            total = [_add(builder, a, b) for a, b in zip(total, part, strict=True)]
        return total


def multiply_add(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    """a * b + c. Floats contract to one rounding where the target has FMA; integers wrap."""
    kind = a.type
    item = kind.element if isinstance(kind, ir.VectorType) else kind
    if isinstance(item, ir.IntType):
        return builder.add(builder.mul(a, b), c)
    suffix = "f32" if isinstance(item, ir.FloatType) else "f64"
    if isinstance(kind, ir.VectorType):
        suffix = f"v{kind.count}{suffix}"
    name = f"llvm.fmuladd.{suffix}"
    intrinsic = builder.module.globals.get(name)
    if intrinsic is None:
        intrinsic = ir.Function(builder.module, ir.FunctionType(kind, [kind] * 3), name)
    return builder.call(intrinsic, [a, b, c])


def _add(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    if isinstance(a.type.element, ir.IntType):
        return builder.add(a, b)
    return builder.fadd(a, b)


def splat(builder: ir.IRBuilder, value: ir.Value, lanes: int) -> ir.Value:
    vector = ir.VectorType(value.type, lanes)
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, lanes), None))


def prefetch(builder: ir.IRBuilder, panel: ir.Value) -> None:
    """Ask for the line `_PREFETCH_BYTES` behind `panel` to be read into every level of cache; it need not be mapped."""
    _prefetch(builder, byte_offset(builder, panel, i64(_PREFETCH_BYTES)), 3)


def _prefetch(builder: ir.IRBuilder, pointer: ir.Value, locality: int) -> None:
    """`locality` is 3 for every level of cache, 2 for all but the first."""
    name = "llvm.prefetch.p0"
    intrinsic = builder.module.globals.get(name)
    if intrinsic is None:
        signature = ir.FunctionType(ir.VoidType(), [POINTER, I32, I32, I32])
        intrinsic = ir.Function(builder.module, signature, name)
    read, data = I32(0), I32(1)
    builder.call(intrinsic, [pointer, read, I32(locality), data])


def byte_offset(builder: ir.IRBuilder, pointer: ir.Value, nbytes: ir.Value) -> ir.Value:
    """`pointer` moved by `nbytes` (i64), which may leave the object it points into."""
    return builder.gep(pointer, [nbytes], source_etype=I8)
