"""Running IR by the `ref` column of the op table: the oracle of the tests.

Any function whose ops have a `ref` runs, on numpy arrays (sequences are lists, absent optionals None). What an op gives
is held against its types. Dim symbols get their values from the shapes of arguments and, where an op makes new ones,
of its results. Kernels and programs are not run here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from onnxc.errors import Fail, InvalidArgument
from onnxc.ir.builder import constant_of
from onnxc.ir.core import Attr, Block, Func, Module, Op, Value
from onnxc.ir.dims import Dim, DimLike, evaluate, substitute, symbols_of
from onnxc.ir.printer import op_line, quote_name
from onnxc.ir.registry import lookup
from onnxc.ir.types import Map, Mem, Opt, Scalar, Seq, Tensor, Type, dtype_of

__all__ = ["BindError", "InterpreterError", "bind_dims", "evaluate_attr", "run_func"]


class BindError(InvalidArgument):
    """Values do not fit the types that they are bound to: number, element type, rank, or dims that contradict."""


class InterpreterError(Fail):
    """An op cannot be executed, or its `ref` failed or gave what its types do not allow."""


# ---- dims from shapes ----------------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class _Equation:
    """A dim and the size that it has at some place."""

    dim: DimLike
    size: int
    place: str


def bind_dims(types: Sequence[Type], values: Sequence[Any], known: Mapping[str, int] | None = None) -> dict[str, int]:
    """The dim symbols that `values` give to `types`, with those `known` already.

    BindError when values and types differ, or when no size of the symbols fits. A symbol that only stands inside
    divisions, minima and the like, or in products of unknowns, is not solved for and may be missing in the result.
    """
    if len(types) != len(values):
        raise BindError(f"{len(values)} values are given for {len(types)} types")
    dims = {name: int(size) for name, size in (known or {}).items()}
    open_ = [e for i, (t, v) in enumerate(zip(types, values, strict=True)) for e in _equations(t, v, f"value {i}")]
    while open_:
        left = [e for e in open_ if not _settle(e, dims)]
        if len(left) == len(open_):
            break
        open_ = left
    return dims


def _settle(e: _Equation, dims: dict[str, int]) -> bool:
    """Whether the equation is decided; a symbol that it determines is added to `dims`."""
    try:
        dim = substitute(e.dim, dims)
    except ZeroDivisionError:
        raise BindError(f"{e.place}: {e.dim} divides by zero{_sizes(e.dim, dims)}") from None
    if isinstance(dim, int):
        if dim != e.size:
            raise BindError(f"{e.place} is {e.size}, but {e.dim} is {dim}{_sizes(e.dim, dims)}")
        return True
    slope, rest = _linear(dim)
    if slope == 0:
        return False
    value, odd = divmod(e.size - rest, slope)
    if odd or value < 0:
        raise BindError(f"{e.place} is {e.size}, and no size makes {e.dim} that{_sizes(e.dim, dims)}")
    dims[next(iter(symbols_of(dim)))] = value
    return True


def _linear(d: Dim) -> tuple[int, int]:
    """(a, b) when d is a*s + b for one symbol s; (0, 0) when it is not."""
    terms = dict(d.terms)
    rest = terms.pop((), 0)
    if len(terms) != 1:
        return 0, 0
    (mono, slope), = terms.items()
    return (slope, rest) if len(mono) == 1 and isinstance(mono[0], str) else (0, 0)


def _sizes(d: DimLike, dims: Mapping[str, int]) -> str:
    known = [f"{s} = {dims[s]}" for s in sorted(symbols_of(d)) if s in dims]
    return f" with {', '.join(known)}" if known else ""


def _equations(t: Type, value: Any, place: str) -> Iterator[_Equation]:
    """The dims of a type with the sizes that `value` has; BindError when it is no value of the type at all."""
    if isinstance(t, Opt):
        if value is not None:
            yield from _equations(t.element, value, place)
    elif isinstance(t, (Seq, Map)):
        if not isinstance(value, list if isinstance(t, Seq) else dict):
            raise BindError(f"{place} of type {t} is a {type(value).__name__}")
    else:
        yield from _array_equations(t, value, place)


def _array_equations(t: Type, value: Any, place: str) -> Iterator[_Equation]:
    if not isinstance(t, (Tensor, Mem, Scalar)) or not isinstance(value, (np.ndarray, np.generic)):
        raise BindError(f"{place} of type {t} is a {type(value).__name__}, not an array")
    try:
        fits = dtype_of(value.dtype) == t.dtype
    except KeyError:
        fits = False
    shape = () if isinstance(t, Scalar) else t.shape
    if not fits or (shape is not None and len(shape) != value.ndim):
        raise BindError(f"{place} of type {t} is an array of {value.dtype}{list(value.shape)}")
    for axis, (dim, size) in enumerate(zip(shape or (), value.shape, strict=shape is not None)):
        yield _Equation(dim, size, f"axis {axis} of {place}")


# ---- execution -----------------------------------------------------------------------------------------------------
def evaluate_attr(attr: Attr, dims: Mapping[str, int]) -> Any:
    """An attribute with every dim in it, those of types included, as a number; KeyError names an unknown symbol."""
    if isinstance(attr, Dim):
        return evaluate(attr, dims)
    if isinstance(attr, tuple):
        return tuple(evaluate_attr(a, dims) for a in attr)
    if isinstance(attr, (Tensor, Mem)) and attr.shape is not None:
        return dataclasses.replace(attr, shape=tuple(evaluate(d, dims) for d in attr.shape))
    return attr


def run_func(module: Module, func: Func, inputs: Sequence[Any], dims: Mapping[str, int] | None = None) -> list[Any]:
    """The results of `func` for `inputs`; `dims` gives symbols that the inputs' shapes do not determine.

    BindError when the inputs do not fit the arguments, InterpreterError when an op cannot be run.
    """
    values = [np.asarray(v) if isinstance(v, np.generic) else v for v in inputs]
    try:
        bound = bind_dims([a.type for a in func.args], values, dims)
    except BindError as e:
        raise BindError(f"function @{quote_name(func.name)}: {e.message}") from None
    with np.errstate(all="ignore"):
        return _Interpreter(module).block(func.body, values, {}, bound)


class _Interpreter:
    def __init__(self, module: Module) -> None:
        self.module = module
        self.deaths: dict[Block, dict[Op, list[Value]]] = {}

    def block(self, block: Block, args: Sequence[Any], env: dict[Value, Any], dims: dict[str, int]) -> list[Any]:
        """What the block's terminator names; `env` holds the values that the block sees, and grows by its own."""
        env.update(zip(block.args, args, strict=True))
        if block not in self.deaths:
            self.deaths[block] = _last_uses(block)
        for op in block.ops:
            if op.name in ("return", "yield"):
                return [None if v is None else env[v] for v in op.operands]
            env.update(zip(op.results, self.op(op, env, dims), strict=True))
            for value in self.deaths[block].get(op, ()):
                del env[value]
        return []

    def op(self, op: Op, env: dict[Value, Any], dims: dict[str, int]) -> list[Any]:
        row = lookup(op.name)
        if row is None or row.ref is None:
            raise InterpreterError(f"{op.name} has no reference semantics: {op_line(op)}")
        operands = [None if v is None else env[v] for v in op.operands]
        try:
            attrs = self.attrs(op, env, dims)
        except KeyError as e:
            raise InterpreterError(f"{op_line(op)}: nothing says what the dim symbol {e} is") from None
        try:
            out = row.ref(attrs, *operands)
        except (BindError, InterpreterError):
            raise
        except Exception as e:
            raise InterpreterError(f"{op_line(op)}: {type(e).__name__}: {e}") from e
        return self.checked(op, out, dims)

    def attrs(self, op: Op, env: dict[Value, Any], dims: dict[str, int]) -> dict[str, Any]:
        """The attributes as `ref` takes them: dims as numbers, constants as arrays, regions as functions."""
        out = {key: evaluate_attr(value, dims) for key, value in op.attrs.items()}
        if op.name == "t.const":
            out = {"value": constant_of(self.module, op.result), "ref": None}
        if op.regions:
            isolated = lookup(op.name).has("isolated")  # type: ignore[union-attr]
            out["regions"] = [self.region(r, {} if isolated else env, dims) for r in op.regions]
        return out

    def region(self, block: Block, env: dict[Value, Any], outer: dict[str, int]) -> Callable[..., list[Any]]:
        """The region as a function of its arguments; `dims` gives symbols that hold in this one call."""
        def call(*args: Any, dims: Mapping[str, int] | None = None) -> list[Any]:
            arrays = [np.asarray(a) if isinstance(a, np.generic) else a for a in args]
            inner = bind_dims([a.type for a in block.args], arrays, {**outer, **(dims or {})})
            return self.block(block, arrays, dict(env), inner)

        return call

    def checked(self, op: Op, out: Any, dims: dict[str, int]) -> list[Any]:
        """The results of `ref` as a list, held against the types; `dims` learns the symbols that the op makes."""
        results = list(out) if isinstance(out, tuple) else [] if not op.results and out is None else [out]
        defined = op.attrs.get("defines") or ()
        if isinstance(defined, tuple) and defined:          # symbols whose values stand behind the results
            dims.update(zip(map(str, defined), map(int, results[len(op.results):]), strict=True))
            del results[len(op.results):]
        results = [np.asarray(r) if isinstance(r, np.generic) else r for r in results]
        try:
            dims.update(bind_dims([r.type for r in op.results], results, dims))
        except BindError as e:
            raise InterpreterError(f"the result of {op_line(op)} does not have its type: {e.message}") from None
        return results


def _last_uses(block: Block) -> dict[Op, list[Value]]:
    """The values of a block that nobody uses after each of its ops; uses in regions count for the op that has them."""
    out: dict[Op, list[Value]] = {}
    seen: set[Value] = set()
    for op in block.reversed_ops():
        for value in [v for inner in op.walk() for v in inner.inputs] + op.results:
            home = value.owner if isinstance(value.owner, Block) else value.owner.block
            if home is block and value not in seen:
                seen.add(value)
                out.setdefault(op, []).append(value)
    return out
