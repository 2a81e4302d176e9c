"""Puts compiled object code into this process, ready to call, without a linker and without LLVM.

Owns the choice of a loader and the life of loaded code. On x86-64 Linux objects are laid out by `runtime/image.py`.
Elsewhere they go to LLVM's own loader, where page protections and symbol look-up are LLVM's.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from onnxc.runtime.elf import LoaderError, read_object
from onnxc.runtime.image import OUTSIDE_SYMBOLS, MappedImage

__all__ = ["OUTSIDE_SYMBOLS", "LoaderError", "NativeModule"]


class NativeModule:
    """An object in memory. Functions made by `function` keep it there; a bare address does not.

    Threads that run its code (a thread pool's workers) must have ended before the last function object goes.
    """

    def __init__(self, object_bytes: bytes) -> None:
        """Loads the object. Raises LoaderError for a damaged or unsupported one and for symbols not allowed."""
        self._image: _Image | None = _load(object_bytes)

    @property
    def symbols(self) -> Mapping[str, int]:
        """The exported symbols and their addresses; LLVM's loader does not list them and raises LoaderError."""
        return self._open_image().symbols

    def address(self, name: str) -> int:
        """The address of an exported symbol, valid until the module has gone. Raises LoaderError for any other name."""
        address = self._open_image().find(name)
        if address is None:
            raise LoaderError(f"the object exports no symbol {name!r}")
        return address

    def function(self, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
        """The exported function as a ctypes function of the given ctypes types. The GIL is released during calls."""
        function = ctypes.CFUNCTYPE(result, *arguments)(self.address(name))
        function.image = self._image  # type: ignore[attr-defined]
        return function

    def close(self) -> None:
        """Gives up the module; the memory goes when no function object is left. Closing again does nothing."""
        self._image = None

    def __enter__(self) -> NativeModule:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_image(self) -> _Image:
        if self._image is None:
            raise LoaderError("the native module is closed")
        return self._image


class _Image(Protocol):
    """Loaded code, gone when the last reference goes."""

    @property
    def symbols(self) -> Mapping[str, int]: ...

    def find(self, name: str) -> int | None: ...


def _load(object_bytes: bytes) -> _Image:
    if sys.platform == "linux" and platform.machine() in ("x86_64", "AMD64"):
        return MappedImage(read_object(object_bytes))
    return _JitImage(object_bytes)


class _JitImage:
    """An object loaded by LLVM, for machines and formats without layout rules of our own.

    The object is trusted: LLVM ends the process on a damaged one and looks outside symbols up in the whole process.
    """

    def __init__(self, object_bytes: bytes) -> None:
        try:
            import llvmlite.binding as llvm
        except ImportError as error:
            raise LoaderError(f"on {sys.platform} {platform.machine()} objects are loaded by LLVM, which is not "
                              f"installed ({error}); install llvmlite, or run on x86-64 Linux") from error
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(reloc="pic")
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(object_bytes))
        self._engine.finalize_object()

    @property
    def symbols(self) -> Mapping[str, int]:
        raise LoaderError("LLVM's loader does not list an object's symbols; ask for an address by name")

    def find(self, name: str) -> int | None:
        return self._engine.get_function_address(name) or self._engine.get_global_value_address(name) or None
