"""Declaring LLVM intrinsics that are overloaded on scalar, vector and pointer types."""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

__all__ = ["intrinsic"]


def intrinsic(module: ir.Module, name: str, overloads: Sequence[ir.Type], result: ir.Type,
              arguments: Sequence[ir.Type]) -> ir.Function:
    """The declaration of `name` (such as "llvm.fma") for these overloads, one a module."""
    full = ".".join([name, *map(_mangled, overloads)])
    found = module.globals.get(full)
    return found if found is not None else ir.Function(module, ir.FunctionType(result, arguments), full)


def _mangled(type: ir.Type) -> str:
    if isinstance(type, ir.VectorType):
        return f"v{type.count}{_mangled(type.element)}"
    return "p0" if isinstance(type, ir.PointerType) else str(type.intrinsic_name)
