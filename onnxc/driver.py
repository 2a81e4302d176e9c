"""The driver: takes a model through every stage, by name, to a compiled program.

    bytes -> load -> import -> the passes of the pipeline table -> emit (native object)

It can stop after any stage and start again from the text of one; hooks see the module after each.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from onnxc.compilers import Compilers
from onnxc.config import config
from onnxc.dim_texts import DimTexts
from onnxc.errors import UnsupportedModel
from onnxc.frontend import LoadedModel, import_model, load_model
from onnxc.frontend.changes import Changes, changed
from onnxc.frontend.external import external_locations
from onnxc.hosting import compile_hosted, split_of
from onnxc.ir.core import Module
from onnxc.ir.dims import DimLike, substitute
from onnxc.ir.printer import print_module
from onnxc.ir.rewrite import Fuel, RewriteLog
from onnxc.ir.signature import ValueInfo, type_text
from onnxc.ir.types import Tensor
from onnxc.ir.verify import verify
from onnxc.lowerings.lower import lower
from onnxc.ops import load_all
from onnxc.passes.pipeline import PIPELINE, Context, run
from onnxc.runtime.compiled import Cache, CompiledModel, Signature
from onnxc.runtime.host_control import CONTROL_OPS
from onnxc.runtime.interrupt import give_up_on_interrupt

__all__ = ["Changes", "CompileOptions", "Hook", "compile_model", "import_to_ir", "load_changed", "lower_to_program",
           "pass_context"]

Hook = Callable[[str, Module], None]


@dataclasses.dataclass(frozen=True)
class CompileOptions:
    """What a caller may ask of a compilation.

    `level` 0 leaves out every pass that is not required; `disabled` names single passes; `overridden` names
    initializers that become inputs; `changes` are made to the model before it is imported; `flush_denormals` makes
    kernels take denormal numbers for zero; `folder` is where external data lies if not beside the model; `verify` is
    the level of `ir.verify` after each pass (0: once, after lowering); `fuel` bounds the number of rewrites;
    `ort_format` says whether the model is in ONNX Runtime's format (None: by its content); `tune` is how many seconds
    the timing of schedules may take.
    """

    target: str = "host"
    level: int = 3
    disabled: tuple[str, ...] = ()
    overridden: tuple[str, ...] = ()
    changes: Changes = dataclasses.field(default_factory=Changes)
    flush_denormals: bool = False
    folder: str | None = None
    verify: int = 0
    fuel: int | None = None
    ort_format: bool | None = None
    tune: float = 0.0

    @staticmethod
    def from_config(**changes: Any) -> CompileOptions:
        """Options as the environment sets them, with changes."""
        c = config()
        switched_off = (*(p.name for p in c.passes if not p.enabled), *changes.pop("disabled", ()))
        given = CompileOptions(target=c.target, verify=c.verify, fuel=c.fuel, disabled=switched_off, tune=c.tune)
        return dataclasses.replace(given, **changes)

    def left_out(self) -> tuple[str, ...]:
        """Names of the passes that do not run."""
        if self.level > 0:
            return self.disabled
        return tuple(dict.fromkeys((*self.disabled, *(p.name for p in PIPELINE if not p.required))))


def import_to_ir(model: str | bytes | os.PathLike[str] | LoadedModel, options: CompileOptions | None = None) -> Module:
    """The model as onnx.* ops."""
    load_all()
    options = options or CompileOptions()
    loaded = _loaded(model, options)
    return import_model(loaded, options.overridden)


def _loaded(model: str | bytes | os.PathLike[str] | LoadedModel, options: CompileOptions) -> LoadedModel:
    if isinstance(model, LoadedModel):
        return model
    return load_model(model, options.folder, ort_format=options.ort_format)


def load_changed(model: str | bytes | os.PathLike[str] | LoadedModel, options: CompileOptions) -> LoadedModel:
    """The model with the changes of `options`."""
    return changed(_loaded(model, options), options.changes)


def pass_context(options: CompileOptions, compilers: Compilers | None = None) -> Context:
    """The context of one compilation: fuel, log, and the passes that the pipeline table leaves to the driver."""
    return Context(Fuel(options.fuel), RewriteLog(), _supplied(options, compilers))


def _supplied(options: CompileOptions, compilers: Compilers | None) -> Mapping[str, Callable[[Module], None]]:
    def schedule(module: Module) -> None:
        if compilers is not None:
            compilers.prepare(len(module.funcs) - 1)
        from onnxc.codegen.llvm.schedule import schedule as attach
        from onnxc.codegen.llvm.target import Target
        from onnxc.tuned import chooser_of, open_notes
        target = Target.parse(options.target)
        notes = open_notes(target)
        if options.tune and notes is not None:
            from onnxc.tuning import tune
            tune(module, notes, options.tune)
        attach(module, target, chooser_of(notes))

    def pack(module: Module) -> None:
        from onnxc.codegen.llvm.prepack import pack as prepack
        from onnxc.codegen.llvm.target import Target
        prepack(module, Target.parse(options.target))

    return {"lower": _lower, "schedule": schedule, "pack": pack}


def _lower(module: Module) -> None:
    from onnxc.frontend.inline import expand
    lower(module, expand)


def lower_to_program(module: Module, options: CompileOptions, hooks: Sequence[Hook] = (),
                     context: Context | None = None) -> dict[str, Any]:
    """Run the whole pipeline on an imported module; gives the report (seconds and rewrites by pass, refused
    rewrites)."""
    context = context or pass_context(options)
    checks: list[Hook] = [_verifying(options.verify)] if options.verify else []
    steps = run(module, context, PIPELINE, options.left_out(), [*checks, *hooks])
    if not options.verify:
        verify(module)
    return {"passes": [dataclasses.asdict(s) for s in steps], "rewrites": dict(context.log.counts())}


def _verifying(level: int) -> Hook:
    return lambda name, module: verify(module, level)


def compile_model(model: str | bytes | os.PathLike[str] | LoadedModel, options: CompileOptions | None = None,
                  hooks: Sequence[Hook] = ()) -> CompiledModel:
    """Compile an ONNX model (path, bytes, or loaded) for the CPU target of `options`.

    Typed errors of `onnxc.errors`: for what is wrong with the model, and UnsupportedModel with every node that has no
    lowering. Hooks are called with each stage's name and the module.
    """
    options = options or CompileOptions.from_config()
    start = time.perf_counter()
    loaded = load_changed(model, options)
    external = external_locations(loaded.proto)
    on_host: frozenset[str] = frozenset()
    while True:
        try:
            compiled = _compile_loaded(loaded, options, hooks, on_host)
            break
        except UnsupportedModel as error:
            # Loops and branches that native code has no form of are host steps around native ones.
            more = frozenset(n.name for n in error.nodes if n.op_type in CONTROL_OPS and not n.domain)
            if len(more) < len(error.nodes) or more <= on_host:
                raise
            on_host |= more
    compiled.report.update(external_files=external, compile_seconds=time.perf_counter() - start)
    return compiled


def _compile_loaded(loaded: LoadedModel, options: CompileOptions, hooks: Sequence[Hook],
                    on_host: frozenset[str]) -> CompiledModel:
    """`compile_model` of a loaded model, with these loops and branches as host steps."""
    start = time.perf_counter()
    module = import_to_ir(loaded, options)
    nodes = _nodes_of(module)
    for hook in hooks:
        hook("import", module)
    imported = time.perf_counter()
    result_types = [type_text(v.type) for v in module.main.body.terminator.inputs]
    given = [v.type for v in module.main.args]
    split = split_of(module, on_host)
    if split is not None:
        from onnxc.codegen.llvm.target import Target
        target = str(Target.parse(options.target))
        compiled = compile_hosted(module, split, given, result_types,
                                  lambda part: _compile_segment(part, options, hooks), target)
        compiled.report["nodes"] = nodes
        return compiled
    with Compilers(options.target) as compilers:
        report = lower_to_program(module, options, hooks, pass_context(options, compilers))
        lowered = time.perf_counter()
        compiled = emit(module, options, report, compilers)
    report["seconds"] = {"import": imported - start, "passes": lowered - imported,
                         "emit": time.perf_counter() - lowered}
    report["nodes"] = nodes
    return compiled


def _compile_segment(module: Module, options: CompileOptions, hooks: Sequence[Hook]) -> CompiledModel:
    nodes = _nodes_of(module)
    with Compilers(options.target) as compilers:
        report = lower_to_program(module, options, hooks, pass_context(options, compilers))
        report["nodes"] = nodes
        return emit(module, options, report, compilers)


def emit(module: Module, options: CompileOptions, report: dict[str, Any] | None = None,
         compilers: Compilers | None = None) -> CompiledModel:
    """The native object of a program module, and what its runtime has to know."""
    from onnxc.codegen.llvm.program import emit_program
    from onnxc.codegen.llvm.target import Target
    target = Target.parse(options.target)
    workers = compilers or Compilers(options.target)

    def finish(text: str, linked: Sequence[str]) -> bytes:
        return give_up_on_interrupt(lambda: workers.finish(text, linked))

    begin = workers.begin if workers.helpers else None
    program = emit_program(module, target, begin, finish, options.flush_denormals)
    inputs, outputs = _argument_types(module)
    report = {} if report is None else report
    report.update(kernels=len(program.kernels), launches=len(program.steps), host_ops=[])
    return CompiledModel(
        program.object_bytes, tuple(np.ascontiguousarray(module.constants[n]) for n in program.constants),
        program.symbols, inputs, outputs, program.errors, program.kernels, program.steps,
        _signature(module, inputs, outputs), str(target), tuple(sorted(target.features)),
        print_module(module, hashes=False), report, _run_symbols(module), _caches(module))


def _nodes_of(module: Module) -> list[list[str]]:
    """The nodes of an imported model: the label that dumps and kernels call each by, its name, domain and operator."""
    found: dict[str, list[str]] = {}
    for op in (op for func in module.funcs.values() for op in func.walk() if op.name.startswith("onnx.")):
        domain, _, kind = op.name.removeprefix("onnx.").rpartition(".")
        unnamed = bool(op.results) and op.loc == op.results[0].name
        found.setdefault(op.loc, [op.loc, "" if unnamed else op.loc, domain, kind])
    return list(found.values())


def _run_symbols(module: Module) -> tuple[tuple[str, DimLike | None], ...]:
    return tuple((name, bound) for name, bound in module.main.attrs.get("run_symbols") or ())  # type: ignore


def _caches(module: Module) -> tuple[Cache, ...]:
    return tuple(Cache(*cache) for cache in module.main.attrs.get("caches") or ())  # type: ignore


def _argument_types(module: Module) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The types of inputs and outputs, without the room that their memory may have."""
    main = module.main
    rooms: dict[str, DimLike] = dict(main.attrs.get("rooms") or ())  # type: ignore[arg-type]
    types = [Tensor(a.mem.dtype, tuple(substitute(d, rooms) for d in a.mem.shape)) for a in main.args]
    n = int(main.attrs["inputs"])  # type: ignore[arg-type]
    return tuple(types[:n]), tuple(types[n:])


def _signature(module: Module, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Signature:
    meta = module.meta
    declared = list(meta.get("outputs", ()))
    texts = DimTexts(meta.get("inputs", ()), inputs)
    found = tuple(_filled(d, t, texts) for d, t in zip(declared, outputs, strict=True))
    return Signature(tuple(meta.get("inputs", ())), found,
                     tuple(meta.get("overridable", ())), dict(meta.get("model", {})))


def _filled(declared: ValueInfo, found: Tensor, texts: DimTexts) -> ValueInfo:
    """A declared output with what the model leaves open taken from inference."""
    return ValueInfo(declared.name, declared.type_text or type_text(found), texts.filled(declared.shape, found.dims))
