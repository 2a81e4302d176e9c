"""Dims as native i64 arithmetic: scalar, over vector lanes, and checked for overflow.

The environment gives each symbol an i64 or a vector of i64; mixing the two broadcasts. Division and modulo round
towards minus infinity and their divisors are positive, as in `onnxc.ir.dims`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from llvmlite import ir

from onnxc.codegen.llvm.abi import I1, I64
from onnxc.codegen.llvm.intrinsics import intrinsic
from onnxc.ir.dims import Call, DimLike, calls_of, provably_nonneg, symbols_of

__all__ = ["CheckedDims", "DimEmitter", "SizesOnce", "constant", "splat", "widen"]

Rank = Callable[[str], int]


def constant(value: int, like: ir.Type = I64) -> ir.Constant:
    """An integer constant of a scalar type, or the same in every lane of a vector type."""
    if isinstance(like, ir.VectorType):
        return ir.Constant(like, [ir.Constant(like.element, value)] * like.count)
    return ir.Constant(like, value)


def splat(builder: ir.IRBuilder, value: ir.Value, lanes: int) -> ir.Value:
    """`value` in every one of `lanes` lanes (`value` itself when it is a vector, or lanes is 1)."""
    if lanes == 1 or isinstance(value.type, ir.VectorType):
        return value
    if isinstance(value, ir.Constant):
        return ir.Constant(ir.VectorType(value.type, lanes), [value] * lanes)
    vector = ir.VectorType(value.type, lanes)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined),
                                  ir.Constant(ir.VectorType(ir.IntType(32), lanes), None))


def widen(builder: ir.IRBuilder, values: Sequence[ir.Value]) -> list[ir.Value]:
    """The values with scalars broadcast to the lanes of those that are vectors."""
    lanes = max((v.type.count for v in values if isinstance(v.type, ir.VectorType)), default=1)
    return [splat(builder, v, lanes) for v in values]


class DimEmitter:
    """Emits dims at `builder` over `env`; every symbol of the dims must be in it.

    `rank` orders symbols from outer to inner loops: sums are associated so that what does not depend on the inner
    loops is added first, which lets LLVM move it out of them. Calls that `once` covers are its.
    """

    def __init__(self, builder: ir.IRBuilder, env: Mapping[str, ir.Value], rank: Rank | None = None,
                 once: SizesOnce | None = None) -> None:
        self.builder, self.env = builder, env
        self._rank, self._once = rank or (lambda name: 0), once

    def __call__(self, d: DimLike) -> ir.Value:
        """The value of `d`: an i64, or a vector where a symbol of it is one."""
        if isinstance(d, int):
            return self._number(d)
        total: ir.Value | None = None
        for mono, coef in sorted(d.terms, key=lambda term: self._depth(term[0])):
            part = self._product(mono, abs(coef))
            if total is None:
                total = part if coef > 0 else self._binary("sub", ir.Constant(I64, 0), part)
            else:
                total = self._binary("add" if coef > 0 else "sub", total, part)
        return total if total is not None else ir.Constant(I64, 0)

    def _number(self, value: int) -> ir.Value:
        return ir.Constant(I64, value)

    def _depth(self, mono: tuple) -> int:
        names = [n for atom in mono for n in ([atom] if isinstance(atom, str) else symbols_of(atom.args))]
        return max(map(self._rank, names), default=-1)

    def _product(self, mono: tuple, coef: int) -> ir.Value:
        factors = [self._atom(a) for a in sorted(mono, key=lambda a: self._depth((a,)))]
        if coef != 1 or not factors:
            factors.insert(0, self._number(coef))
        value = factors[0]
        for factor in factors[1:]:
            value = self._binary("mul", value, factor)
        return value

    def _atom(self, atom: str | Call) -> ir.Value:
        if isinstance(atom, str):
            return self.env[atom]
        if self._once is not None and self._once.covers(atom):
            return self._once.value(atom)
        return self._call(atom)

    def _call(self, atom: Call) -> ir.Value:
        if atom.fn in ("min", "max"):
            value = self(atom.args[0])
            for other in atom.args[1:]:
                value = self._extremum(atom.fn, value, self(other))
            return value
        return self._divide(atom.fn, atom.args[0], atom.args[1])

    def _divide(self, fn: str, a: DimLike, n: DimLike) -> ir.Value:
        left, right = widen(self.builder, [self(a), self(n)])
        b = self.builder
        # `$n` stands for an operand, the only kind of symbol that may be negative.
        if provably_nonneg(a) and not any(s.startswith("$") for s in symbols_of(a)):
            return b.udiv(left, right) if fn == "floordiv" else b.urem(left, right)
        rest = b.srem(left, right)
        zero = constant(0, rest.type)
        negative = b.icmp_signed("<", rest, zero)
        if fn == "mod":
            return b.select(negative, b.add(rest, right), rest)
        quotient = b.sdiv(left, right)
        return b.select(negative, b.sub(quotient, constant(1, rest.type)), quotient)

    def _extremum(self, fn: str, a: ir.Value, b: ir.Value) -> ir.Value:
        a, b = widen(self.builder, [a, b])
        return self.builder.select(self.builder.icmp_signed("<" if fn == "min" else ">", a, b), a, b)

    def _binary(self, name: str, a: ir.Value, b: ir.Value) -> ir.Value:
        a, b = widen(self.builder, [a, b])
        return getattr(self.builder, name)(a, b)


class SizesOnce(DimEmitter):
    """Calls over symbols that have their values where this is made, each emitted once, in a block of its own there:
    a net's sizes are long chains of divisions, of which every place in its memory has dozens."""

    def __init__(self, builder: ir.IRBuilder, env: Mapping[str, ir.Value]) -> None:
        """`builder` goes on in a new block behind that of the calls."""
        block, rest = builder.append_basic_block("sizes"), builder.append_basic_block("behind.sizes")
        builder.branch(block)
        builder.position_at_end(rest)
        own = ir.IRBuilder(block)
        own.position_before(own.branch(rest))
        super().__init__(own, dict(env), once=self)
        self._values: dict[Call, ir.Value] = {}
        self._covered: dict[Call, bool] = {}

    def covers(self, call: Call) -> bool:
        """Whether the symbols of a call are known, and it may be computed where it is not needed: nothing in it is
        divided by what may be 0."""
        if call not in self._covered:
            divides = call.fn in ("floordiv", "mod")
            self._covered[call] = self.env.keys() >= symbols_of(call.args) and \
                (not divides or isinstance(call.args[1], int)) and all(map(self.covers, calls_of(call.args)))
        return self._covered[call]

    def value(self, call: Call) -> ir.Value:
        """The value of a call that is covered."""
        if call not in self._values:
            self._values[call] = self._call(call)
        return self._values[call]


class CheckedDims(DimEmitter):
    """As `DimEmitter`, on scalars, with `failed`: an i1 that is true when any operation so far wrapped around, or a
    number in a dim does not fit an i64. Calls are emitted once: each use comes after the ones before it.

    One that is made `after` another has its calls, and a `failed` of its own; where those of the other failed, it is
    not reached.
    """

    def __init__(self, builder: ir.IRBuilder, env: Mapping[str, ir.Value], after: CheckedDims | None = None) -> None:
        super().__init__(builder, env)
        self.failed: ir.Value = ir.Constant(I1, 0)
        self._values: dict[Call, ir.Value] = {} if after is None else after._values

    def _call(self, atom: Call) -> ir.Value:
        if atom not in self._values:
            self._values[atom] = super()._call(atom)
        return self._values[atom]

    def _number(self, value: int) -> ir.Value:
        if not -1 << 63 <= value < 1 << 63:
            self.failed, value = ir.Constant(I1, 1), 0
        return super()._number(value)

    def _binary(self, name: str, a: ir.Value, b: ir.Value) -> ir.Value:
        pair = ir.LiteralStructType([I64, I1])
        function = intrinsic(self.builder.module, f"llvm.s{name}.with.overflow", [I64], pair, [I64, I64])
        result = self.builder.call(function, [a, b])
        self.failed = self.builder.or_(self.failed, self.builder.extract_value(result, 1))
        return self.builder.extract_value(result, 0)
