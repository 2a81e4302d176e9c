"""Steps after which an op means what it meant, in another form: attributes become inputs, names and defaults change."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from onnxc.frontend.problems import printable
from onnxc.frontend.steps import Upgrade, step
from onnxc.ir.types import BOOL, Tensor

__all__: list[str] = []

_FLOAT_MAX = float(np.finfo(np.float32).max)


@step("Abs BatchNormalization Ceil Div Elu Exp Floor HardSigmoid InstanceNormalization LeakyRelu Log Max Mean Min Mul "
      "Neg PRelu Reciprocal Relu Sigmoid Sqrt Sub Sum Tanh Add Dropout", 6)
def _drop_consumed_inputs(u: Upgrade) -> None:
    u.take("consumed_inputs")       # a hint for working in place


@step("BatchNormalization", 7)
def _drop_is_test(u: Upgrade) -> None:
    u.take("is_test")


@step("Dropout", 7)
def _dropout_at_inference(u: Upgrade) -> None:
    u.take("is_test")               # whether to train is the caller's choice, and onnxc only infers


@step("Dropout", 10)
def _dropout_mask_is_bool(u: Upgrade) -> list | None:
    if len(u.op.results) < 2:
        return None
    data = u.op.results[0]
    new = u.make_op("Dropout", u.op.operands, [data.type, Tensor(BOOL, None)], **u.op.attrs)
    new.results[0].name = data.name
    mask = u.make("Cast", new.results[1], type=u.like(u.op.operand(0)), to=_onnx_type(u))
    return [new.results[0], mask]


def _onnx_type(u: Upgrade) -> int:
    t = u.op.operand(0).type
    return t.dtype.onnx if isinstance(t, Tensor) else 1


@step("Dropout", 12)
def _dropout_ratio(u: Upgrade) -> None:
    ratio = u.take("ratio")
    if ratio is not None:
        u.set_operand(1, u.const(ratio, np.float32))


@step("Cast", 6)
def _cast_to_number(u: Upgrade) -> None:
    name = u.op.attrs["to"]
    if name not in TensorProto.DataType.keys():  # noqa: SIM118 (an enum wrapper, not a mapping)
        u.refuse(f"'to' is {printable(str(name))}, not the name of an element type")
    u.op.attrs["to"] = TensorProto.DataType.Value(name)


@step("Clip", 6)
def _clip_without_limits(u: Upgrade) -> None:
    u.take("consumed_inputs")
    # Version 6 gives the absent limits a finite default.
    u.op.attrs.setdefault("min", -np.inf)
    u.op.attrs.setdefault("max", np.inf)


@step("Clip", 11)
def _clip_limits(u: Upgrade) -> None:
    for i, (name, default) in enumerate((("min", -_FLOAT_MAX), ("max", _FLOAT_MAX))):
        with np.errstate(over="ignore"):        # half precision: beyond its range is no limit
            limit = np.float64(u.take(name, default)).astype(u.dtype)
        u.set_operand(1 + i, u.const(limit, u.dtype))


@step("Concat", 4)
def _concat_axis(u: Upgrade) -> None:
    u.op.attrs.setdefault("axis", 1)


@step("DFT", 20)
def _dft_axis(u: Upgrade) -> None:
    u.set_operand(2, u.const(u.take("axis", 1)))


@step("Gemm", 7)
def _gemm_broadcast(u: Upgrade) -> None:
    u.take("broadcast")             # always now


@step("GlobalLpPool LpPool", 2)
def _integer_p(u: Upgrade) -> None:
    p = u.take("p", 2.0)
    if not np.isfinite(p) or p != int(p):
        u.refuse(f"p is {p}, not an integer")
    u.op.attrs["p"] = int(p)


@step("GridSample", 20)
def _grid_sample_modes(u: Upgrade) -> None:
    mode = u.op.attrs.get("mode", "bilinear")
    u.op.attrs["mode"] = {"bilinear": "linear", "bicubic": "cubic"}.get(str(mode), mode)


@step("GRU", 3)
def _gru_direction(u: Upgrade) -> None:
    if u.op.attrs.get("direction") == "foward":     # the default was misspelt
        u.op.attrs["direction"] = "forward"


@step("GRU LSTM RNN", 7)
def _drop_output_sequence(u: Upgrade) -> None:
    u.take("output_sequence")       # which outputs are wanted shows in their names
    if u.op.attrs.get("direction") == "foward":
        u.op.attrs["direction"] = "forward"


@step("Pad", 2)
def _pad_paddings(u: Upgrade) -> None:
    u.op.attrs["pads"] = u.take("paddings")


@step("Pad", 11)
def _pad_inputs(u: Upgrade) -> None:
    u.set_operand(1, u.const(u.take("pads")))
    u.set_operand(2, u.const(u.take("value", 0.0), u.dtype))


@step("Squeeze Unsqueeze ReduceSum", 13)
@step("ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSumSquare", 18)
def _axes_input(u: Upgrade) -> None:
    axes = u.take("axes")
    if axes is not None:
        u.set_operand(1, u.const(axes))


@step("Reshape", 5)
def _reshape_input(u: Upgrade) -> None:
    u.take("consumed_inputs")
    u.set_operand(1, u.const(u.take("shape", ())))


@step("Resize", 11)
def _resize_inputs(u: Upgrade) -> None:
    u.op.set_operands([u.op.operand(0), None, u.op.operand(1)])
    u.op.attrs |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


@step("Resize", 13)
def _resize_empty_inputs(u: Upgrade) -> None:
    _drop_unused_scales(u)
    if u.op.attrs.get("coordinate_transformation_mode") == "tf_half_pixel_for_nn":
        _resize_without_tf_half_pixel(u)


@step("Resize", 18)
def _drop_unused_scales(u: Upgrade) -> None:
    """Version 11 could not leave inputs out: a tensor without elements stood for `scales`, and still does in models."""
    if u.operand(3) is not None and u.operand(2) is not None:
        u.set_operand(2, None)
    crops = u.op.attrs.get("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    if not crops and u.operand(1) is not None:
        u.set_operand(1, None)


def _resize_without_tf_half_pixel(u: Upgrade) -> None:
    """The mode reads at (x + 0.5) / scale = h + 0.5, with h the coordinate of half_pixel: choose the rounding of h."""
    rounding = {"floor": "round_prefer_ceil", "round_prefer_floor": "ceil"}
    nearest = str(u.op.attrs.get("nearest_mode", "round_prefer_floor"))
    if u.op.attrs.get("mode", "nearest") != "nearest" or nearest not in rounding:
        u.refuse("coordinate_transformation_mode tf_half_pixel_for_nn was removed, and only its use with mode nearest "
                 f"and rounding {' or '.join(rounding)} can be said otherwise")
    u.op.attrs |= {"coordinate_transformation_mode": "half_pixel", "nearest_mode": rounding[nearest]}


@step("RoiAlign", 16)
def _roi_align_coordinates(u: Upgrade) -> None:
    u.op.attrs.setdefault("coordinate_transformation_mode", "output_half_pixel")


@step("Scatter", 11)
def _rename_scatter(u: Upgrade) -> None:
    u.op.name = "onnx.ScatterElements"


@step("Selu", 6)
def _selu_defaults(u: Upgrade) -> None:
    u.take("consumed_inputs")
    u.op.attrs.setdefault("alpha", float(np.float32(1.6732)))
    u.op.attrs.setdefault("gamma", float(np.float32(1.0507)))


@step("Slice", 10)
def _slice_inputs(u: Upgrade) -> None:
    axes = u.take("axes")
    u.set_operand(1, u.const(u.take("starts")))
    u.set_operand(2, u.const(u.take("ends")))
    if axes is not None:
        u.set_operand(3, u.const(axes))


@step("Split", 13)
def _split_input(u: Upgrade) -> None:
    split = u.take("split")
    if split:
        u.set_operand(1, u.const(split))


@step("Split", 18)
def _split_count(u: Upgrade) -> None:
    if u.operand(1) is None:
        u.op.attrs["num_outputs"] = len(u.op.results)


@step("TopK", 10)
def _topk_input(u: Upgrade) -> None:
    u.set_operand(1, u.const([u.take("k")]))


@step("Upsample", 7)
def _upsample_scales(u: Upgrade) -> None:
    u.op.attrs["scales"] = (1.0, 1.0, u.take("height_scale"), u.take("width_scale"))
    if u.op.attrs.get("mode") == "bilinear":
        u.op.attrs["mode"] = "linear"


@step("Upsample", 9)
def _upsample_input(u: Upgrade) -> None:
    u.set_operand(1, u.const(u.take("scales"), np.float32))


@step("Upsample", 10)
def _upsample_is_resize(u: Upgrade) -> None:
    u.op.name = "onnx.Resize"


@step("LabelEncoder", 2, "ai.onnx.ml")
def _label_encoder_keys(u: Upgrade) -> None:
    classes = u.take("classes_strings", ())
    to_numbers = isinstance(u.op.result.type, Tensor) and u.op.result.type.dtype.kind == "int"
    u.op.attrs["keys_strings" if to_numbers else "values_strings"] = tuple(classes)
    u.op.attrs["values_int64s" if to_numbers else "keys_int64s"] = tuple(range(len(classes)))
