"""Gates of the domain com.microsoft, as models with recurrences over positions have them."""

from __future__ import annotations

from onnxc.ir.core import Value
from onnxc.ir.dims import floordiv
from onnxc.ir.types import F32
from onnxc.lowerings.activation import Softplus
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.norm import RMSNormalization
from onnxc.lowerings.table import lowering

__all__: list[str] = []


@lowering("com.microsoft.GatedAdd")
def GatedAdd(b: Lowering, X: Value, Y: Value, gate: Value) -> Value:
    """The product is rounded to the type of X before the sum."""
    return b.map("add", X, b.map("mul", b.spread(Y, b.shape(X)), b.spread(gate, b.shape(X))))


@lowering("com.microsoft.GatedRMSNorm")
def GatedRMSNorm(b: Lowering, X: Value, scale: Value, gate: Value, *, activation: str = "silu",
                 epsilon: float = 1e-5) -> Value:
    """Each group of as many elements as `scale` has is normalised for itself, in f32."""
    if activation not in ("silu", "swish", "sigmoid"):
        b.refuse(f"the activation '{activation}' is none of silu, swish, sigmoid")
    if b.rank(scale) != 1 or not b.rank(X):
        b.refuse(f"a scale of type {b.type(scale)} for an input of type {b.type(X)}")
    (*lead, width), (size,) = b.shape(X), b.shape(scale)
    groups = floordiv(width, size)
    b.guard("eq", groups * size, width, "the last axis is no multiple of the scale's")
    grouped = b.reshape(b.cast(X, F32), (*lead, groups, size))
    normal = b.reshape(RMSNormalization(b, grouped, b.cast(scale, F32), epsilon=epsilon), b.shape(X))
    wide = b.spread(b.cast(gate, F32), b.shape(X))
    bent = b.map("sigmoid", wide)
    if activation != "sigmoid":
        bent = b.map("mul", wide, bent)
    return b.cast(b.map("mul", normal, bent), b.dtype(X))


@lowering("com.microsoft.LinearAttentionGate")
def LinearAttentionGate(make: Lowering, a: Value, dt_bias: Value, decay_scale: Value,
                        b: Value | None = None) -> tuple[Value, Value | None]:
    total = Softplus(make, make.map("add", make.cast(a, F32), dt_bias))
    decay = make.cast(make.map("mul", make.spread(decay_scale, make.shape(a)), total), make.dtype(a))
    if b is None and make.wants(1):
        make.refuse("the second output is asked for without the input `b` that it is made of")
    return decay, None if b is None else make.map("sigmoid", b)


@lowering("com.microsoft.ScaledSiLU")
def ScaledSiLU(b: Lowering, X: Value, scale: Value | None = None, *, alpha: float = 1.0) -> Value:
    """Each step is rounded to the type of X."""
    factor = b.scalar(alpha, F32) if scale is None else b.cast(b.reshape(scale, ()), F32)
    scaled = b.cast(b.map("mul", b.cast(X, F32), factor), b.dtype(X))
    return b.map("mul", scaled, b.map("sigmoid", scaled))
