"""The scalar table: one row an operation on elements, with a numpy, an LLVM and a Triton column.

Every row gives an `s.<name>` op for kernels and a `t.<name>` op for tensors (elementwise, broadcasting). A backend column
is keyed by the operand's kind ("float", "int", "uint", "bool"); where it lacks the kind, `expand` says the op in terms
of others, once for every backend: it gets an `Expander` and the operands. A row with neither is a listed gap, and
`tests/ops` fails on it.

LLVM column: an instruction ("fadd"), a comparison ("fcmp olt", "icmp slt") or an intrinsic ("@llvm.sqrt").
Triton column: a format string over `{0}`, `{1}` ...
Arithmetic is done in f32, f64, bool and the integers; f16, bf16 and smaller types are cast around it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from onnxc.ir.registry import REQUIRED, TypeInferenceError, register
from onnxc.ir.types import BOOL, DType, Scalar, Type

__all__ = ["SCALARS", "Expander", "ScalarOp", "scalar"]


class Expander(Protocol):
    """What an `expand` function builds with: a backend's emitter, or numpy in tests. Values are the backend's own."""

    dtype: DType                                  # element type of the operands

    def __call__(self, name: str, *args: Any) -> Any:
        """Apply the scalar op `name`."""

    def const(self, value: float | int | bool, dtype: DType | None = None) -> Any:
        """A constant of the operands' type (or of `dtype`)."""

    def cast(self, value: Any, to: DType) -> Any:
        """Convert (see `s.cast`)."""

    def bitcast(self, value: Any, to: DType) -> Any:
        """Reinterpret the bits as a type of the same width."""


Kinds = Mapping[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class ScalarOp:
    """A row. `rule` is "same" (operands and result of one type), "compare" (result bool), "logical" (all bool) or
    "select" (bool, then two of one type). `kinds` are the operand kinds the op is defined for."""

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


SCALARS: dict[str, ScalarOp] = {}
_FLOAT, _NUMBER, _INTEGER, _ANY = ("float",), ("float", "int", "uint"), ("int", "uint"), ("float", "int", "uint", "bool")


def result_dtype(row: ScalarOp, dtypes: Sequence[DType]) -> DType:
    """Result element type; TypeInferenceError when the operands do not fit the row."""
    checked = dtypes[1:] if row.rule == "select" else dtypes
    if len(dtypes) != row.arity or len(set(checked)) != 1 or (row.rule == "select" and dtypes[0] != BOOL):
        raise TypeInferenceError(f"{row.name} ({row.rule}) does not take ({', '.join(map(str, dtypes))})")
    if checked[0].kind not in row.kinds:
        raise TypeInferenceError(f"{row.name} is not defined for {checked[0]}, only for kinds {', '.join(row.kinds)}")
    return BOOL if row.rule in ("compare", "logical") else checked[0]


def scalar(name: str, arity: int, kinds: tuple[str, ...], numpy: Callable[..., Any], *, rule: str = "same",
           llvm: Kinds | None = None, triton: Kinds | str | None = None,
           expand: Callable[..., Any] | None = None, commutative: bool = False, doc: str) -> ScalarOp:
    """Add a row and its `s.` op. A `triton` string serves all kinds."""
    columns = {k: triton for k in kinds} if isinstance(triton, str) else dict(triton or {})
    row = ScalarOp(name, arity, rule, kinds, numpy, dict(llvm or {}), columns, expand, commutative, doc)
    SCALARS[name] = row

    def infer(types: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
        return [Scalar(result_dtype(row, [t.dtype for t in types]))]

    register(f"s.{name}", ", ".join(f"x{i}" for i in range(arity)), traits="pure" + " commutative" * commutative,
             infer=infer, ref=lambda attrs, *xs: numpy(*xs), doc=doc)
    return row


register("s.const", "", attrs={"value": REQUIRED, "dtype": REQUIRED}, traits="pure",
         infer=lambda types, attrs: [Scalar(attrs["dtype"])], ref=lambda attrs: np.asarray(attrs["value"], attrs["dtype"].numpy),
         doc="a constant element")
register("s.cast", "x", attrs={"to": REQUIRED}, traits="pure", infer=lambda types, attrs: [Scalar(attrs["to"])],
         doc="convert: float to integer truncates (out of range and NaN give the least value of the type, for types of 32 bits "
             "and more; narrower ones wrap from i32), integers wrap, to bool is != 0, floats round to nearest even")


def _same(f: str, i: str, u: str | None = None) -> dict[str, str]:
    return {"float": f, "int": i, "uint": u or i}


def _compare(f: str, s: str, u: str) -> dict[str, str]:
    return {"float": f"fcmp {f}", "int": f"icmp {s}", "uint": f"icmp {u}", "bool": f"icmp {u}"}


# ---- arithmetic ----------------------------------------------------------------------------------------------------
scalar("add", 2, _NUMBER, np.add, llvm=_same("fadd", "add"), triton="({0} + {1})", commutative=True, doc="x0 + x1, integers wrap")
scalar("sub", 2, _NUMBER, np.subtract, llvm=_same("fsub", "sub"), triton="({0} - {1})", doc="x0 - x1, integers wrap")
scalar("mul", 2, _NUMBER, np.multiply, llvm=_same("fmul", "mul"), triton="({0} * {1})", commutative=True, doc="x0 * x1, integers wrap")
