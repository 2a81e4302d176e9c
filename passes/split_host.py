"""Splits an imported model into native segments and the host steps between them: operators on texts, sequences, maps
and optionals, which are no native code.

A container whose parts are known when the model is compiled stays in its segment, where lowering takes it apart. All
native ops that need nothing of a later host step are one segment, so a model has as few of them as it can.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable

import numpy as np

from onnxc.errors import UnsupportedModel, UnsupportedNode
from onnxc.ir.core import Func, Module, Op, Ref, Value
from onnxc.ir.signature import ValueInfo, type_text
from onnxc.ir.types import Opt, Seq, Tensor

__all__ = ["HostNode", "Segment", "Split", "split_host"]


@dataclasses.dataclass(frozen=True)
class Segment:
    """A native part: `module` computes the values `outputs` from the values `inputs`, in this order. `given` marks the
    inputs that are inputs of the model: only they have the types that the model declares."""

    module: Module
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    given: tuple[bool, ...]


@dataclasses.dataclass(frozen=True)
class HostNode:
    """One operator that the host runs; None stands for an input that is left out."""

    op: str
    attrs: dict[str, object]
    inputs: tuple[int | None, ...]
    outputs: tuple[int, ...]
    loc: str


@dataclasses.dataclass(frozen=True)
class Split:
    """The steps in order. Values have numbers: those of the model's inputs come first; `constants` are known."""

    steps: tuple[Segment | HostNode, ...]
    constants: dict[int, np.ndarray]
    outputs: tuple[int, ...]
    values: int


def split_host(module: Module, host_ops: Collection[str], containers: Collection[str]) -> Split | None:
    """The split of a module as imported, which is taken apart; None, and the module untouched, where all of it is
    native. `host_ops` are the operators that the host has; `containers` those that lowering takes apart too. Raises
    UnsupportedModel for nodes that neither can run."""
    hosted = _hosted(module.main, host_ops, containers)
    _refuse(module.main, hosted, containers)
    passing = any(not _is_native(v) for v in (*module.main.args, *module.main.body.terminator.inputs))
    return _Splitter(module, hosted).run() if hosted or passing else None


def _is_native(v: Value) -> bool:
    return isinstance(v.type, Tensor) and v.type.dtype.kind != "str"


def _is_container(v: Value) -> bool:
    return isinstance(v.type, (Seq, Opt))


def _refuse(main: Func, hosted: set[Op], containers: Collection[str]) -> None:
    """UnsupportedModel for the ops that would take a value into native code which cannot be there."""
    bad = []
    for op in main.body.ops:
        kind = op.name.removeprefix("onnx.")
        if op in hosted or kind in containers or not op.name.startswith("onnx."):
            continue
        for v in op.inputs:
            if not _is_native(v) and (v.op is None or v.op in hosted):
                domain, _, name = kind.rpartition(".")
                reason = f"its input %{v.name} of type {v.type} is no native value, and the host has no form of it"
                bad.append(UnsupportedNode(op.loc, name, domain, reason))
                break
    if bad:
        raise UnsupportedModel(bad)


# ---- which ops the host runs -----------------------------------------------------------------------------------------

def _hosted(main: Func, host_ops: Collection[str], containers: Collection[str]) -> set[Op]:
    ops = [op for op in main.body.ops if op.name.removeprefix("onnx.") in host_ops]
    open_values = {v for v in (*main.args, *main.body.terminator.inputs) if not _is_native(v)}
    open_values.update(v for op in main.body.ops for v in _values(op) if not _is_native(v) and not _is_container(v))
    hosted: set[Op] = set()
    while True:
        found = {op for op in ops if op not in hosted and (
            any(v in open_values for v in _values(op)) or _needs_a_run(op, containers))}
        if not found:
            return hosted
        hosted |= found
        open_values.update(v for op in found for v in _values(op) if _is_container(v))


def _values(op: Op) -> Iterable[Value]:
    return (*op.inputs, *op.results)


def _needs_a_run(op: Op, containers: Collection[str]) -> bool:
    """Whether an op on containers asks for a place in them that is not a constant."""
    kind = op.name.removeprefix("onnx.")
    if kind not in containers or not any(_is_container(v) for v in _values(op)):
        return False
    numbers = {"SequenceAt": 1, "SequenceErase": 1, "SequenceInsert": 2, "SplitToSequence": 1}.get(kind)
    at = op.operands[numbers] if numbers is not None and numbers < len(op.operands) else None
    if at is not None:
        return at.op is None or at.op.name != "t.const"
    given = op.operands[0].type if kind == "SplitToSequence" and op.operands[0] is not None else None
    return isinstance(given, Tensor) and not _has_size(given, op.attrs.get("axis", 0))


def _has_size(t: Tensor, axis: object) -> bool:
    rank = len(t.shape or ())
    return isinstance(axis, int) and -rank <= axis < rank and t.shape is not None and isinstance(t.shape[axis], int)


def _decoded(attr: object) -> object:
    if isinstance(attr, tuple):
        return tuple(map(_decoded, attr))
    return attr.decode() if isinstance(attr, bytes) else attr


# ---- taking apart ----------------------------------------------------------------------------------------------------

class _Splitter:
    def __init__(self, module: Module, hosted: set[Op]) -> None:
        self.module, self.hosted, self.main = module, hosted, module.main
        self.numbers: dict[Value, int] = {}
        self.constants: dict[int, np.ndarray] = {}
        self.levels: dict[Op, int] = {}

    def run(self) -> Split:
        for arg in self.main.args:
            self.number(arg)
        native: dict[int, list[Op]] = {}
        host: dict[int, list[Op]] = {}
        results = list(self.main.body.terminator.inputs)
        ops = [op for op in self.main.body.ops if op.name not in ("t.const", "return")]
        for op in ops:
            level = self.levels[op] = self.level(op)
            (host if op in self.hosted else native).setdefault(level, []).append(op)
        outputs = tuple(map(self.number, results))
        wanted = {op: self.crossing(op) for op in ops}
        steps: list[Segment | HostNode] = []
        for level in range(1 + max(self.levels.values(), default=0)):
            nodes = [self.host_node(op) for op in host.get(level, ())]
            if level in native:
                steps.append(self.segment(native[level], wanted))
            steps.extend(nodes)
        for op in self.main.body.ops:       # those that stay use values that are elsewhere now
            op.drop_operands()
        return Split(tuple(steps), self.constants, outputs, len(self.numbers))

    def number(self, v: Value) -> int:
        number = self.numbers.setdefault(v, len(self.numbers))
        if v.op is not None and v.op.name == "t.const" and number not in self.constants:
            self.constants[number] = self.array(v.op.attrs["value"] if v.op.attrs["ref"] is None else
                                                v.op.attrs["ref"])  # type: ignore[assignment]
        return number

    def array(self, attr: object) -> object:
        return self.module.constants[attr.name] if isinstance(attr, Ref) else attr

    def level(self, op: Op) -> int:
        before = [v.op for v in op.inputs if v.op is not None and v.op.name != "t.const"]
        return max((self.levels[p] + (p in self.hosted and op not in self.hosted) for p in before), default=0)

    def crossing(self, op: Op) -> list[Value]:
        """The results that ops of other steps, or the model's outputs, use."""
        def elsewhere(user: Op) -> bool:
            return user not in self.levels or user in self.hosted or self.levels[user] != self.levels[op]
        return [r for r in op.results if any(elsewhere(user) for user, _ in r.uses)]

    def host_node(self, op: Op) -> HostNode:
        attrs = {key: _decoded(self.array(value)) for key, value in op.attrs.items()}
        return HostNode(op.name.removeprefix("onnx."), attrs,
                        tuple(None if v is None else self.number(v) for v in op.operands),
                        tuple(map(self.number, op.results)), op.loc)

    def segment(self, ops: list[Op], wanted: dict[Op, list[Value]]) -> Segment:
        module, func = Module(), Func("main")
        module.add(func)
        module.constants.update(self.module.constants)
        inside = {r for op in ops for r in op.results}
        outputs = [v for op in ops for v in wanted[op]]
        numbers = tuple(map(self.number, outputs))
        inputs: dict[Value, Value] = {}
        copies: dict[Value, Value] = {}
        for op in ops:
            self.main.body.unlink(op)
            for i, v in enumerate(op.operands):
                if v is None or v in inside:
                    continue
                if v.op is not None and v.op.name == "t.const":
                    copies[v] = copies.get(v) or func.body.append(
                        Op("t.const", (), [v.type], v.op.attrs, (), v.op.loc, [v.name])).result
                else:
                    inputs[v] = inputs.get(v) or func.body.add_arg(v.type, v.name)
                op.set_operand(i, copies.get(v) or inputs[v])
            func.body.append(op)
        func.body.append(Op("return", outputs))
        func.result_types = [v.type for v in outputs]
        infos = [ValueInfo(v.name or f"v{self.numbers[v]}", type_text(v.type), None) for v in inputs]
        module.meta.update(self.module.meta, inputs=infos, overridable=[], model={},
                           outputs=[ValueInfo(v.name, "", None) for v in outputs])
        given = tuple(v.op is None for v in inputs)
        return Segment(module, tuple(map(self.number, inputs)), numbers, given)


