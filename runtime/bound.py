"""A run on tensors whose memory stays where it is: inputs are read and outputs are written there by native code itself.

What follows from where the tensors lie and how large they are is found once; after that a run is one call.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence

from onnxc.errors import InvalidArgument
from onnxc.ir.types import DType
from onnxc.runtime.buffers import Dense
from onnxc.runtime.growing import grow
from onnxc.runtime.program import NativeProgram

__all__ = ["BoundRun"]


class BoundRun:
    """A run of `program` that reads `inputs` and writes the tensors of `outputs` that are given; for others memory is
    made here, that of `old` where shape and type are the same and no input lies there.

    Raises InvalidArgument for shapes that the model refuses, and for given outputs that are of another type or shape
    than the results or that must not be written. Where inputs and given outputs overlap, inputs are copied first.
    """

    def __init__(self, program: NativeProgram, inputs: Sequence[Dense], outputs: Sequence[Dense | None],
                 old: Sequence[Dense | None]) -> None:
        self.program, self._given = program, list(outputs)
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
        self._movable = not (program.sizes_from_data or program.compiled.caches or self._copies
                             or any(t.room is not None for t in inputs))
        if not program.sizes_from_data:
            self.results = self._places(old)
            self._addresses = [tensor.address for tensor in (*self._inputs, *self.results)]

    def follow(self, inputs: Sequence[tuple[int, Dense]], outputs: Sequence[tuple[int, Dense | None]]) -> bool:
        """Takes other tensors, by position, for some inputs and outputs (None: memory made anew): whether that is all
        that it takes, as they have the types and shapes of those before and overlap with nothing. If not, another run
        has to be made in place of this one."""
        if not self._movable:
            return False
        moved = [(i, tensor) for i, tensor in inputs if tensor is not self._inputs[i]]
        for i, tensor in moved:
            if not _has_form_of(tensor, self._inputs[i]):
                return False
            self._inputs[i], self._addresses[i] = tensor, tensor.address
        placed = [(i, given) for i, given in outputs if given is None or given is not self._given[i]]
        if placed:
            self.results = [*self.results]
        for i, given in placed:
            place = given or Dense.new(self.results[i].dtype, self.results[i].shape, f"output '{self._name(i)}'")
            if not _has_form_of(place, self.results[i]) or not place.buffer.writable:
                return False
            self._given[i], self.results[i], self._addresses[len(self._inputs) + i] = given, place, place.address
        return not (moved or placed) or _are_apart(self._inputs, self.results)

    def _name(self, output: int) -> str:
        return self.program.outputs[output][0]

    def run(self, cancel: int = 0) -> list[Dense]:
        """The outputs. `cancel` is the address of an i32 word that stops the run when it becomes non-zero."""
        if any(buffer.filled != end for buffer, end in self._ends):
            # Another run went on behind an output: what it began with must not be written again.
            BoundRun.__init__(self, self.program, self._sources, self._given, self.results)
        for source, copy in self._copies:
            copy.raw()[...] = source.raw()
        if self.program.sizes_from_data:
            return self._run_to_unknown_sizes(cancel)
        self.program.run_at(self._binding, self._addresses, cancel)
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
            if not given.buffer.writable or given.room is not None or _is_astray(given.address, dtype):
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
        if _is_astray(tensor.address, tensor.dtype):
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


def _are_apart(inputs: Sequence[Dense], outputs: Sequence[Dense]) -> bool:
    """Whether no output shares a byte with an input or another output."""
    if len(outputs) > 1:
        read, written = _Ranges(inputs), sorted((t.address, t.address + t.nbytes) for t in outputs if t.nbytes)
        return not any(map(read.meets, outputs)) and all(a[1] <= b[0] for a, b in itertools.pairwise(written))
    for output in outputs:
        begin, end = output.address, output.address + output.nbytes
        for tensor in inputs:
            if tensor.address < end and begin < tensor.address + tensor.nbytes:
                return False
    return True


def _has_form_of(tensor: Dense, other: Dense) -> bool:
    """Whether native code that works on `other` may work on `tensor` in its place."""
    return tensor.shape == other.shape and tensor.dtype == other.dtype and tensor.room is None and \
        not _is_astray(tensor.address, tensor.dtype)


def _span(tensor: Dense) -> int:
    """Bytes from the tensor's first to at least its last."""
    return tensor.nbytes if tensor.room is None else tensor.buffer.nbytes


def _is_astray(address: int, dtype: DType) -> bool:
    return address % max(1, dtype.bits // 8) != 0


def _braces(shape: Sequence[int]) -> str:
    return f"{{{','.join(map(str, shape))}}}"
