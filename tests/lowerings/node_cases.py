"""ONNX's own operator cases, run through frontend, lowering and the reference interpreter.

A case is "passed", or "refused: <op>" where a node has no lowering in that form, or text that says what is wrong.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from onnxc.errors import OnnxcError, UnsupportedModel
from onnxc.frontend import import_model, load_model
from onnxc.frontend.inline import expand
from onnxc.ir.dims import evaluate
from onnxc.ir.interp import bind_dims, run_func
from onnxc.ir.verify import verify
from onnxc.lowerings.lower import lower

PASSED = "passed"


@dataclasses.dataclass(frozen=True)
class Case:
    """One case: a model, sets of inputs with expected outputs, tolerances."""

    name: str
    model: onnx.ModelProto
    data: list[tuple[list[Any], list[Any]]]
    rtol: float
    atol: float


@functools.cache
def all_cases() -> tuple[Case, ...]:
    """The operator cases that the installed onnx package generates."""
    from onnx.backend.test.loader import load_model_tests
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = [t for t in load_model_tests(kind="node") if t.model is not None]
    return tuple(Case(t.name, t.model, [([_plain(v) for v in i], [_plain(v) for v in o]) for i, o in t.data_sets],
                      t.rtol, t.atol) for t in loaded)


def _plain(value: Any) -> Any:
    """A value of a case as an array, a list of them, or None."""
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, onnx.SequenceProto):
        return numpy_helper.to_list(value)
    if isinstance(value, onnx.OptionalProto):
        return numpy_helper.to_optional(value)
    return value if value is None or isinstance(value, (list, dict)) else np.asarray(value)


def outcome(case: Case) -> str:
    """What becomes of a case. Inputs that decide shapes are given as constants where they have to be."""
    found = _outcome(case.model, case)
    if found.startswith("refused"):
        found = _outcome(_with_constants(case), case)
    return found.split("\n")[0] if found.startswith("refused") else found


def _outcome(model: onnx.ModelProto, case: Case) -> str:
    try:
        module = import_model(load_model(model.SerializeToString()))
        lower(module, expand)
    except UnsupportedModel as e:
        return f"refused: {e.nodes[0].op_type}\n{e}"
    except OnnxcError as e:
        return f"refused: {type(e).__name__}\n{e}"
    verify(module)
    taken = {a.name for a in module.main.args}
    names = [i.name for i in case.model.graph.input]
    for inputs, outputs in case.data:
        given = [v for n, v in zip(names, inputs, strict=False) if n in taken]
        _hold_guards(module.main, given)
        results = run_func(module, module.main, given)
        for i, (result, expected) in enumerate(zip(results, outputs, strict=True)):
            problem = difference(result, expected, case.rtol, case.atol)
            if problem:
                return f"output {i}: {problem}"
    return PASSED


def _hold_guards(func: Any, inputs: list[Any]) -> None:
    dims = bind_dims([a.type for a in func.args], inputs)
    for kind, left, right, message in func.attrs["guards"]:
        a, b = evaluate(left, dims), evaluate(right, dims)
        assert a == b or (kind == "broadcast" and a == 1), message


def _with_constants(case: Case) -> onnx.ModelProto:
    """The model with its integer inputs of rank 0 and 1 as initializers; the floats too where they are scalars."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    kept = []
    for info, value in zip(case.model.graph.input, case.data[0][0], strict=False):
        if isinstance(value, np.ndarray) and value.ndim <= 1 and (value.dtype.kind in "iu" or value.ndim == 0
                                                                  or "scales" in info.name or "roi" in info.name):
            model.graph.initializer.append(numpy_helper.from_array(value, info.name))
        else:
            kept.append(info)
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return model


def difference(result: Any, expected: Any, rtol: float, atol: float) -> str | None:
    """Where a result is not the expected one; None when it is. Types narrower than f32 may be two steps apart: the
    expected values are rounded after each of several steps."""
    if not isinstance(expected, np.ndarray):
        return None if type(result) is type(expected) and result == expected else f"{result!r}, not {expected!r}"
    if result.dtype != expected.dtype or result.shape != expected.shape:
        return f"{result.dtype}{list(result.shape)}, not {expected.dtype}{list(expected.shape)}"
    if result.dtype.kind in "biuO":
        return None if np.array_equal(result, expected) else "elements differ"
    step = {"float16": 2.0 ** -9, "bfloat16": 2.0 ** -6}.get(result.dtype.name, 0.0)
    # Expected values are sums in f32 themselves: where they cancel, the error is that of the largest elements.
    atol = max(atol, 2.0 ** -21 * float(np.max(np.abs(expected), initial=0, where=np.isfinite(expected)))) \
        if expected.dtype == np.float32 else atol
    got, want = (np.asarray(a, np.complex128 if a.dtype.kind == "c" else np.float64) for a in (result, expected))
    close = np.isclose(got, want, rtol=max(rtol, step), atol=atol, equal_nan=True)
    return None if close.all() else f"{np.count_nonzero(~close)} of {close.size} elements differ"


def outcomes(names: frozenset[str]) -> Iterator[tuple[str, str]]:
    """(name, outcome) of the cases called so."""
    for case in all_cases():
        if case.name in names:
            try:
                yield case.name, outcome(case)
            except Exception as e:
                yield case.name, f"{type(e).__name__}: {e}"
