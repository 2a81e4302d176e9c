"""Compiles what `passes/split_host.py` split: each native segment by itself, for the ranks that its inputs have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from onnxc.errors import InvalidArgument
from onnxc.ir.core import Module
from onnxc.ir.dims import DimLike, sym, symbols_of
from onnxc.ir.parser import parse_module
from onnxc.ir.printer import print_module
from onnxc.ir.signature import ValueInfo
from onnxc.ir.types import Tensor
from onnxc.passes.split_host import HostNode, Segment, Split
from onnxc.runtime.compiled import CompiledModel, HostPlan, HostStep, NativeStep, Signature

__all__ = ["compile_hosted"]

CompileModule = Callable[[Module], CompiledModel]


def compile_hosted(module: Module, split: Split, result_types: Sequence[str], compile_module: CompileModule,
                   target: str) -> CompiledModel:
    """The model that was split, as steps. `result_types` are the ONNX types of its outputs. Segments whose inputs have
    known ranks are compiled here, the others when a run tells the ranks."""
    steps = tuple(_host_step(s) if isinstance(s, HostNode) else _native_step(s, compile_module) for s in split.steps)
    plan = HostPlan(steps, split.constants, split.outputs, split.values)
    parts = plan.compiled()
    hosted = [f"{s.op} ({s.loc})" if s.loc else s.op for s in steps if isinstance(s, HostStep)]
    report: dict[str, Any] = {"kernels": sum(len(c.kernels) for c in parts), "host_ops": hosted,
                              "launches": sum(len(c.steps) for c in parts)}
    meta = module.meta
    outputs = [ValueInfo(o.name, o.type_text or text, o.shape) for o, text in
               zip(meta["outputs"], result_types, strict=True)]
    signature = Signature(tuple(meta["inputs"]), tuple(outputs), tuple(meta["overridable"]), dict(meta["model"]))
    features = tuple(sorted({f for c in parts for f in c.features}))
    return CompiledModel(b"", (), (), (), (), (), tuple(k for c in parts for k in c.kernels),
                         tuple(n for c in parts for n in c.steps), signature, target, features, _text(plan), report,
                         host=plan)


def _host_step(node: HostNode) -> HostStep:
    return HostStep(node.op, dict(node.attrs), node.inputs, node.outputs, node.loc)


def _native_step(segment: Segment, compile_module: CompileModule) -> NativeStep:
    # Compiling takes a module apart: each time it is made again from its text.
    text, constants, meta = print_module(segment.module), dict(segment.module.constants), dict(segment.module.meta)

    def compiled_for(ranks: tuple[int, ...]) -> CompiledModel:
        return compile_module(_of_ranks(text, constants, meta, segment.given, ranks))

    shapes = [v.type.shape if isinstance(v.type, Tensor) else None for v in segment.module.main.args]
    ready: dict[tuple[int, ...], CompiledModel] = {}
    if None not in shapes:
        ranks = tuple(len(shape or ()) for shape in shapes)
        ready[ranks] = compiled_for(ranks)
    return NativeStep(segment.inputs, segment.outputs, compiled_for, ready)


def _of_ranks(text: str, constants: Mapping[str, np.ndarray], meta: Mapping[str, Any], given: Sequence[bool],
              ranks: Sequence[int]) -> Module:
    """A segment's module with inputs of these ranks. Declared sizes count for inputs of the model only."""
    module = parse_module(text, constants)
    module.meta.update(meta)
    taken = set().union(*(symbols_of(v.type.shape or ()) for v in module.main.args if isinstance(v.type, Tensor)))
    fresh = (f"h{i}" for i in range(1 << 30))
    for v, declared, rank in zip(module.main.args, given, ranks, strict=True):
        if not isinstance(v.type, Tensor):
            raise InvalidArgument(f"%{v.name} of type {v.type} cannot enter native code")
        if declared and v.type.shape is not None and len(v.type.shape) == rank:
            continue
        dims: list[DimLike] = [sym(next(name for name in fresh if name not in taken)) for _ in range(rank)]
        v.type = Tensor(v.type.dtype, tuple(dims))
    return module


def _text(plan: HostPlan) -> str:
    """The steps as a listing, the programs of native ones below."""
    lines = ["// A program with host steps:"]
    programs: list[str] = []
    for step in plan.steps:
        outputs, inputs = _values(step.outputs), _values(step.inputs)
        if isinstance(step, HostStep):
            lines.append(f"//   {outputs} = host {step.op}({inputs})" + (f" of '{step.loc}'" if step.loc else ""))
            continue
        lines.append(f"//   {outputs} = segment {len(programs)}({inputs})")
        programs.append("\n\n".join(c.text for c in step.compiled.values()) or "// compiled in the first run")
    return "\n".join([*lines, *(f"\n// segment {i}\n{text}" for i, text in enumerate(programs))])


def _values(numbers: Sequence[int | None]) -> str:
    return ", ".join("" if n is None else f"%{n}" for n in numbers)
