"""Compiles what `passes/split_host.py` split: each native segment by itself, for the element types and ranks that its
inputs have. Where steps tell these before a run (`host_types.py`), segments are compiled here; others in the first run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from onnxc.dim_texts import DimTexts
from onnxc.errors import InvalidArgument
from onnxc.host_types import NOTHING, joined, known_results
from onnxc.ir.core import Module
from onnxc.ir.dims import Dim, DimLike, sym, symbols_of
from onnxc.ir.parser import parse_module
from onnxc.ir.printer import print_module
from onnxc.ir.signature import ValueInfo
from onnxc.ir.types import Seq, Tensor, Type, dtype_named, tensor_of
from onnxc.passes.seed_random import seed_random
from onnxc.passes.split_host import HostNode, Segment, Split, split_host
from onnxc.python_ops import promised_types
from onnxc.runtime.compiled import CompiledModel, Empty, Form, HostPlan, HostStep, NativeStep, Signature
from onnxc.runtime.custom import PYTHON_OPS
from onnxc.runtime.host_ops import CONTAINER_OPS, HOST_OPS, ONLY_HOST_OPS

__all__ = ["compile_hosted", "split_of"]

CompileModule = Callable[[Module], CompiledModel]
Types = list["Type | None"]
_MOST_PASSES = 4        # over the body of a loop, until the types of what it carries stand still


def split_of(module: Module, nodes: Collection[str] = ()) -> Split | None:
    """The steps of a module as imported, which is taken apart; None where all of it is native. `nodes` are the labels
    of loops and branches that the host runs whatever is in them."""
    seed_random(module)
    return split_host(module, HOST_OPS, CONTAINER_OPS, (*PYTHON_OPS, *ONLY_HOST_OPS), nodes)


def compile_hosted(module: Module, split: Split, given: Sequence[Type], result_types: Sequence[str],
                   compile_module: CompileModule, target: str) -> CompiledModel:
    """The model that was split, as steps. `given` are the types of its inputs, `result_types` the ONNX types of its
    outputs."""
    hosting = _Hosting(compile_module)
    plan, results = hosting.plan(split, list(given))
    parts = plan.compiled()
    hosted = [step.label for step in plan.walk() if isinstance(step, HostStep)]
    report: dict[str, Any] = {"kernels": sum(len(c.kernels) for c in parts), "host_ops": hosted,
                              "launches": sum(len(c.steps) for c in parts), "waits": hosting.waits()}
    meta = module.meta
    texts = DimTexts(meta["inputs"], given)
    outputs = []
    for o, text, t in zip(meta["outputs"], result_types, results, strict=True):
        shape = texts.filled(o.shape, t.shape if isinstance(t, Tensor) else None)
        outputs.append(ValueInfo(o.name, o.type_text or text, shape))
    signature = Signature(tuple(meta["inputs"]), tuple(outputs), tuple(meta["overridable"]), dict(meta["model"]))
    features = tuple(sorted({f for c in parts for f in c.features}))
    return CompiledModel(b"", (), (), (), (), (), tuple(k for c in parts for k in c.kernels),
                         tuple(n for c in parts for n in c.steps), signature, target, features, _text(plan), report,
                         host=plan)


class _Hosting:
    """Makes plans of splits, and follows types through them."""

    def __init__(self, compile_module: CompileModule) -> None:
        self.compile_module = compile_module
        self.segments: dict[Segment, tuple[NativeStep, _Source]] = {}
        self.waiting: dict[NativeStep, list[str]] = {}

    def waits(self) -> list[str]:
        """The names of values whose types a run has to tell before all is compiled."""
        return list(dict.fromkeys(name for names in self.waiting.values() for name in names))

    def plan(self, split: Split, given: Types) -> tuple[HostPlan, Types]:
        """The plan for inputs of these types, None for those that are not known, and the types of its outputs."""
        types: Types = [*given, *[None] * (split.values - len(given))]
        for number, array in split.constants.items():
            types[number] = tensor_of(array)
        steps: list[NativeStep | HostStep] = []
        for part in split.steps:
            operands = [NOTHING if i is None else types[i] for i in part.inputs]
            step, found = self.native(part, operands) if isinstance(part, Segment) else self.host(part, operands)
            steps.append(step)
            for number, t in zip(part.outputs, found, strict=True):
                types[number] = t
        results = [types[i] for i in split.outputs]
        empty = tuple(map(_empty, results))
        return HostPlan(tuple(steps), split.constants, split.outputs, split.values, empty), results

    def native(self, segment: Segment, types: Sequence[Type | None]) -> tuple[NativeStep, Types]:
        if segment not in self.segments:
            source = _Source(segment)
            step = NativeStep(segment.inputs, segment.outputs, lambda form: self.compile_module(source.of_form(form)),
                              {})
            self.segments[segment] = step, source
        step, source = self.segments[segment]
        known = [t if t is not None else d for t, d in zip(types, source.declared, strict=True)]
        form = _form_of(known)
        self.waiting[step] = source.unknown(known)
        if form is None:
            return step, [None] * len(segment.outputs)
        if form not in step.compiled:
            step.compiled[form] = self.compile_module(source.of_form(form))
        return step, list(step.compiled[form].output_types)

    # ---- host steps --------------------------------------------------------------------------------------------------

    def host(self, node: HostNode, types: Sequence[Type | None]) -> tuple[HostStep, Types]:
        promised: tuple[Tensor | None, ...] = ()
        bodies: dict[str, HostPlan] = {}
        if node.bodies:
            bodies, results = self.control(node, types)
        elif node.op in PYTHON_OPS:
            promised = promised_types(PYTHON_OPS[node.op], node, types)
            results = [t or d for t, d in zip(promised, node.types, strict=True)]
        else:
            results = known_results(node.op, node.attrs, types, node.types)
        step = HostStep(node.op, dict(node.attrs), node.inputs, node.outputs, node.loc, bodies, node.captured, promised)
        return step, results

    def control(self, node: HostNode, types: Sequence[Type | None]) -> tuple[dict[str, HostPlan], Types]:
        """The plans of a node's regions, and the types of its results."""
        known = len(types) - node.captured
        outer, captured = list(types[:known]), list(types[known:])
        if node.op == "If":
            plans, found = {}, []
            for name, body in node.bodies.items():
                plans[name], results = self.plan(body, captured)
                found.append(results)
            return plans, [joined(a, b) for a, b in zip(*found, strict=True)]
        (name, body), = node.bodies.items()
        if node.op == "SequenceMap":
            plan, results = self.plan(body, [*(t.element if isinstance(t, Seq) else t for t in outer), *captured])
            return {name: plan}, [None if t is None else Seq(t) for t in results]
        loop = node.op == "Loop"
        scanned = node.attrs.get("num_scan_inputs", 0)
        first: Types = [tensor_of(np.array(0)), tensor_of(np.array(True))] if loop else []
        carried = outer[2:] if loop else outer[:len(outer) - int(scanned)]  # type: ignore[call-overload]
        rows = [] if loop else [_row(t) for t in outer[len(carried):]]
        plan, carried, results = self.repeated(body, first, carried, [*rows, *captured])
        stacked = [_stacked(t) for t in results[len(first[1:]) + len(carried):]]
        return {name: plan}, [*carried, *stacked]

    def repeated(self, body: Split, first: Types, carried: Types, rest: Types) -> tuple[HostPlan, Types, Types]:
        """The plan of a body that runs again on what it gave, the types of what it carries and of all that it gives."""
        skip = len(first[1:])       # the condition
        for _ in range(_MOST_PASSES):
            plan, results = self.plan(body, [*first, *carried, *rest])
            after = [joined(a, b) for a, b in zip(carried, results[skip:], strict=False)]
            if after == carried:
                return plan, carried, results
            carried = after
        plan, results = self.plan(body, [*first, *[None] * len(carried), *rest])
        return plan, [None] * len(carried), results


class _Source:
    """What a segment is compiled from. Compiling takes a module apart: each time it is made again from its text."""

    def __init__(self, segment: Segment) -> None:
        module = segment.module
        self.text, self.constants, self.meta = print_module(module), dict(module.constants), dict(module.meta)
        self.given = segment.given
        self.declared: list[Type] = [v.type for v in module.main.args]
        self.names = [v.name for v in module.main.args]

    def unknown(self, types: Sequence[Type | None]) -> list[str]:
        """The names of the inputs that have no known rank."""
        return [name for name, t in zip(self.names, types, strict=True) if _form_of([t]) is None]

    def of_form(self, form: Form) -> Module:
        """The module with inputs of these types. What the model declares counts for its inputs only."""
        module = parse_module(self.text, self.constants)
        module.meta.update(self.meta)
        taken = set().union(*(symbols_of(t.shape or ()) for t in self.declared if isinstance(t, Tensor)))
        fresh = (sym(name) for name in (f"h{i}" for i in range(1 << 30)) if name not in taken)
        for v, given, (name, sizes) in zip(module.main.args, self.given, form, strict=True):
            if not isinstance(v.type, Tensor):
                raise InvalidArgument(f"%{v.name} of type {v.type} cannot enter native code")
            if given and v.type.shape is not None and len(v.type.shape) == len(sizes):
                continue
            dims: list[DimLike] = [next(fresh) if d is None else d for d in sizes]
            v.type = Tensor(dtype_named(name), tuple(dims))
        return module


def _form_of(types: Sequence[Type | None]) -> Form | None:
    """The form of inputs of these types, None where one has no known rank or is no tensor."""
    form = []
    for t in types:
        if not isinstance(t, Tensor) or t.shape is None:
            return None
        form.append((t.dtype.name, tuple(d if isinstance(d, int) else None for d in t.shape)))
    return tuple(form)


def _row(t: Type | None) -> Type | None:
    """What a scan has of one of its inputs: a tensor of one axis less."""
    return Tensor(t.dtype, tuple(sym("open") for _ in t.dims[1:])) if isinstance(t, Tensor) and t.shape else None


def _stacked(t: Type | None) -> Type | None:
    return Tensor(t.dtype, (sym("open"), *t.shape)) if isinstance(t, Tensor) and t.shape is not None else None


def _empty(t: Type | None) -> Empty | None:
    if not isinstance(t, Tensor) or t.shape is None:
        return None
    return t.dtype.name, tuple(0 if isinstance(d, Dim) else d for d in t.shape)


# ---- as text ---------------------------------------------------------------------------------------------------------

def _text(plan: HostPlan) -> str:
    """The steps as a listing, the programs of native ones below."""
    programs: list[str] = []
    lines = ["// A program of segments and host steps:", *_listing(plan, programs, "//   ")]
    return "\n".join([*lines, *(f"\n// segment {i}\n{text}" for i, text in enumerate(programs))])


def _listing(plan: HostPlan, programs: list[str], indent: str) -> list[str]:
    lines: list[str] = []
    for step in plan.steps:
        outputs, inputs = _values(step.outputs), _values(step.inputs)
        if isinstance(step, HostStep):
            lines.append(f"{indent}{outputs} = host {step.op}({inputs})" + (f" of '{step.loc}'" if step.loc else ""))
            for name, body in step.bodies.items():
                lines.append(f"{indent}  {name}, values of its own, gives {_values(body.outputs)}:")
                lines += _listing(body, programs, f"{indent}    ")
            continue
        lines.append(f"{indent}{outputs} = segment {len(programs)}({inputs})")
        programs.append("\n\n".join(c.text for c in step.compiled.values()) or "// compiled in the first run")
    return lines


def _values(numbers: Sequence[int | None]) -> str:
    return ", ".join("" if n is None else f"%{n}" for n in numbers)
