"""`IOBinding`: inputs and outputs of a session tied to memory, for runs that read and write there; and runs on
OrtValues, which are the same with memory for the outputs made anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxc.errors import InvalidArgument
from onnxc.ir.types import STR
from onnxc.runtime.addresses import in_plain_order
from onnxc.runtime.bound import BoundRun
from onnxc.runtime.buffers import Buffer, Dense, nbytes_of
from onnxc.runtime.devices import require_cpu
from onnxc.runtime.feeds import wanted_outputs
from onnxc.runtime.hosted import HostedProgram
from onnxc.runtime.movable import Form, MovableRun
from onnxc.runtime.ortvalue import OrtValue, OrtValueVector, element_type_of, shape_of
from onnxc.runtime.programs import Variant

if TYPE_CHECKING:
    from onnxc.runtime.session import Session

__all__ = ["BindingError", "IOBinding", "SessionIOBinding", "run_with_ort_values"]

Array = npt.NDArray[Any]

#: The element types of arrays that programs read as they are.
_NUMBERS = frozenset(np.dtype(letter) for letter in "?bBhHiIlLqQefd")


class BindingError(InvalidArgument, RuntimeError):
    """A binding that names, types or sizes do not allow: an InvalidArgument as `run` raises it, and a RuntimeError,
    which is what ONNX Runtime raises for bindings."""


Run: TypeAlias = BoundRun | MovableRun


class IOBinding:
    """Ties inputs and outputs of one session to memory. Of what is bound, foreign memory has to outlive the binding;
    arrays and OrtValues are kept alive."""

    def __init__(self, session: Session) -> None:
        self._session, self._owner = session, session._owner
        self._inputs: dict[str, OrtValue | Array] = {}      # arrays of plain numbers as they are
        self._outputs: dict[str, OrtValue | None] = {}      # None: memory is made by the run
        self._made: dict[str, Dense] = {}                   # by runs so far, for outputs without memory of their own
        self._results: list[OrtValue] = []
        self._last: list[Dense] | None = None               # what `_results` were made of
        self._foreign: dict[str, tuple[Any, OrtValue]] = {}     # what was bound by address last
        # A run that has taken all that is bound so far; None where there is none, and one is to be found when it is
        # time to run. The first guess is that tensors will be of the form that the session's last binding had.
        form: Form | None = session._programs.forms.last
        self._run: Run | None = None if form is None else MovableRun(form)

    # ---- inputs ------------------------------------------------------------------------------------------------------

    def bind_cpu_input(self, name: str, arr_on_cpu: Array) -> None:
        """Reads an input from an array: where it lies if it is contiguous, later writes to it included; else a copy."""
        if self._is_taken(name, arr_on_cpu):
            self._inputs[name] = arr_on_cpu
        elif type(arr_on_cpu) is np.ndarray and arr_on_cpu.dtype in _NUMBERS and in_plain_order(arr_on_cpu):
            self._bind_input(name, arr_on_cpu)
        else:
            self._bind_input(name, OrtValue.ortvalue_from_numpy(arr_on_cpu))

    def bind_input(self, name: str, device_type: str, device_id: int, element_type: Any, shape: Sequence[int],
                   buffer_ptr: int) -> None:
        """Reads an input from memory at an address."""
        self.bind_ortvalue_input(name, self._at(name, device_type, device_id, element_type, shape, buffer_ptr))

    def bind_ortvalue_input(self, name: str, ortvalue: OrtValue) -> None:
        """Reads an input from an OrtValue."""
        if self._is_taken(name, ortvalue._content):
            self._inputs[name] = ortvalue
        else:
            self._bind_input(name, ortvalue)

    def _is_taken(self, name: str, content: object) -> bool:
        """Whether the run that there is takes this for an input."""
        run = self._run
        if run is None:
            return False
        position = run.places.get(name)
        if position is not None and run.reads(position, content):
            return True
        self._run = None
        return False

    def _bind_input(self, name: str, value: OrtValue | Array) -> None:
        """Binds what no run has taken yet."""
        _require_text(name)
        if not self._session._feeds.knows(name):
            raise BindingError(f"Failed to find NodeArg with name: {name} in the def list; the inputs are "
                               f"{', '.join(i.name for i in self._session.get_inputs())}")
        self._inputs[name] = value

    def clear_binding_inputs(self) -> None:
        """Forgets what inputs are bound to."""
        self._inputs.clear()
        if self._run is not None and not self._run.forget_inputs():
            self._run = None

    def synchronize_inputs(self) -> None:
        """Nothing to wait for on the CPU."""

    # ---- outputs -----------------------------------------------------------------------------------------------------

    def bind_output(self, name: str, device_type: str = "cpu", device_id: int = 0, element_type: Any = None,
                    shape: Sequence[int] | None = None, buffer_ptr: int | None = None) -> None:
        """Writes an output to memory at an address; without one, to memory that runs make, and that later runs of the
        same shapes write to again. Type and shape belong to an address, and mean nothing without one."""
        if buffer_ptr is None:
            if device_type != "cpu" or device_id:
                require_cpu(device_type, device_id)
            self._bind_output(name, None)
            return
        if element_type is None or shape is None:
            raise ValueError("`element_type` and `shape` are to be provided if pre-allocated memory is provided")
        self._bind_output(name, self._at(name, device_type, device_id, element_type, shape, buffer_ptr))

    def bind_ortvalue_output(self, name: str, ortvalue: OrtValue) -> None:
        """Writes an output to the memory of an OrtValue."""
        content = ortvalue._content
        if type(content) is Dense and (content.room is not None or content.buffer.filled):
            ortvalue._alone()       # where it is to stay
        self._bind_output(name, ortvalue)

    def _bind_output(self, name: str, place: OrtValue | None) -> None:
        _require_text(name)
        run = self._run
        if run is not None:
            position = self._session._positions.get(name)
            if position is None or not run.writes(position, None if place is None else place._content):
                self._run = None
        self._outputs[name] = place
        if self._made:
            self._made.pop(name, None)

    def clear_binding_outputs(self) -> None:
        """Forgets what outputs are bound to, and the results so far."""
        self._outputs.clear()
        self._made.clear()
        self._results, self._last = [], None
        if self._run is not None and not self._run.forget_outputs():
            self._run = None

    def synchronize_outputs(self) -> None:
        """Nothing to wait for on the CPU."""

    def get_outputs(self) -> list[OrtValue]:
        """The bound outputs of the last run, in the order in which they were first bound."""
        return list(self._results)

    def get_outputs_as_ortvaluevector(self) -> OrtValueVector:
        """The same as another type."""
        return OrtValueVector(self._results)

    def copy_outputs_to_cpu(self) -> list[Array]:
        """Copies of the bound outputs as arrays."""
        return [value.numpy().copy() for value in self._results]

    # ---- running -----------------------------------------------------------------------------------------------------

    def run(self, cancel: int = 0) -> None:
        """One run of the session; for `InferenceSession.run_with_iobinding`."""
        try:
            run = self._run
            if run is None or not (run.ready or (self._outputs and run.get_ready())):
                if isinstance(self._session._programs.plain, HostedProgram):
                    self._results = self._run_hosted(cancel)
                    return
                run = self._run = self._prepare()
            results = run.run(cancel)
        except InvalidArgument as error:
            raise BindingError(f"Error in execution: {error.message}") from error
        if results is not self._last:
            self._take(results)

    def _run_hosted(self, cancel: int) -> list[OrtValue]:
        """A run of a program with host steps, whose results have no memory before it; bound memory gets copies."""
        self._require_outputs()
        self._session._feeds.arrange(self._inputs)
        results = run_with_ort_values(self._session, list(self._outputs), self._values(), cancel)
        for (name, place), value in zip(self._outputs.items(), results, strict=True):
            if place is not None and (place.data_type(), place.shape()) != (value.data_type(), value.shape()):
                raise InvalidArgument(f"output '{name}' is bound to {place!r}, but the result is {value!r}")
            if place is not None:
                place.update_inplace(value)
        return [place or value for place, value in zip(self._outputs.values(), results, strict=True)]

    def _require_outputs(self) -> None:
        if not self._outputs:
            raise InvalidArgument("At least one output should be requested.")

    def _take(self, results: list[Dense]) -> None:
        self._last, found = results, []
        for name, place in self._outputs.items():
            if place is None:
                tensor = self._made[name] = results[self._session._positions[name]]
                place = OrtValue.of_tensor(tensor)
            found.append(place)
        self._results = found

    def _values(self) -> dict[str, OrtValue]:
        """The inputs, all as OrtValues."""
        return {name: OrtValue.ortvalue_from_numpy(value) if isinstance(value, np.ndarray) else value
                for name, value in self._inputs.items()}

    def _prepare(self) -> Run:
        session = self._session
        self._require_outputs()
        wanted = wanted_outputs(tuple(self._outputs), session._positions) or []
        given: list[Dense | None] = [None] * len(session._outputs_meta)
        old: list[Dense | None] = [*given]
        for (name, place), i in zip(self._outputs.items(), wanted, strict=True):
            given[i] = None if place is None else place._tensor
            old[i] = self._made.get(name)
        return _prepare_run(session, self._values(), given, old)

    def _at(self, name: str, device_type: str, device_id: int, element_type: Any, shape: Sequence[int],
            address: int) -> OrtValue:
        """A tensor in foreign memory. What was said of it the last time is not looked at again."""
        form = (device_type, device_id, element_type, tuple(shape))
        before, value = self._foreign.get(name, (None, None))
        if value is None or before != form or not address:
            value = _foreign_tensor(name, device_type, device_id, element_type, shape, address)
        elif value._tensor.address != address:
            tensor = value._tensor
            value = OrtValue.of_tensor(tensor.elsewhere(Buffer(int(address), tensor.nbytes)))
        self._foreign[name] = (form, value)
        return value


#: ONNX Runtime has two classes, one around the other; here they are one.
SessionIOBinding = IOBinding


def run_with_ort_values(session: Session, output_names: Any, feed: Mapping[str, OrtValue],
                        cancel: int = 0) -> list[OrtValue]:
    """The outputs called `output_names`, for inputs that are OrtValues; AttributeError for others."""
    values = {name: value._get_c_value() for name, value in feed.items()}
    run: Run | None = _run_of_the_last_form(session, values)
    wanted = None if output_names is None else session._wanted(output_names)
    if run is None:
        session._feeds.check_names(feed)
        if isinstance(session._programs.plain, HostedProgram):
            return _run_hosted(session, wanted, values, cancel)
        nowhere = [None] * len(session._outputs_meta)
        run = _prepare_run(session, values, nowhere, nowhere)
    results = run.run(cancel)
    return [OrtValue.of_tensor(results[i]) for i in (range(len(results)) if wanted is None else wanted)]


def _run_of_the_last_form(session: Session, values: Mapping[str, OrtValue]) -> MovableRun | None:
    """A run with new memory for all outputs, if inputs are of the form that the session's last ones were of, and of
    sizes that were before."""
    form: Form | None = session._programs.forms.last
    if form is None or len(values) != len(form.places):
        return None
    run = MovableRun(form)
    for name, value in values.items():
        position = form.places.get(name)
        if position is None or not run.reads(position, value._content):
            return None
    return run if run.get_ready() else None


def _prepare_run(session: Session, values: Mapping[str, OrtValue], given: Sequence[Dense | None],
                 old: Sequence[Dense | None]) -> Run:
    """A run on `values`, with the memory that is `given` for outputs and otherwise the `old` where that will do. Raises
    InvalidArgument as `run` does."""
    inputs, overridden = _checked(session, values)
    program = session._programs.fitting(Variant(overridden, None), tuple([t.shape for t in inputs]))
    places = {name: i for i, name in enumerate([*session._feeds.required, *overridden])}
    run = BoundRun(program, inputs, given, old, places)
    return run.movable(session._programs.forms, overridden) or run


def _run_hosted(session: Session, wanted: Sequence[int] | None, values: Mapping[str, OrtValue],
                cancel: int) -> list[OrtValue]:
    """A run of a program with host steps."""
    inputs, overridden, _ = session._feeds.prepare({name: value.content() for name, value in values.items()})
    infos = session.get_outputs()
    chosen = range(len(infos)) if wanted is None else wanted
    found = session._programs.get(Variant(overridden, None)).run(inputs, cancel)
    return [OrtValue.of_content(found[i], infos[i].type) for i in chosen]


def _checked(session: Session, values: Mapping[str, OrtValue]) -> tuple[list[Dense], tuple[str, ...]]:
    """The tensors of the inputs in the program's order, then those of the overridden initializers, whose names come
    second. InvalidArgument for a missing or unknown input, or one of a wrong type, rank or size."""
    ordered, overridden = session._feeds.arrange(values)
    for name, value in values.items():
        session._feeds.check(name, value.data_type(), value.shape())
    return [value._tensor for value in ordered], overridden


def _require_text(name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"the name of an input or output is a str, not {name!r}")


def _foreign_tensor(name: str, device_type: str, device_id: int, element_type: Any, shape: Sequence[int],
                    address: int) -> OrtValue:
    """A tensor in foreign memory."""
    require_cpu(device_type, device_id)
    dtype, sizes = element_type_of(element_type), shape_of(shape)
    if dtype == STR:
        raise BindingError(f"'{name}': Only binding non-string Tensors is currently supported")
    nbytes = nbytes_of(dtype, sizes)
    if not address and nbytes:
        raise BindingError(f"'{name}' is bound to a null pointer, but takes {nbytes} bytes of shape {list(sizes)}")
    return OrtValue.of_tensor(Dense(Buffer(int(address), nbytes), dtype, sizes))
