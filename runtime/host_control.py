"""Loops and branches whose bodies have host steps, in Python: `If`, `Loop`, `Scan` and `SequenceMap`.

The regions are among the attributes: a `Body` is called with the region's arguments, captured values apart, and gives
the list of its results.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from onnxc.errors import InvalidArgument
from onnxc.ir.types import dtype_named
from onnxc.runtime.compiled import Empty

__all__ = ["CONTROL_OPS", "Body"]

Array = npt.NDArray[Any]
Attrs = Mapping[str, Any]


class Body(NamedTuple):
    """A region: `call` runs it; `empty` is what is known of the results where it never runs."""

    call: Callable[[Sequence[Any]], list[Any]]
    empty: tuple[Empty | None, ...]

    def __call__(self, *arguments: Any) -> list[Any]:
        return self.call(arguments)


def _flag(value: Array) -> bool:
    return bool(value.reshape(-1)[0])


def _if(attrs: Attrs, cond: Array) -> tuple[Any, ...]:
    if cond.size != 1:
        raise InvalidArgument(f"If: the condition has the shape {list(cond.shape)}; it has to be one bool")
    body: Body = attrs["then_branch" if _flag(cond) else "else_branch"]
    return tuple(body())


def _loop(attrs: Attrs, count: Array | None = None, cond: Array | None = None, *carried: Any) -> tuple[Any, ...]:
    body: Body = attrs["body"]
    values, goes_on, i = list(carried), cond is None or _flag(cond), 0
    rows: list[list[Array]] = [[] for _ in body.empty[1 + len(carried):]]
    while goes_on and (count is None or i < count.reshape(-1)[0]):
        again, *found = body(np.array(i, np.int64), np.array(goes_on), *values)
        values, goes_on, i = found[:len(carried)], _flag(again), i + 1
        for kept, row in zip(rows, found[len(carried):], strict=True):
            kept.append(row)
    return (*values, *_stacked("Loop", rows, body.empty[1 + len(carried):]))


def _scan(attrs: Attrs, *inputs: Any) -> tuple[Any, ...]:
    body: Body = attrs["body"]
    scanned = attrs["num_scan_inputs"]
    values, sequences = list(inputs[:-scanned]), list(inputs[-scanned:])
    axes = attrs.get("scan_input_axes") or [0] * scanned
    slices = [np.moveaxis(v, axis, 0) for v, axis in zip(sequences, axes, strict=True)]
    backwards = attrs.get("scan_input_directions") or [0] * scanned
    slices = [v[::-1] if back else v for v, back in zip(slices, backwards, strict=True)]
    if len({len(v) for v in slices}) != 1:
        raise InvalidArgument(f"Scan: the scan inputs are of different lengths, {[len(v) for v in slices]}")
    empty = body.empty[len(values):]
    rows: list[list[Array]] = [[] for _ in empty]
    for i in range(len(slices[0])):
        found = body(*values, *(v[i:i + 1].reshape(v.shape[1:]) for v in slices))
        for kept, row in zip(rows, found[len(values):], strict=True):
            kept.append(row)
        values = found[:len(values)]
    turned = attrs.get("scan_output_directions") or [0] * len(rows)
    places = attrs.get("scan_output_axes") or [0] * len(rows)
    stacked = [v[::-1] if back else v for v, back in zip(_stacked("Scan", rows, empty), turned, strict=True)]
    return (*values, *(np.moveaxis(v, 0, axis) for v, axis in zip(stacked, places, strict=True)))


def _stacked(op: str, rows: Sequence[Sequence[Array]], empty: Sequence[Empty | None]) -> list[Array]:
    out = []
    for found, none in zip(rows, empty, strict=True):
        if len({row.shape for row in found}) > 1:
            shapes = [list(row.shape) for row in found[:4]]
            raise InvalidArgument(f"{op}: rows that are stacked differ in shape: {shapes}")
        out.append(np.stack(found) if found else _of_no_rows(none))
    return out


def _of_no_rows(row: Empty | None) -> Array:
    name, sizes = row or ("f32", ())
    return np.empty((0, *sizes), dtype_named(name).numpy)


def _sequence_map(attrs: Attrs, sequence: list[Any], *others: Any) -> tuple[Any, ...]:
    body: Body = attrs["body"]
    lengths = {len(v) for v in (sequence, *others) if isinstance(v, list)}
    if len(lengths) != 1:
        raise InvalidArgument(f"SequenceMap: the sequences are of different lengths, {sorted(lengths)}")
    found = [body(*(v[i] if isinstance(v, list) else v for v in (sequence, *others))) for i in range(len(sequence))]
    return tuple([row[i] for row in found] for i in range(len(body.empty)))


CONTROL_OPS: dict[str, Callable[..., Any]] = {"If": _if, "Loop": _loop, "Scan": _scan, "SequenceMap": _sequence_map}
