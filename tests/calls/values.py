"""Steps on OrtValues and bindings."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.calls.feeds import _LAYOUTS, DTYPES, ONNX, SHARED_SIZES, Capsule, Interface, elements, given_for
from tests.calls.world import Pair, Side, World

__all__ = ["STEPS"]


# ---- OrtValues -------------------------------------------------------------------------------------------------------

def value_from_numpy(w: World) -> None:
    element = w.choices.pick(list(DTYPES))
    shape = [w.choices.pick(SHARED_SIZES) for _ in range(w.choices.below(4))]
    array = elements(w.choices, element, shape)
    name, layout = w.choices.pick(_LAYOUTS)
    arrays: dict[str, Any] = {}

    def call(s: Side) -> Any:
        arrays[s.name] = layout(array.copy())
        return s.api.OrtValue.ortvalue_from_numpy(arrays[s.name], *w_device)
    w_device = w.choices.pick(((), ("cpu",), ("cpu", 0))) if w.choices.chance(90) else w.choices.pick(
        (("cuda", 0), ("nope", 0), ("cpu", 1), ("CPU",), ("gpu", 0), ("dml",)))
    pair = w.keep("value", w.both(f"ortvalue_from_numpy({name}{element}{shape}, {w_device})", call))
    if pair is not None and name not in ("masked ", "broadcast ", "read-only "):
        w.keep("array", Pair(arrays["onnxruntime"], arrays["onnxc"], f"{name}{element}{shape}", pair))


def value_of_type(w: World) -> None:
    element = w.choices.pick(["float", "int64", "bool", "bfloat16", "uint8", "float16", "int4", "string",
                              "float8e4m3fn"])
    shape = [w.choices.pick(SHARED_SIZES) for _ in range(w.choices.below(4))]
    form = w.choices.pick(("number", "numpy", "name", "dtype"))
    bad = w.choices.chance(8)
    if bad:
        text, given, shape = w.choices.pick((
            ("99", 99, shape), ("'nope'", "nope", shape), ("None", None, shape), ("negative", 1, [2, -1]),
            ("text in shape", 1, ["a"]), ("float in shape", 1, [1.5]), ("object", object, shape), ("list", [1], shape)))
    else:
        dtype = np.dtype(DTYPES.get(element, np.float32))
        given = {"number": ONNX[element], "numpy": dtype.type, "name": dtype.name, "dtype": dtype}[form]
        text = f"{form} {element}"
    kind = w.choices.pick((list, tuple, np.array)) if not bad else list

    def call(s: Side) -> Any:
        value = s.api.OrtValue.ortvalue_from_shape_and_type(kind(shape), given)
        if value.is_tensor() and value.data_type() != "tensor(string)" and value.tensor_size_in_bytes():
            import ctypes
            ctypes.memset(value.data_ptr(), 0, value.tensor_size_in_bytes())
        return value
    w.keep("value", w.both(f"ortvalue_from_shape_and_type({kind.__name__} {shape}, {text})", call))


def value_with_type(w: World) -> None:
    carrier = w.choices.pick((np.uint8, np.uint16, np.int8, np.int16, np.float32, np.uint32, np.float64, np.bool_))
    number = w.choices.pick((16, 17, 19, 10, 2, 3, 1, 9, 22, 8, 0, 99))
    array = elements(w.choices, {v: k for k, v in DTYPES.items()}[carrier], [w.choices.pick(SHARED_SIZES), 2])
    if number in (21, 22):
        return
    w.keep("value", w.both(f"ortvalue_from_numpy_with_onnx_type({carrier.__name__}{list(array.shape)}, {number})",
                           lambda s: s.api.OrtValue.ortvalue_from_numpy_with_onnx_type(array.copy(), number)))


_NO_VALUES: tuple[tuple[str, Any], ...] = (
    ("list", [1.0]), ("number", 1.0), ("None", None), ("objects", np.array([1, None], object)), ("text", "a"),
    ("scalar", np.float32(1)), ("complex", np.ones(2, np.complex64)), ("times", np.zeros(2, "datetime64[s]")),
    ("long doubles", np.ones(2, np.longdouble)), ("records", np.zeros(2, [("a", "f4")])),
)


def no_value(w: World) -> None:
    text, bad = w.choices.pick(_NO_VALUES)
    how = w.choices.pick(("from_numpy", "from_dlpack", "OrtValue", "with_type"))
    w.both(f"no value {how}({text})", lambda s: {
        "from_numpy": lambda: s.api.OrtValue.ortvalue_from_numpy(bad),
        "from_dlpack": lambda: s.api.OrtValue.from_dlpack(bad),
        "OrtValue": lambda: s.api.OrtValue(bad),
        "with_type": lambda: s.api.OrtValue.ortvalue_from_numpy_with_onnx_type(bad, 1)}[how]())


_QUESTIONS: tuple[tuple[str, Callable[[Any], Any]], ...] = (
    ("shape", lambda v: v.shape()), ("data_type", lambda v: v.data_type()),
    ("element_type", lambda v: v.element_type()),
    ("device_name", lambda v: v.device_name()), ("tensor_size_in_bytes", lambda v: v.tensor_size_in_bytes()),
    ("is_tensor", lambda v: v.is_tensor()), ("is_sparse_tensor", lambda v: v.is_sparse_tensor()),
    ("is_tensor_sequence", lambda v: v.is_tensor_sequence()), ("has_value", lambda v: v.has_value()),
    ("numpy", lambda v: v.numpy()), ("asarray", np.asarray), ("as doubles", lambda v: np.asarray(v, np.float64)),
    ("copy", lambda v: np.array(v, copy=True)), ("as_sparse_tensor", lambda v: v.as_sparse_tensor()),
    ("dlpack device", lambda v: list(v.__dlpack_device__())), ("address", lambda v: type(v.data_ptr()).__name__),
    ("dlpack", lambda v: type(v.__dlpack__()).__name__), ("from_dlpack", np.from_dlpack),
    ("same address", lambda v: v.data_ptr() == v.data_ptr()),
    ("numpy twice", lambda v: np.shares_memory(v.numpy(), v.numpy())),
    ("view of memory", lambda v: v.numpy().ctypes.data == v.data_ptr() or v.numpy().size == 0),
    ("add", lambda v: np.add(v, 1)), ("len", len), ("inner", lambda v: type(v._ortvalue).__name__ != ""),
    ("writable", lambda v: v.numpy().flags.writeable),
)


def ask_value(w: World) -> None:
    if (pair := w.some("value")) is None:
        return
    text, question = w.choices.pick(_QUESTIONS)
    w.both(f"{text}({pair.text[:80]})", lambda s: question(s[pair]))


def value_again(w: World) -> None:
    """Another value over the same memory."""
    if (pair := w.some("value")) is None:
        return
    how = w.choices.pick(("dlpack", "capsule", "OrtValue", "numpy"))
    w.keep("value", w.both(f"again by {how}({pair.text[:80]})", lambda s: {
        "dlpack": lambda: s.api.OrtValue.from_dlpack(s[pair]),
        "capsule": lambda: s.api.OrtValue.from_dlpack(s[pair].__dlpack__()),
        "OrtValue": lambda: s.api.OrtValue(s[pair]._ortvalue),
        "numpy": lambda: s.api.OrtValue.ortvalue_from_numpy(s[pair].numpy())}[how]()))


def update(w: World) -> None:
    if (pair := w.some("value")) is None:
        return
    kind = w.choices.below(10)
    try:
        now = pair.theirs.numpy()
    except Exception:
        return
    if now.dtype == object or not now.flags.writeable or not pair.ours.numpy().flags.writeable:
        return
    element = {np.dtype(v): k for k, v in DTYPES.items()}.get(now.dtype)
    if element is None:
        return
    shape = list(now.shape) if kind < 6 else [*now.shape, 1] if kind < 8 else [now.size + 1]
    array = elements(w.choices, element, shape)
    other = w.some("value") if kind == 9 else None
    if other is not None and other.ours.data_type() != pair.ours.data_type():
        return
    w.both(f"update_inplace({pair.text[:60]}, {element}{shape})",
           lambda s: s[pair].update_inplace(array.copy() if other is None else s[other]))
    w.both(f"numpy({pair.text[:60]})", lambda s: s[pair].numpy())


def write(w: World) -> None:
    """The caller writes to an array that values or bindings share."""
    if (pair := w.some("array")) is None:
        return
    number = w.choices.below(5)

    def call(s: Side) -> Any:
        s[pair][...] = number
        return None if pair.about is None or pair.about.ours is None else s[pair.about].numpy()
    if pair.ours.flags.writeable and pair.theirs.flags.writeable:
        w.both(f"write({pair.text}, {number})", call)


def vectors(w: World) -> None:
    if (pair := w.some("value")) is None or (other := w.some("value")) is None:
        return
    C = "capi.onnxruntime_pybind11_state"

    def call(s: Side) -> Any:
        import importlib
        made = importlib.import_module(f"{s.name}.{C}").OrtValueVector()
        for each in (pair, other):
            made.push_back(s[each]._ortvalue)
        return (len(made), made.element_type_at(0), made.element_type_at(1), list(made.bool_tensor_indices()),
                made[1].data_type(), len(made.to_dlpacks(None)))
    w.both(f"OrtValueVector({pair.text[:50]}, {other.text[:50]})", call)


def sparse(w: World) -> None:
    count, size = w.choices.below(4), w.choices.pick((3, 1, 5))
    values = elements(w.choices, w.choices.pick(("float", "double", "int64", "int32")), [count])
    form = w.choices.pick(("linear", "pairs", "rows", "short"))
    rng = np.random.default_rng(count)

    def call(s: Side) -> Any:
        cpu, make = s.api.OrtDevice.make("cpu", 0), s.api.SparseTensor
        if form == "rows":
            outer = np.array([0] + [count] * size, np.int64)
            made = make.sparse_csr_from_numpy([size, 4], values, rng.integers(0, 4, count), outer, cpu)
        else:
            shape = {"linear": (count,), "pairs": (count, 2), "short": (count + 1,)}[form]
            made = make.sparse_coo_from_numpy([size, 4], values, np.zeros(shape, np.int64), cpu)
        value = s.api.OrtValue.ort_value_from_sparse_tensor(made)
        return (made, value.data_type(), value.is_sparse_tensor(), value.is_tensor(), value.as_sparse_tensor(),
                value.shape() if s.is_ours else made.dense_shape())
    w.both(f"sparse({form}, {values.dtype}[{count}])", call)


# ---- bindings --------------------------------------------------------------------------------------------------------

def new_binding(w: World) -> None:
    session = w.some("session")
    if session is None or not all(i.type.startswith("tensor(") and "string" not in i.type for i in (
            *session.ours.get_inputs(), *session.ours.get_outputs())):
        return
    direct = w.choices.chance(30)
    pair = w.both(f"io_binding({session.about.name})",
                  lambda s: s.api.IOBinding(s[session]) if direct else s[session].io_binding(), session)
    w.keep("binding", pair)


def _bindable(w: World, session: Pair) -> Any:
    args = [*session.ours.get_inputs(), *session.ours.get_overridable_initializers()]
    return w.choices.pick(args) if args else None


def bind_input(w: World) -> None:
    binding = w.some("binding")
    if binding is None or (arg := _bindable(w, binding.about)) is None:
        return
    name = arg.name if w.choices.chance(96) else "nope"
    wrong = w.choices.chance(12)
    sizes = w.sizes
    given = given_for(w.choices, arg, sizes, wrong)
    how = w.choices.pick(("ortvalue", "cpu", "pointer", "ortvalue"))
    arrays: dict[str, Any] = {}

    def call(s: Side) -> Any:
        value = given.make(s)
        value = value.array if isinstance(value, (Interface, Capsule)) else value
        if how == "cpu" or (how == "pointer" and not _is_plain(value)):
            arrays[s.name] = value
            return s[binding].bind_cpu_input(name, value)
        if how == "pointer":
            w.alive.append(value)
            arrays[s.name] = value
            return s[binding].bind_input(name, "cpu", 0, value.dtype.type, value.shape, value.ctypes.data)
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufV" and type(value) is np.ndarray:
            value = s.api.OrtValue.ortvalue_from_numpy(value)
        return s[binding].bind_ortvalue_input(name, value)
    pair = w.both(f"bind {how} input({binding.about.about.name} {name}: {given.text})", call)
    if pair is None:
        w.drop(binding)     # where a call was refused, ONNX Runtime's bindings are of no use any more
    a, b = arrays.get("onnxruntime"), arrays.get("onnxc")
    if pair is not None and _is_plain(a) and _is_plain(b) and a.dtype == b.dtype and a.flags.writeable:
        w.keep("array", Pair(a, b, f"bound {given.text}", None))


def _is_plain(value: Any) -> bool:
    return type(value) is np.ndarray and value.flags.c_contiguous and value.flags.aligned and value.dtype.isnative \
        and value.dtype.kind in "biuf"


def bind_all(w: World) -> None:
    """All inputs, rightly, and outputs, so that most runs of bindings give something."""
    if (binding := w.some("binding")) is None:
        return
    sizes: dict[str, int] = {}
    for arg in binding.about.ours.get_inputs():
        given = given_for(w.choices, arg, sizes, False)

        def call(s: Side, given: Any = given, name: str = arg.name, kind: str = arg.type) -> Any:
            value = given.make(s)
            if isinstance(value, (Interface, Capsule)):
                value = value.array
            if isinstance(value, np.ndarray):
                value = s.api.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value).reshape(value.shape))
            elif not hasattr(value, "data_type"):
                value = s.api.OrtValue.ortvalue_from_numpy(
                    np.array(value, DTYPES[kind[7:-1]]))
            return s[binding].bind_ortvalue_input(name, value)
        w.both(f"bind ortvalue input({binding.about.about.name} {arg.name}: {given.text})", call)
    w.sizes = sizes
    for out in w.choices.some(binding.about.ours.get_outputs(), 70):
        w.ran.discard(id(binding.ours))
        w.both(f"bind_output({binding.about.about.name} {out.name})",
               lambda s, out=out: s[binding].bind_output(out.name))


def bind_output(w: World) -> None:
    if (binding := w.some("binding")) is None:
        return
    outputs = binding.about.ours.get_outputs()
    out = w.choices.pick(outputs)
    name = out.name if w.choices.chance(96) else w.choices.pick(("nope", "x", ""))
    how = w.choices.pick(("plain", "value", "pointer", "device", "typed"))
    element = out.type[7:-1]
    shape = [d if isinstance(d, int) else w.sizes.get(d, 2) for d in out.shape]
    if w.choices.chance(15):
        shape = [d + w.choices.below(2) for d in shape]
    if element not in DTYPES or element == "string":
        how = "plain"
    dtype = DTYPES.get(element)

    def call(s: Side) -> Any:
        b = s[binding]
        if how == "plain":
            return b.bind_output(name)
        if how == "device":
            return b.bind_output(name, "cpu", 0)
        if how == "typed":
            return b.bind_output(name, "cpu", element_type=dtype, shape=shape)
        memory = np.zeros(shape, dtype)
        w.alive.append(memory)
        if how == "value":
            return b.bind_ortvalue_output(name, s.api.OrtValue.ortvalue_from_numpy(memory))
        return b.bind_output(name=name, device_type="cpu", device_id=0, element_type=dtype, shape=tuple(shape),
                             buffer_ptr=memory.ctypes.data)
    w.ran.discard(id(binding.ours))
    w.both(f"bind {how} output({binding.about.about.name} {name} {element}{shape})", call)


def bind_result(w: World) -> None:
    """A result, or any other value, as an input or an output: of this binding or another one."""
    if (binding := w.some("binding")) is None or (value := w.some("value")) is None:
        return
    if (arg := _bindable(w, binding.about)) is None:
        return
    if w.both(f"bind value input({binding.about.about.name} {arg.name}: {value.text[:60]} {value.ours.data_type()})",
              lambda s: s[binding].bind_ortvalue_input(arg.name, s[value])) is None:
        w.drop(binding)


def run_binding(w: World) -> None:
    if (binding := w.some("binding")) is None:
        return
    session = binding.about if w.choices.chance(95) else (w.some("session") or binding.about)
    options = w.some("run options") if w.choices.chance(10) else None
    if options is not None and "gpu_graph_id" in options.text:
        return
    done = w.both(f"run_with_iobinding({session.about.name}{'' if options is None else ', ' + options.text})",
                  lambda s: s[session].run_with_iobinding(s[binding], None if options is None else s[options])
                  or "done")
    if done is None:
        return
    w.ran.add(id(binding.ours))
    results = w.both(f"get_outputs({session.about.name})", lambda s: list(s[binding].get_outputs()), None,
                     session.about.tolerance)
    if results is not None and w.choices.chance(60):
        for i in range(len(results.ours)):
            w.keep("value", Pair(results.theirs[i], results.ours[i], f"output {i} of {session.about.name}"))


def ask_binding(w: World) -> None:
    if (binding := w.some("binding")) is None:
        return
    question = w.choices.pick(("copy_outputs_to_cpu", "get_outputs", "synchronize_inputs", "synchronize_outputs",
                               "clear_binding_inputs", "clear_binding_outputs", "get_outputs_as_ortvaluevector"))
    if "outputs" in question and id(binding.ours) not in w.ran:
        return          # ONNX Runtime gives values without types then, at which it falls over
    w.both(f"{question}({binding.about.about.name})", lambda s: getattr(s[binding], question)(), None,
           binding.about.about.tolerance)


def refuse_binding(w: World) -> None:
    if (binding := w.some("binding")) is None:
        return
    name = binding.about.ours.get_outputs()[0].name
    text, call = w.choices.pick((
        ("bind_output(pointer without shape)", lambda s: s[binding].bind_output(name, "cpu", 0, np.float32, None, 8)),
        ("bind_output(pointer without type)", lambda s: s[binding].bind_output(name, "cpu", 0, None, [1], 8)),
        ("bind_output(unknown device)", lambda s: s[binding].bind_output(name, "tpu")),
        ("bind_output(CPU)", lambda s: s[binding].bind_output(name, "CPU")),
        ("bind_ortvalue_output(array)", lambda s: s[binding].bind_ortvalue_output(name, np.ones(1))),
        ("bind_ortvalue_output(None)", lambda s: s[binding].bind_ortvalue_output(name, None)),
        ("bind_cpu_input(list)", lambda s: s[binding].bind_cpu_input("x", [1.0])),
        ("bind_output(1)", lambda s: s[binding].bind_output(1)),
        ("bind_cpu_input(1)", lambda s: s[binding].bind_cpu_input(1, np.ones(1, np.float32))),
        ("run_with_iobinding(None)", lambda s: s[binding.about].run_with_iobinding(None)),
        ("IOBinding(None)", lambda s: s.api.IOBinding(None)),
    ))
    w.both(text, call)


def drop_value(w: World) -> None:
    """A caller lets go of a value, which a binding may still use."""
    kind = w.choices.pick(("value", "array", "binding"))
    if (pair := w.some(kind)) is not None:
        w.drop(pair)
        del pair
        gc.collect(0)


STEPS: Sequence[tuple[Callable[[World], None], int]] = (
    (value_from_numpy, 5), (value_of_type, 3), (value_with_type, 2), (no_value, 2), (ask_value, 8), (value_again, 4),
    (update, 4), (write, 4), (vectors, 1), (sparse, 1), (new_binding, 6), (bind_input, 8), (bind_all, 8),
    (bind_output, 6), (bind_result, 4), (run_binding, 12), (ask_binding, 4), (refuse_binding, 2), (drop_value, 2),
)
