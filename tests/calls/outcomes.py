"""What a call gives, in a form that two engines' outcomes can be compared in."""

from __future__ import annotations

import ctypes
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Outcome", "Raised", "difference", "outcome_of", "plain"]

#: Texts of errors that callers match on; the groups have to be equal too.
TEXTS = tuple(re.compile(text, re.DOTALL) for text in (
    r"Required inputs \((.*?)\) are missing from input feed \((.*?)\)\.",
    r"Invalid output name: ?(\w*)",
    r"Invalid input name: (\w*)",
    r"Unexpected input data type\. Actual: \((.*?)\) , expected: \((.*?)\)",
    r"Invalid rank for input: (\w+) Got: (\d+) Expected: (\d+) Please fix either the inputs/outputs or the model\.",
    r"Got invalid dimensions for input: (\w+) for the following indices\n(.*?)\n Please fix",
    r"Non-zero status code returned while running (\w+) node\. Name:'(\w*)' Status Message: ",
    r"Could not create tensor from given input list",
    r"Input must be a list of dictionaries or a single numpy array for input '(\w+)'",
    r"Unable to handle object of type (<class '.*?'>)",
    r"Numpy_type (\d+) can't be converted to MLDataType\.",
    r"input with name: '(\w+)' expected to be ",
    r"Exiting due to terminate flag being set to true",
    r"At least one output should be requested",
    r"IOBinding must be used with the session that created it\.",
    r"Unsupported device type: (\w*)",
    r"does not have configuration with key: (\w+)",
    r"Unable to load from type '(<class '.*?'>)'",
    r"already been added: (\w+)",
    r"Load model from (\S+) failed:",
    r"No graph was found in the protobuf\.",
    r"Specified provider '(\w+)' is not in available provider names\.",
    r"Duplicate provider '(\w+)' encountered, ignoring\.",
    r"Only binding non-string Tensors is currently supported",
    r"Can't allocate memory on the device",
    r"Invalid logging severity",
))


@dataclass(frozen=True)
class Raised:
    """An exception: the names of its classes, its own first, and its text."""

    classes: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Outcome:
    """What a call gave, in the form of `plain`, or `Raised`; and the texts of its warnings."""

    value: Any
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        said = "".join(f" [warns: {w[:100]}]" for w in self.warnings)
        if isinstance(self.value, Raised):
            return f"{self.value.classes[0]}: {self.value.text[:400]}{said}"
        return f"value {self.value!r}"[:600] + said


class Array:
    """An array: equal to another when type, shape, flags and elements are, NaN included."""

    def __init__(self, array: np.ndarray, tolerance: float) -> None:
        self.array, self.tolerance = np.array(array), tolerance
        self.form = (array.dtype.str if array.dtype.kind in "biuf" else str(array.dtype), array.shape)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Array) or self.form != other.form:
            return False
        a, b = self.array, other.array
        if a.dtype.kind in "biuOUS":
            return bool(np.all(a == b))
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            x, y = (v.astype(np.complex128 if v.dtype.kind == "c" else np.float64) for v in (a, b))
            return bool(np.all((x == y) | (np.isnan(x) & np.isnan(y)) | (abs(x - y) <= self.tolerance * abs(y))))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{self.form[0]}{list(self.form[1])} {self.array.reshape(-1)[:12].tolist()}"


def plain(value: Any, tolerance: float = 0.0) -> Any:
    """A value of either engine as arrays, numbers, texts, and lists, tuples and dicts of them."""
    if isinstance(value, np.ndarray):
        return Array(value, tolerance)
    if isinstance(value, Mapping):
        return {k: plain(v, tolerance) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v, tolerance) for v in value]
    if isinstance(value, np.generic):
        return ("scalar", plain(np.array(value), tolerance))
    name = type(value).__name__
    if name == "OrtValue":
        return _ort_value(value, tolerance)
    if name == "OrtValueVector":
        return [plain(v, tolerance) for v in value]
    if name == "NodeArg":
        return (value.name, value.type, value.shape, str(value))
    if name == "ModelMetadata":
        return tuple(plain(getattr(value, a)) for a in (
            "producer_name", "graph_name", "domain", "description", "graph_description", "custom_metadata_map"))
    if name == "SparseTensor":
        return (value.data_type(), plain(np.asarray(value.values()), tolerance), value.dense_shape(),
                value.format().name, value.device_name())
    if name == "OrtDevice":
        return (value.device_id(), value.device_type(), value.device_vendor_id(), value.device_mem_type())
    if name == "OrtMemoryInfo":
        return (value.name, value.device_id, int(value.mem_type), int(value.allocator_type))
    if hasattr(value, "name") and hasattr(value, "value") and hasattr(type(value), "__members__"):
        return (name, value.name, int(value))
    if isinstance(value, float):
        return Array(np.array(value), tolerance)
    if value is None or isinstance(value, (bool, int, str, bytes, complex, type)):
        return value
    return f"<{name}>"


def _ort_value(value: Any, tolerance: float) -> Any:
    """What an OrtValue says of itself and holds; of element types that NumPy has not, the bits."""
    text = value.data_type()
    if not value.has_value():
        return (text, "nothing")
    if not value.is_tensor():
        return (text, value.is_tensor_sequence(), value.is_sparse_tensor())
    said = (text, value.element_type(), value.shape(), value.is_tensor(), value.device_name())
    if text == "tensor(string)":
        return (*said, plain(value.numpy()))
    size = value.tensor_size_in_bytes()
    if any(part in text for part in ("float8", "bfloat16", "int4", "int2")):
        return (*said, size, ctypes.string_at(value.data_ptr(), size) if size else b"")
    return (*said, size, plain(value.numpy(), tolerance))


def outcome_of(call: Any, tolerance: float = 0.0) -> tuple[Outcome, Any]:
    """What a call gives, and the object itself, None where it raised."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            given = call()
            value = plain(given, tolerance)
        except Exception as error:
            given, value = None, Raised(tuple(c.__name__ for c in type(error).__mro__), str(error))
    return Outcome(value, tuple(str(w.message) for w in said if w.category is UserWarning)), given


def difference(theirs: Outcome, ours: Outcome) -> str:
    """"" where ours is as good as theirs: the same value, or an exception of the same class or one derived from it,
    with the texts that callers match on."""
    if isinstance(theirs.value, Raised) != isinstance(ours.value, Raised):
        return "one raises"
    if not isinstance(theirs.value, Raised):
        if theirs.value != ours.value:
            return "values"
    elif theirs.value.classes[0] not in ours.value.classes:
        return "classes"
    else:
        for head in (r"^\[ONNXRuntimeError\] : (\d+) : (\w+) : ", *TEXTS):
            a, b = (re.search(head, re.sub(r"<class '[\w.]*\.", "<class '", o.value.text)) for o in (theirs, ours))
            if a is not None and (b is None or a.groups() != b.groups()):
                return f"text {a.re.pattern!r}"
            if a is not None and not isinstance(head, str):
                break
    mine, other = (sorted(filter(None, map(_said, o.warnings))) for o in (ours, theirs))
    return "" if mine == other else f"warnings {other} and {mine}"


def _said(warning: str) -> str:
    """The part of a warning that callers match on."""
    for text in TEXTS:
        if match := text.search(warning):
            return match.group()
    return ""
