"""The differences between onnxc and ONNX Runtime that are meant, each with its reason."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["KNOWN", "known"]


class Known(NamedTuple):
    """Why onnxc differs; patterns for what is called, for what ONNX Runtime says to that, and for what onnxc says."""

    reason: str
    call: str
    theirs: str
    ours: str


_TO_CALLBACK = "value ..., True, True"      # what run_async tells its callback

_ACCEPTED = (
    Known("ONNX has complex tensors, and OrtValues hold them", "no value .*complex", "RuntimeError", "value"),
    Known("elements that NumPy has not are arrays of ml_dtypes, and DLPack has those of whole bytes", "",
          "RuntimeError.*(No corresponding Numpy|create OrtValue|Unexpected data type of)",
          "value|BufferError.*packed"),
    Known("elements that NumPy has not are arrays of ml_dtypes, and no bits", "", "value.*(u1|uint8)", "value.*float8"),
    Known("initializers may be overridden by lists too", " list of",
          "RuntimeError: Failed to find input with name: [vw]|value.*raises", "value|InvalidArgument"),
    Known("initializers may be bound by address too", "^bind (pointer|cpu) input.(constants|overridable|copies)",
          "RuntimeError: (Failed to find NodeArg|.*Size mismatch)", "value"),
    Known("a sparse matrix may have no values", r"^sparse.*rows.*\[0", "RuntimeError", "value"),
    Known("a map may be empty", "'m': {}", "RuntimeError: Size of dictionary is empty", "value|InvalidArgument"),
    Known("nothing means no options", "open.*options (0|{})", "AttributeError", "value"),
    Known("a number that equals that of a member is taken", "^enum", "TypeError", "value"),
    Known("a member is its number, with a name or not", "^enum equal", "value .False", "value .True"),
    Known("an enumeration's member is a number", "^set.*(ORT_|PRIORITY_|Graph)", "TypeError", "value"),
    Known("where there is nothing to read, no index is looked at", "^(run|backend).*picks",
          f"InvalidArgument|RuntimeError|{_TO_CALLBACK}", "value.*(, 0. ..|done)"),
)

_REFUSED = (
    Known("memory that must not be written is not given away for writing",
          "^dlpack|^again by|^from_dlpack|^OrtValueVector", "value", "BufferError|RuntimeError.*read"),
    Known("a wrong list of providers is an error, and no session on the CPU", "bad providers",
          "value|TypeError|AttributeError|RuntimeError", "ValueError|RuntimeError"),
    Known("a device that is not there is refused, whatever would lie there", "^ortvalue_from_numpy", "value",
          "RuntimeError: Can't allocate memory on the device"),
    Known("a run that shall end does, however short it is", "^run.*run options", "value|" + _TO_CALLBACK, "Cancelled"),
    Known("None for an input counts as missing", "^run_async.*None", _TO_CALLBACK, "ValueError"),
    Known("None for an input counts as missing", "^run.*wrong None", "Fail|AttributeError", "ValueError"),
    Known("what is fed is looked at at once", "^run_async.*wrong", _TO_CALLBACK, "RuntimeError"),
    Known("a type of fractions or of truths is no whole number's", "^set.*(float32|np.True_)", "value", "TypeError"),
    Known("bytes are no text", "^set.*b'x'", "value 'x'", "TypeError"),
    Known("neither None nor a text is a number", "wrong list of (None|texts)", "value|InvalidArgument",
          "RuntimeError: Could not create tensor"),
    Known("keys of a map are all of its type", "wrong mixed keys", "value", "InvalidArgument|value"),
    Known("memory that must not be written stays so", "^writable.*read-only", "value True", "value False"),
    Known("tensors without elements are concatenated only with those that go with them", "^run.*appended", "value",
          f"NodeFailed.*Concat|BindingError.*Concat|{_TO_CALLBACK}"),
)

_VALUES = (
    Known("an output that is an input is what was fed", "^run_with_ort_values.(constants|outlets)", "value", "value"),
    Known("no texts give one empty text", "^run.*string.0",
          f"InvalidArgument.*StringNormalizer|{_TO_CALLBACK}", "value"),
    Known("a maker that is given counts", "^OrtDevice.make..(dml|cuda|cann)., .*, ", "value", "value"),
    Known("memory that is not aligned is copied, not shared", "^write.unaligned", "value", "value"),
)

_WORDS = (
    Known("what a node refuses is one class, which is both", "^run|^backend", "InvalidArgument.*running Gather",
          "NodeFailed"),
    Known("a name that is no text is no input's name", "^run_with_ort_values",
          "RuntimeError: Unable to cast Python instance", "InvalidArgument: .* name: "),
    Known("errors have their head, whoever makes them", "^errors (none|pickle|raised|args)", "value",
          "value|TypeError"),
    Known("a missing file is that, in any format", "missing ort file", "InvalidArgument: .*Invalid fd", "NoSuchFile"),
    Known("what makes no tensor is a RuntimeError", "^run.*wrong dict", "InvalidArgument: .*map",
          "RuntimeError: Input must be a list of dict"),
    Known("what makes no texts is a RuntimeError", "^run.*wrong ragged list of string", "InvalidArgument",
          "RuntimeError"),
    Known("what is wrong with a dict is its keys", "^run.mapped.*wrong ints", "InvalidArgument",
          "InvalidArgument: .*keys"),
    Known("missing inputs are named", "^backend short", "IndexError", "ValueError: Required"),
    Known("inputs of a backend come in order", "^backend dict", "Fail|InvalidArgument", "RuntimeError: Model expect"),
    Known("element types have the names that ONNX has for them", "", ".*(Int4x2|Float8)", ".*(int4|float8)"),
    Known("inputs and memory are looked at before nodes run", "^run_with_iobinding", ".*(Missing Input: |Non-zero)",
          ".*(Missing Input: |has shape)"),
    Known("of several mistakes another one is told", "^run_with_iobinding", "RuntimeError",
          "BindingError: .*At least one output"),
    Known("of several mistakes another one is told", "^run_with_ort_values.*wrong", "AttributeError",
          "TypeError|RuntimeError"),
    Known("of several mistakes another one is told", "^run_with_ort_values", "ValueError: Required", "AttributeError"),
    Known("of several mistakes another one is told", "^open.cancelled", "ValueError", "ModelLoadCanceled"),
    Known("what makes no tensor is a RuntimeError", "^run.*wrong records", "InvalidArgument",
          "RuntimeError: Numpy_type 20"),
    Known("names of outputs are looked at by runs", "^bind .* output.* x ", "RuntimeError: Failed to find", "value"),
    Known("a wrong argument is a TypeError", "^run_async.*wrong", "RuntimeError: Unable to cast", "TypeError"),
    Known("a wrong argument is a TypeError", "open.*options ('x'|1|.1.)", "AttributeError", "TypeError"),
)

#: What is accepted beyond ONNX Runtime; what is refused, where it goes on; other values, where it is wrong; the same
#: thing said by another class or in other words.
KNOWN: tuple[Known, ...] = (*_ACCEPTED, *_REFUSED, *_VALUES, *_WORDS)


def known(call: str, theirs: str, ours: str) -> str:
    """The reason for a difference, "" for one that is not meant."""
    for row in KNOWN:
        if re.search(row.call, call, re.DOTALL) and re.match(row.theirs, theirs, re.DOTALL) \
                and re.match(row.ours, ours, re.DOTALL):
            return row.reason
    return ""
