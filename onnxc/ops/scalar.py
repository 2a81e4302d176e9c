"""The scalar table: one row an operation on elements, with a numpy, an LLVM and a Triton column.

Every row gives an `s.<name>` op for kernels and a `t.<name>` op for tensors (elementwise, broadcasting). A backend
column is keyed by the operands' element type ("f32") or their kind ("float", "int", "uint", "bool"), the first before
the second; where it has neither, `expand` says the op in terms of others, once for every backend: it gets an `Expander`
and the operands. A row with neither is a gap, and `tests/ops` fails on it.

LLVM column: an instruction ("fadd", "fneg"), a comparison ("fcmp olt", "icmp slt") or an intrinsic ("@llvm.sqrt", to be
overloaded on the type, scalar or vector). Triton column: a format string over `{0}`, `{1}` ...
Arithmetic is done in f32, f64, bool and the integers of 8 bits and more; smaller types are cast around it.

No row ever traps or depends on what a target leaves undefined, except those marked unchecked, which stand only in
expansions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from onnxc.ir.registry import REQUIRED, TypeInferenceError, register
from onnxc.ir.types import BOOL, DType, Scalar, Type
from onnxc.ops import numpy_scalars as meaning
from onnxc.ops.conversion import convert
from onnxc.ops.expander import Expander
from onnxc.ops.mathfns import (
    basic,
    circular,
    error,
    exponential,
    hyperbolic,
    integers,
    inverse_circular,
    logarithm,
    power,
    remainder,
)

__all__ = ["SCALARS", "Expander", "ScalarOp", "column", "scalar"]


Kinds = Mapping[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class ScalarOp:
    """A row. `rule` is "same" (operands and result of one type), "compare" (result bool), "logical" (all bool) or
    "select" (bool, then two of one type). `kinds` are the operand kinds the op is defined for. `numpy` is the exact
    meaning, for arrays of one element type. `ulps` is the greatest error of the expansion for f32 and f64, in units in
    the last place of the result; 0 where it is exact or correctly rounded."""

    name: str
    arity: int
    rule: str
    kinds: tuple[str, ...]
    numpy: Callable[..., Any]
    llvm: Kinds
    triton: Kinds
    expand: Callable[..., Any] | None
    commutative: bool
    doc: str
    ulps: tuple[float, float] = (0.0, 0.0)

    @property
    def unchecked(self) -> bool:
        """Whether some operands leave the machine's op undefined: only expansions, which exclude them, use it."""
        return self.name in _UNCHECKED


def column(kinds: Kinds, dtype: DType) -> str | None:
    """The entry of a backend column for operands of this type; None where the row is expanded."""
    return kinds.get(dtype.name, kinds.get(dtype.kind))


SCALARS: dict[str, ScalarOp] = {}
_FLOAT, _NUMBER, _INTEGER, _BOOL = ("float",), ("float", "int", "uint"), ("int", "uint"), ("bool",)
_ANY = (*_NUMBER, *_BOOL)


def result_dtype(row: ScalarOp, dtypes: Sequence[DType], narrow: bool = False) -> DType:
    """Result element type; TypeInferenceError when the operands do not fit the row. `narrow` admits the types that no
    arithmetic is done in, for whoever computes in a wider one and rounds back."""
    checked = dtypes[1:] if row.rule == "select" else dtypes
    if len(dtypes) != row.arity or len(set(checked)) != 1 or (row.rule == "select" and dtypes[0] != BOOL):
        raise TypeInferenceError(f"{row.name} ({row.rule}) does not take ({', '.join(map(str, dtypes))})")
    if checked[0].kind not in row.kinds:
        raise TypeInferenceError(f"{row.name} is not defined for {checked[0]}, only for kinds {', '.join(row.kinds)}")
    if not narrow and row.rule != "select" and checked[0].compute != checked[0].name:
        raise TypeInferenceError(f"{row.name} of {checked[0]}: cast to {checked[0].compute}, which it computes in")
    return BOOL if row.rule in ("compare", "logical") else checked[0]


def scalar(name: str, arity: int, kinds: tuple[str, ...], numpy: Callable[..., Any], *, rule: str = "same",
           llvm: Kinds | None = None, triton: Kinds | str | None = None,
           expand: Callable[..., Any] | None = None, commutative: bool = False,
           ulps: tuple[float, float] = (0.0, 0.0), doc: str) -> ScalarOp:
    """Add a row and its `s.` op. A `triton` string serves all kinds."""
    columns = dict.fromkeys(kinds, triton) if isinstance(triton, str) else dict(triton or {})
    row = ScalarOp(name, arity, rule, kinds, numpy, dict(llvm or {}), columns, expand, commutative, doc, ulps)
    SCALARS[name] = row

    def infer(types: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
        return [Scalar(result_dtype(row, [t.dtype for t in types]))]

    register(f"s.{name}", ", ".join(f"x{i}" for i in range(arity)), traits="pure" + " commutative" * commutative,
             infer=infer, ref=lambda attrs, *xs: numpy(*xs), doc=doc)
    return row


register("s.const", "", attrs={"value": REQUIRED, "dtype": REQUIRED}, traits="pure",
         infer=lambda types, attrs: [Scalar(attrs["dtype"])],
         ref=lambda attrs: np.asarray(attrs["value"], attrs["dtype"].numpy),
         doc="a constant element")
register("s.cast", "x", attrs={"to": REQUIRED, "saturate": True}, infer=lambda types, attrs: [Scalar(attrs["to"])],
         ref=lambda attrs, x: convert(x, attrs["to"], attrs["saturate"]),
         doc="convert: float to integer truncates (out of range and NaN give the least value of the type, for types of "
             "32 bits and more; narrower ones wrap from i32), integers wrap, to bool is != 0, floats round to nearest "
             "even, types narrower than f32 from f32; `saturate`: out of range of f8 gives its greatest finite value")


def _bitcast(types: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    of, to = types[0].dtype, attrs["to"]
    if of.bits != to.bits or BOOL in (of, to):
        raise TypeInferenceError(f"s.bitcast of {of} to {to}: the widths must be equal, and bool has no bits to share")
    return [Scalar(to)]


register("s.bitcast", "x", attrs={"to": REQUIRED}, infer=_bitcast,
         ref=lambda attrs, x: np.asarray(x).view(attrs["to"].numpy),
         doc="the same bits as another type of the same width")


_UNCHECKED = frozenset(("quot", "rem", "lshift", "rshift", "ldexp"))


def _by_kind(f: str, i: str, u: str | None = None) -> dict[str, str]:
    return {"float": f, "int": i, "uint": u or i}


def _compare(f: str, s: str, u: str) -> dict[str, str]:
    return {"float": f"fcmp {f}", "int": f"icmp {s}", "uint": f"icmp {u}", "bool": f"icmp {u}"}


def _bits(instruction: str) -> dict[str, str]:
    return {"int": instruction, "uint": instruction}


def _either(floats: Callable[..., Any], integers: Callable[..., Any]) -> Callable[..., Any]:
    """The expansion of floats for float operands, that of integers for others."""
    return lambda e, *args: (floats if e.dtype.is_float else integers)(e, *args)


# ---- arithmetic ---
scalar("add", 2, _NUMBER, meaning.quiet(np.add), llvm=_by_kind("fadd", "add"), triton="({0} + {1})", commutative=True,
       doc="x0 + x1, integers wrap")
scalar("sub", 2, _NUMBER, meaning.quiet(np.subtract), llvm=_by_kind("fsub", "sub"), triton="({0} - {1})",
       doc="x0 - x1, integers wrap")
scalar("mul", 2, _NUMBER, meaning.quiet(np.multiply), llvm=_by_kind("fmul", "mul"), triton="({0} * {1})",
       commutative=True, doc="x0 * x1, integers wrap")
scalar("fma", 3, _FLOAT, meaning.fused, llvm={"float": "@llvm.fma"}, triton="tl.fma({0}, {1}, {2})",
       doc="x0 * x1 + x2, rounded once")
scalar("quot", 2, _INTEGER, meaning.divide, llvm={"int": "sdiv", "uint": "udiv"}, triton="({0} // {1})",
       doc="truncated x0 / x1; unchecked: x1 is neither 0 nor -1")
scalar("rem", 2, _INTEGER, meaning.remainder, llvm={"int": "srem", "uint": "urem"}, triton="({0} % {1})",
       doc="what quot leaves; unchecked: x1 is neither 0 nor -1")
scalar("div", 2, _NUMBER, meaning.divide, llvm={"float": "fdiv"},
       triton={"f32": "tl.div_rn({0}, {1})", "f64": "({0} / {1})"}, expand=integers.divide,
       doc="x0 / x1; integers truncate, x/0 is 0 and the least value / -1 wraps")
scalar("min", 2, _NUMBER, meaning.quiet(np.minimum), llvm={"int": "@llvm.smin", "uint": "@llvm.umin"},
       triton=_by_kind("tl.minimum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)", "tl.minimum({0}, {1})"),
       expand=basic.minimum, commutative=True,
       doc="the lesser; NaN if either is")
scalar("max", 2, _NUMBER, meaning.quiet(np.maximum), llvm={"int": "@llvm.smax", "uint": "@llvm.umax"},
       triton=_by_kind("tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)", "tl.maximum({0}, {1})"),
       expand=basic.maximum, commutative=True,
       doc="the greater; NaN if either is")
scalar("neg", 1, _NUMBER, meaning.quiet(np.negative), llvm={"float": "fneg"}, triton={"float": "({0} * -1.0)"},
       expand=basic.negate, doc="-x0, integers wrap")
scalar("abs", 1, _NUMBER, meaning.quiet(np.abs), llvm={"float": "@llvm.fabs"}, triton={"float": "tl.abs({0})"},
       expand=basic.absolute, doc="the size; the least integer wraps to itself")
scalar("sign", 1, _NUMBER, meaning.sign, expand=_either(basic.sign, integers.sign),
       doc="-1, 0 or 1; NaN for NaN, zeros keep their sign")
scalar("copysign", 2, _FLOAT, meaning.quiet(np.copysign), llvm={"float": "@llvm.copysign"}, expand=basic.copysign,
       doc="the size of x0 with the sign of x1")
scalar("recip", 1, _FLOAT, meaning.reciprocal, expand=basic.reciprocal, doc="1 / x0")
scalar("sqrt", 1, _FLOAT, meaning.quiet(np.sqrt), llvm={"float": "@llvm.sqrt"},
       triton={"f32": "tl.sqrt_rn({0})", "f64": "tl.sqrt({0})"},
       doc="square root, correctly rounded")
scalar("rsqrt", 1, _FLOAT, meaning.rsqrt, expand=basic.rsqrt, ulps=(1.5, 1.5), doc="1 / sqrt(x0)")
scalar("fmod", 2, _NUMBER, meaning.remainder, expand=_either(remainder.remainder, integers.remainder),
       doc="what truncated division leaves, with the sign of x0; integers: 0 for x1 = 0")
scalar("mod", 2, _NUMBER, meaning.modulo, expand=_either(remainder.modulo, integers.modulo),
       doc="what floored division leaves, with the sign of x1; integers: 0 for x1 = 0")

# ---- rounding to integers ---
# Triton's floor and ceil of f32 take denormals for 0.
scalar("floor", 1, _FLOAT, meaning.quiet(np.floor), llvm={"float": "@llvm.floor"}, triton={"f64": "tl.floor({0})"},
       expand=basic.floor,
       doc="the greatest integer not above x0")
scalar("ceil", 1, _FLOAT, meaning.quiet(np.ceil), llvm={"float": "@llvm.ceil"}, triton={"f64": "tl.ceil({0})"},
       expand=basic.ceil,
       doc="the least integer not below x0")
scalar("trunc", 1, _FLOAT, meaning.quiet(np.trunc), llvm={"float": "@llvm.trunc"}, expand=basic.trunc,
       doc="x0 without its fraction")
scalar("round", 1, _FLOAT, meaning.quiet(np.rint), llvm={"float": "@llvm.roundeven"}, expand=basic.round_even,
       doc="the nearest integer, half to even")

# ---- comparison and choice ---
scalar("eq", 2, _ANY, np.equal, rule="compare", llvm=_compare("oeq", "eq", "eq"), triton="({0} == {1})",
       commutative=True, doc="x0 == x1; NaN equals nothing")
scalar("ne", 2, _ANY, np.not_equal, rule="compare", llvm=_compare("une", "ne", "ne"), triton="({0} != {1})",
       commutative=True, doc="x0 != x1")
scalar("lt", 2, _NUMBER, np.less, rule="compare", llvm=_compare("olt", "slt", "ult"), triton="({0} < {1})",
       doc="x0 < x1")
scalar("le", 2, _NUMBER, np.less_equal, rule="compare", llvm=_compare("ole", "sle", "ule"), triton="({0} <= {1})",
       doc="x0 <= x1")
scalar("gt", 2, _NUMBER, np.greater, rule="compare", llvm=_compare("ogt", "sgt", "ugt"), triton="({0} > {1})",
       doc="x0 > x1")
scalar("ge", 2, _NUMBER, np.greater_equal, rule="compare", llvm=_compare("oge", "sge", "uge"), triton="({0} >= {1})",
       doc="x0 >= x1")
scalar("isnan", 1, _FLOAT, np.isnan, rule="compare", expand=basic.isnan, doc="whether x0 is NaN")
scalar("isinf", 1, _FLOAT, np.isinf, rule="compare", expand=basic.isinf, doc="whether x0 is an infinity")
scalar("select", 3, _ANY, np.where, rule="select", llvm=dict.fromkeys(_ANY, "select"),
       triton="tl.where({0}, {1}, {2})", doc="x1 where x0 holds, x2 elsewhere")

# ---- logic and bits ---
scalar("and", 2, _BOOL, np.logical_and, rule="logical", llvm={"bool": "and"}, triton="({0} & {1})", commutative=True,
       doc="both")
scalar("or", 2, _BOOL, np.logical_or, rule="logical", llvm={"bool": "or"}, triton="({0} | {1})", commutative=True,
       doc="either or both")
scalar("xor", 2, _BOOL, np.logical_xor, rule="logical", llvm={"bool": "xor"}, triton="({0} ^ {1})", commutative=True,
       doc="one of the two")
scalar("not", 1, _BOOL, np.logical_not, rule="logical", expand=basic.inverse, doc="the opposite")
scalar("bit_and", 2, _INTEGER, np.bitwise_and, llvm=_bits("and"), triton="({0} & {1})", commutative=True,
       doc="bitwise and")
scalar("bit_or", 2, _INTEGER, np.bitwise_or, llvm=_bits("or"), triton="({0} | {1})", commutative=True, doc="bitwise or")
scalar("bit_xor", 2, _INTEGER, np.bitwise_xor, llvm=_bits("xor"), triton="({0} ^ {1})", commutative=True,
       doc="bitwise exclusive or")
scalar("bit_not", 1, _INTEGER, np.bitwise_not, expand=basic.inverse, doc="every bit flipped")
scalar("lshift", 2, _INTEGER, meaning.shift_left, llvm=_bits("shl"), triton="({0} << {1})",
       doc="shift left; unchecked: 0 <= x1 < width")
scalar("rshift", 2, _INTEGER, meaning.shift_right, llvm={"int": "ashr", "uint": "lshr"}, triton="({0} >> {1})",
       doc="shift right, signed integers with copies of the sign; unchecked: 0 <= x1 < width")
scalar("shl", 2, _INTEGER, meaning.shift_left, expand=integers.shift_left,
       doc="shift left; 0 for amounts outside [0, width)")
scalar("shr", 2, _INTEGER, meaning.shift_right, expand=integers.shift_right,
       doc="shift right, signed integers with copies of the sign; amounts outside [0, width) shift everything out")

# ---- exponentials ---
scalar("ldexp", 2, _FLOAT, meaning.ldexp, expand=exponential.ldexp,
       doc="x0 * 2**x1; unchecked: x1 is an integer and |x1| below twice the greatest exponent")
scalar("exp", 1, _FLOAT, meaning.wide(np.exp), expand=exponential.exp, ulps=(1, 1), doc="e**x0")
scalar("exp2", 1, _FLOAT, meaning.wide(np.exp2), expand=exponential.exp2, ulps=(1, 1), doc="2**x0")
scalar("expm1", 1, _FLOAT, meaning.wide(np.expm1), expand=exponential.expm1, ulps=(2, 2),
       doc="e**x0 - 1, accurate near 0")
scalar("sinh", 1, _FLOAT, meaning.wide(np.sinh), expand=hyperbolic.sinh, ulps=(3, 3), doc="hyperbolic sine")
scalar("cosh", 1, _FLOAT, meaning.wide(np.cosh), expand=hyperbolic.cosh, ulps=(2, 2), doc="hyperbolic cosine")
scalar("tanh", 1, _FLOAT, meaning.wide(np.tanh), expand=hyperbolic.tanh, ulps=(2, 3), doc="hyperbolic tangent")
scalar("sigmoid", 1, _FLOAT, meaning.sigmoid, expand=exponential.sigmoid, ulps=(2.5, 2.5), doc="1 / (1 + e**-x0)")
scalar("erf", 1, _FLOAT, meaning.erf, expand=error.erf, ulps=(2, 2), doc="error function")

# ---- logarithms ---
scalar("log", 1, _FLOAT, meaning.wide(np.log), expand=logarithm.log, ulps=(1, 1), doc="natural logarithm")
scalar("log2", 1, _FLOAT, meaning.wide(np.log2), expand=logarithm.log2, ulps=(1, 1), doc="logarithm to base 2")
scalar("log1p", 1, _FLOAT, meaning.wide(np.log1p), expand=logarithm.log1p, ulps=(2, 2),
       doc="log(1 + x0), accurate near 0")
scalar("softplus", 1, _FLOAT, meaning.softplus, expand=logarithm.softplus, ulps=(2, 2), doc="log(1 + e**x0)")
scalar("asinh", 1, _FLOAT, meaning.wide(np.arcsinh), expand=hyperbolic.asinh, ulps=(2, 2),
       doc="inverse hyperbolic sine")
scalar("acosh", 1, _FLOAT, meaning.wide(np.arccosh), expand=hyperbolic.acosh, ulps=(3, 3),
       doc="inverse hyperbolic cosine")
scalar("atanh", 1, _FLOAT, meaning.wide(np.arctanh), expand=hyperbolic.atanh, ulps=(3, 3),
       doc="inverse hyperbolic tangent")

# ---- powers ---
scalar("pow", 2, _NUMBER, meaning.power, expand=_either(power.power, integers.power),
       ulps=(1, 2),
       doc="x0 to the power x1: C's pow; integers wrap, a negative exponent gives the reciprocal truncated, 0 for 0")

# ---- angles ---
scalar("sin", 1, _FLOAT, meaning.wide(np.sin), expand=circular.sin, ulps=(2, 2), doc="sine")
scalar("cos", 1, _FLOAT, meaning.wide(np.cos), expand=circular.cos, ulps=(2, 2), doc="cosine")
scalar("tan", 1, _FLOAT, meaning.wide(np.tan), expand=circular.tan, ulps=(4, 4), doc="tangent")
scalar("asin", 1, _FLOAT, meaning.wide(np.arcsin), expand=inverse_circular.asin, ulps=(3, 3), doc="inverse sine")
scalar("acos", 1, _FLOAT, meaning.wide(np.arccos), expand=inverse_circular.acos, ulps=(2, 2), doc="inverse cosine")
scalar("atan", 1, _FLOAT, meaning.wide(np.arctan), expand=inverse_circular.atan, ulps=(2, 2), doc="inverse tangent")
