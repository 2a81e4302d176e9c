"""The verifier: what holds of every module between passes, checked against the registry.

Structure (blocks, uses, order, scopes), rows (known ops, arity, attributes, regions, inferred types, the row's own
`check`), functions (results against `return`), constants, and in kernels that every symbol of an index means something.
All faults are collected; one `VerifyError` lists them, each with the lines around its op.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from onnxc.errors import RuntimeException
from onnxc.ir.builder import infer_types
from onnxc.ir.compare import difference, same_type
from onnxc.ir.core import Attr, Block, Func, Module, Op, Ref, Value
from onnxc.ir.dims import Dim, DimLike, symbols_of
from onnxc.ir.parser import parse_module
from onnxc.ir.printer import print_module, print_place, quote_name
from onnxc.ir.registry import OpDef, lookup
from onnxc.ir.types import DType, Mem, Tensor, Type, tensor_of

__all__ = ["Problem", "VerifyError", "find_problems", "verify"]

_SHOWN = 10                                     # faults that an error spells out
_OPAQUE = ("onnx.", "test.")                    # levels whose ops need no row
_TERMINATORS = {"return": "the body of a function", "yield": "a region"}


@dataclasses.dataclass(frozen=True)
class Problem:
    """A fault, and where it is; `op` None when no single op has it."""

    text: str
    func: Func | None = None
    op: Op | None = None

    def __str__(self) -> str:
        if self.func is None:
            return self.text
        head = f"function @{quote_name(self.func.name)}: {self.text}"
        try:
            return f"{head}\n{print_place(self.func, self.op)}"
        except Exception as e:  # what is broken may be too broken to print
            return f"{head}\n  (the function cannot be printed: {type(e).__name__}: {e})"


class VerifyError(RuntimeException):
    """The module breaks a rule of the IR, which is a defect of the pass that made it; `problems` lists all faults."""

    problems: tuple[Problem, ...]

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        lines = [f"the IR is not valid: {count} fault{'s' if count > 1 else ''}", *map(str, self.problems[:_SHOWN])]
        if count > _SHOWN:
            lines.append(f"and {count - _SHOWN} more")
        super().__init__("\n".join(lines))


def verify(module: Module, level: int = 1) -> None:
    """VerifyError unless every rule holds; from `level` 2 on, also unless the module's text reads back as it is."""
    problems = find_problems(module)
    if not problems and level >= 2:
        try:
            found = difference(module, parse_module(print_module(module), module.constants))
        except Exception as e:  # any failure to read back is the fault that is looked for
            found = str(e)
        if found:
            problems.append(Problem(f"the module's text does not read back as the module: {found}"))
    if problems:
        raise VerifyError(problems)


def find_problems(module: Module) -> list[Problem]:
    """Every fault of the module, in the order of its text."""
    problems: list[Problem] = []
    for name, array in module.constants.items():
        text = _constant_fault(array)
        if text:
            problems.append(Problem(f"constant @{quote_name(name)} {text}"))
    for name, func in module.funcs.items():
        if name != func.name:
            problems.append(Problem(f"it is listed as @{quote_name(name)}", func))
        problems += _FuncVerifier(module, func).run()
    return problems


def _constant_fault(array: object) -> str | None:
    if not isinstance(array, np.ndarray):
        return f"is no array but a {type(array).__name__}"
    try:
        tensor_of(array)
    except KeyError:
        return f"has numpy type {array.dtype}, which is no element type"
    return None


class _FuncVerifier:
    def __init__(self, module: Module, func: Func) -> None:
        self.module, self.func = module, func
        self.problems: list[Problem] = []
        self.uses: dict[Value, set[tuple[Op, int]]] = {}
        self.symbols = _shape_symbols(func) if func.kind == "kernel" else None
        self.passed = _passed_symbols(module, func)

    def report(self, text: str, op: Op | None = None) -> None:
        self.problems.append(Problem(text, self.func, op))

    def run(self) -> list[Problem]:
        func = self.func
        if func.body.parent is not func:
            self.report("its body belongs to something else")
        for text in _attr_faults(func.attrs, self.module):
            self.report(text)
        self.block(func.body, None, frozenset(), self.symbols or frozenset())
        self.check_uses()
        self.check_return()
        return self.problems

    # ---- structure -------------------------------------------------------------------------------------------------
    def block(self, block: Block, owner: Op | None, outer: frozenset[Value], symbols: frozenset[str]) -> None:
        """Check a block in which the values `outer` and the index symbols `symbols` can be seen."""
        seen = set(block.args)
        for i, arg in enumerate(block.args):
            self.uses.setdefault(arg, set())
            if arg.owner is not block or arg.index != i:
                self.report(f"argument {i}, {arg!r}, is not owned by its block", owner)
        ops = self.linked_ops(block, owner)
        for op in ops:
            self.operands(op, seen, outer)
            self.results(op)
            self.terminator(op, op is ops[-1], owner)
            row = self.row(op)
            isolated = row is not None and row.has("isolated")
            if op.regions:
                visible = frozenset() if isolated else outer | seen
                for region, axes in zip(op.regions, self.axes(op, symbols), strict=True):
                    if region.parent is not op:
                        self.report("one of its regions belongs to something else", op)
                    self.block(region, op, visible, symbols | axes)
            seen.update(op.results)
            if self.symbols is not None:
                self.index_symbols(op, row, symbols)

    def linked_ops(self, block: Block, owner: Op | None) -> list[Op]:
        """The ops of a block, with its links checked."""
        ops: list[Op] = []
        before = None
        op = block.first
        while op is not None and len(ops) <= len(block):
            if op.block is not block or op.prev is not before:
                self.report(f"{op.name} is not linked to its block and its predecessor", owner)
            ops.append(op)
            before, op = op, op.next
        if len(ops) != len(block) or block.last is not before:
            self.report(f"a block counts {len(block)} ops, but {len(ops)} are linked", owner)
        return ops

    def operands(self, op: Op, seen: set[Value], outer: frozenset[Value]) -> None:
        for i, value in enumerate(op.operands):
            if value is None:
                continue
            self.uses.setdefault(value, set()).add((op, i))
            if value not in seen and value not in outer:
                self.report(f"operand {i} of {op.name}, {value!r}, is not defined before it where it can be seen", op)

    def results(self, op: Op) -> None:
        for i, result in enumerate(op.results):
            self.uses.setdefault(result, set())
            if result.owner is not op or result.index != i:
                self.report(f"result {i} of {op.name}, {result!r}, is not owned by it", op)

    def check_uses(self) -> None:
        for value, uses in self.uses.items():
            if len(value.uses) != len(uses) or set(value.uses) != uses:
                have = ", ".join(f"{op.name}[{i}]" for op, i in value.uses) or "none"
                want = ", ".join(f"{op.name}[{i}]" for op, i in uses) or "none"
                self.report(f"{value!r} lists the uses {have}, but in the function they are {want}", value.op)

    def terminator(self, op: Op, last: bool, owner: Op | None) -> None:
        if op.name not in _TERMINATORS:
            return
        if (op.name == "return") == (owner is not None):
            self.report(f"{op.name} ends {_TERMINATORS[op.name]} and cannot stand elsewhere", op)
        if not last:
            self.report(f"{op.name} is not the last op of its block", op)

    def check_return(self) -> None:
        last, wanted = self.func.body.last, self.func.result_types
        if last is None or last.name != "return":
            if wanted:
                self.report("it has results but does not end in return", last)
            return
        given = [None if v is None else v.type for v in last.operands]
        if len(given) != len(wanted) or not all(g is not None and same_type(g, w)
                                                for g, w in zip(given, wanted, strict=True)):
            self.report(f"it returns {_types(given)}, but its results are {_types(wanted)}", last)

    # ---- rows ------------------------------------------------------------------------------------------------------
    def row(self, op: Op) -> OpDef | None:
        """The op's row, with the op checked against it."""
        row = lookup(op.name)
        faults = list(_attr_faults(op.attrs, self.module))
        if row is not None:
            faults += _row_faults(op, row)
            if not faults:
                faults += _type_faults(op, row)
            if not faults and row.check is not None:
                faults += row.check(op)
        elif not op.name.startswith(_OPAQUE) and op.name not in _TERMINATORS:
            faults.append(f"there is no op {op.name}")
        faults += _constant_op_faults(op, self.module)
        for text in faults:
            self.report(text, op)
        return row

    # ---- index symbols of kernels ----------------------------------------------------------------------------------
    def axes(self, op: Op, symbols: frozenset[str]) -> list[frozenset[str]]:
        """The loop axes that each region of `op` adds to the symbols."""
        row = lookup(op.name)
        if self.symbols is None or row is None or not row.has("loop"):
            return [frozenset()] * len(op.regions)
        regions = []
        for i in range(len(op.regions)):
            names = [str(axis) for axis, _ in loop_axes(op, i)]
            taken = [n for k, n in enumerate(names) if n in symbols or n in names[:k]]
            if taken:
                self.report(f"axis '{taken[0]}' of {op.name} has the name of another symbol in sight", op)
            regions.append(frozenset(names))
        return regions

    def index_symbols(self, op: Op, row: OpDef | None, symbols: frozenset[str]) -> None:
        loaded = len(op.operands) - row.operands.least if row is not None else 0
        known = symbols | self.passed | {f"${n}" for n in range(loaded)}
        if row is not None and row.has("loop"):
            dims = [extent for i in range(len(op.regions)) for _, extent in loop_axes(op, i)]
        else:
            dims = [d for value in op.attrs.values() for d in _dims_in(value)]
        for unknown in sorted(symbols_of(dims) - known):
            self.report(f"'{unknown}' in {op.name} is no axis around it, no dim symbol of the kernel and none of its "
                        f"{loaded} index operands", op)


# Which lists of axes each region of an op sees; an op that is not listed shows all of its axes to all of its regions.
_AXES_SEEN = {"k.contract": (("batch", "m", "k"), ("batch", "n", "k"), ("batch", "m", "n")),
              "k.attend": (("batch", "m", "k"), ("batch", "n", "k"), ("batch", "m", "n"), ("batch", "n", "columns"),
                           ("batch", "m", "columns"))}


def loop_axes(op: Op, region: int) -> list[tuple[Dim, DimLike]]:
    """The (axis, extent) pairs that a region of a loop op sees, in whichever form its attributes hold them.

    Attributes that hold none, because the op is not well formed, give none.
    """
    a: dict = op.attrs
    try:
        if "axes" in a:
            pairs = list(zip(a["axes"], a["extents"], strict=True))
        elif "axis" in a:
            pairs = [(a["axis"], a["extent"])]
        else:
            pairs = [(axis, extent) for key in _AXES_SEEN.get(op.name, [tuple(a)] * (region + 1))[region]
                     for axis, extent in a[key]]
    except (KeyError, TypeError, ValueError):
        return []
    return [(axis, extent) for axis, extent in pairs if isinstance(axis, Dim) and isinstance(extent, (Dim, int))]


def _shape_symbols(func: Func) -> frozenset[str]:
    """The dim symbols in the types of a kernel's arguments."""
    return symbols_of([d for arg in func.args if isinstance(arg.type, Mem) for d in arg.type.shape])


def _passed_symbols(module: Module, kernel: Func) -> frozenset[str]:
    """The dim symbols whose values every kernel is passed: those that the program lists, or the kernel itself."""
    owners = [f for f in module.funcs.values() if f is kernel or f.kind == "program"]
    lists = [f.attrs.get(key) for f in owners for key in ("symbols", "rooms", "run_symbols")]
    names = [s[0] if isinstance(s, tuple) and s else s for listed in lists if isinstance(listed, tuple) for s in listed]
    return frozenset(s for s in names if isinstance(s, str))


def _dims_in(value: Attr) -> Iterator[Dim]:
    if isinstance(value, Dim):
        yield value
    elif isinstance(value, tuple):
        for v in value:
            yield from _dims_in(v)


# ---- one op against its row ----------------------------------------------------------------------------------------
def _types(types: Iterable[Type | None]) -> str:
    return f"({', '.join(map(str, types))})"


_ATTR_TYPES = (bool, int, float, str, bytes, Dim, DType, Type, Ref, np.integer)


def _bad_attr(value: object) -> str | None:
    """Why `value` is no attribute; None when it is one."""
    if value is None or isinstance(value, _ATTR_TYPES):
        return None
    if isinstance(value, np.ndarray):
        text = _constant_fault(value)
        return f"holds an array that {text}" if text else None
    if isinstance(value, tuple):
        return next((text for text in map(_bad_attr, value) if text), None)
    return f"holds a {type(value).__name__}, which is no attribute"


def _refs(value: Attr) -> Iterator[Ref]:
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, tuple):
        for v in value:
            yield from _refs(v)


def _attr_faults(attrs: dict[str, Attr], module: Module) -> Iterator[str]:
    for key, value in attrs.items():
        bad = _bad_attr(value)
        if bad:
            yield f"attribute '{key}' {bad}"
            continue
        for ref in _refs(value):
            if ref.name not in module.constants and ref.name not in module.funcs:
                yield f"attribute '{key}' names @{quote_name(ref.name)}, which the module does not have"


def _row_faults(op: Op, row: OpDef) -> list[str]:
    faults = []
    if not row.operands.admits(len(op.operands)):
        faults.append(f"{op.name} takes ({', '.join(row.operands.names)}) but has {len(op.operands)} operands")
    elif None in op.operands[:row.operands.least]:
        absent = row.operands.names[op.operands.index(None)]
        faults.append(f"operand '{absent}' of {op.name} is absent, but it is not optional")
    if not row.results.admits(len(op.results)):
        faults.append(f"{op.name} gives ({', '.join(row.results.names)}) but has {len(op.results)} results")
    if row.regions not in (-1, len(op.regions)):
        faults.append(f"{op.name} has {row.regions} regions, not {len(op.regions)}")
    faults += [f"{op.name} lacks attribute '{key}'" for key in row.attrs if key not in op.attrs]
    extra = [key for key in op.attrs if key not in row.attrs]
    faults += [f"{op.name} has no attribute '{key}'; it has {sorted(row.attrs)}" for key in extra]
    return faults


def _type_faults(op: Op, row: OpDef) -> list[str]:
    if row.infer is None:
        return []
    try:
        inferred = infer_types(op.name, [None if v is None else v.type for v in op.operands], op.attrs)
    except Exception as e:  # inference of an op that is not well formed may stumble over anything
        known = isinstance(e, ValueError)
        return [f"{op.name} does not take its operands: {'' if known else type(e).__name__ + ': '}{e}"]
    have = [r.type for r in op.results]
    if len(have) != len(inferred) or not all(map(same_type, have, inferred)):
        return [f"{op.name} has results {_types(have)}, but its operands and attributes give {_types(inferred)}"]
    return []


def _constant_op_faults(op: Op, module: Module) -> list[str]:
    """Ops without operands that stand for an array, inline or in the module: their result has the array's type."""
    ref, value = op.attrs.get("ref"), op.attrs.get("value")
    if op.name == "t.const" and isinstance(ref, Ref) == isinstance(value, np.ndarray):
        return ["t.const holds either a value or a reference to a constant"]
    array = module.constants.get(ref.name) if isinstance(ref, Ref) else value if op.name == "t.const" else None
    if op.operands or len(op.results) != 1 or not isinstance(array, np.ndarray) or _constant_fault(array):
        return []
    t, held = op.results[0].type, tensor_of(array)
    if not isinstance(t, (Tensor, Mem)) or (t.dtype, t.shape) != (held.dtype, held.shape):
        return [f"{op.name} gives {t}, but the array it stands for is {held}"]
    return []
