"""The pipeline: THE table of passes, in the order in which they run, each with the reason why it stands there.

A pass takes a module and a `Context` and leaves a valid module. Passes that belong to another layer (lowering, the
target's schedules) are named here and supplied by the driver in `Context.supplied`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from onnxc.errors import InvalidArgument
from onnxc.ir.core import Module
from onnxc.ir.rewrite import Fuel, RewriteLog
from onnxc.passes.append_in_place import append_in_place
from onnxc.passes.attention import fuse_attention
from onnxc.passes.byte_flow import keep_bytes
from onnxc.passes.canonicalize import canonicalize
from onnxc.passes.clean import cse, dce
from onnxc.passes.fold import fold
from onnxc.passes.fuse import fuse
from onnxc.passes.layout import sink_transposes
from onnxc.passes.plan_memory import plan_memory
from onnxc.passes.quant import narrow_contracts, requantise
from onnxc.passes.scale_contract import fold_scales
from onnxc.passes.siblings import merge_products
from onnxc.passes.to_kernel import to_kernel

__all__ = ["PIPELINE", "Context", "Pass", "Step", "passes_named", "run"]


@dataclasses.dataclass(slots=True)
class Context:
    """What passes share in one compilation. `supplied` holds the passes of other layers by name."""

    fuel: Fuel = dataclasses.field(default_factory=Fuel)
    log: RewriteLog = dataclasses.field(default_factory=RewriteLog)
    supplied: Mapping[str, Callable[[Module], None]] = dataclasses.field(default_factory=dict)


PassFn = Callable[[Module, Context], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Pass:
    """A row. `level` is the IR level it works on; a pass that is not required may be switched off."""

    name: str
    run: PassFn | None          # None: supplied by the driver
    level: str
    required: bool
    why: str


def _plain(fn: Callable[[Module], None]) -> PassFn:
    return lambda module, context: fn(module)


def _rules(fn: Callable[..., None]) -> PassFn:
    return lambda module, context: fn(module, context.fuel, context.log)


PIPELINE: tuple[Pass, ...] = (
    Pass("lower", None, "onnx", True, "everything after it sees tensor ops only"),
    Pass("dce", _plain(dce), "t", False, "shape arithmetic has become dims; what computed it is dead"),
    Pass("narrow-contracts", _rules(narrow_contracts), "t", False,
         "before folding, which would make floats of quantised weights"),
    Pass("fold", _plain(fold), "t", False, "before rules, so that they see constants as constants"),
    Pass("canonicalize", _rules(canonicalize), "t", False, "one form for equal things, before patterns look for forms"),
    Pass("sink-transposes", _rules(sink_transposes), "t", False,
         "convolutions bring a transpose on either side; they cancel once all flow the same way"),
    Pass("fold-2", _plain(fold), "t", False, "constants that transposes went through become constants again"),
    Pass("keep-bytes", _rules(keep_bytes), "t", False,
         "after transposes, which stand between quantisations and what undoes them"),
    Pass("requantise", _rules(requantise), "t", False,
         "after transposes, which stand between a convolution and the quantisation of its result"),
    Pass("fold-scales", _rules(fold_scales), "t", False,
         "batch norms join weights after no transpose stands between them"),
    Pass("fold-3", _plain(fold), "t", False, "weights that were scaled become constants again"),
    Pass("cse", _plain(cse), "t", False, "after folding, when equal constants have become one"),
    Pass("dce-2", _plain(dce), "t", False, "fusion counts users: dead ones would keep values in memory"),
    Pass("attention", _rules(fuse_attention), "t", False,
         "when scales have joined weights and users are counted; products and softmax are still ops of their own"),
    Pass("merge-products", _rules(merge_products), "t", False,
         "when constants and attention have their last form, before fusion gives each product its kernel"),
    Pass("fuse", _plain(fuse), "t", True, "last on tensors: later passes see groups, not ops"),
    Pass("to-kernel", _plain(to_kernel), "k", True, "a kernel and a launch a group"),
    Pass("append-in-place", _plain(append_in_place), "k", False,
         "kernels still index their memory by its dims, so that one of them can become room"),
    Pass("schedule", None, "k", True, "how each kernel runs on the target; packing needs the tile"),
    Pass("pack", None, "k", False,
         "weights in the order the tiles read them, before memory is planned for what is packed at run time"),
    Pass("plan-memory", _plain(plan_memory), "p", True, "last: every buffer exists now"),
)

# Order that must hold whatever moves in the table, each with its reason.
BEFORE: tuple[tuple[str, str, str], ...] = (
    ("lower", "dce", "shape arithmetic dies when it has become dims"),
    ("lower", "fold", "only tensor ops have a reference column"),
    ("fold", "canonicalize", "rules look for constants"),
    ("narrow-contracts", "fold", "dequantised weights would be floats"),
    ("fold-2", "keep-bytes", "scales must be constants to be compared"),
    ("keep-bytes", "requantise", "merged scales hide what quantises alike"),
    ("fold-2", "requantise", "scales and shifts must be constants to be merged"),
    ("requantise", "fold-3", "merged scales are folded there"),
    ("canonicalize", "sink-transposes", "transposes of transposes are merged there"),
    ("sink-transposes", "fold-2", "transposed constants are folded there"),
    ("sink-transposes", "fold-scales", "a scale is recognised next to its contraction"),
    ("fold-2", "fold-scales", "a scale must be a constant to be one"),
    ("fold-scales", "fold-3", "scaled weights are folded there"),
    ("fold-3", "cse", "constants are compared when no pass makes new ones any more"),
    ("cse", "dce-2", "what was merged away leaves operands without users"),
    ("dce-2", "attention", "scores that others need are not fused: dead users would stand in the way"),
    ("attention", "fuse", "fusion wraps what it is made of"),
    ("attention", "merge-products", "patterns look for products, not for columns of them"),
    ("merge-products", "fuse", "fusion gives each product its kernel"),
    ("dce-2", "fuse", "users are counted"),
    ("fuse", "to-kernel", "a kernel is made of a group"),
    ("to-kernel", "append-in-place", "launches show who writes what"),
    ("append-in-place", "schedule", "schedules join the axes of memory"),
    ("to-kernel", "schedule", "schedules stand on kernels"),
    ("schedule", "pack", "the panel width is the schedule's"),
    ("pack", "plan-memory", "packing may allocate"),
)


def _check_order() -> None:
    position = {p.name: i for i, p in enumerate(PIPELINE)}
    if len(position) != len(PIPELINE):
        raise ValueError("two passes of the pipeline have one name")
    for first, second, reason in BEFORE:
        if position[first] >= position[second]:
            raise ValueError(f"pass '{first}' must stand before '{second}': {reason}")


_check_order()


def passes_named(names: Sequence[str]) -> list[Pass]:
    """The rows with these names, in the order given; ValueError lists the names there are."""
    table = {p.name: p for p in PIPELINE}
    for n in names:
        if n not in table:
            raise ValueError(f"there is no pass '{n}'; there are {', '.join(table)}")
    return [table[n] for n in names]


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One pass that ran: its name, seconds, and how many rewrites it applied."""

    name: str
    seconds: float
    rewrites: int


def run(module: Module, context: Context, passes: Sequence[Pass] = PIPELINE, disabled: Sequence[str] = (),
        hooks: Sequence[Callable[[str, Module], Any]] = ()) -> list[Step]:
    """Run `passes` in order; after each one every hook gets its name and the module. A required pass cannot be
    disabled."""
    steps = []
    for p in passes:
        if p.name in disabled:
            if p.required:
                raise InvalidArgument(f"pass '{p.name}' is required: {p.why}")
            continue
        start, before = time.perf_counter(), len(context.log.applied)
        fn = p.run
        if fn is not None:
            fn(module, context)
        elif p.name in context.supplied:
            context.supplied[p.name](module)
        else:
            raise ValueError(f"pass '{p.name}' needs a target and was not supplied")
        steps.append(Step(p.name, time.perf_counter() - start, len(context.log.applied) - before))
        for hook in hooks:
            hook(p.name, module)
    return steps
