"""`onnxc inspect`: the stages of a compilation as text or as one page, its kernels and the code made of them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from onnxc.cli.console import print_table, working
from onnxc.errors import UnsupportedModel

if TYPE_CHECKING:
    from onnxc.driver import CompileOptions
    from onnxc.runtime.compiled import CompiledModel


@click.command()
@click.argument("model", type=click.Path(dir_okay=False))
@click.option("--stage", metavar="NAME", help="Print the module after this stage.")
@click.option("--list", "listed", is_flag=True, help="List the stages.")
@click.option("--html", type=click.Path(dir_okay=False, writable=True), help="Write all stages to one page.")
@click.option("--kernel", metavar="NAME", help="Print this kernel.")
@click.option("--llvm", "form", flag_value="llvm", help="The kernel as optimised LLVM IR.")
@click.option("--asm", "form", flag_value="asm", help="The kernel as assembly.")
@click.option("--triton", "form", flag_value="triton", help="The kernel as Triton source.")
@click.option("--target", help="What to compile for.  [default: ONNXC_TARGET, else host]")
def command(model: str, stage: str | None, listed: bool, html: str | None, kernel: str | None, form: str | None,
            target: str | None) -> None:
    """Show how MODEL is compiled. Without options: its inputs, outputs and kernels."""
    if form and not kernel:
        raise click.UsageError(f"--{form} shows one kernel: name it with --kernel")
    if _is_artifact(model):
        from onnxc.runtime.artifact import open_artifact
        _show_compiled(open_artifact(model), "a compiled model", stage, kernel, form, bool(listed or html))
        return
    trace = _Trace(stop_after=stage, keep=bool(html))
    try:
        with working(f"compiling {model}") as say:
            trace.compile(model, target, say)
    except (UnsupportedModel, _Unranked):       # or a model in segments, each of which has its own stages
        compiled = _of_segments(model, trace.options)
        if compiled is None:
            raise
        _show_compiled(compiled, "a model that is compiled in segments", stage, kernel, form, bool(listed or html))
        return
    if stage:
        click.echo(trace.text(stage), nl=False)
    elif kernel:
        click.echo(_kernel_text(trace.module, kernel, form, trace.options.target), nl=False)
    elif listed:
        print_table(("stage", "seconds", "functions", "ops"), trace.rows)
    elif html:
        trace.write_html(html, model)
    else:
        _summarise(trace.module)


class _Stop(Exception):
    """The stage that was asked for is reached."""


class _Unranked(Exception):
    """Only a run tells what the model is compiled for."""


class _Trace:
    """Follows one compilation up to a program: what each stage left, and how long it took."""

    def __init__(self, stop_after: str | None, keep: bool) -> None:
        self._stop_after, self._keep = stop_after, keep
        self.rows: list[tuple[str, float, int, int]] = []
        self._texts: list[tuple[str, str, Any]] = []
        self.module: Any = None

    def compile(self, model: str, target: str | None, say: Any) -> None:
        """Runs import and passes; machine code is not made."""
        from onnxc import driver
        from onnxc.ir.types import Tensor
        self.options = driver.CompileOptions.from_config(**({} if target is None else {"target": target}))
        context = driver.pass_context(self.options)
        self._log, self._before, self._since = context.log, context.log.copy(), time.perf_counter()

        def after(name: str, module: Any) -> None:
            say(name)
            self._note(name, module)

        try:
            self.module = driver.import_to_ir(model, self.options)
            after("import", self.module)
            if any(isinstance(v.type, Tensor) and v.type.shape is None for v in self.module.main.args):
                raise _Unranked
            driver.lower_to_program(self.module, self.options, [after], context)
        except _Stop:
            return
        if self._stop_after:
            stages = ", ".join(row[0] for row in self.rows)
            raise click.UsageError(f"there is no stage '{self._stop_after}'; there are {stages}")

    def _note(self, name: str, module: Any) -> None:
        from onnxc.ir.printer import print_module
        seconds = time.perf_counter() - self._since
        self.rows.append((name, seconds, len(module.funcs), sum(1 for f in module.funcs.values() for _ in f.walk())))
        if self._keep or name == self._stop_after:
            self._texts.append((name, print_module(module), self._log.since(self._before)))
        if name == self._stop_after:
            raise _Stop
        self._before, self._since = self._log.copy(), time.perf_counter()

    def text(self, stage: str) -> str:
        return next(text for name, text, _ in self._texts if name == stage)

    def write_html(self, path: str, title: str) -> None:
        from onnxc.ir.html import Stage, write_html
        write_html([Stage(*column) for column in self._texts], path, title)
        click.echo(f"{path}: {len(self._texts)} stages")


def _kernels(module: Any) -> dict[str, Any]:
    return {name: f for name, f in module.funcs.items() if f.kind == "kernel"}


def _kernel_text(module: Any, name: str, form: str | None, target: str) -> str:
    from onnxc.ir.printer import print_func
    kernels = _kernels(module)
    if name not in kernels:
        raise click.UsageError(f"there is no kernel '{name}'; there are {', '.join(kernels) or 'none'}")
    if form is None:
        return print_func(kernels[name]) + "\n"
    if form == "triton":
        from onnxc.codegen.triton.emit import emit_kernel
        return emit_kernel(kernels[name]).text
    from onnxc.codegen.llvm.listing import kernel_listing
    return kernel_listing(kernels[name], target, assembly=form == "asm")


def _summarise(module: Any) -> None:
    _print_signature(module.meta.get("inputs", ()), module.meta.get("outputs", ()))
    launches = [op for op in module.main.walk() if op.name == "p.launch"]
    counts: dict[str, int] = {}
    for op in launches:
        kernel = str(getattr(op.attrs["kernel"], "name", op.attrs["kernel"]))
        counts[kernel] = counts.get(kernel, 0) + 1
    click.echo()
    print_table(("kernel", "launches", "ops", "schedule"),
                [(name, counts.get(name, 0), sum(1 for _ in f.walk()), str(f.attrs.get("schedule") or ""))
                 for name, f in _kernels(module).items()])


def _print_signature(inputs: Any, outputs: Any) -> None:
    infos = [*(("input", i) for i in inputs), *(("output", o) for o in outputs)]
    print_table(("", "name", "type", "shape"), [(kind, i.name, i.type_text, _shape(i.shape)) for kind, i in infos])


def _shape(shape: Any) -> str:
    return "any rank" if shape is None else f"[{', '.join('?' if d is None else str(d) for d in shape)}]"


# ---- what is compiled ------------------------------------------------------------------------------------------------

def _is_artifact(path: str) -> bool:
    from onnxc.runtime.artifact import MAGIC, is_artifact
    try:
        with open(path, "rb") as file:
            return is_artifact(file.read(len(MAGIC)))
    except OSError:
        return False        # the loader of models says what is wrong


def _of_segments(model: str, options: CompileOptions) -> CompiledModel | None:
    """The model compiled, if host steps stand between its native segments, or only a run tells what these are for."""
    from onnxc.driver import compile_model
    try:
        compiled = compile_model(model, options)
    except UnsupportedModel:
        return None
    return compiled if compiled.host is not None else None


def _show_compiled(compiled: CompiledModel, what: str, stage: str | None, kernel: str | None, form: str | None,
                   whole: bool) -> None:
    if whole or stage not in (None, "program"):
        raise click.UsageError(f"{what} holds one stage, 'program'")
    if stage:
        click.echo(compiled.text, nl=False)
        return
    if kernel:
        click.echo(_kernel_text(_program_with(compiled, kernel), kernel, form, compiled.target), nl=False)
        return
    signature = compiled.signature
    _print_signature(signature.inputs, signature.outputs)
    click.echo(f"\ncompiled for {compiled.target}\n{len(compiled.kernels)} kernels: {', '.join(compiled.kernels)}")
    for title, key in (("host steps", "host_ops"), ("compiled in the first run, which tells the ranks of", "waits")):
        if compiled.report.get(key):
            click.echo(f"{title}: {', '.join(compiled.report[key])}")


def _program_with(compiled: CompiledModel, kernel: str) -> Any:
    """The program, or the segment, that has this kernel; one that has it not where none has."""
    from onnxc.ir.core import Module
    from onnxc.runtime.report import program_of
    parts = [compiled] if compiled.host is None else compiled.host.compiled()
    return program_of(next((part for part in parts if kernel in part.kernels), parts[0])) if parts else Module()
