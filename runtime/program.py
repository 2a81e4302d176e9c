"""A compiled program in this process: loaded code, its constants, and the state that runs of it borrow.

One program may run in many threads at once: everything that a run writes is its own. What a caller may feed is checked
before (`runtime/feeds.py`); entry points and their error numbers are documented in `codegen.llvm.program`.
"""

from __future__ import annotations

import ctypes
import dataclasses
import logging
import math
import threading
from collections.abc import Sequence
from time import perf_counter
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from onnxc.config import config
from onnxc.errors import Cancelled, Fail, InvalidArgument, NodeFailed, RuntimeException, while_running
from onnxc.ir.dims import symbols_of
from onnxc.ir.types import DType, Tensor, dtype_of
from onnxc.ops.program import at_most
from onnxc.runtime.addresses import addresses_of
from onnxc.runtime.bind import DimBinder, shape_function
from onnxc.runtime.compiled import CompiledModel
from onnxc.runtime.forked import begin_anew_in_child
from onnxc.runtime.interrupt import call_stoppable, in_main_thread
from onnxc.runtime.loader import NativeModule
from onnxc.runtime.log import LOG, Log
from onnxc.runtime.memory import aligned
from onnxc.runtime.packing import pack, unpack
from onnxc.runtime.profiling import Profile
from onnxc.runtime.threads import ThreadPool, default_threads

__all__ = ["Binding", "NativeProgram"]

Array = npt.NDArray[Any]
Shape = tuple[int, ...]

_I64, _POINTER = ctypes.c_int64, ctypes.c_void_p
_CONTEXT_SLOTS = 4
_POOL, _CANCEL, _PROFILE = 0, 1, 3
_MOST_BINDINGS = 64         # a decode loop makes one a step: old ones go, and making one is cheap
_ALIGN, _PAGE = 64, 4096
_PURPOSE = "the model's intermediate tensors"
_NO_MEMORY = "there is no memory for "      # how native code words that the heap gave none
_LONG = 0.05                # seconds from which on a run in the main thread leaves that thread open to signals

_empty = np.empty


class NativeProgram:
    """Runs a `CompiledModel` on this machine. `overridden` names its inputs beyond those of the signature.

    `threads` counts the caller (None: the setting ONNXC_THREADS, else the processors this process may use); `spin_ns`
    is how long idle workers spin before they sleep, < 0 for the default; `keep_memory` keeps the memory of intermediate
    tensors for the next run; `profile` records runs; `log` is told what nodes refuse; `processors` are those of each
    thread but the caller's, where they may not run on all. Raises LoaderError for code that cannot be loaded.
    """

    def __init__(self, compiled: CompiledModel, overridden: Sequence[str] = (), *, threads: int | None = None,
                 spin_ns: int = -1, keep_memory: bool = True, profile: Profile | None = None,
                 log: Log = LOG.log, processors: Sequence[frozenset[int]] = ()) -> None:
        # The caller's arrays are let go where they had to be moved.
        self.compiled = compiled = dataclasses.replace(compiled, constants=tuple(map(_constant, compiled.constants)))
        self.threads = threads or config().threads or default_threads()
        self._spin_ns, self._arenas_kept, self._log = spin_ns, 2 if keep_memory else 0, log
        self._processors = processors
        names = [*(info.name for info in compiled.signature.inputs), *overridden]
        own = {name for cache in compiled.caches for name in (cache.past_room, cache.present_room)}
        given = [s for s in compiled.symbols if s not in own]
        self._binder = DimBinder(given, compiled.input_types, names)
        self._shapes_of = shape_function(_largest(compiled))
        self._run_names = [name for name, _ in compiled.run_symbols]
        # Data decides how often a loop runs, and nothing bounds it: a short run says nothing about the next one.
        self._varies = any(most is None for _, most in compiled.run_symbols)
        told = {s for t in compiled.output_types for s in symbols_of(t.dims)} & set(self._run_names)
        self._real_shapes = shape_function(compiled.output_types) if told else None
        self._given = [i for i, t in enumerate(compiled.output_types)
                       if any(at_most(d, compiled.run_symbols) is None for d in t.dims)]
        self._outputs = [(info.name, t.dtype) for info, t in zip(compiled.signature.outputs, compiled.output_types,
                                                                 strict=True)]
        self._doubtful = _contradicted(compiled)
        self._constant_table = (_I64 * max(1, len(compiled.constants)))(*[c.ctypes.data for c in compiled.constants])
        self._constants_at = ctypes.addressof(self._constant_table)
        self._inputs = [t.dtype for t in compiled.input_types]
        self._packs = any(t.dtype.bits < 8 for t in (*compiled.input_types, *compiled.output_types))
        self._module = NativeModule(compiled.object_bytes)
        self._plan = self._module.function("onnxc_plan", _I64, _POINTER, _POINTER, _I64)
        run = self._module.function("onnxc_run", _I64, *[_POINTER] * 6, _I64)
        self._run = run if profile is None else profile.watch(compiled, _PROFILE, self.threads, run)
        self._bindings: dict[Any, Binding] = {}       # by the inputs' shapes, and rooms where there are any
        self._last_bound: Binding | None = None
        self._states: list[_State] = []         # all of them; those that no run has are idle
        self._pool: ThreadPool | None = None
        self._peak = 0
        self._start_afresh()
        begin_anew_in_child(self)

    @property
    def runs(self) -> int:
        """How many runs were begun."""
        return sum(state.runs for state in self._states)

    def run(self, inputs: Sequence[Array], cancel: int = 0, times: Array | None = None,
            shapes: tuple[Shape, ...] | None = None) -> list[Array]:
        """The outputs, new arrays, for inputs in the program's order: of its dtypes, C-contiguous and aligned.

        `cancel` is the address of an i32 word that stops the run when it becomes non-zero. `times` i64[steps, 2]
        receives the nanoseconds at which each step began and ended. `shapes` are those of the inputs, where the caller
        knows them. Raises NodeFailed for shapes or values that the model refuses, Cancelled, and MemoryError that says
        what the memory was for.
        """
        if shapes is None:
            shapes = tuple([a.shape for a in inputs])
        binding = self._bindings.get(shapes) or self._bind(shapes)
        try:
            outputs = [_empty(shape, dtype) for shape, dtype in binding.rooms]
        except (MemoryError, ValueError):
            outputs = [self._empty(i, shape) for i, shape in enumerate(binding.shapes)]
        native = [pack(a, dtype) for a, dtype in zip(inputs, self._inputs, strict=True)] if self._packs else inputs
        result, real, given = self._launch(binding, addresses_of([*native, *outputs]), cancel,
                                           0 if times is None else times.ctypes.data)
        if result:
            self._raise(result)
        if self._real_shapes is not None:
            return self._cut([given.get(i, a) for i, a in enumerate(outputs)], real)
        return self._unpacked(outputs, binding.shapes) if self._packs else outputs

    def profile(self, inputs: Sequence[Array]) -> tuple[Array, dict[str, int]]:
        """One run: i64[steps, 2], the nanoseconds at which each step began and ended; and the values of all dims, those
        that the run found among them. Not for use beside other runs."""
        times = np.zeros((len(self.compiled.steps), 2), np.int64)
        self.run(inputs, times=times)
        dims = dict(self._bindings[tuple([a.shape for a in inputs])].dims)
        if self._run_names:
            table = self._idle[-1].own_table
            dims.update(zip(self._run_names, table[len(table) - len(self._run_names):], strict=True))
        return times, dims

    @property
    def outputs(self) -> list[tuple[str, DType]]:
        """Name and element type of each output."""
        return self._outputs

    @property
    def sizes_from_data(self) -> bool:
        """Whether only a run tells how large the outputs are."""
        return self._real_shapes is not None

    def binding(self, shapes: tuple[Shape, ...], rooms: tuple[tuple[str, int], ...] = ()) -> Binding:
        """What follows from the inputs' shapes, and from the `rooms` of caches where they are not their extents. Raises
        InvalidArgument for shapes that the model refuses."""
        return self._bindings.get((shapes, rooms) if rooms else shapes) or self._bind(shapes, rooms)

    def check(self, shapes: tuple[Shape, ...]) -> None:
        """Raises InvalidArgument for shapes of inputs that do not go together."""
        if shapes not in self._bindings:
            self._binder.bind(shapes)

    def rooms(self, shapes: tuple[Shape, ...]) -> dict[str, int]:
        """The symbols of caches' rooms, with the extents that there have to be room for."""
        return self._extents(shapes, self._shapes_of(self._binder.bind(shapes)))

    def _extents(self, shapes: Sequence[Shape], results: Sequence[Shape]) -> dict[str, int]:
        found: dict[str, int] = {}
        for cache in self.compiled.caches:
            found[cache.past_room] = shapes[cache.input][cache.axis]
            found[cache.present_room] = results[cache.output][cache.axis]
        return found

    def run_at(self, binding: Binding, inputs_at: int, outputs_at: int, cancel: int = 0) -> None:
        """A run on memory of the caller's: two tables of the addresses where elements lie as native code has them. For
        programs whose outputs have the sizes that `binding` says; raises what `run` raises."""
        state = self._borrow()
        try:
            result = self._call(state, binding, inputs_at, outputs_at, cancel, 0)
        finally:
            self._give_back(state)
        if result:
            self._raise(result)

    def _launch(self, binding: Binding, addresses: list[int], cancel: int,
                times: int) -> tuple[int, Sequence[Shape], dict[int, Array]]:
        """One call of native code on inputs and outputs, in memory that no other run has meanwhile; also the shapes of
        outputs where data decides them, and those outputs that the program made room for, as flat arrays."""
        state = self._borrow()
        try:
            state.addresses[:] = addresses
            for i in self._given:
                state.addresses[len(self._inputs) + i] = 0
            result = self._call(state, binding, state.inputs_at, state.outputs_at, cancel, times)
            if self._real_shapes is None:
                return result, (), {}
            table = state.own_table
            found = dict(zip(self._run_names, table[len(table) - len(self._run_names):], strict=True))
            real = () if result else self._real_shapes({**binding.dims, **found})
            return result, real, self._taken(state, real)
        finally:
            self._give_back(state)

    def _call(self, state: _State, binding: Binding, inputs_at: int, outputs_at: int, cancel: int, times: int) -> int:
        """The call itself, with a state that is the caller's; what native code gave back."""
        state.runs += 1
        if state.arena_bytes < binding.arena:
            self._enlarge(state, binding.arena)
        context = state.context
        context[_CANCEL], context[_PROFILE] = cancel, times
        values_at = ctypes.addressof(state.table(binding.values)) if self._run_names else binding.values_at
        arguments = (state.context_at, values_at, inputs_at, outputs_at, state.arena_at, self._constants_at,
                     self.threads)
        begin = perf_counter()
        if binding.seconds > _LONG and in_main_thread():
            result = self._run_stoppable(state, arguments, cancel)
        else:
            result = self._run(*arguments)
        if not self._varies:
            binding.seconds = perf_counter() - begin
        return result

    def _run_stoppable(self, state: _State, arguments: tuple[int, ...], cancel: int) -> int:
        """A run that ends soon after a signal handler raised an exception, which is raised when it has ended. The word
        that stops it is its own: the caller's may serve other runs."""
        own = ctypes.c_int32(0)
        theirs = ctypes.c_int32.from_address(cancel) if cancel else None
        state.context[_CANCEL] = ctypes.addressof(own)

        def stop() -> None:
            own.value = 1

        def look() -> None:
            if theirs is not None and theirs.value:
                stop()

        look()
        return call_stoppable(lambda: int(self._run(*arguments)), stop, None if theirs is None else look)

    # ---- what is prepared once a shape -------------------------------------------------------------------------------

    def _bind(self, shapes: tuple[Shape, ...], rooms: tuple[tuple[str, int], ...] = ()) -> Binding:
        compiled = self.compiled
        values = self._binder.bind(shapes)
        if compiled.caches:
            values |= {**self._extents(shapes, self._shapes_of(values)), **dict(rooms)}
        sizes = (_I64 * (len(shapes) + len(self._outputs)))()
        slots = len(compiled.symbols) + len(compiled.run_symbols)
        table = (_I64 * max(1, slots))(*[values[s] for s in compiled.symbols])
        arena = self._plan(ctypes.addressof(table), ctypes.addressof(sizes), self.threads)
        if arena < 0:
            self._refuse(arena, values)
        output_shapes = self._shapes_of(values)
        types = (*compiled.input_types, *compiled.output_types)
        whole = self._with_rooms(shapes, output_shapes, values)
        expected = [t.dtype.nbytes(math.prod(s)) for t, s in zip(types, whole, strict=True)]
        if list(sizes) != expected:
            raise RuntimeException(f"the program plans {list(sizes)} bytes for its inputs and outputs, where their "
                                   f"types take {expected}: the compiled model contradicts itself")
        for i, declared in self._doubtful:
            if not _allows(declared, output_shapes[i]):
                self._log(logging.WARNING, "Expected shape from model of %s does not match actual shape of %s for "
                          "output %s", list(declared), list(output_shapes[i]), self._outputs[i][0])
        arrays = [_room(dtype, shape) for (_, dtype), shape in zip(self._outputs, output_shapes, strict=True)]
        binding = Binding(table, values, int(arena), output_shapes, arrays, sum(sizes))
        last, self._last_bound = self._last_bound, binding
        if last is not None and binding.nbytes <= 2 * last.nbytes:
            binding.seconds = 4 * last.seconds
        with self._lock:
            while len(self._bindings) >= _MOST_BINDINGS:
                del self._bindings[next(iter(self._bindings))]
            self._bindings[(shapes, rooms) if rooms else shapes] = binding
        return binding

    def _with_rooms(self, shapes: Sequence[Shape], results: Sequence[Shape], values: dict[str, int]) -> list[Shape]:
        """The shapes of inputs and outputs as they lie in memory."""
        whole = [*shapes, *results]
        for cache in self.compiled.caches:
            for i, name in ((cache.input, cache.past_room), (len(shapes) + cache.output, cache.present_room)):
                whole[i] = (*whole[i][:cache.axis], values[name], *whole[i][cache.axis + 1:])
        return whole

    def _refuse(self, code: int, values: dict[str, int]) -> NoReturn:
        rooms = {name for cache in self.compiled.caches for name in (cache.past_room, cache.present_room)}
        dims = ", ".join(f"{name} = {value}" for name, value in values.items() if name not in rooms)
        if code < -1:
            self._refused(self.compiled.errors[-2 - code], f" (with {dims})" if dims else "")
        raise InvalidArgument("The model's tensors have negative sizes, or do not fit into memory"
                              f"{f', with {dims}' if dims else ''}.")

    def _empty(self, position: int, shape: Shape) -> Array:
        name, dtype = self._outputs[position]
        try:
            return np.empty(*_room(dtype, shape))
        except (MemoryError, ValueError) as error:
            # NumPy refuses a size beyond its index type with ValueError.
            raise MemoryError(f"no memory for output '{name}' of shape {list(shape)} and type {dtype}") from error

    def _taken(self, state: _State, shapes: Sequence[Shape]) -> dict[int, Array]:
        """Copies of the outputs whose memory the program gave, which is freed; of a run that failed (no `shapes`),
        nothing but that."""
        out: dict[int, Array] = {}
        given = {i: state.addresses[len(self._inputs) + i] for i in self._given}
        try:
            for i, address in given.items() if shapes else ():
                out[i] = self._empty(i, (math.prod(shapes[i]),))
                ctypes.memmove(out[i].ctypes.data, address, out[i].nbytes)
        finally:
            for address in filter(None, given.values()):
                ctypes.CDLL(None).free(ctypes.c_void_p(address))       # the libc that native code allocates with
        return out

    def _cut(self, outputs: list[Array], shapes: Sequence[Shape]) -> list[Array]:
        """The outputs, which have room for the most elements, under the shapes that they turned out to have; copied
        where most of the room would stay unused."""
        found = []
        for array, (_, dtype), shape in zip(outputs, self._outputs, shapes, strict=True):
            if dtype.bits < 8:
                found.append(unpack(array[:dtype.nbytes(math.prod(shape))], dtype, shape))
                continue
            try:
                cut = array.reshape(-1)[:math.prod(shape)].reshape(shape)
            except ValueError as error:     # of nothing, but of more than NumPy counts when the dims of 0 are left out
                raise MemoryError(f"no array has the shape {list(shape)} of an output") from error
            found.append(cut if 2 * cut.size >= array.size else cut.copy())
        return found

    def _unpacked(self, outputs: list[Array], shapes: Sequence[Shape]) -> list[Array]:
        return [unpack(a, dtype, shape) for a, (_, dtype), shape in zip(outputs, self._outputs, shapes, strict=True)]

    def _raise(self, result: int) -> NoReturn:
        if result < 0:
            raise Cancelled
        errors = self.compiled.errors
        if result > len(errors):
            raise Fail(f"The program stopped with error {result}, which it has no message for.")
        message = errors[result - 1]
        if message.startswith(_NO_MEMORY):
            raise MemoryError(message)
        self._refused(message)

    def _refused(self, message: str, more: str = "") -> NoReturn:
        """Raises and logs a program's error message, "node: what is wrong"."""
        node, colon, what = message.partition(": ")
        operators = {label: kind for label, _, _, kind in self.compiled.report.get("nodes", ())}
        error = NodeFailed(while_running(operators.get(node, ""), node if colon else "", (what or message) + more))
        self._log(logging.ERROR, "%s", error.message)
        raise error

    # ---- what runs borrow --------------------------------------------------------------------------------------------

    def _borrow(self) -> _State:
        try:
            return self._idle.pop()
        except IndexError:      # also where another thread took the last one just now
            return self._new_state()

    def _new_state(self) -> _State:
        state = _State(len(self.compiled.input_types), len(self._outputs))
        state.context[_POOL] = self._pool_pointer()
        self._states.append(state)
        return state

    def _enlarge(self, state: _State, nbytes: int) -> None:
        """Gives a state an arena of at least `nbytes`; when there is no memory, idle states give up theirs."""
        room = -(-nbytes // _PAGE) * _PAGE
        state.set_arena(None)
        try:
            arena = aligned(room, _ALIGN, _PURPOSE)
        except MemoryError:
            if not self.release_memory():
                raise
            arena = aligned(room, _ALIGN, _PURPOSE)
        state.set_arena(arena)
        self._peak = max(self._peak, self.arena_bytes)

    def _give_back(self, state: _State) -> None:
        """Idle states with memory stand last, where they are taken first, and there are only so many of them."""
        if not state.arena_bytes:
            self._idle.insert(0, state)
            return
        last = self._idle[-self._arenas_kept:] if self._arenas_kept else []
        if len(last) == self._arenas_kept and all(other.arena_bytes for other in last):
            state.set_arena(None)
        if state.arena_bytes:
            self._idle.append(state)
        else:
            self._idle.insert(0, state)

    @property
    def arena_bytes(self) -> int:
        """Bytes of memory for intermediate tensors that this program holds."""
        return sum(state.arena_bytes for state in self._states)

    def release_memory(self) -> int:
        """Gives up the memory that no run uses now; how many bytes that were."""
        freed = 0
        for state in list(self._idle):
            try:
                self._idle.remove(state)
            except ValueError:      # a run has taken it
                continue
            freed += state.arena_bytes
            state.set_arena(None)
            self._idle.insert(0, state)
        return freed

    def memory(self) -> dict[str, int]:
        """Bytes of constants and code; of intermediate tensors as planned for the shapes used last, held now, and held
        at most so far."""
        planned = next((b.arena for b in reversed(list(self._bindings.values()))), 0)
        return {"constants": sum(c.nbytes for c in self.compiled.constants), "code": len(self.compiled.object_bytes),
                "planned": planned, "held": self.arena_bytes, "peak": self._peak}

    def _pool_pointer(self) -> int:
        if self.threads == 1:
            return 0
        pool = self._pool
        if pool is None:
            with self._lock:
                pool = self._pool = self._pool or ThreadPool(self._module, self.threads, self._spin_ns,
                                                             self._processors, self._log)
        if self._processors:
            with self._lock:
                pool.bind()
        return pool.pointer or 0

    def _start_afresh(self) -> None:
        """A new lock, and states of its own: in a forked child the old ones may be held by threads that do not exist
        there."""
        self._lock = threading.Lock()
        self._idle: list[_State] = []
        self._states = [_State.past(self.runs)]


class Binding:
    """What follows from the inputs' shapes: symbols' values for native code, arena bytes, the outputs' shapes and what
    `np.empty` takes for them, the bytes of inputs and outputs; and how long the last run took, or is expected to take
    at most where there was none."""

    __slots__ = ("arena", "dims", "nbytes", "rooms", "seconds", "shapes", "values", "values_at")

    def __init__(self, values: Any, dims: dict[str, int], arena: int, shapes: tuple[Shape, ...],
                 rooms: list[tuple[Any, Any]], nbytes: int) -> None:
        self.values, self.values_at, self.dims = values, ctypes.addressof(values), dims
        self.arena, self.shapes, self.rooms, self.nbytes = arena, shapes, rooms, nbytes
        self.seconds = math.inf


class _State:
    """What one run at a time writes to: context, address tables, and the memory of intermediate tensors."""

    __slots__ = ("addresses", "arena", "arena_at", "arena_bytes", "context", "context_at", "inputs_at", "outputs_at",
                 "own_table", "runs")

    def __init__(self, inputs: int, outputs: int) -> None:
        self.context = (_I64 * _CONTEXT_SLOTS)()
        self.context_at = ctypes.addressof(self.context)
        self.addresses: Any = (_I64 * (inputs + outputs))()
        self.inputs_at = ctypes.addressof(self.addresses)
        self.outputs_at = self.inputs_at + inputs * ctypes.sizeof(_I64)
        self.own_table: Any = None
        self.runs = 0
        self.set_arena(None)

    @classmethod
    def past(cls, runs: int) -> _State:
        """A state that only remembers how many runs there were."""
        state = cls(0, 0)
        state.runs = runs
        return state

    def set_arena(self, arena: Any) -> None:
        """The arena, a Bytes array or None, which is kept as long as no other is set."""
        self.arena = arena
        self.arena_bytes: int = 0 if arena is None else arena.nbytes
        self.arena_at: int = 0 if arena is None else arena.ctypes.data

    def table(self, values: Any) -> Any:
        """The table of symbols for a run that writes to it."""
        if self.own_table is None:
            self.own_table = type(values)()
        ctypes.memmove(self.own_table, values, ctypes.sizeof(values))
        return self.own_table


def _room(dtype: DType, shape: Shape) -> tuple[Any, Any]:
    """Shape and dtype of the array that native code writes an output to: packed bytes for elements below a byte."""
    return (dtype.nbytes(math.prod(shape)), np.dtype(np.uint8)) if dtype.bits < 8 else (shape, dtype.numpy)


def _largest(compiled: CompiledModel) -> list[Tensor]:
    """The output types with the most elements that they can have."""
    out = []
    for t in compiled.output_types:
        dims = [at_most(d, compiled.run_symbols) for d in t.dims]
        # Where nothing bounds an output, no room is made for it: the program gives its memory.
        out.append(Tensor(t.dtype, (0,) if None in dims else tuple(d for d in dims if d is not None)))
    return out


def _contradicted(compiled: CompiledModel) -> list[tuple[int, Sequence[int | str | None]]]:
    """Outputs, by number, whose declared shape is not what inference finds for all sizes of inputs; without those that
    data decides."""
    declared = [info.shape for info in compiled.signature.outputs]
    told = {name for name, _ in compiled.run_symbols}
    return [(i, shape) for i, (shape, t) in enumerate(zip(declared, compiled.output_types, strict=True))
            if shape is not None and not _allows(shape, t.dims) and not symbols_of(t.dims) & told]


def _allows(declared: Sequence[int | str | None], shape: Sequence[Any]) -> bool:
    return len(declared) == len(shape) and all(d == n for d, n in zip(declared, shape, strict=True)
                                               if isinstance(d, int))


def _constant(array: Array) -> Array:
    """A constant as the program reads it: packed, contiguous, aligned; the array itself when it is so already."""
    packed = np.asarray(pack(array, dtype_of(array.dtype)), order="C")
    if packed.ctypes.data % _ALIGN == 0:
        return packed
    place = aligned(packed.nbytes, _ALIGN, "the model's constants").view(packed.dtype).reshape(packed.shape)
    place[...] = packed
    return place
