"""The pass `to_kernel`: every fused group becomes kernels, and @main becomes the host program that launches them.

Values of the graph become buffers: inputs and outputs are arguments, constants stay constants, results of groups are
allocated, and reshapes are views of the same bytes. A group whose value is a result of the model writes to it directly.
"""

from __future__ import annotations

import re

from onnxc.errors import NotImplemented as UnsupportedType
from onnxc.ir.builder import constant_of
from onnxc.ir.core import Block, Func, Module, Op, Ref, Value
from onnxc.ir.dims import symbols_of
from onnxc.ir.types import Mem, Tensor
from onnxc.ops.control import defined_symbols, is_step
from onnxc.ops.program import most_elements
from onnxc.passes.fuse import symbols_in
from onnxc.passes.kernel_builder import VIEWS
from onnxc.passes.kernels import SCATTERS, Group, build_kernels
from onnxc.passes.program_steps import emit_step, writes_to_target

__all__ = ["to_kernel"]


def to_kernel(module: Module) -> None:
    """Replace the graph @main by a program @main and its kernels."""
    graph = module.funcs.pop("main")
    kernels: dict[str, Func] = {}
    program = _Program(module, graph, kernels)
    main = program.build()
    module.funcs = {"main": main, **kernels, **module.funcs}


def mem_of(v: Value) -> Mem:
    """The memory type of a tensor value."""
    t = v.type
    if not isinstance(t, Tensor):
        raise UnsupportedType(f"%{v.name} is of type {t}; programs take and give tensors")
    return Mem(t.dtype, t.dims)


_NAMELESS = (*VIEWS, "t.const", "t.dims", "t.cast", "t.window", "yield")        # ops that names of kernels leave out


def _drop_unread(kernel: Func, inputs: int) -> list[int]:
    """Take the arguments that a kernel does not read out of its first ones, `inputs` of them (a part of a concatenation
    reads one of hundreds); the positions of those that stay."""
    read = [i for i in range(inputs) if kernel.args[i].uses]
    for i in sorted(set(range(inputs)) - set(read), reverse=True):
        kernel.body.remove_arg(i)
    return read


class _Program:
    def __init__(self, module: Module, graph: Func, kernels: dict[str, Func]) -> None:
        self.module, self.graph, self.kernels = module, graph, kernels
        self.taken = symbols_in(graph)
        self.results = list(graph.body.terminator.inputs)
        self.main = self._signature()
        self.block = self.main.body                   # where steps go
        self.buffers: dict[Value, Value] = dict(zip(graph.args, self.main.args, strict=False))
        self.targets: dict[Value, Value] = {}

    def _signature(self) -> Func:
        names = [o.name for o in self.module.meta.get("outputs", ())] or [v.name for v in self.results]
        types = [mem_of(v) for v in (*self.graph.args, *self.results)]
        main = Func("main", types, [*(a.name for a in self.graph.args), *names], kind="program")
        symbols = sorted(symbols_of(d for t in types[:len(self.graph.args)] for d in t.shape))
        guards = self.graph.attrs.get("guards", ())
        main.attrs.update(symbols=tuple(symbols), inputs=len(self.graph.args), guards=guards, arena=None)
        run_symbols = [pair for op in self.graph.walk() for pair in defined_symbols(op)]
        if run_symbols:
            main.attrs["run_symbols"] = tuple(dict.fromkeys(run_symbols))
        return main

    def emit(self, name: str, operands: list[Value], types: list[Mem], attrs: dict, loc: str = "",
             label: str = "") -> Op:
        return self.block.append(Op(name, operands, types, attrs, (), loc, [label] if label else ()))

    def build(self) -> Func:
        self.choose_targets()
        self.steps(self.graph.body)
        self.copy_results()
        self.main.body.append(Op("return"))
        return self.main

    def steps(self, block: Block) -> None:
        """The steps of a block's ops, but its terminator."""
        for op in block.ops:
            if op.name == "t.fused":
                self.fused(op)
            elif op.name == "t.reshape":
                self.buffers.setdefault(op.result, self.view(op.operand(0), mem_of(op.result)))
            elif is_step(op):
                emit_step(self, op)
            elif op.name not in ("return", "yield", "t.const"):
                raise ValueError(f"{op.name} of '{op.loc}' is outside the fused groups")

    def choose_targets(self) -> None:
        """Results that a group computes (perhaps under another shape) are written in place."""
        for v, out in zip(self.results, self.main.args[len(self.graph.args):], strict=True):
            source = v
            while source.op is not None and source.op.name == "t.reshape":
                source = source.op.operand(0)
            if writes_to_target(source) and source not in self.targets and self.is_bounded(mem_of(v)):
                self.targets[source] = out
                self.buffers[v] = out

    def buffer(self, v: Value) -> Value:
        """The memory of a value that the program has computed or can name."""
        if v not in self.buffers:
            op = v.op
            if op is None or op.name != "t.const":
                raise ValueError(f"%{v.name} is not in memory")
            ref = op.attrs.get("ref")
            array = constant_of(self.module, v)
            if not isinstance(ref, Ref) and array is not None:
                ref = Ref(self.module.fresh_name(v.name or "c"))
                self.module.constants[ref.name] = array
            self.buffers[v] = self.emit("p.const", [], [mem_of(v)], {"ref": ref}, label=v.name or "c").result
        return self.buffers[v]

    def view(self, v: Value, want: Mem) -> Value:
        mem = self.buffer(v)
        return mem if mem.type == want else self.emit("p.view", [mem], [want], {}).result

    def fused(self, op: Op) -> None:
        region = op.regions[0]
        name = self.name_of(op)
        group = Group(self.module, region.terminator.operand(0), region.args, self.taken, name)
        inputs = [self.buffer(v) for v in op.inputs]
        kernels = build_kernels(group)
        updated = self.updated_in_place(op)
        if updated is not None:
            self.buffers[op.result] = self.buffers[updated]
            kernels = kernels[1:]                        # the first copies the data
        out = self.buffers[op.result] if updated is not None else self.result_buffer(op.result)
        for kernel in kernels:
            self.kernels[kernel.name] = kernel
            read = _drop_unread(kernel, len(inputs))
            self.emit("p.launch", [*(inputs[i] for i in read), out], [],
                      {"kernel": Ref(kernel.name), "writes": (len(read),)}, op.loc)

    def updated_in_place(self, op: Op) -> Value | None:
        """The data of a scatter whose memory its result may take: a buffer of this block that nothing else reads."""
        root = op.regions[0].terminator.operand(0).op
        arguments = op.regions[0].args
        if root is None or root.name not in SCATTERS or root.operand(0) not in arguments:
            return None
        data = root.operand(0)
        v = op.operand(arguments.index(data))
        made_here = v.op is not None and v.op.name == "t.fused" and v.op.block is op.block
        if not made_here or len(data.uses) > 1 or len(v.uses) > 1:
            return None
        buffer = self.buffers[v]
        is_free = buffer.op is not None and buffer.op.name == "p.alloc" and buffer.type == mem_of(op.result)
        return v if is_free and op.result not in self.targets else None

    def result_buffer(self, v: Value) -> Value:
        if v in self.targets:
            out, want = self.targets[v], mem_of(v)
            self.buffers[v] = out if out.type == want else self.emit("p.view", [out], [want], {}).result
        else:
            self.buffers[v] = self.alloc(mem_of(v), v.name)
        return self.buffers[v]

    def alloc(self, mem: Mem, label: str) -> Value:
        """A new buffer, in the arena if its size has a bound when a run starts."""
        if self.is_bounded(mem):
            return self.emit("p.alloc", [], [mem], {"offset": None}, label=label).result
        return self.emit("p.heap", [], [mem], {}, label=label).result

    def is_bounded(self, mem: Mem) -> bool:
        return most_elements(mem.shape, self.main.attrs.get("run_symbols") or ()) is not None  # type: ignore[arg-type]

    def name_of(self, op: Op) -> str:
        """`k<n>_<what>`: what is the ops that do work, in order, each once."""
        kinds = list(dict.fromkeys(o.name[2:] for o in op.regions[0].ops if o.name not in _NAMELESS)) or ["copy"]
        return re.sub(r"\W", "_", f"k{len(self.kernels)}_{'_'.join(kinds[:4])}")

    def copy_results(self) -> None:
        for v, out in zip(self.results, self.main.args[len(self.graph.args):], strict=True):
            mem = self.buffer(v)
            if mem is not out:
                name = "p.copy" if self.is_bounded(mem_of(v)) else "p.give"
                self.emit(name, [self.view(v, out.mem), out], [], {})
