"""Splits an imported model into native segments and the host steps between them: operators on texts, sequences, maps
and optionals, which are no native code, operators in Python, and loops and branches that hold such steps or that native
code has no form of. The region of a host step is split in the same way.

A container whose parts are known when the model is compiled stays in its segment, where lowering takes it apart. All
native ops that need nothing of a later host step are one segment, so a model has as few of them as it can. What is
computed from the shapes of inputs alone is computed again in each segment that uses it, which is compiled knowing it.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Iterable

import numpy as np

from onnxc.errors import UnsupportedModel, UnsupportedNode
from onnxc.ir.core import Block, Func, Module, Op, Ref, Value
from onnxc.ir.signature import ValueInfo, type_text
from onnxc.ir.types import Opt, Seq, Tensor, Type
from onnxc.passes.separate_sparse import separate_sparse
from onnxc.passes.text_labels import separate_texts

__all__ = ["HostNode", "Segment", "Split", "split_host"]

_REGIONS = ("then_branch", "else_branch", "body")       # attributes that number a node's regions
_OF_SIZES = frozenset("Add And Cast Concat Div Equal Gather Greater GreaterOrEqual Identity Less LessOrEqual Max Min "
                      "Mod Mul Neg Not Or ReduceProd Reshape Slice Squeeze Sub Unsqueeze Where".split())


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
    """One operator that the host runs; None stands for an input that is left out. `types` are what the model says of
    the results. `bodies` are its regions by attribute, whose last arguments are the node's last `captured` inputs."""

    op: str
    attrs: dict[str, object]
    inputs: tuple[int | None, ...]
    outputs: tuple[int, ...]
    loc: str
    types: tuple[Type, ...] = ()
    bodies: dict[str, Split] = dataclasses.field(default_factory=dict)
    captured: int = 0


@dataclasses.dataclass(frozen=True)
class Split:
    """The steps in order. Values have numbers: those of the model's inputs, or of a region's arguments, come first;
    `constants` are known."""

    steps: tuple[Segment | HostNode, ...]
    constants: dict[int, np.ndarray]
    outputs: tuple[int, ...]
    values: int


def split_host(module: Module, host_ops: Collection[str], containers: Collection[str], always: Collection[str] = (),
               nodes: Collection[str] = ()) -> Split | None:
    """The split of a module as imported, which is taken apart; None, and the module stays whole, where all of it is
    native. `host_ops` are the operators that the host has; `containers` those that lowering takes apart too; `always`
    those that have no other form, `nodes` the labels of loops and branches that shall be the host's. Where only a run
    tells the rank of an input, the split may be one segment, which is compiled for the rank that comes. Raises
    UnsupportedModel for nodes that neither can run."""
    separate_texts(module)
    separate_sparse(module)
    sides = _Sides(host_ops, containers, always, nodes)
    block = module.main.body
    hosted = sides.hosted(block)
    bad = sides.refused(block, hosted)
    if bad:
        raise UnsupportedModel(bad)
    passing = any(not _is_native(v) for v in (*block.args, *block.terminator.inputs))
    unranked = any(isinstance(v.type, Tensor) and v.type.shape is None for v in block.args)
    return _Splitter(module, block, sides, given=True).run(hosted) if hosted or passing or unranked else None


def _is_native(v: Value) -> bool:
    return isinstance(v.type, Tensor) and v.type.dtype.kind != "str"


def _is_container(v: Value) -> bool:
    return isinstance(v.type, (Seq, Opt))


def _kind(op: Op) -> str:
    return op.name.removeprefix("onnx.")


def _values(op: Op) -> Iterable[Value]:
    return (*op.inputs, *op.results)


# ---- which ops the host runs -----------------------------------------------------------------------------------------

class _Sides:
    """Tells the ops that the host runs from those of native code."""

    def __init__(self, host_ops: Collection[str], containers: Collection[str], always: Collection[str],
                 nodes: Collection[str]) -> None:
        self.host_ops, self.containers, self.always, self.nodes = host_ops, containers, always, nodes

    def hosted(self, block: Block, inlined: bool = False) -> set[Op]:
        """The ops of a block that the host runs. `inlined` says that the block comes to stand among the ops around it:
        containers that go in and out are then no reason."""
        ops = [op for op in block.ops if _kind(op) in self.host_ops]
        hosted = {op for op in block.ops if _kind(op) in self.always}
        hosted.update(op for op in ops if op.regions and (op.loc in self.nodes or self._has_host_regions(op)))
        open_values = {v for v in (*block.args, *block.terminator.inputs)
                       if not _is_native(v) and not (inlined and _is_container(v))}
        open_values.update(v for op in block.ops for v in _values(op) if not _is_native(v) and not _is_container(v))
        found = set(hosted)
        while True:
            open_values.update(v for op in found for v in _values(op) if _is_container(v))
            found = {op for op in ops if op not in hosted and (
                any(v in open_values for v in _values(op)) or self._needs_a_run(op))}
            if not found:
                return hosted
            hosted |= found

    def _has_host_regions(self, op: Op) -> bool:
        """Whether a region has ops that the host runs, or takes or gives what native code cannot."""
        decided = _kind(op) == "If" and _is_decided(op.operands[0])
        ends = (v for region in op.regions for v in (*region.args, *region.terminator.inputs))
        return any(not _is_native(v) and not (decided and _is_container(v)) for v in ends) or \
            any(self.hosted(region, decided) for region in op.regions)

    def _needs_a_run(self, op: Op) -> bool:
        """Whether an op on containers asks for a place in them that is not a constant."""
        kind = _kind(op)
        if kind not in self.containers or not any(_is_container(v) for v in _values(op)):
            return False
        numbers = {"SequenceAt": 1, "SequenceErase": 1, "SequenceInsert": 2, "SplitToSequence": 1}.get(kind)
        at = op.operands[numbers] if numbers is not None and numbers < len(op.operands) else None
        if at is not None:
            return at.op is None or at.op.name != "t.const"
        given = op.operands[0].type if kind == "SplitToSequence" and op.operands[0] is not None else None
        return isinstance(given, Tensor) and not _has_size(given, op.attrs.get("axis", 0))

    def refused(self, block: Block, hosted: Collection[Op]) -> list[UnsupportedNode]:
        """The ops that would take a value into native code which cannot be there."""
        bad = []
        for op in block.ops:
            if op in hosted:
                bad += [node for region in op.regions for node in self.refused(region, self.hosted(region))]
            elif op.name.startswith("onnx.") and _kind(op) not in self.containers:
                stray = next((v for v in op.inputs if not _is_native(v) and (v.op is None or v.op in hosted)), None)
                if stray is not None:
                    domain, _, name = _kind(op).rpartition(".")
                    bad.append(UnsupportedNode(op.loc, name, domain, f"its input %{stray.name} of type {stray.type} is "
                                               "no native value, and the host has no form of it"))
        return bad


def _is_decided(condition: Value | None) -> bool:
    """Whether lowering knows which branch is taken: of a constant, or of an optional that stands beside it."""
    op = None if condition is None else condition.op
    if op is None or _kind(op) != "OptionalHasElement":
        return op is not None and op.name == "t.const"
    given = op.operands[0] if op.operands else None
    return given is None or not isinstance(given.type, Opt) or (given.op is not None and _kind(given.op) == "Optional")


def _has_size(t: Tensor, axis: object) -> bool:
    rank = len(t.shape or ())
    return isinstance(axis, int) and -rank <= axis < rank and t.shape is not None and isinstance(t.shape[axis], int)


def _decoded(attr: object) -> object:
    if isinstance(attr, tuple):
        return tuple(map(_decoded, attr))
    if isinstance(attr, bytes):
        with contextlib.suppress(UnicodeDecodeError):       # bytes that are no text are given as they are
            return attr.decode()
    return attr


# ---- taking apart ----------------------------------------------------------------------------------------------------

class _Splitter:
    """Takes one block apart. `given` says that its arguments are the model's inputs."""

    def __init__(self, module: Module, block: Block, sides: _Sides, given: bool) -> None:
        self.module, self.block, self.sides, self.given = module, block, sides, given
        self.hosted: set[Op] = set()
        self.numbers: dict[Value, int] = {}
        self.constants: dict[int, np.ndarray] = {}
        self.levels: dict[Op, int] = {}
        self.sizes: dict[Op, list[Value | None]] = {}   # ops that know shapes of arguments and no more: their operands

    def run(self, hosted: set[Op]) -> Split:
        self.hosted = hosted
        for arg in self.block.args:
            self.number(arg)
        native: dict[int, list[Op]] = {}
        host: dict[int, list[Op]] = {}
        results = list(self.block.terminator.inputs)
        ops = [op for op in self.block.ops if op.name not in ("t.const", "return", "yield")]
        for op in ops:
            self.levels[op] = self.level(op)
            if self.is_of_sizes(op):
                self.sizes[op] = list(op.operands)
        outputs = tuple(map(self.number, results))
        wanted = {op: self.crossing(op) for op in ops}
        for op in ops:
            if wanted[op] or op not in self.sizes:      # others are made where they are used
                (host if op in hosted else native).setdefault(self.levels[op], []).append(op)
        steps: list[Segment | HostNode] = []
        for level in range(-1, 1 + max(self.levels.values(), default=0)):
            nodes = [self.host_node(op) for op in host.get(level, ())]
            if level in native:
                steps.append(self.segment(native[level], wanted))
            steps.extend(nodes)
        for op in self.block.ops:       # those that stay use values that are elsewhere now
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
        """Of native ops from 0 on; of host ops that need nothing native, -1."""
        before = [v.op for v in op.inputs if v.op is not None and v.op.name != "t.const"]
        native = op not in self.hosted
        return max((self.levels[p] + (p in self.hosted and native) for p in before), default=0 if native else -1)

    def is_of_sizes(self, op: Op) -> bool:
        if op in self.hosted or op.regions:
            return False
        if _kind(op) in ("Shape", "Size"):
            of = op.inputs[0]
            return self.given and of.op is None and isinstance(of.type, Tensor) and of.type.shape is not None
        return _kind(op) in _OF_SIZES and any(v.op in self.sizes for v in op.inputs) and all(
            v.op in self.sizes or (v.op is not None and v.op.name == "t.const") for v in op.inputs)

    def crossing(self, op: Op) -> list[Value]:
        """The results that ops of other steps, or the block's end, use."""
        def elsewhere(user: Op) -> bool:
            if user not in self.levels or user in self.hosted:
                return True
            return self.levels[user] != self.levels[op] and op not in self.sizes
        return [r for r in op.results if any(elsewhere(user) for user, _ in r.uses)]

    def host_node(self, op: Op) -> HostNode:
        places = {key: value for key, value in op.attrs.items() if op.regions and key in _REGIONS}
        bodies = {key: self.body(op.regions[place]) for key, place in places.items()
                  if isinstance(place, int)}
        attrs = {key: _decoded(self.array(value)) for key, value in op.attrs.items()
                 if key not in places and not isinstance(value, Type) and key != "captured"}
        captured = op.attrs.get("captured", 0)
        return HostNode(_kind(op), attrs, tuple(None if v is None else self.number(v) for v in op.operands),
                        tuple(map(self.number, op.results)), op.loc, tuple(r.type for r in op.results), bodies,
                        captured if isinstance(captured, int) else 0)

    def body(self, region: Block) -> Split:
        return _Splitter(self.module, region, self.sides, given=False).run(self.sides.hosted(region))

    def segment(self, ops: list[Op], wanted: dict[Op, list[Value]]) -> Segment:
        module, func = Module(), Func("main")
        module.add(func)
        module.constants.update(self.module.constants)
        inside = {r for op in ops for r in op.results}
        outputs = [v for op in ops for v in wanted[op]]
        numbers = tuple(map(self.number, outputs))
        inputs: list[Value] = []
        copies: dict[Value, Value] = {}

        def local(v: Value) -> Value:
            if v in inside:
                return v
            if v not in copies and v.op is not None and (v.op.name == "t.const" or v.op in self.sizes):
                operands = [None if x is None else local(x) for x in self.sizes.get(v.op, ())]
                again = func.body.append(Op(v.op.name, operands, [r.type for r in v.op.results], v.op.attrs, (),
                                            v.op.loc, [r.name for r in v.op.results]))
                copies.update(zip(v.op.results, again.results, strict=True))
            elif v not in copies:
                inputs.append(v)
                copies[v] = func.body.add_arg(v.type, v.name)
            return copies[v]

        for op in ops:
            self.block.unlink(op)
            for i, v in enumerate(op.operands):
                if v is not None:
                    op.set_operand(i, local(v))
            func.body.append(op)
        func.body.append(Op("return", outputs))
        func.result_types = [v.type for v in outputs]
        infos = [ValueInfo(v.name or f"v{self.numbers[v]}", type_text(v.type), None) for v in inputs]
        module.meta.update(self.module.meta, inputs=infos, overridable=[], model={},
                           outputs=[ValueInfo(v.name, "", None) for v in outputs])
        given = tuple(self.given and v.op is None for v in inputs)
        return Segment(module, tuple(map(self.number, inputs)), numbers, given)


