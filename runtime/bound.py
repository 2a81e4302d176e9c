"""A run on tensors whose memory stays where it is: inputs are read and outputs are written there by native code itself.

What follows from where the tensors lie and how large they are is found once; after that a run is one call.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from onnxc.errors import InvalidArgument
from onnxc.ir.types import DType
from onnxc.runtime.addresses import address_of, in_plain_order
from onnxc.runtime.buffers import Buffer, Dense
from onnxc.runtime.growing import grow
from onnxc.runtime.program import NativeProgram

__all__ = ["BoundRun"]

Array = npt.NDArray[Any]

_NOWHERE = Buffer(0, 0)


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
        self._arrays: dict[int, Array] = {}     # of inputs, where they are no tensors
        self._may_meet = False
        kept = {c.input for c in program.compiled.caches if c.output in growth.places}
        self._inputs = [self._readable(t, i in kept) for i, t in enumerate(growth.inputs)]
        self._binding = program.binding(tuple([tensor.shape for tensor in self._inputs]), growth.rooms)
        if any(self._given):
            self._check_given()
            self._keep_apart()
        self.results: list[Dense] = []
        self.is_movable = not (program.sizes_from_data or program.compiled.caches or self._copies
                               or any(t.room is not None for t in inputs))
        if not program.sizes_from_data:
            self.results = self._places(old)
            self._addresses = [tensor.address for tensor in (*self._inputs, *self.results)]
            self._extents = [tensor.nbytes for tensor in (*self._inputs, *self.results)]

    def blank(self) -> BoundRun:
        """A run like this one, if it `is_movable`, that holds nobody's memory; `again` makes runs of it."""
        return self._like([t.elsewhere(_NOWHERE) for t in self._inputs], [t.elsewhere(_NOWHERE) for t in self.results])

    def again(self, wanted: Sequence[int]) -> BoundRun:
        """A copy of a `blank` run, which `reads` and `writes` have still to give memory for all inputs and the outputs
        at the positions `wanted`."""
        run = self._like([*self._inputs], self.results)
        for position in range(len(self.results)):
            if position not in wanted:
                run.writes(position, None)
        return run

    def _like(self, inputs: list[Dense], results: list[Dense]) -> BoundRun:
        run = object.__new__(BoundRun)
        run.program, run._binding, run._extents, run.is_movable = self.program, self._binding, self._extents, True
        run._inputs, run.results, run._sources = inputs, results, ()
        run._given, run._grown, run._ends, run._copies = [None] * len(results), {}, [], []
        run._arrays, run._addresses, run._may_meet = {}, [0] * len(self._extents), True
        return run

    def reads(self, position: int, value: object) -> bool:
        """Takes other memory for an input, that of a tensor or an array: whether that is all that it takes, as type and
        shape are those of the one before. If not, another run has to be made in place of this one."""
        before = self._inputs[position]
        if not self.is_movable:
            return value is before
        if type(value) is np.ndarray:
            if not (value.dtype is before.dtype.numpy and value.shape == before.shape and in_plain_order(value)
                    and before.dtype.bits >= 8):
                return False
            if before.buffer is not _NOWHERE:       # it stays for its form, and holds no memory meanwhile
                self._inputs[position] = before.elsewhere(_NOWHERE)
            self._arrays[position], self._addresses[position] = value, address_of(value)
        elif _is_of_form(value, before):
            self._inputs[position], self._addresses[position] = value, value.address
        else:
            return False
        self._may_meet = True
        return True

    def writes(self, position: int, given: object | None) -> bool:
        """The same for an output, whose memory is that of a tensor; None is memory made anew."""
        if not self.is_movable:
            return False
        before = self.results[position]
        if given is None:
            place = before.elsewhere(Buffer.new(before.nbytes, f"output '{self._name(position)}'"))
        elif _is_of_form(given, before) and given.buffer.writable:
            place = given
        else:
            return False
        self.results = [*self.results]      # the list before belongs to whoever got it
        self._given[position], self.results[position] = None if given is None else place, place
        self._addresses[len(self._inputs) + position] = place.address
        self._may_meet = True
        return True

    def is_apart(self) -> bool:
        """Whether no output lies where an input or another output does: only then it may run."""
        if self._may_meet:
            self._may_meet = not _are_apart(self._addresses, self._extents, len(self._inputs))
        return not self._may_meet

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


def _are_apart(addresses: list[int], extents: list[int], inputs: int) -> bool:
    """Whether none of the outputs, which stand behind as many `inputs`, shares a byte with one of these or another."""
    if len(addresses) == inputs + 1:
        begin, end = addresses[inputs], addresses[inputs] + extents[inputs]
        for i in range(inputs):  # noqa: SIM110, a generator takes twice the time
            if addresses[i] < end and begin < addresses[i] + extents[i]:
                return False
        return True
    written, taken = 0, 0       # where the outputs and where all tensors end that begin before the next one
    for begin, extent, position in sorted(zip(addresses, extents, itertools.count())):
        if extent and begin < (taken if position >= inputs else written):
            return False
        taken = max(taken, begin + extent)
        written = max(written, begin + extent) if position >= inputs else written
    return True


def _is_of_form(tensor: object, other: Dense) -> TypeGuard[Dense]:
    """Whether native code that works on `other` may work on this in its place."""
    return (type(tensor) is Dense and tensor.shape == other.shape and tensor.dtype is other.dtype
            and tensor.room is None and not (tensor.address & 15 and _is_astray(tensor.address, tensor.dtype)))


def _span(tensor: Dense) -> int:
    """Bytes from the tensor's first to at least its last."""
    return tensor.nbytes if tensor.room is None else tensor.buffer.nbytes


def _is_astray(address: int, dtype: DType) -> bool:
    return address % max(1, dtype.bits // 8) != 0


def _braces(shape: Sequence[int]) -> str:
    return f"{{{','.join(map(str, shape))}}}"
