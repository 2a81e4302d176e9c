"""The exceptions that onnxc raises: ONNX Runtime's family, and the few kinds that it has no class for.

Names, codes and texts are those of `onnxruntime.capi.onnxruntime_pybind11_state`, so that a program which catches
`InvalidArgument`, or looks for words in its text, behaves as before. As there, none of them is a `RuntimeError`, a
`NotImplementedError` or a `FileNotFoundError`. Two things are added: the base `OnnxcError`, and `.message`, the text
without its head. A module may define a narrower class for its own failures; it derives from one of these.

This module imports nothing of onnxc, so every folder may import it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, NamedTuple

__all__ = [
    "ONNX_RUNTIME_ERRORS",
    "Cancelled",
    "DeviceReset",
    "EPFail",
    "EngineError",
    "Fail",
    "InvalidArgument",
    "InvalidGraph",
    "InvalidProtobuf",
    "ModelLoadCanceled",
    "ModelLoaded",
    "ModelRequiresCompilation",
    "NoModel",
    "NoSuchFile",
    "NodeFailed",
    "NotFound",
    "NotImplemented",
    "OnnxcError",
    "RuntimeException",
    "UnsupportedModel",
    "UnsupportedNode",
    "while_running",
]


class OnnxcError(Exception):
    """Base of the family; catch it, raise one of the others.

    `str(e)`, and `e.args[0]`, is `[ONNXRuntimeError] : <code> : <STATUS> : <message>`; `e.message` is the bare message.
    A program that makes one itself, as tests of programs do, may give the text with its head, or none.
    """

    code: ClassVar[int]
    status: ClassVar[str]
    message: str

    def __init__(self, message: str = "") -> None:
        if not hasattr(type(self), "code"):
            raise TypeError(f"{type(self).__name__} has no status code: raise one of the classes derived from it")
        head = f"[ONNXRuntimeError] : {self.code} : {self.status} : "
        self.message = message.removeprefix(head)
        super().__init__(head + self.message)

    def __reduce__(self) -> tuple[object, ...]:
        # The inherited form would pass args, which already carry the head, through the constructor again.
        return _restore, (type(self), self.args, self.__dict__)


def _restore(cls: type[OnnxcError], args: tuple[object, ...], state: dict[str, object]) -> OnnxcError:
    """Rebuilds a pickled error of any subclass, whatever its constructor takes."""
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


class Fail(OnnxcError):
    """A failure with no narrower class: a model's version or structure, external data, a kernel's complaint."""

    code, status = 1, "FAIL"


class InvalidArgument(OnnxcError):
    """What the caller passed is wrong: a feed, a name, an option, an index out of range, a model without a graph."""

    code, status = 2, "INVALID_ARGUMENT"


class NoSuchFile(OnnxcError):
    """The model's file does not exist."""

    code, status = 3, "NO_SUCHFILE"


class NoModel(OnnxcError):
    """An operation that needs a loaded model was called before there was one."""

    code, status = 4, "NO_MODEL"


class EngineError(OnnxcError):
    """The execution engine is in a state that it cannot go on from."""

    code, status = 5, "ENGINE_ERROR"


class RuntimeException(OnnxcError):
    """An unexpected exception inside compilation or a run: a defect of onnxc and not of the model."""

    code, status = 6, "RUNTIME_EXCEPTION"


class InvalidProtobuf(OnnxcError):
    """The bytes of the model do not parse."""

    code, status = 7, "INVALID_PROTOBUF"


class ModelLoaded(OnnxcError):
    """A second model was loaded into a session that holds one."""

    code, status = 8, "MODEL_LOADED"


class NotImplemented(OnnxcError):
    """The model is valid, and asks for something that there is no implementation of."""

    code, status = 9, "NOT_IMPLEMENTED"


class InvalidGraph(OnnxcError):
    """The model parses and breaks a rule of ONNX: unknown op, wrong types, missing attribute."""

    code, status = 10, "INVALID_GRAPH"


class EPFail(OnnxcError):
    """A device failed: driver missing or too old, out of device memory, launch error."""

    code, status = 11, "EP_FAIL"


class ModelLoadCanceled(OnnxcError):
    """Loading was stopped by the caller's cancellation flag."""

    code, status = 12, "MODEL_LOAD_CANCELED"


class ModelRequiresCompilation(OnnxcError):
    """The session may not compile, and no compiled form of the model is there."""

    code, status = 13, "MODEL_REQUIRES_COMPILATION"


class NotFound(OnnxcError):
    """A named thing (provider, device, symbol) is not there."""

    code, status = 14, "NOT_FOUND"


class DeviceReset(OnnxcError):
    """The device was reset and its memory is lost; the session has to be made anew."""

    code, status = 15, "DEVICE_RESET"


#: The classes that `onnxruntime.capi.onnxruntime_pybind11_state` exports, in the order of their codes.
ONNX_RUNTIME_ERRORS: tuple[type[OnnxcError], ...] = (
    Fail,
    InvalidArgument,
    NoSuchFile,
    NoModel,
    EngineError,
    RuntimeException,
    InvalidProtobuf,
    ModelLoaded,
    NotImplemented,
    InvalidGraph,
    EPFail,
    ModelLoadCanceled,
    ModelRequiresCompilation,
    NotFound,
    DeviceReset,
)


class Cancelled(Fail):
    """A run was stopped by `RunOptions.terminate`; a `Fail`, because that is what ONNX Runtime raises."""

    def __init__(self, message: str = "Exiting due to terminate flag being set to true.") -> None:
        super().__init__(message)


class NodeFailed(Fail, InvalidArgument):
    """What an operator of the model refuses in a run: sizes that do not go together, an index out of range. ONNX
    Runtime raises a Fail for most operators and an InvalidArgument for some; this is both."""


def while_running(operator: str, node: str, what: object) -> str:
    """The text of a failure of one node in a run; `operator` and `node` are empty where they are not known."""
    return f"Non-zero status code returned while running {operator or 'a'} node. Name:'{node}' Status Message: {what}"


class UnsupportedNode(NamedTuple):
    """A node that cannot be compiled, and why."""

    name: str
    op_type: str
    domain: str
    reason: str

    def __str__(self) -> str:
        return f"{self.domain or 'ai.onnx'}:{self.op_type} node '{self.name}': {self.reason}"


class UnsupportedModel(NotImplemented):
    """The model has nodes that cannot be compiled: `.nodes` lists all of them, the text the first few."""

    SHOWN: ClassVar[int] = 20
    nodes: tuple[UnsupportedNode, ...]

    def __init__(self, nodes: Iterable[tuple[str, str, str, str]]) -> None:
        self.nodes = tuple(UnsupportedNode(*node) for node in nodes)
        if not self.nodes:
            raise ValueError("UnsupportedModel needs at least one node")
        count = len(self.nodes)
        lines = [f"Could not find an implementation for {count} node{'s' if count > 1 else ''} of this model:"]
        lines += [f"  {node}" for node in self.nodes[: self.SHOWN]]
        if count > self.SHOWN:
            lines.append(f"  and {count - self.SHOWN} more")
        super().__init__("\n".join(lines))
