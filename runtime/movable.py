"""Runs whose inputs and outputs may be given other memory: all that a run on bound tensors needs is found once for the
sizes of its inputs, and what is bound then is a comparison and an address for each tensor."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxc.runtime.addresses import address_in_order
from onnxc.runtime.buffers import Buffer, Dense
from onnxc.runtime.program import Binding, NativeProgram

__all__ = ["Form", "Forms", "MovableRun", "Sizes"]

Shape = tuple[int, ...]

_MOST_SIZES = 64
_NOWHERE = Buffer(0, 0)
_WORD = ctypes.sizeof(ctypes.c_int64)


class Sizes:
    """What follows from the sizes of inputs: the program that takes them, its outputs, and the bytes of each tensor.
    Holds nobody's memory."""

    __slots__ = ("binding", "extents", "outputs", "program")

    def __init__(self, program: NativeProgram, binding: Binding, inputs: Sequence[Dense],
                 outputs: Sequence[Dense]) -> None:
        self.program, self.binding = program, binding
        self.outputs = [t.elsewhere(_NOWHERE) for t in outputs]
        self.extents = [t.nbytes for t in (*inputs, *outputs)]


class Form:
    """What all runs on inputs of the same names and types have in common. `places` are the positions of inputs by
    name, `sizes` what was found so far, by the shapes of inputs."""

    def __init__(self, places: Mapping[str, int], inputs: Sequence[Dense], outputs: Sequence[Dense]) -> None:
        self.places = places
        self.inputs, self.outputs = [t.dtype for t in inputs], [t.dtype for t in outputs]
        self.arrays = [None if d.bits < 8 else d.numpy for d in self.inputs]     # which are read as they are
        self.sizes: dict[tuple[Shape | None, ...], Sizes] = {}
        self.no_inputs: list[Any] = [None] * len(inputs)
        self.no_outputs: list[Any] = [None] * len(outputs)
        self.table = ctypes.c_int64 * (len(inputs) + len(outputs))

    def keep(self, shapes: tuple[Shape, ...], sizes: Sizes) -> None:
        if len(self.sizes) >= _MOST_SIZES:
            self.sizes = {}
        self.sizes[shapes] = sizes


class Forms:
    """The forms of one session, by the names of overridden initializers, and the one that was bound last."""

    def __init__(self) -> None:
        self.last: Form | None = None
        self._all: dict[tuple[str, ...], Form] = {}

    def of(self, overridden: tuple[str, ...], places: Mapping[str, int], inputs: Sequence[Dense],
           outputs: Sequence[Dense]) -> Form:
        form = self._all.get(overridden)
        if form is None:
            form = self._all[overridden] = Form(places, inputs, outputs)
        self.last = form
        return form


class MovableRun:
    """A run of a form, for which `reads` and `writes` give the memory. It is `ready` to run when all inputs have some,
    of sizes that are known, and no output lies where another tensor does, which `get_ready` finds out; then outputs
    have memory too."""

    __slots__ = ("_are_fresh", "_form", "_given", "_held", "_inputs_at", "_is_settled", "_made", "_outputs_at",
                 "_shapes", "_sizes", "_table", "places", "ready", "results")

    results: list[Dense]
    _sizes: Sizes

    def __init__(self, form: Form) -> None:
        self._form, self.places = form, form.places
        self._held, self._shapes = form.no_inputs.copy(), form.no_inputs.copy()
        self._given, self._made = form.no_outputs.copy(), form.no_outputs.copy()
        self._table: Any = form.table()         # addresses of inputs and then of outputs
        self._inputs_at = ctypes.addressof(self._table)
        self._outputs_at = self._inputs_at + len(self._held) * _WORD
        # Whether sizes and the memory of outputs are those of what is bound, and whether nobody has seen that memory.
        self._is_settled = self._are_fresh = False
        self.ready = False

    def reads(self, position: int, value: object) -> bool:
        """Takes the memory of a tensor or an array for an input, if it has the form of that. If not, the run is not to
        be made."""
        if type(value) is np.ndarray:
            if value.dtype is not self._form.arrays[position]:
                return False
            address = address_in_order(value)
            if not address:
                return False
        elif type(value) is Dense and value.dtype is self._form.inputs[position] and _is_plain(value):
            address = value.address
        else:
            return False
        shape = value.shape
        if shape != self._shapes[position]:
            self._shapes[position], self._is_settled = shape, False
        self._held[position], self._table[position] = value, address
        self.ready = False
        return True

    def writes(self, position: int, given: object | None) -> bool:
        """The same for an output, whose memory is that of a tensor; None is memory made anew."""
        if given is None:
            self._is_settled = False
        elif not (type(given) is Dense and given.dtype is self._form.outputs[position] and _is_plain(given)
                  and given.buffer.writable):
            return False
        elif self._is_settled and given.shape == self.results[position].shape:
            self.results = [*self.results]      # the list before belongs to whoever got it
            self.results[position], self._table[len(self._held) + position] = given, given.address
        else:
            self._is_settled = False
        self._given[position], self._made[position] = given, None
        self.ready = False
        return True

    def forget_inputs(self) -> bool:
        """Lets go of the memory of inputs; True, as other memory may be given."""
        self._held, self._shapes = self._form.no_inputs.copy(), self._form.no_inputs.copy()
        self._is_settled = self.ready = False
        return True

    def forget_outputs(self) -> bool:
        """Lets go of the memory of outputs; True, as other memory may be given."""
        self._given, self._made, self.results = self._form.no_outputs.copy(), self._form.no_outputs.copy(), []
        self._is_settled = self.ready = False
        return True

    def get_ready(self) -> bool:
        """Makes memory for outputs that have none of their own; whether it may run."""
        if not (self._is_settled or self._settle()):
            return False
        if not (self._are_fresh or _are_apart(self._table[:], self._sizes.extents, len(self._held))):
            return False
        self._are_fresh, self.ready = False, True
        return True

    def _settle(self) -> bool:
        sizes = self._form.sizes.get(tuple(self._shapes))
        if sizes is None:
            return False
        made, results, fresh = self._made, [], 0
        for position, form in enumerate(sizes.outputs):
            place = self._given[position] or made[position]
            if place is None or (place.shape != form.shape and place is made[position]):
                name, _ = sizes.program.outputs[position]
                place = made[position] = form.elsewhere(Buffer.new(form.nbytes, f"output '{name}'"))
                fresh += 1
            elif place.shape != form.shape:
                return False
            results.append(place)
            self._table[len(self._held) + position] = place.address
        self._sizes, self.results = sizes, results
        self._is_settled, self._are_fresh = True, fresh == len(results)
        return True

    def run(self, cancel: int = 0) -> list[Dense]:
        """The outputs. `cancel` is the address of an i32 word that stops the run when it becomes non-zero."""
        sizes = self._sizes
        sizes.program.run_at(sizes.binding, self._inputs_at, self._outputs_at, cancel)
        return self.results


def _is_plain(tensor: Dense) -> bool:
    """Whether native code may work on the tensor where it lies, without room."""
    return tensor.room is None and not (tensor.address & 15 and tensor.is_astray)


def _are_apart(addresses: list[int], extents: list[int], inputs: int) -> bool:
    """Whether none of the outputs, which stand behind as many `inputs`, shares a byte with one of these or another."""
    if len(addresses) == inputs + 1:
        begin = addresses[inputs]
        end = begin + extents[inputs]
        for i in range(inputs):
            at = addresses[i]
            if at < end and begin < at + extents[i]:
                return False
        return True
    written, taken = 0, 0       # where the outputs and where all tensors end that begin before the next one
    for begin, extent, position in sorted(zip(addresses, extents, itertools.count())):
        if extent and begin < (taken if position >= inputs else written):
            return False
        taken = max(taken, begin + extent)
        written = max(written, begin + extent) if position >= inputs else written
    return True
