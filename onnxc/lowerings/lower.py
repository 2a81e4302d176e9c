"""The pass `lower`: every onnx.* op of a module becomes tensor ops, or the model is refused with all nodes that cannot.

Ops are taken in order, so the types of operands are final when an op is lowered. Declared types are hints: where
inference finds something else, a warning shows both and inference wins.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable
from typing import Any

from onnxc.errors import Fail, UnsupportedModel, UnsupportedNode
from onnxc.ir.core import Block, Func, Module, Op, Value
from onnxc.ir.dims import symbols_of
from onnxc.ir.printer import quote_name
from onnxc.ir.registry import TypeInferenceError
from onnxc.ir.types import Seq, Tensor, Type
from onnxc.lowerings.context import Contradiction, Guard, Lowering, Poisoned, Refused, RunSymbols
from onnxc.lowerings.table import LowerFn, lowering_of
from onnxc.ops import load_all
from onnxc.ops.known import KnownValues

__all__ = ["lower"]

log = logging.getLogger("onnxc")
_MOST_AXES = 64             # of a NumPy array
_LONGEST_REASON = 1000      # characters; a reason may quote what the model says
Expand = Callable[[Module, Op], "Op | None"]


def lower(module: Module, expand: Expand | None = None) -> None:
    """Lower every function of kind "graph" in place.

    `expand(module, op)` may put the op's schema function in front of it and give the first op of that (None when it has
    none); it is asked for ops without a lowering. UnsupportedModel lists every node that stays; Fail those that no
    engine could run, where there are such.
    """
    load_all()
    bad: list[UnsupportedNode] = []
    wrong: list[UnsupportedNode] = []
    for func in module.funcs.values():
        if func.kind == "graph":
            _Pass(module, func, expand, bad, wrong).run()
    if wrong:
        raise Fail("\n".join(f"Node ({n.name}) Op ({n.op_type}) [ShapeInferenceError] {n.reason}"
                             for n in wrong[:UnsupportedModel.SHOWN]))
    if bad:
        raise UnsupportedModel(bad)


class _Pass:
    def __init__(self, module: Module, func: Func, expand: Expand | None, bad: list[UnsupportedNode],
                 wrong: list[UnsupportedNode]) -> None:
        self.module, self.func, self.expand = module, func, expand
        self.bad, self.wrong = bad, wrong
        self.known = KnownValues(module)
        self.guards: list[Guard] = []
        self.poisoned: set[Value] = set()
        shapes = [a.type.shape for a in func.args if isinstance(a.type, Tensor) and a.type.shape is not None]
        self.symbols = RunSymbols(s for shape in shapes for s in symbols_of(shape))

    def run(self) -> None:
        self.block(self.func.body)
        self.drop_bundles(self.func.body)
        self.func.attrs["guards"] = tuple(dict.fromkeys(self.guards))
        if not self.bad:
            self.func.result_types = [v.type for v in self.func.body.terminator.inputs]

    def block(self, block: Block) -> None:
        op = block.first
        while op is not None:
            following = op.next
            if op.name.startswith("onnx."):
                following = self.node(op) or following
            op = following

    def drop_bundles(self, block: Block) -> None:
        """Erase the containers that were taken apart; one that is still used cannot be in a program."""
        for op in block.reversed_ops():
            if op.name == "t.bundle" and not op.result.uses:
                op.erase()
            elif op.name == "t.bundle" and not self.bad:
                kind = "sequence" if isinstance(op.result.type, Seq) else "optional"
                self.bad.append(UnsupportedNode(op.loc, kind, "", "it leaves the compiled part of the model"))
            for region in op.regions:
                self.drop_bundles(region)

    def inner_block(self, block: Block) -> None:
        """Lower a region for the node that has it."""
        before = len(self.bad)
        self.block(block)
        if len(self.bad) > before:
            raise Poisoned

    def node(self, op: Op) -> Op | None:
        """Lower one op; gives the op to go on with when that is not the next one."""
        fn = lowering_of(op.name)
        if fn is None:
            first = self.expand(self.module, op) if self.expand is not None else None
            if first is None:
                self.refuse(op, "the operator is not supported yet")
            return first
        if any(v in self.poisoned for v in op.inputs):
            self.poisoned.update(op.results)
            return None
        b = Lowering(self.module, op, self.known, self.guards, self.symbols, self.inner_block)
        try:
            results = self.apply(b, op, fn)
        except Poisoned:
            self.poisoned.update(op.results)
            return None
        except (Refused, TypeInferenceError) as e:
            self.refuse(op, str(e))
            if isinstance(e, Contradiction):
                self.wrong.append(self.bad[-1])
            return None
        for old, new in zip(op.results, results, strict=False):
            self.replace(old, new, op)
        op.erase()
        return b.first_inlined

    def apply(self, b: Lowering, op: Op, fn: LowerFn) -> tuple[Value | None, ...]:
        inputs, attrs = _bind(fn, op)
        out = fn(b, *inputs, **attrs)
        results = out if isinstance(out, tuple) else (out,)
        for i, r in enumerate(op.results):
            found = results[i] if i < len(results) else None
            if r.uses and found is None:
                raise Refused(f"output {i} is not supported")
            if found is not None and found not in op.inputs and isinstance(found.type, Tensor) \
                    and found.type.dtype.kind in ("str", "complex"):
                raise Refused(f"element type {found.type.dtype} is not supported")
            if found is not None and isinstance(found.type, Tensor):
                _check_extent(found.type, i)
        return results

    def replace(self, old: Value, new: Value | None, op: Op) -> None:
        if new is None:
            return
        _compare_hint(old, new.type, op)
        if new.op is not None and not new.name:
            new.name = old.name
        old.replace_by(new)

    def refuse(self, op: Op, reason: str) -> None:
        self.poisoned.update(op.results)
        domain, _, kind = op.name.removeprefix("onnx.").rpartition(".")
        if len(reason) > _LONGEST_REASON:
            reason = f"{reason[:_LONGEST_REASON]}..."
        self.bad.append(UnsupportedNode(op.loc, kind, domain, reason))


def _check_extent(t: Tensor, output: int) -> None:
    """Refuse a type that no run can have: of too many axes, or of more bytes than an address counts, dims of 0 and
    those not known aside, which NumPy does not count either."""
    if t.shape is None:
        return
    if t.rank > _MOST_AXES:
        raise Refused(f"output {output} has {t.rank} axes; {_MOST_AXES} are possible")
    least = math.prod(d for d in t.dims if isinstance(d, int) and d)
    if least * max(t.dtype.bits, 8) // 8 >= 1 << 63:
        raise Refused(f"output {output} of type {t} has more bytes than there are addresses")


def _bind(fn: LowerFn, op: Op) -> tuple[list[Value | None], dict[str, Any]]:
    """Split an op into the positional inputs and keyword attributes of its lowering; Refused when they do not fit."""
    params = list(inspect.signature(fn).parameters.values())[1:]
    fixed = [p for p in params if p.kind is p.POSITIONAL_OR_KEYWORD]
    variadic = any(p.kind is p.VAR_POSITIONAL for p in params)
    attrs = {key: value for key, value in op.attrs.items() if key != "captured"}
    captured = op.attrs.get("captured", 0)
    inputs = list(op.operands[:-captured] if isinstance(captured, int) and captured else op.operands)
    while inputs and inputs[-1] is None:
        inputs.pop()
    if len(inputs) > len(fixed) and not variadic:
        raise Refused(f"{len(inputs)} inputs given, at most {len(fixed)} are known")
    for i, p in enumerate(fixed):
        # An optional input in front of required ones cannot have a default; its annotation tells.
        required = p.default is p.empty and not str(p.annotation).endswith("| None")
        if required and (i >= len(inputs) or inputs[i] is None):
            raise Refused(f"the required input '{p.name}' is missing")
    known = {p.name for p in params if p.kind is p.KEYWORD_ONLY}
    unknown = attrs.keys() - known
    if unknown:
        raise Refused(f"attribute '{min(unknown)}' is not known")
    for p in params:
        if p.kind is p.KEYWORD_ONLY and p.default is p.empty and p.name not in attrs:
            raise Refused(f"the required attribute '{p.name}' is missing")
    return inputs, attrs


def _compare_hint(old: Value, found: Type, op: Op) -> None:
    hint = old.type
    if not isinstance(hint, Tensor) or not isinstance(found, Tensor) or hint.shape is None or found.shape is None:
        return
    wrong = len(hint.shape) != found.rank or any(
        isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(hint.shape, found.dims, strict=True))
    if wrong:
        log.warning("%s of node '%s': the model declares %%%s as %s but it is %s; going on with the latter",
                    op.name, quote_name(op.loc), quote_name(old.name), hint, found)
