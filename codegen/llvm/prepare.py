"""From a kernel as it was lowered to the form that is emitted: axes merged, a schedule chosen, rows kept in scratch."""

from __future__ import annotations

from onnxc.codegen.accesses import Accesses
from onnxc.codegen.clone import clone_func
from onnxc.codegen.collapse import collapse_axes, split_axes
from onnxc.codegen.llvm.candidates import kernel_candidates
from onnxc.codegen.llvm.heuristics import least_cost, vector_axes
from onnxc.codegen.llvm.rowcache import cache_rows
from onnxc.codegen.llvm.target import Target
from onnxc.codegen.schedule import Choose, Schedule, first
from onnxc.ir.core import Func

__all__ = ["is_attention", "is_contraction", "prepare_kernel"]


def is_contraction(func: Func) -> bool:
    """Whether the kernel is a k.contract, which has a skeleton and schedules of its own."""
    return any(op.name == "k.contract" for op in func.body.ops)


def is_attention(func: Func) -> bool:
    """Whether the kernel is a k.attend, which has a skeleton of its own, too."""
    return any(op.name == "k.attend" for op in func.body.ops)


def prepare_kernel(func: Func, target: Target, choose: Choose = first) -> Func:
    """A kernel equal to `func` with its schedule in the attribute `schedule`; `func` itself when it has one already."""
    if isinstance(func.attrs.get("schedule"), str) or is_contraction(func) or is_attention(func):
        return func
    prepared = _with_best_axes(func, target)
    schedule = choose(kernel_candidates(prepared, target))
    if _one_row_at_a_time(prepared, schedule):
        prepared = cache_rows(prepared)
    if prepared is func:
        prepared = clone_func(func)
    prepared.attrs = {**prepared.attrs, "schedule": str(schedule)}
    return prepared


def _with_best_axes(func: Func, target: Target) -> Func:
    """The kernel with axes merged; split as well, where accesses divide an axis and that is what makes it dear."""
    merged, split = collapse_axes(func), split_axes(func)
    return split if split is not func and least_cost(split, target) < least_cost(merged, target) else merged


def _one_row_at_a_time(func: Func, schedule: Schedule) -> bool:
    return bool(vector_axes(Accesses(func), schedule)) or schedule.lanes == 1
