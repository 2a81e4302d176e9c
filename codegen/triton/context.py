"""Where the emitter stands in a kernel: the axes in force, how each lies in the tile, and index expressions over them.

A tile has a fixed rank; each blocked group of axes owns one of its dims. An axis is a `Val`: a tensor along its dim, a
scalar (not blocked), or a known integer (an unrolled loop). A dim whose extent the block does not divide has a mask;
what stands in the lanes outside it is arbitrary, and every load, store and fold has to mask it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from onnxc.codegen.triton.dtypes import literal, triton_name
from onnxc.codegen.triton.source import TritonUnsupported
from onnxc.codegen.triton.text import Dims, Val, Writer
from onnxc.ir.core import Block, Func, Op, Value
from onnxc.ir.dims import (
    Bounds,
    Call,
    Dim,
    DimLike,
    provably_less,
    provably_nonneg,
    simplify,
    substitute,
    symbols_of,
)
from onnxc.ir.types import BOOL, DType

__all__ = ["Context"]


class Context:
    """The state of one emission. `index` is the type of offsets; `limits` are upper bounds of symbols."""

    def __init__(self, func: Func, index: DType, limits: dict[str, int]) -> None:
        self.func, self.index, self.limits = func, index, limits
        self.writer = Writer()
        self.constants: dict[str, str] = {}                 # literal with its type -> name, defined ahead of the body
        self.symbols: dict[str, str] = {}                   # dim symbols in use -> parameter
        self.helpers: dict[str, str] = {}                   # device functions in use -> text
        self.errors: list[str] = []
        self.values: dict[Value, Val] = {}
        self.memory: dict[Value, str] = {}                  # arguments -> parameter
        self.written: set[Value] = set()                    # memories that the kernel stores to
        self.dirty: set[Value] = set()                      # of these, stored to so far with no barrier since
        self.axes: dict[str, Val | int] = {}
        self.extents: dict[str, DimLike] = {}               # of the axes in force
        self.blocks: list[int] = []                         # extent of each dim of the tile, 1 while it has no owner
        self.masks: dict[int, str] = {}
        self.serial = False                                 # one program runs all points in order
        self.tf32 = False                                   # f32 products may lose bits on tensor cores
        self.run_block: Callable[[Context, Block], list[Val]] = lambda ctx, block: []
        self._bounds: Bounds | None = None

    def unsupported(self, op: Op | None, problem: str) -> TritonUnsupported:
        """The error for `op`, naming it and the kernel."""
        where = f"{op.name} ({op.loc})" if op is not None and op.loc else op.name if op is not None else "the kernel"
        return TritonUnsupported(f"kernel @{self.func.name}: {where}: {problem}")

    # ---- values ------------------------------------------------------------------------------------------------------
    def get(self, v: Value) -> Val:
        return self.values[v]

    def let(self, expression: str, dtype: DType, dims: Dims = frozenset(), share: bool = True) -> Val:
        """Name an expression."""
        return Val(self.writer.let(expression, share), dtype, dims)

    def const(self, value: object, dtype: DType) -> Val:
        """A constant of exactly the type; it is defined once, ahead of the body."""
        text = f"tl.full((), {literal(value, dtype)}, {triton_name(dtype)})"
        name = self.constants.setdefault(text, f"c{len(self.constants)}")
        return Val(name, dtype)

    def shape(self, dims: Dims) -> str:
        """The shape of a tensor that varies along `dims`."""
        sizes = [str(b) if d in dims else "1" for d, b in enumerate(self.blocks)]
        return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"

    def spread(self, v: Val, dims: Dims) -> Val:
        """`v` made to vary along `dims` as well."""
        if dims <= v.dims:
            return v
        wide = v.dims | dims
        return self.let(f"tl.broadcast_to({v.text}, {self.shape(wide)})", v.dtype, wide)

    def both(self, masks: Sequence[Val]) -> Val | None:
        """All of the masks; None for none."""
        if not masks:
            return None
        kept = sorted(dict.fromkeys(masks), key=lambda m: len(m.dims))
        total = kept[0]
        for m in kept[1:]:
            total = self.let(f"{total.text} & {m.text}", BOOL, total.dims | m.dims)
        return total

    def inside(self, dims: Dims) -> list[Val]:
        """The masks of the tile's dims among `dims` that have one."""
        return [Val(self.masks[d], BOOL, frozenset({d})) for d in sorted(dims) if d in self.masks]

    # ---- axes --------------------------------------------------------------------------------------------------------
    def bind(self, axis: str, value: Val | int, extent: DimLike) -> None:
        self.axes[axis], self.extents[axis] = value, extent
        self._bounds = None

    def position(self, axis: str) -> Val:
        """The axis' position as a value, an unrolled one as a literal."""
        bound = self.axes[axis]
        return Val(str(bound), self.index) if isinstance(bound, int) else bound

    def unbind(self, axis: str) -> None:
        del self.axes[axis], self.extents[axis]
        self._bounds = None

    @contextlib.contextmanager
    def tile(self, blocks: Sequence[int]) -> Iterator[None]:
        """Work in another tile; the scalar axes in force outside stay so."""
        saved = self.axes, self.extents, self.blocks, self.masks
        self.axes, self.extents, self.blocks, self.masks = dict(self.axes), dict(self.extents), list(blocks), {}
        self._bounds = None
        yield
        self.axes, self.extents, self.blocks, self.masks = saved
        self._bounds = None

    @property
    def bounds(self) -> Bounds:
        """What the axes in force are known to satisfy; an extent that is one symbol is positive inside its loop."""
        if self._bounds is None:
            upper = {a: e - 1 for a, e in self.extents.items() if not isinstance(self.axes[a], int)}
            positive = {str(e) for e in self.extents.values() if isinstance(e, Dim) and symbols_of(e) == {str(e)}}
            self._bounds = Bounds(upper, positive)
        return self._bounds

    def known(self, d: DimLike) -> DimLike:
        """`d` with unrolled axes put in and divisions resolved as far as the bounds go."""
        d = substitute(d, {a: v for a, v in self.axes.items() if isinstance(v, int)})
        return d if _from_data(d) else simplify(d, self.bounds)

    def nonneg(self, d: DimLike) -> bool:
        """Whether d >= 0 for certain at every point; never for what depends on data."""
        return not _from_data(d) and provably_nonneg(d, self.bounds)

    def less(self, a: DimLike, b: DimLike) -> bool:
        """Whether a < b for certain at every point."""
        return not _from_data(a) and not _from_data(b) and provably_less(a, b, self.bounds)

    def largest(self, d: DimLike) -> int | None:
        """An upper bound of a dim over the symbols alone, from `limits`; None when there is none."""
        high = Bounds(dict(self.limits)).eliminate(d, lowest=False)
        return high if isinstance(high, int) else None

    # ---- index expressions -------------------------------------------------------------------------------------------
    def dim(self, d: DimLike, operands: Sequence[Val] = ()) -> Val:
        """The value of an index expression; `$n` stands for operand n."""
        d = self.known(d)
        if isinstance(d, int):
            return Val(str(d), self.index)
        parts = self.parts(d, operands)
        text, dims = parts[0].text, parts[0].dims
        for p in parts[1:]:
            text, dims = f"{text} + {p.text}", dims | p.dims
        return self.let(text, self.index, dims) if len(parts) > 1 else parts[0]

    def parts(self, d: DimLike, operands: Sequence[Val] = ()) -> list[Val]:
        """Summands of an index expression, one for each set of dims that its terms vary along, scalars first."""
        d = self.known(d)
        terms = d.terms if isinstance(d, Dim) else (((), d),) if d else ()
        groups: dict[Dims, str] = {}
        for mono, coef in terms:
            v = self._product([self._atom(a, operands) for a in mono], abs(coef))
            before = groups.get(v.dims)
            if before is None:
                groups[v.dims] = v.text if coef > 0 else f"-{v.text}"
            else:
                groups[v.dims] = f"{before} {'+' if coef > 0 else '-'} {v.text}"
        ordered = sorted(groups.items(), key=lambda g: (len(g[0]), sorted(g[0])))
        return [Val(t, self.index, dims) if t.isidentifier() or t.isdigit() else self.let(t, self.index, dims)
                for dims, t in ordered]

    def _product(self, factors: list[Val], coef: int) -> Val:
        factors = sorted(factors, key=lambda f: len(f.dims))
        if not factors:
            return Val(str(coef), self.index)
        texts = [f.text for f in factors] + ([str(coef)] if coef != 1 else [])
        dims: Dims = frozenset().union(*(f.dims for f in factors))
        return self.let(" * ".join(texts), self.index, dims) if len(texts) > 1 else factors[0]

    def _atom(self, atom: str | Call, operands: Sequence[Val]) -> Val:
        if isinstance(atom, Call):
            return self._call(atom, operands)
        if atom.startswith("$"):
            return self._index_value(operands[int(atom[1:])])
        if atom in self.axes:
            return self.position(atom)
        return self._symbol(atom)

    def _symbol(self, name: str) -> Val:
        if name in self.symbols:
            return Val(self.symbols[name], self.index)
        parameter = "d_" + "".join(c if c.isalnum() and c.isascii() else "_" for c in name)
        while parameter in self.symbols.values():
            parameter += "_"
        self.symbols[name] = parameter
        return Val(parameter, self.index)

    def _index_value(self, v: Val) -> Val:
        """A value from data as part of an offset; it is in range wherever it is used, so it fits the offsets' type."""
        if v.dtype == self.index:
            return v
        return self.let(f"{v.text}.to({triton_name(self.index)})", self.index, v.dims)

    def _call(self, call: Call, operands: Sequence[Val]) -> Val:
        args = [self.dim(a, operands) for a in call.args]
        if call.fn in ("min", "max"):
            total = args[0]
            for a in args[1:]:
                total = self.let(f"tl.{call.fn}imum({total.text}, {a.text})", self.index, total.dims | a.dims)
            return total
        return self._divide(call, args[0], args[1])

    def _divide(self, call: Call, a: Val, n: Val) -> Val:
        """Floor division or its remainder; the target's own round towards 0, which is the same from 0 up."""
        dims = a.dims | n.dims
        sign = "//" if call.fn == "floordiv" else "%"
        plain = self.let(f"{a.text} {sign} {n.text}", self.index, dims)
        if self.nonneg(call.args[0]):
            return plain
        rest = self.let(f"{a.text} % {n.text}", self.index, dims)
        fixed = f"{plain.text} - 1" if call.fn == "floordiv" else f"{plain.text} + {n.text}"
        return self.let(f"tl.where({rest.text} < 0, {fixed}, {plain.text})", self.index, dims)


def _from_data(d: DimLike) -> bool:
    return any(s.startswith("$") for s in symbols_of(d))

