"""Files of parameters for a model's own (LoRA), in ONNX Runtime's format: flatbuffers with the identifier TORT.

The root table has the versions of the format, of the adapter and of the model, and a vector of parameters: name, sizes,
ONNX's number of the element type, and the elements' bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from onnxc.frontend.flat_writer import FlatWriter
from onnxc.frontend.ort_buffer import Damaged, Reader, Record

__all__ = ["FORMAT_VERSION", "Adapter", "Parameter", "adapter_bytes", "parse_adapter"]

FORMAT_VERSION = 1
_IDENTIFIER = b"TORT"
_ALIGN = 8      # of the elements, so that they are used where they lie


class Parameter(NamedTuple):
    """A tensor: sizes, the number of its element type, and its bytes."""

    shape: tuple[int, ...]
    element_type: int
    data: npt.NDArray[np.uint8]


class Adapter(NamedTuple):
    """What a file holds."""

    adapter_version: int
    model_version: int
    parameters: Mapping[str, Parameter]


def parse_adapter(data: memoryview) -> Adapter:
    """The content of a file; the parameters' bytes are its own. Raises ValueError for what is no such file."""
    root = Reader(data).root(_IDENTIFIER)
    version = root.number(0, "i32")
    if version != FORMAT_VERSION:
        raise Damaged(f"it is of version {version}, and {FORMAT_VERSION} is what is known")
    found: dict[str, Parameter] = {}
    for table in root.tables(3):
        name = table.text(0).decode()
        if name in found:
            raise Damaged(f"the parameter {name!r} is there twice")
        found[name] = _parameter(table)
    return Adapter(root.number(1, "i32"), root.number(2, "i32"), found)


def _parameter(table: Record) -> Parameter:
    shape = table.numbers(1, "i64")
    table.reader.decode(shape.nbytes)
    return Parameter(tuple(shape.tolist()), table.number(2, "i32"), table.numbers(3, "u8"))


def adapter_bytes(adapter: Adapter) -> bytes:
    """The file that holds an adapter."""
    writer = FlatWriter()
    parameters = []
    for name, parameter in adapter.parameters.items():
        data = writer.array(parameter.data, _ALIGN)
        shape, text = writer.numbers(parameter.shape, np.int64), writer.text(name)
        parameters.append(writer.table((0, "at", text), (1, "at", shape), (2, "i32", parameter.element_type),
                                       (3, "at", data)))
    root = writer.table((0, "i32", FORMAT_VERSION), (1, "i32", adapter.adapter_version),
                        (2, "i32", adapter.model_version), (3, "at", writer.offsets(parameters)))
    return writer.finish(root, _IDENTIFIER)
