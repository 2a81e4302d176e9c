"""Activation functions: compositions of elementwise ops, done in the wide type of their input and rounded once."""

from __future__ import annotations

import math

from onnxc.ir.core import Value
from onnxc.ir.types import F64
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.elementwise import plain
from onnxc.lowerings.table import lowering

__all__: list[str] = []

plain("Tanh", "tanh", "input")
plain("Sigmoid", "sigmoid", "X")


@lowering
def Relu(b: Lowering, X: Value) -> Value:
    return b.map("max", X, b.scalar(0, X))


@lowering
def LeakyRelu(b: Lowering, X: Value, *, alpha: float = 0.01) -> Value:
    return b.wide(lambda x: _negative(b, x, b.map("mul", x, b.scalar(alpha, x))), X)


@lowering
def PRelu(b: Lowering, X: Value, slope: Value) -> Value:
    steep = b.spread(slope, b.shape(X))
    return X if b.dtype(X).kind == "uint" else _negative(b, X, b.map("mul", X, steep))


def _negative(b: Lowering, x: Value, y: Value) -> Value:
    """`y` where x < 0, `x` elsewhere and where x is NaN."""
    return b.map("select", b.map("lt", x, b.scalar(0, x)), y, x)


@lowering
def Elu(b: Lowering, X: Value, *, alpha: float = 1.0) -> Value:
    return b.wide(lambda x: _negative(b, x, b.map("mul", b.map("expm1", x), b.scalar(alpha, x))), X)


@lowering
def Selu(b: Lowering, X: Value, *, alpha: float = 1.67326319217681884765625,
         gamma: float = 1.05070102214813232421875) -> Value:
    def body(x: Value) -> Value:
        low = b.map("mul", b.map("expm1", x), b.scalar(alpha, x))
        return b.map("mul", _negative(b, x, low), b.scalar(gamma, x))
    return b.wide(body, X)


@lowering
def Celu(b: Lowering, X: Value, *, alpha: float = 1.0) -> Value:
    def body(x: Value) -> Value:
        a = b.scalar(alpha, x)
        return _negative(b, x, b.map("mul", b.map("expm1", b.map("div", x, a)), a))
    return b.wide(body, X)


@lowering
def ThresholdedRelu(b: Lowering, X: Value, *, alpha: float = 1.0) -> Value:
    return b.wide(lambda x: b.map("select", b.map("gt", x, b.scalar(alpha, x)), x, b.scalar(0, x)), X)


def _unit(b: Lowering, x: Value) -> Value:
    """Clamped to [0, 1]."""
    return b.map("min", b.map("max", x, b.scalar(0, x)), b.scalar(1, x))


def _line(b: Lowering, x: Value, slope: float, offset: float) -> Value:
    return b.map("add", b.map("mul", x, b.scalar(slope, x)), b.scalar(offset, x))


@lowering
def HardSigmoid(b: Lowering, X: Value, *, alpha: float = 0.2, beta: float = 0.5) -> Value:
    return b.wide(lambda x: _unit(b, _line(b, x, alpha, beta)), X)


@lowering
def HardSwish(b: Lowering, X: Value) -> Value:
    return b.wide(lambda x: b.map("mul", x, _unit(b, _line(b, x, 1 / 6, 0.5))), X)


def _softplus(b: Lowering, x: Value) -> Value:
    """log(1 + exp(x)) without overflow: max(x, 0) + log1p(exp(-|x|))."""
    tail = b.map("log1p", b.map("exp", b.map("neg", b.map("abs", x))))
    return b.map("add", b.map("max", x, b.scalar(0, x)), tail)


@lowering
def Softplus(b: Lowering, X: Value) -> Value:
    return b.wide(lambda x: _softplus(b, x), X)


@lowering
def Softsign(b: Lowering, input: Value) -> Value:
    return b.wide(lambda x: b.map("div", x, b.map("add", b.map("abs", x), b.scalar(1, x))), input)


@lowering
def Mish(b: Lowering, X: Value) -> Value:
    return b.wide(lambda x: b.map("mul", x, b.map("tanh", _softplus(b, x))), X)


def _swish(b: Lowering, x: Value, alpha: float) -> Value:
    scaled = x if alpha == 1.0 else b.map("mul", x, b.scalar(alpha, x))
    return b.map("mul", x, b.map("sigmoid", scaled))


@lowering
def Swish(b: Lowering, X: Value, *, alpha: float = 1.0) -> Value:
    return b.wide(lambda x: _swish(b, x, alpha), X)


@lowering
def SwiGLU(b: Lowering, A: Value, B: Value, *, alpha: float = 1.0) -> Value:
    return b.wide(lambda x: b.map("mul", _swish(b, x, alpha), b.widen(B)), A)


@lowering
def Gelu(b: Lowering, X: Value, *, approximate: str = "none") -> Value:
    if approximate not in ("none", "tanh"):
        b.refuse(f"approximate '{approximate}' is neither 'none' nor 'tanh'")
    return b.wide(lambda x: _gelu_tanh(b, x) if approximate == "tanh" else _gelu_erf(b, x), X)


def _gelu_erf(b: Lowering, x: Value) -> Value:
    """x/2 * (1 + erf(x / sqrt 2))."""
    bent = b.map("erf", b.map("mul", x, b.scalar(math.sqrt(0.5), x)))
    return b.map("mul", b.map("mul", x, b.scalar(0.5, x)), b.map("add", bent, b.scalar(1, x)))


def _gelu_tanh(b: Lowering, x: Value) -> Value:
    """x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))."""
    cube = b.map("mul", b.map("mul", x, x), b.map("mul", x, b.scalar(0.044715, x)))
    bent = b.map("tanh", b.map("mul", b.map("add", x, cube), b.scalar(math.sqrt(2 / math.pi), x)))
    return b.map("mul", b.map("mul", x, b.scalar(0.5, x)), b.map("add", bent, b.scalar(1, x)))


@lowering
def Shrink(b: Lowering, input: Value, *, bias: float = 0.0, lambd: float = 0.5) -> Value:
    def body(x: Value) -> Value:
        inner = b.map("select", b.map("gt", x, b.scalar(lambd, x)), b.map("sub", x, b.scalar(bias, x)), b.scalar(0, x))
        return b.map("select", b.map("lt", x, b.scalar(-lambd, x)), b.map("add", x, b.scalar(bias, x)), inner)
    if b.dtype(input).is_integer:                  # the threshold and the bias are fractions all the same
        return b.cast(body(b.cast(input, F64)), b.dtype(input))
    return b.wide(body, input)


# ---- along an axis -------------------------------------------------------------------------------------------------
@lowering
def Softmax(b: Lowering, input: Value, *, axis: int = -1) -> Value:
    at = b.axis(axis, input)

    def body(x: Value) -> Value:
        raised = b.map("exp", b.map("sub", x, b.reduce(x, "max", [at])))
        # One division a row: an element is rounded twice, and divisions cost as much as the exponentials.
        return b.map("mul", raised, b.map("recip", b.reduce(raised, "add", [at])))
    return b.wide(body, input)


@lowering
def LogSoftmax(b: Lowering, input: Value, *, axis: int = -1) -> Value:
    at = b.axis(axis, input)

    def body(x: Value) -> Value:
        shifted = b.map("sub", x, b.reduce(x, "max", [at]))
        return b.map("sub", shifted, b.map("log", b.reduce(b.map("exp", shifted), "add", [at])))
    return b.wide(body, input)


@lowering
def Hardmax(b: Lowering, input: Value, *, axis: int = -1) -> Value:
    at, shape = b.axis(axis, input), b.shape(input)
    first = b.value("t.argreduce", input, kind="max", axis=at, last=False)
    first = b.reshape(first, tuple(1 if i == at else d for i, d in enumerate(shape)))
    hit = b.map("eq", b.iota(shape[at], len(shape), at), first)
    return b.map("select", hit, b.scalar(1, input), b.scalar(0, input))
