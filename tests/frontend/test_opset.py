"""Opset upgrade: no version of an operator goes by unseen, and what a step makes computes what the old op computed."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxc import errors
from onnxc.frontend import import_model, loaded_proto
from onnxc.frontend.opset import COMPATIBLE, STEPS
from onnxc.ir.core import Module
from tests.frontend.onnx_level import run_onnx_runtime, run_reference, to_model

f32, i64 = np.float32, np.int64


def versions() -> dict[str, list[onnx.defs.OpSchema]]:
    """All schemas by IR name, oldest first."""
    out: dict[str, list[onnx.defs.OpSchema]] = defaultdict(list)
    for s in onnx.defs.get_all_schemas_with_history():
        out[f"onnx.{s.domain}.{s.name}" if s.domain else f"onnx.{s.name}"].append(s)
    return {k: sorted(v, key=lambda s: s.since_version) for k, v in out.items()}


def compatible() -> dict[tuple[str, int], str]:
    """COMPATIBLE as (IR name, version) -> reason."""
    rows: dict[tuple[str, int], str] = {}
    for reason, text in COMPATIBLE.items():
        for entry in text.split(";"):
            name, *numbers = entry.split()
            for n in numbers:
                assert (f"onnx.{name}", int(n)) not in rows, f"{name} {n} is listed twice"
                rows[f"onnx.{name}", int(n)] = reason
    return rows


def test_every_version_has_a_step_or_a_reason() -> None:
    history = {(name, s.since_version) for name, schemas in versions().items() for s in schemas[1:]}
    steps = {(name, v) for name, by_version in STEPS.items() for v in by_version}
    rows = compatible().keys()
    assert history - steps - rows == set(), "new versions of operators: decide what they need"
    assert steps & rows == set()
    assert (steps | rows) - history == set(), "rows for versions that do not exist"


def _arguments(s: onnx.defs.OpSchema) -> tuple[list, list, dict]:
    return ([(p.name, p.option) for p in s.inputs], [(p.name, p.option) for p in s.outputs],
            {n: (a.type, a.required, a.default_value.SerializeToString()) for n, a in s.attributes.items()})


def test_what_is_called_compatible_has_a_compatible_form() -> None:
    rows = compatible()
    for name, schemas in versions().items():
        for old, new in itertools.pairwise(schemas):
            reason = rows.get((name, new.since_version), "")
            (old_in, old_out, old_attrs), (new_in, new_out, new_attrs) = _arguments(old), _arguments(new)
            where = f"{name} {old.since_version} -> {new.since_version}"
            if reason.startswith("more element types"):
                assert (old_in, old_out, old_attrs) == (new_in, new_out, new_attrs), where
            elif "was added" in reason:
                assert new_in[:len(old_in)] == old_in and new_out[:len(old_out)] == old_out, where
                assert all(new_attrs.get(n) == a for n, a in old_attrs.items()), where
                optional = onnx.defs.OpSchema.FormalParameterOption.Optional
                assert all(o == optional for _, o in new_in[len(old_in):] + new_out[len(old_out):]), where
                assert not any(required for n, (_, required, _) in new_attrs.items() if n not in old_attrs), where


def old_model(op: str, opset: int, feeds: list[np.ndarray | None], outputs: int = 1, domain: str = "",
              out_type: int | None = None, **attrs: object) -> onnx.ModelProto:
    """A model of one node in an old opset; all present operands are inputs."""
    names = [f"x{i}" if f is not None else "" for i, f in enumerate(feeds)]
    given = [(n, f) for n, f in zip(names, feeds, strict=True) if f is not None]
    inputs = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(f.dtype), f.shape) for n, f in given]
    outs = [f"y{i}" for i in range(outputs)]
    infos = [helper.make_empty_tensor_value_info(o) if out_type is None else
             helper.make_tensor_value_info(o, out_type, None) for o in outs]
    node = helper.make_node(op, names, outs, name="node", domain=domain, **attrs)
    graph = helper.make_graph([node], "g", inputs, infos)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, opset)] if not domain else
                             [helper.make_opsetid("", 13), helper.make_opsetid(domain, opset)], ir_version=7)


def upgraded(model: onnx.ModelProto) -> Module:
    return import_model(loaded_proto(model))


def run_upgraded(model: onnx.ModelProto, feeds: list[np.ndarray | None]) -> list[np.ndarray]:
    return run_onnx_runtime(to_model(upgraded(model)), [f for f in feeds if f is not None])


def rand(*shape: int, dtype: type = f32) -> np.ndarray:
    r = np.random.default_rng(7).standard_normal(shape)
    return (r * 4).astype(dtype)


X = rand(2, 3, 4)
IMAGE = rand(1, 2, 4, 6)
INF = np.array([-np.inf, -1.5, 0, np.nan, 2.5, np.inf], f32)

#: op, opset, feeds, attributes, number of outputs: run by ONNX Runtime in the old form and in the new one.
AGAINST_ONNX_RUNTIME = [
    ("Clip", 6, [INF], {"min": -1.0, "max": 2.0}, 1),
    ("Clip", 10, [INF], {"max": 2.0}, 1),
    ("Clip", 10, [INF], {}, 1),
    ("BatchNormalization", 7, [X, *[np.abs(rand(3)) + 0.5] * 4], {"epsilon": 1e-3}, 1),
    ("BatchNormalization", 9, [X, *[np.abs(rand(3)) + 0.5] * 4], {}, 1),
    ("Dropout", 7, [X], {"ratio": 0.3}, 1),
    ("Dropout", 10, [X], {"ratio": 0.3}, 1),
    ("Hardmax", 11, [X], {"axis": 1}, 1),
    ("Hardmax", 11, [X], {"axis": 0}, 1),
    ("Hardmax", 12, [X], {"axis": -1}, 1),
    ("LogSoftmax", 11, [X], {"axis": 0}, 1),
    ("LogSoftmax", 12, [X], {"axis": -2}, 1),
    ("Softmax", 7, [X], {}, 1),
    ("Softmax", 9, [X], {"axis": 0}, 1),
    ("Softmax", 9, [X], {"axis": 2}, 1),
    ("Softmax", 11, [X], {"axis": -1}, 1),
    ("Softmax", 11, [X], {"axis": -2}, 1),
    ("Softmax", 11, [rand(5)], {"axis": 0}, 1),
    ("OneHot", 11, [np.array([[0, -1], [7, 2]], i64), np.array([4], i64), np.array([2, 5], f32)], {}, 1),
    ("Pad", 2, [X], {"pads": [0, 1, 2, 0, 0, 1], "value": 1.5}, 1),
    ("Pad", 10, [X], {"pads": [0, 1, 2, 0, 0, -1], "mode": "reflect"}, 1),
    ("ReduceMean", 7, [X], {"axes": [1], "keepdims": 0}, 1),
    ("ReduceMax", 11, [X], {"axes": [-1, 0]}, 1),
    ("ReduceProd", 17, [X], {}, 1),
    ("ReduceL2", 13, [X], {"axes": [0, 1]}, 1),
    ("ReduceSum", 11, [X], {"axes": [2]}, 1),
    ("ReduceSum", 12, [X], {"keepdims": 0}, 1),
    ("Resize", 10, [IMAGE, np.array([1, 1, 2, 1.5], f32)], {"mode": "nearest"}, 1),
    ("Resize", 10, [IMAGE, np.array([1, 1, 2, 1.5], f32)], {"mode": "linear"}, 1),
    ("Resize", 11, [IMAGE, np.zeros(0, f32), np.array([1, 1, 2, 1.5], f32)], {"mode": "linear"}, 1),
    ("Resize", 11, [IMAGE, np.zeros(0, f32), np.zeros(0, f32), np.array([1, 2, 7, 3], i64)], {"mode": "cubic"}, 1),
    ("Resize", 12, [IMAGE, np.zeros(0, f32), np.array([1, 1, 2, 0.5], f32)],
     {"coordinate_transformation_mode": "tf_half_pixel_for_nn", "mode": "nearest", "nearest_mode": "floor"}, 1),
    ("Resize", 12, [IMAGE, np.zeros(0, f32), np.array([1, 1, 1.7, 0.6], f32)],
     {"coordinate_transformation_mode": "tf_half_pixel_for_nn", "mode": "nearest"}, 1),
    ("RoiAlign", 10, [rand(1, 2, 8, 8), np.array([[0, 0, 5, 6.5]], f32), np.zeros(1, i64)],
     {"output_height": 3, "output_width": 3, "spatial_scale": 0.9}, 1),
    ("Scatter", 9, [rand(3, 4), np.array([[0, 2, 1, 0]], i64), rand(1, 4)], {"axis": 0}, 1),
    ("Scatter", 10, [rand(3, 4), np.array([[1], [2]], i64), rand(2, 1)], {"axis": 1}, 1),
    ("Slice", 1, [X], {"starts": [0, -3], "ends": [2**31 - 1, -1], "axes": [1, 2]}, 1),
    ("Slice", 9, [X], {"starts": [1], "ends": [2]}, 1),
    ("Split", 7, [X], {"axis": 2, "split": [1, 3]}, 2),
    ("Split", 11, [X], {"axis": -1}, 2),
    ("Split", 13, [X], {"axis": 1}, 3),
    ("Squeeze", 7, [rand(1, 3, 1)], {"axes": [2]}, 1),
    ("Squeeze", 11, [rand(1, 3, 1)], {}, 1),
    ("TopK", 9, [X], {"k": 2, "axis": 1}, 2),
    ("TopK", 10, [X, np.array([3], i64)], {"axis": -1}, 2),
    ("Unsqueeze", 11, [X], {"axes": [0, -1]}, 1),
    ("Upsample", 7, [IMAGE], {"scales": [1.0, 1.0, 2.0, 3.0], "mode": "nearest"}, 1),
    ("Upsample", 7, [IMAGE], {"scales": [1.0, 1.0, 2.0, 3.0], "mode": "linear"}, 1),
    ("Upsample", 9, [IMAGE, np.array([1, 1, 1.5, 2], f32)], {"mode": "nearest"}, 1),
    ("Gemm", 7, [rand(2, 3), rand(3, 4), rand(4)], {"alpha": 0.5}, 1),
    ("GridSample", 16, [IMAGE, np.clip(rand(1, 3, 3, 2) / 4, -1.2, 1.2)], {"mode": "bilinear"}, 1),
    ("GridSample", 16, [IMAGE, np.clip(rand(1, 3, 3, 2) / 4, -1.2, 1.2)], {"mode": "bicubic"}, 1),
    ("DFT", 17, [rand(1, 8, 1)], {"axis": 1}, 1),
    ("GRU", 7, [rand(3, 2, 4), rand(1, 9, 4), rand(1, 9, 3)], {"hidden_size": 3}, 2),
]


@pytest.mark.parametrize("op,opset,feeds,attrs,outputs", AGAINST_ONNX_RUNTIME,
                         ids=[f"{c[0]}-{c[1]}-{i}" for i, c in enumerate(AGAINST_ONNX_RUNTIME)])
def test_step_against_onnx_runtime(op: str, opset: int, feeds: list, attrs: dict, outputs: int) -> None:
    model = old_model(op, opset, feeds, outputs, **attrs)
    expected = run_onnx_runtime(model, feeds)
    found = run_upgraded(model, feeds)
    for e, f in zip(expected, found, strict=True):
        assert e.dtype == f.dtype and e.shape == f.shape
        # The same arithmetic in another order at most: sums of up to 24 float32 terms.
        np.testing.assert_allclose(f, e, rtol=1e-5, atol=1e-6)


def _mvn(x: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    return x.mean(axes), x.var(axes)


def _legacy(fn: object, a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
    return fn(a, b.reshape(b.shape + (1,) * (a.ndim - axis - b.ndim)))  # type: ignore[operator]


A = rand(2, 3, 4, 5)
B = rand(3, 4)
MEAN, VAR = _mvn(X.astype(np.float64), (0, 2))
SPATIAL = [np.abs(rand(3, 4)) + 0.5 for _ in range(4)]


def _training(x: np.ndarray, s: np.ndarray) -> list[np.ndarray]:
    y = (x - MEAN[:, None]) / np.sqrt(VAR[:, None] + 1e-5) * s[:, None] + s[:, None]
    running = [s * 0.9 + m * 0.1 for m in (MEAN, VAR)]
    return [y, *running, MEAN, VAR]


ONES3 = np.abs(rand(3)) + 0.5

#: op, opset, feeds, attributes, what numpy says: opsets that ONNX Runtime refuses, or has in another form.
AGAINST_NUMPY = [
    ("Add", 6, [A, B], {"broadcast": 1, "axis": 1}, [_legacy(np.add, A, B, 1)]),
    ("Sub", 1, [A, rand(2)], {"broadcast": 1, "axis": 0, "consumed_inputs": [0, 0]},
     [_legacy(np.subtract, A, rand(2), 0)]),
    ("Mul", 6, [A, rand(4, 5)], {"broadcast": 1}, [A * rand(4, 5)]),
    ("Mul", 6, [A, rand(4, 5)], {"broadcast": 1, "axis": 2}, [A * rand(4, 5)]),
    ("Div", 6, [A, np.array(3, f32)], {"broadcast": 1, "axis": 1}, [A / 3]),
    ("Pow", 1, [np.abs(A), B], {"broadcast": 1, "axis": 1}, [_legacy(np.power, np.abs(A), B, 1)]),
    ("Less", 1, [A, B], {"broadcast": 1, "axis": 1}, [_legacy(np.less, A, B, 1)]),
    ("And", 1, [A > 0, B > 0], {"broadcast": 1, "axis": 1}, [_legacy(np.logical_and, A > 0, B > 0, 1)]),
    ("PRelu", 6, [A, rand(3)], {}, [np.where(A < 0, A * rand(3)[:, None, None], A)]),
    ("PRelu", 6, [A, rand(1)], {}, [np.where(A < 0, A * rand(1)[0], A)]),
    ("PRelu", 6, [rand(4), rand(1)], {}, [np.where(rand(4) < 0, rand(4) * rand(1)[0], rand(4))]),
    ("Abs", 1, [X], {"consumed_inputs": [0]}, [np.abs(X)]),
    ("Cast", 1, [X], {"to": "INT32"}, [X.astype(np.int32)]),
    ("Clip", 1, [INF], {"max": 2.0, "consumed_inputs": [0]}, [np.minimum(INF, 2)]),
    ("Concat", 1, [X, X], {}, [np.concatenate([X, X], 1)]),
    ("Dropout", 6, [X], {"is_test": 1}, [X]),
    ("Gemm", 6, [rand(2, 3), rand(3, 4), rand(4)], {"broadcast": 1}, [rand(2, 3) @ rand(3, 4) + rand(4)]),
    ("Pad", 1, [X], {"paddings": [0, 1, 0, 0, 0, 2], "value": 2.0},
     [np.pad(X, ((0, 0), (1, 0), (0, 2)), constant_values=2)]),
    ("Reshape", 1, [X], {"shape": [0, -1], "consumed_inputs": [0]}, [X.reshape(2, -1)]),
    ("Selu", 1, [X], {}, [np.where(X > 0, 1.0507 * X, 1.0507 * 1.6732 * (np.exp(np.minimum(X, 0)) - 1))]),
    ("Split", 1, [X, np.array([1, 2], f32)], {"axis": 1}, None),
    ("Tile", 1, [X, np.float32(2).reshape(1), np.float32(1).reshape(1)], {}, [np.tile(X, (1, 2, 1))]),
    ("TopK", 1, [X], {"k": 1, "axis": 2}, [X.max(2, keepdims=True), X.argmax(2)[..., None]]),
    ("Upsample", 1, [IMAGE], {"height_scale": 2.0, "width_scale": 3.0, "mode": "nearest"},
     [IMAGE.repeat(2, 2).repeat(3, 3)]),
    ("GlobalLpPool", 1, [IMAGE], {"p": 2.0}, [np.sqrt((IMAGE ** 2).sum((2, 3), keepdims=True))]),
    ("BatchNormalization", 6, [X, *[ONES3] * 4], {"is_test": 1},
     [(X - ONES3[:, None]) / np.sqrt(ONES3[:, None] + 1e-5) * ONES3[:, None] + ONES3[:, None]]),
    ("BatchNormalization", 7, [X, *SPATIAL], {"spatial": 0},
     [(X - SPATIAL[2]) / np.sqrt(SPATIAL[3] + 1e-5) * SPATIAL[0] + SPATIAL[1]]),
    ("BatchNormalization", 9, [X, *[ONES3] * 4], {}, _training(X, ONES3)),
    ("BatchNormalization", 9, [X, *[ONES3] * 4], {}, _training(X, ONES3)[:3]),
    ("OneHot", 9, [np.array([0, -1, 7, 2], i64), np.array(4, i64), np.array([0, 1], f32)], {},
     [np.array([[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]], f32)]),
    ("Dropout", 7, [X], {}, [X, np.ones_like(X)]),
    ("RNN", 1, [rand(2, 1, 2), rand(1, 3, 2), rand(1, 3, 3)], {"hidden_size": 3, "output_sequence": 1}, None),
    ("GRU", 1, [rand(2, 1, 2), rand(1, 9, 2), rand(1, 9, 3)], {"hidden_size": 3, "direction": "foward"}, None),
]


@pytest.mark.parametrize("op,opset,feeds,attrs,expected", AGAINST_NUMPY,
                         ids=[f"{c[0]}-{c[1]}-{i}" for i, c in enumerate(AGAINST_NUMPY)])
def test_step_against_numpy(op: str, opset: int, feeds: list, attrs: dict, expected: list | None) -> None:
    if expected is None:
        module = upgraded(old_model(op, opset, feeds, 2, **attrs))
        assert not {"output_sequence", "consumed_inputs"} & last_op(module).attrs.keys()
        assert last_op(module).attrs.get("direction", "forward") == "forward"
        return
    model = old_model(op, opset, feeds, len(expected), **attrs)
    for e, f in zip(expected, run_upgraded(model, feeds), strict=True):
        assert e.shape == f.shape
        np.testing.assert_allclose(f, e, rtol=1e-5, atol=1e-5)      # float32 against float64 in places


def last_op(module: Module) -> object:
    return module.main.body.terminator.prev


def test_group_normalization_of_version_18() -> None:
    x, scale, bias = rand(2, 4, 3), np.array([2, 3], f32), np.array([0.5, -1], f32)
    model = old_model("GroupNormalization", 18, [x, scale, bias], num_groups=2)
    g = x.reshape(2, 2, -1).astype(np.float64)
    normal = (g - g.mean(-1, keepdims=True)) / np.sqrt(g.var(-1, keepdims=True) + 1e-5)
    expected = (normal * scale[None, :, None] + bias[None, :, None]).reshape(x.shape)
    found, = run_upgraded(model, [x, scale, bias])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_clip_limits_have_the_type_of_the_data(dtype: type) -> None:
    x = np.array([-9, 0, 9], dtype)
    found, = run_upgraded(old_model("Clip", 6, [x], max=2.0), [x])
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, np.minimum(x, 2))


def test_softmax_of_half_precision_is_computed_in_single() -> None:
    x = rand(2, 3, 4).astype(np.float16)
    names = [op.name for op in upgraded(old_model("Softmax", 9, [x], axis=1)).main.body.ops]
    assert names.count("onnx.Cast") == 1 and "onnx.CastLike" in names


def scan8(sequence_lens: bool, directions: list[int] | None = None) -> onnx.ModelProto:
    """A running sum that adds an outer value, over axis 1, for each sample of a batch."""
    body = helper.make_graph(
        [helper.make_node("Add", ["state", "item"], ["sum"]), helper.make_node("Add", ["sum", "outer"], ["next"]),
         helper.make_node("Identity", ["next"], ["out"])],
        "body", [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("state", "item")],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("next", "out")])
    attrs = {"directions": directions} if directions else {}
    node = helper.make_node("Scan", ["lens" if sequence_lens else "", "init", "x"], ["final", "all"],
                            num_scan_inputs=1, body=body, **attrs)
    inputs = [helper.make_tensor_value_info("init", TensorProto.FLOAT, ["B", 2]),
              helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", "T", 2]),
              helper.make_tensor_value_info("outer", TensorProto.FLOAT, [2])]
    if sequence_lens:
        inputs.append(helper.make_tensor_value_info("lens", TensorProto.INT64, ["B"]))
    graph = helper.make_graph([node], "g", inputs, [helper.make_empty_tensor_value_info(n) for n in ("final", "all")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 8)], ir_version=4)


def test_scan_of_version_8_runs_over_axis_1_of_a_batch() -> None:
    init, x, outer = rand(3, 2), rand(3, 5, 2), rand(2)
    final, every = run_reference(to_model(upgraded(scan8(False))), [init, x, outer])
    expected = init[:, None] + np.cumsum((x + outer).astype(np.float64), 1)
    np.testing.assert_allclose(every, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(final, expected[:, -1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("axis", [4, -4, 10**18, -10**18])
@pytest.mark.parametrize("kind", ["Softmax", "LogSoftmax"])
def test_an_axis_that_is_not_there_is_no_empty_reduction(kind: str, axis: int) -> None:
    with pytest.raises(Exception, match="(?i)split"):
        run_upgraded(old_model(kind, 11, [X], axis=axis), [X])


def test_scan_of_version_8_keeps_its_directions() -> None:
    over_samples = last_op(upgraded(scan8(False, [1])))
    over_time = over_samples.regions[0].first
    assert "scan_input_directions" not in over_samples.attrs
    assert over_time.attrs["scan_input_directions"] == (1,)


@pytest.mark.parametrize("model,words", [
    (scan8(True), "sequence_lens"),
    (old_model("GlobalLpPool", 1, [IMAGE], p=1.5), "p is 1.5"),
    (old_model("LpPool", 1, [IMAGE], p=float("nan"), kernel_shape=[2, 2]), "p is nan"),
    (old_model("Cast", 1, [IMAGE], to="REAL"), "'to' is REAL"),
    (old_model("Resize", 11, [IMAGE, np.zeros(0, f32), np.ones(4, f32)], mode="linear",
               coordinate_transformation_mode="tf_half_pixel_for_nn"), "tf_half_pixel_for_nn"),
    (old_model("BatchNormalization", 7, [X, *SPATIAL], 3, spatial=0), "spatial"),
])
def test_what_cannot_be_said_is_refused_by_name(model: onnx.ModelProto, words: str) -> None:
    with pytest.raises(errors.NotImplemented, match=words):
        upgraded(model)


def test_label_encoder_of_version_1() -> None:
    strings = np.array(["b", "zebra", "a"], object)
    model = old_model("LabelEncoder", 1, [np.zeros(3, i64)], domain="ai.onnx.ml", classes_strings=["a", "b"],
                      default_string="none")
    op = last_op(upgraded(model))
    assert op.attrs["keys_int64s"] == (0, 1) and op.attrs["values_strings"] == ("a", "b")
    text = helper.make_tensor_value_info("x0", TensorProto.STRING, strings.shape)
    node = helper.make_node("LabelEncoder", ["x0"], ["y0"], domain="ai.onnx.ml", classes_strings=["a", "b"])
    graph = helper.make_graph([node], "g", [text], [helper.make_empty_tensor_value_info("y0")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("ai.onnx.ml", 1)], ir_version=7)
    found, = run_upgraded(model, [strings])
    np.testing.assert_array_equal(found, [1, -1, 0])


def test_names_survive_replacement() -> None:
    for model in (old_model("Softmax", 9, [X]), old_model("BatchNormalization", 9, [X, *[ONES3] * 4], 5),
                  old_model("Dropout", 7, [X], 2)):
        values = upgraded(model).main.body.terminator.inputs
        assert values[0].name == "y0"
