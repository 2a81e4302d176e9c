"""A run on tensors whose memory stays where it is: inputs are read and outputs are written there by native code itself.

What follows from where the tensors lie and how large they are is found once; after that a run is one call. Where that
is the same for other memory of the same form, `runtime/movable.py` goes on.
"""

from __future__ import annotations

import bisect
import ctypes
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from onnxc.errors import InvalidArgument
from onnxc.runtime.buffers import Dense
from onnxc.runtime.growing import grow
from onnxc.runtime.movable import Forms, MovableRun, Sizes
from onnxc.runtime.program import NativeProgram

__all__ = ["BoundRun"]

_WORD = ctypes.sizeof(ctypes.c_int64)


class BoundRun:
    """A run of `program` that reads `inputs` and writes the tensors of `outputs` that are given; for others memory is
    made here, that of `old` where shape and type are the same and no input lies there. `places` are the positions of
    inputs by name.

    Raises InvalidArgument for shapes that the model refuses, and for given outputs that are of another type or shape
    than the results or that must not be written. Where inputs and given outputs overlap, inputs are copied first.
    """

    ready = True

    def __init__(self, program: NativeProgram, inputs: Sequence[Dense], outputs: Sequence[Dense | None],
                 old: Sequence[Dense | None], places: Mapping[str, int]) -> None:
        self.program, self._given, self.places = program, list(outputs), places
        self._sources = _compact_where_written(inputs, outputs) if any(outputs) else inputs
        growth = grow(program, self._sources, outputs)
        self._grown = growth.places
        self._ends = [(place.buffer, place.buffer.filled) for place in self._grown.values()]
        self._copies: list[tuple[Dense, Dense]] = []
        kept = {c.input for c in program.compiled.caches if c.output in growth.places}
        self._inputs = [self._readable(t, i in kept) for i, t in enumerate(growth.inputs)]
        self._binding = program.binding(tuple([tensor.shape for tensor in self._inputs]), growth.rooms)
        if any(self._given):
            self._check_given()
            self._keep_apart()
        self.results: list[Dense] = []
        self._has_room = any(t.room is not None for t in inputs)
        if not program.sizes_from_data:
            self.results = self._places(old)
            addresses = [tensor.address for tensor in (*self._inputs, *self.results)]
            self._table: Any = (ctypes.c_int64 * len(addresses))(*addresses)

    def movable(self, forms: Forms, overridden: tuple[str, ...]) -> MovableRun | None:
        """The same run for memory that may change; None where more than types and shapes decide about it."""
        if self.program.sizes_from_data or self.program.compiled.caches or self._copies or self._has_room:
            return None
        form = forms.of(overridden, self.places, self._inputs, self.results)
        form.keep(tuple([t.shape for t in self._inputs]),
                  Sizes(self.program, self._binding, self._inputs, self.results))
        run = MovableRun(form)
        taken = [run.reads(position, tensor) for position, tensor in enumerate(self._inputs)]
        taken += [run.writes(position, tensor) for position, tensor in enumerate(self.results)]
        return run if all(taken) and run.get_ready() else None

    # Other memory needs another run.

    def reads(self, position: int, value: object) -> bool:
        """Whether the run reads this already."""
        return value is self._sources[position]

    def writes(self, position: int, given: object | None) -> bool:
        """False: an output that is bound again is written elsewhere."""
        return False

    def forget_inputs(self) -> bool:
        """False, as long as it holds their memory."""
        return False

    def forget_outputs(self) -> bool:
        return False

    def get_ready(self) -> bool:
        return True

    def run(self, cancel: int = 0) -> list[Dense]:
        """The outputs. `cancel` is the address of an i32 word that stops the run when it becomes non-zero."""
        if any(buffer.filled != end for buffer, end in self._ends):
            # Another run went on behind an output: what it began with must not be written again.
            BoundRun.__init__(self, self.program, self._sources, self._given, self.results, self.places)
        for source, copy in self._copies:
            copy.raw()[...] = source.raw()
        if self.program.sizes_from_data:
            return self._run_to_unknown_sizes(cancel)
        inputs_at = ctypes.addressof(self._table)
        self.program.run_at(self._binding, inputs_at, inputs_at + len(self._inputs) * _WORD, cancel)
        return self.results

    def _run_to_unknown_sizes(self, cancel: int) -> list[Dense]:
        """Only the run tells how large some outputs are: they are written to memory with room for the most, and those
        that were given are copied there."""
        arrays = self.program.run([tensor.array() for tensor in self._inputs], cancel)
        results = []
        for position, (given, array, (_, dtype)) in enumerate(zip(self._given, arrays, self.program.outputs,
                                                                  strict=True)):
            result = Dense.of(array, dtype)
            if given is not None:
                self._check_shape(position, given, result.shape)
                given.raw()[...] = result.raw()
            results.append(given or result)
        return results

    # ---- outputs -----------------------------------------------------------------------------------------------------

    def _check_given(self) -> None:
        for position, given in enumerate(self._given):
            if given is None:
                continue
            name, dtype = self.program.outputs[position]
            if given.dtype != dtype:
                raise InvalidArgument(f"Unexpected output data type. Actual: (tensor({given.dtype.onnx_text})) , "
                                      f"expected: (tensor({dtype.onnx_text})) for output: {name}")
            if not given.buffer.writable or given.room is not None or given.is_astray:
                raise InvalidArgument(f"output '{name}' is bound to memory that must not be written, or whose address "
                                      f"is no multiple of {dtype.bits // 8}")
            if not self.program.sizes_from_data:
                self._check_shape(position, given, self._binding.shapes[position])
        ranges = sorted((t.address, t.address + t.nbytes, name) for t, (name, _) in
                        zip(self._given, self.program.outputs, strict=True) if t is not None)
        for (_, end, name), (begin, last, other) in itertools.pairwise(ranges):
            if begin < end and begin < last:
                raise InvalidArgument(f"outputs '{name}' and '{other}' are bound to memory that overlaps")

    def _check_shape(self, position: int, given: Dense, shape: tuple[int, ...]) -> None:
        if given.shape != shape:
            name, _ = self.program.outputs[position]
            raise InvalidArgument(f"The output OrtValue provided for output '{name}' has shape {_braces(given.shape)} "
                                  f"but the computed output shape for this run is {_braces(shape)}; bind memory of "
                                  "that shape, or let the session make it")

    def _places(self, old: Sequence[Dense | None]) -> list[Dense]:
        """Where the outputs go."""
        occupied = _Ranges(self._inputs) if any(old) else None
        places = []
        for i, (given, before, shape, (name, dtype)) in enumerate(zip(
                self._given, old, self._binding.shapes, self.program.outputs, strict=True)):
            if given is not None or i in self._grown:
                places.append(given or self._grown[i])
            elif occupied is not None and before is not None and before.is_alone \
                    and (before.shape, before.dtype) == (shape, dtype) and not occupied.meets(before):
                places.append(before)
            else:
                places.append(Dense.new(dtype, shape, f"output '{name}'"))
        return places

    def _readable(self, tensor: Dense, may_have_room: bool) -> Dense:
        """The tensor as native code reads it: without gaps but for room that it knows of, each element at a multiple of
        its size. What lies elsewhere is copied before each run."""
        if tensor.is_astray:
            return self._copied(tensor.compact(), "an input that lies at an odd address")
        return tensor if may_have_room else tensor.compact()

    def _copied(self, tensor: Dense, why: str) -> Dense:
        copy = Dense.new(tensor.dtype, tensor.shape, why)
        self._copies.append((tensor, copy))
        return copy

    def _keep_apart(self) -> None:
        """Puts copies, to be made before each run, in place of the inputs that overlap with given outputs."""
        written = _Ranges([tensor for tensor in self._given if tensor is not None])
        for position, tensor in enumerate(self._inputs):
            if written.meets(tensor):
                self._inputs[position] = self._copied(tensor, "an input that an output overlaps")


class _Ranges:
    """Ranges of addresses that tensors take, with what room is between their elements."""

    def __init__(self, tensors: Sequence[Dense]) -> None:
        taken = sorted((t.address, t.address + _span(t)) for t in tensors if t.nbytes)
        self._begins, self._ends = [begin for begin, _ in taken], [end for _, end in taken]
        # The end that reaches furthest of all ranges up to each.
        for i in range(1, len(taken)):
            self._ends[i] = max(self._ends[i], self._ends[i - 1])

    def meets(self, tensor: Dense) -> bool:
        before = bisect.bisect_left(self._begins, tensor.address + _span(tensor))
        return before > 0 and tensor.nbytes > 0 and self._ends[before - 1] > tensor.address


def _compact_where_written(inputs: Sequence[Dense], outputs: Sequence[Dense | None]) -> Sequence[Dense]:
    """The inputs, copied without room where an output lies in them."""
    written = _Ranges([tensor for tensor in outputs if tensor is not None])
    return [t.alone() if t.room is not None and written.meets(t) else t for t in inputs]


def _span(tensor: Dense) -> int:
    """Bytes from the tensor's first to at least its last."""
    return tensor.nbytes if tensor.room is None else tensor.buffer.nbytes


def _braces(shape: Sequence[int]) -> str:
    return f"{{{','.join(map(str, shape))}}}"
