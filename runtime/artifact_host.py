"""Plans of programs with host steps as part of an artifact's manifest: values of JSON, and arrays and programs that lie
where constants and code do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from onnxc.ir.dims import sym
from onnxc.ir.types import Tensor, dtype_named
from onnxc.runtime.compiled import CompiledModel, Form, HostPlan, HostStep, NativeStep

__all__ = ["PlanReader", "PlanWriter"]

Json = Any


class PlanWriter:
    """Describes plans. `array` and `model` put an array and a program into the file and describe where they lie."""

    def __init__(self, array: Callable[[np.ndarray], Json], model: Callable[[CompiledModel], Json]) -> None:
        self._array, self._model = array, model

    def plan(self, plan: HostPlan) -> Json:
        return {"values": plan.values, "outputs": list(plan.outputs),
                "empty": [None if e is None else [e[0], list(e[1])] for e in plan.empty],
                "constants": [[number, self._any_array(a)] for number, a in plan.constants.items()],
                "steps": [self._native(s) if isinstance(s, NativeStep) else self._host(s) for s in plan.steps]}

    def _native(self, step: NativeStep) -> Json:
        programs = [[[[name, list(sizes)] for name, sizes in form], self._model(compiled)]
                    for form, compiled in step.compiled.items()]
        return {"inputs": list(step.inputs), "outputs": list(step.outputs), "programs": programs}

    def _host(self, step: HostStep) -> Json:
        return {"op": step.op, "loc": step.loc, "inputs": list(step.inputs), "outputs": list(step.outputs),
                "captured": step.captured, "attrs": {key: self._attr(a) for key, a in step.attrs.items()},
                "bodies": {key: self.plan(body) for key, body in step.bodies.items()},
                "promised": [None if t is None else _type_to_json(t) for t in step.promised]}

    def _attr(self, attr: Any) -> Json:
        if attr is None or isinstance(attr, (bool, int, str)):
            return attr
        if isinstance(attr, float):
            return {"float": attr.hex()}
        if isinstance(attr, bytes):
            return {"bytes": attr.hex()}
        if isinstance(attr, np.ndarray):
            return {"array": self._any_array(attr)}
        if isinstance(attr, tuple):
            return [self._attr(item) for item in attr]
        raise TypeError(f"an attribute of type {type(attr).__name__} is no part of a program")

    def _any_array(self, array: np.ndarray) -> Json:
        if array.dtype.hasobject:
            return {"texts": [str(text) for text in array.flat], "shape": list(array.shape)}
        return self._array(array)


class PlanReader:
    """The opposite. Raises TypeError, ValueError or KeyError for what `PlanWriter` does not write."""

    def __init__(self, array: Callable[[Json], np.ndarray], model: Callable[[Json], CompiledModel]) -> None:
        self._array, self._model = array, model

    def plan(self, entry: Mapping[str, Json]) -> HostPlan:
        count = entry["values"]
        steps = tuple(self._native(s) if "programs" in s else self._host(s) for s in entry["steps"])
        constants = {_number(i): self._any_array(a) for i, a in entry["constants"]}
        used = [i for step in steps for i in (*step.inputs, *step.outputs) if i is not None]
        empty = tuple(map(_empty, entry["empty"]))
        plan = HostPlan(steps, constants, _numbers(entry["outputs"]), _number(count), empty)
        if max((*used, *constants, *plan.outputs), default=-1) >= count:
            raise ValueError(f"a step uses a value that is none of the {count}")
        return plan

    def _native(self, entry: Mapping[str, Json]) -> NativeStep:
        programs = {_form(form): self._model(model) for form, model in entry["programs"]}
        inputs, outputs = _numbers(entry["inputs"]), _numbers(entry["outputs"])
        for form, program in programs.items():
            if {len(form), len(program.input_types)} != {len(inputs)} or len(program.output_types) != len(outputs):
                raise ValueError("a native step has other numbers of inputs or outputs than its program")
        return NativeStep(inputs, outputs, None, programs)

    def _host(self, entry: Mapping[str, Json]) -> HostStep:
        attrs = {key: self._attr(a) for key, a in entry["attrs"].items()}
        bodies = {key: self.plan(body) for key, body in entry["bodies"].items()}
        inputs = tuple(None if i is None else _number(i) for i in entry["inputs"])
        promised = tuple(None if t is None else _type_from_json(t) for t in entry["promised"])
        return HostStep(_text(entry["op"]), attrs, inputs, _numbers(entry["outputs"]), _text(entry["loc"]), bodies,
                        _number(entry["captured"]), promised)

    def _attr(self, entry: Json) -> Any:
        if isinstance(entry, list):
            return tuple(map(self._attr, entry))
        if not isinstance(entry, dict):
            return entry
        (kind, content), = entry.items()
        if kind == "array":
            return self._any_array(content)
        return float.fromhex(content) if kind == "float" else bytes.fromhex(content) if kind == "bytes" else \
            _unknown(kind)

    def _any_array(self, entry: Mapping[str, Json]) -> np.ndarray:
        if "texts" not in entry:
            return self._array(entry)
        array = np.empty(len(entry["texts"]), object)
        array[:] = list(map(_text, entry["texts"]))
        return array.reshape(entry["shape"])


def _unknown(kind: str) -> NoReturn:
    raise ValueError(f"{kind!r} is no kind of attribute")


def _type_to_json(t: Tensor) -> Json:
    return [t.dtype.name, None if t.shape is None else [d if isinstance(d, int) else None for d in t.shape]]


def _type_from_json(entry: Sequence[Json]) -> Tensor:
    name, sizes = entry
    return Tensor(dtype_named(name), None if sizes is None else tuple(sym("open") if d is None else _number(d)
                                                                      for d in sizes))


def _form(entry: Sequence[Json]) -> Form:
    return tuple([(dtype_named(name).name, tuple(None if d is None else _number(d) for d in sizes))
                  for name, sizes in entry])


def _empty(entry: Json) -> tuple[str, tuple[int, ...]] | None:
    return None if entry is None else (dtype_named(entry[0]).name, _numbers(entry[1]))


def _numbers(entry: Sequence[Json]) -> tuple[int, ...]:
    return tuple(map(_number, entry))


def _number(entry: Json) -> int:
    if type(entry) is not int or entry < 0:
        raise ValueError(f"{entry!r} is not a number of something")
    return entry


def _text(entry: Json) -> str:
    if not isinstance(entry, str):
        raise TypeError(f"{entry!r} is not a text")
    return entry
