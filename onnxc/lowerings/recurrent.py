"""RNN, GRU and LSTM: one contraction of the inputs of all time steps, then a loop over time.

All directions run in one loop, as the first axis of the state: each sees its own steps, 0 being its first one. A
reverse direction reads the sequence turned round (each sequence within its length), and its outputs are turned back
afterwards.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from onnxc.ir.core import Value
from onnxc.ir.dims import Dim, DimLike
from onnxc.ir.types import I64, DType, dtype_named
from onnxc.lowerings import activation
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.table import lowering

__all__ = ["Rows", "lstm"]

Activation = Callable[[Lowering, Value], Value]


# ---- activations ---------------------------------------------------------------------------------------------------
def _affine(b: Lowering, x: Value, *, alpha: float = 1.0, beta: float = 0.0) -> Value:
    return b.map("add", b.map("mul", x, b.scalar(alpha, x)), b.scalar(beta, x))


def _scaled_tanh(b: Lowering, x: Value, *, alpha: float = 1.0, beta: float = 1.0) -> Value:
    return b.map("mul", b.map("tanh", b.map("mul", x, b.scalar(beta, x))), b.scalar(alpha, x))


# name -> what it does, and how many of alpha and beta it takes
_ACTIVATIONS: dict[str, tuple[Callable[..., Value], int]] = {
    "sigmoid": (lambda b, x: b.map("sigmoid", x), 0), "tanh": (lambda b, x: b.map("tanh", x), 0),
    "relu": (activation.Relu, 0), "softsign": (activation.Softsign, 0), "softplus": (activation.Softplus, 0),
    "leakyrelu": (activation.LeakyRelu, 1), "thresholdedrelu": (activation.ThresholdedRelu, 1), "elu": (activation.Elu,
        1),
    "hardsigmoid": (activation.HardSigmoid, 2), "affine": (_affine, 2), "scaledtanh": (_scaled_tanh, 2),
}


def _activations(b: Lowering, names: Sequence[str], alphas: Sequence[float], betas: Sequence[float],
                 clip: float | None) -> list[tuple[tuple, Activation]]:
    """Each activation with a key that is equal for equal ones; alphas and betas go to those that take them, in
    order."""
    left_alphas, left_betas = list(alphas), list(betas)
    out: list[tuple[tuple, Activation]] = []
    for name in names:
        if name.lower() not in _ACTIVATIONS:
            b.refuse(f"activation '{name}' is none of {', '.join(sorted(_ACTIVATIONS))}")
        fn, takes = _ACTIVATIONS[name.lower()]
        given: dict[str, float] = {}
        if takes >= 1 and left_alphas:
            given["alpha"] = left_alphas.pop(0)
        if takes >= 2 and left_betas:
            given["beta"] = left_betas.pop(0)
        out.append(((name.lower(), *sorted(given.items())), _clipped(fn, given, clip)))
    return out


def _clipped(fn: Callable[..., Value], given: dict[str, float], clip: float | None) -> Activation:
    def apply(b: Lowering, x: Value) -> Value:
        if clip is not None and math.isfinite(clip) and clip > 0:
            x = b.map("min", b.map("max", x, b.scalar(-clip, x)), b.scalar(clip, x))
        return fn(b, x, **given)
    return apply


# ---- the frame of all three ----------------------------------------------------------------------------------------
class Rows:
    """What the inputs or a state are multiplied with: [D, rows, n] in the first of `values`, which loops capture."""

    def __init__(self, *values: Value) -> None:
        self.values = values

    def times(self, b: Lowering, v: Value, spec: str) -> Value:
        """Products with `v`, [D, ..., n]; the letters of the result end with those of a direction, batch and row."""
        return b.value("t.contract", v, self.values[0], spec=spec, to=b.dtype(v))

    def part(self, b: Lowering, start: DimLike, count: DimLike) -> Rows:
        directions, _, n = b.shape(self.values[0])
        return Rows(b.value("t.slice", self.values[0], starts=(0, start, 0), sizes=(directions, count, n),
                            steps=(1, 1, 1)))


@dataclasses.dataclass
class _Net:
    """The operands of a recurrent op in the form in which the loop takes them; `gates` slices of W and R a
    direction."""

    b: Lowering
    gates: int
    x: Value                        # [T, B, I]
    w: Rows                         # [D, gates*H, I]
    r: Rows                         # [D, gates*H, H]
    bias: tuple[Value, Value] | None  # of W and of R, each [D, 1, gates*H]
    lengths: Value | None           # i64 [B]
    reverse: list[bool]             # by direction
    dtype: DType                    # of X and of the results; arithmetic is done in its compute type

    @property
    def hidden(self) -> DimLike:
        return self.b.shape(self.r.values[0])[2]

    @property
    def steps(self) -> DimLike:
        return self.b.shape(self.x)[0]

    @property
    def state(self) -> tuple[DimLike, ...]:
        """The shape of a state: [D, B, H]."""
        return len(self.reverse), self.b.shape(self.x)[1], self.hidden


def _net(b: Lowering, gates: int, x: Value, weights: tuple[Rows, Rows], bias: Value | None, lengths: Value | None,
         direction: str, hidden_size: int | None, layout: int) -> _Net:
    w, r = (rows.values[0] for rows in weights)
    reverse = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}.get(direction)
    if reverse is None:
        b.refuse(f"direction '{direction}' is none of forward, reverse, bidirectional")
    if any(b.rank(v) != 3 for v in (x, w, r)):
        b.refuse("X, W and R must have three axes")
    dtype, hidden = b.dtype(x), b.shape(r)[2]
    b.require_dtype(x, "float")
    if layout not in (0, 1):
        b.refuse(f"layout {layout} is neither 0 nor 1")
    if layout:
        x = b.transpose(x, (1, 0, 2))
    for what, have, want in (("direction", b.shape(w)[0], len(reverse)), ("direction", b.shape(r)[0], len(reverse)),
                             ("row of W", b.shape(w)[1], hidden * gates), ("row of R", b.shape(r)[1], hidden * gates),
                             ("input", b.shape(w)[2], b.shape(x)[2]), ("hidden element", hidden_size or hidden,
                                                                       hidden)):
        b.guard("eq", have, want, f"there is not one {what} of X, W and R for each of the others")
    pair = None
    if bias is not None:
        wide = b.widen(bias)
        n = hidden * gates
        halves = [b.value("t.slice", wide, starts=(0, start), sizes=(len(reverse), n), steps=(1, 1)) for start in (0,
            n)]
        pair = tuple(b.reshape(h, (len(reverse), 1, n)) for h in halves)
    if lengths is not None:
        b.guard("eq", b.shape(lengths)[0], b.shape(x)[1], "there is not one length for each sequence")
        lengths = b.cast(lengths, I64)
    return _Net(b, gates, b.widen(x), *weights, pair, lengths, reverse, dtype)  # type: ignore[arg-type]


def _rows(b: Lowering, *weights: Value) -> tuple[Rows, Rows]:
    w, r = (Rows(b.widen(v)) for v in weights)
    return w, r


def _turned(net: _Net, v: Value) -> Value:
    """A sequence [T, B, n] from its end to its start: within each length what there is beyond it stays."""
    b = net.b
    shape = b.shape(v)
    if net.lengths is None:
        return b.value("t.slice", v, starts=(shape[0] - 1, 0, 0), sizes=shape, steps=(-1, 1, 1))
    step, lengths = b.iota(shape[0], 2, 0), b.reshape(net.lengths, (1, shape[1]))
    back = b.map("sub", b.map("sub", lengths, b.scalar(1, I64)), step)
    source = b.map("select", b.map("lt", step, lengths), back, step)
    whole = b.reshape(b.broadcast_to(source, shape[:2]), (*shape[:2], 1))
    return b.value("t.gather_elements", v, b.broadcast_to(whole, shape), axis=0)


def _input_gates(net: _Net, bias: Value | None) -> Value:
    """What X gives to every gate at every step: [T, D, B, gates*H]."""
    b, shape = net.b, net.b.shape(net.x)
    ordered = [b.reshape(_turned(net, net.x) if turned else net.x, (1, *shape)) for turned in net.reverse]
    x = b.value("t.concat", *ordered, axis=0) if len(ordered) > 1 else ordered[0]
    out = net.w.times(b, x, "dtbi,dgi->tdbg")
    return out if bias is None else b.map("add", out, bias)


def _initial(net: _Net, given: Value | None, layout: int) -> Value:
    b = net.b
    if given is None:
        return b.broadcast_to(b.scalar(0, dtype_named(net.dtype.compute)), net.state)
    v = b.widen(b.transpose(given, (1, 0, 2)) if layout else given)
    for have, want in zip(b.shape(v), net.state, strict=True):
        b.guard("eq", have, want, "an initial state does not have the shape of the states")
    return b.reshape(v, net.state)


Cell = Callable[["_Step", list[Value]], list[Value]]


@dataclasses.dataclass
class _Step:
    """One iteration, for a cell to compute the next states in."""

    b: Lowering
    net: _Net
    at: Dim
    x: Value                        # [T, D, B, gates*H]
    r: Rows
    extra: list[Value]


    def input(self, gate: int) -> Value:
        """What the inputs of this step give to a gate."""
        d, batch, h = self.net.state
        part = self.b.value("t.slice", self.x, starts=(self.at, 0, 0, h * gate), sizes=(1, d, batch, h), steps=(1, 1,
            1, 1))
        return self.b.reshape(part, (d, batch, h))

    def recurrent(self, state: Value, first: int, count: int) -> Callable[[int], Value]:
        """What a state gives to `count` gates from `first` on, by gate."""
        b, (d, batch, h) = self.b, self.net.state
        r = self.r if count == self.net.gates else self.r.part(b, h * first, h * count)
        out = r.times(b, state, "dbh,dgh->dbg")
        return lambda gate: b.value("t.slice", out, starts=(0, 0, h * (gate - first)), sizes=(d, batch, h), steps=(1,
            1, 1))


def _run(net: _Net, x: Value, states: list[Value], extra: list[Value], cell: Cell) -> tuple[Value | None, list[Value]]:
    """All steps: the first state at each one, in time's order [T, D, B, H] (None if nobody wants it), and the last
    states."""
    b = net.b
    lengths = [] if net.lengths is None else [net.lengths]
    first = 1 + len(net.r.values)

    def body(inner: Lowering, at: Dim, carried: list[Value], captured: list[Value]) -> tuple[list[Value], list[Value]]:
        step = _Step(inner, net, at, captured[0], type(net.r)(*captured[1:first]),
                     captured[first:len(captured) - len(lengths)])
        following = cell(step, carried)
        row = following[0]
        if lengths:
            goes_on = inner.reshape(inner.map("lt", inner.dim(at), captured[-1]), (1, net.state[1], 1))
            following = [inner.map("select", goes_on, new, old) for new, old in zip(following, carried, strict=True)]
            row = inner.map("select", goes_on, row, inner.scalar(0, row))
        return following, [row] if b.wants(0) else []

    out = b.loop(net.steps, states, [x, *net.r.values, *extra, *lengths], body)
    return (_in_time(net, out[len(states)]) if b.wants(0) else None), out[:len(states)]


def _in_time(net: _Net, rows: Value) -> Value:
    """States by step as states by time."""
    if not any(net.reverse):
        return rows
    b, (d, batch, h) = net.b, net.state
    parts = []
    for i, turned in enumerate(net.reverse):
        part = b.value("t.slice", rows, starts=(0, i, 0, 0), sizes=(net.steps, 1, batch, h), steps=(1, 1, 1, 1))
        if turned:
            part = b.reshape(_turned(net, b.reshape(part, (net.steps, batch, h))), (net.steps, 1, batch, h))
        parts.append(part)
    return parts[0] if d == 1 else b.value("t.concat", *parts, axis=1)


def _results(net: _Net, y: Value | None, states: Sequence[Value], layout: int) -> tuple[Value | None, ...]:
    b = net.b
    out = [None if y is None else b.cast(b.transpose(y, (2, 0, 1, 3)) if layout else y, net.dtype)]
    return (*out, *(b.cast(b.transpose(s, (1, 0, 2)) if layout else s, net.dtype) for s in states))


def _by_direction(net: _Net, names: Sequence[str] | None, default: Sequence[str], alphas: Sequence[float] | None,
                  betas: Sequence[float] | None, clip: float | None) -> list[Activation]:
    """The activations of a step. One that differs between directions is applied to each and chosen by direction."""
    b, n, d = net.b, len(default), len(net.reverse)
    names = list(names) if names else list(default) * d
    if len(names) != n * d:
        b.refuse(f"there are {len(names)} activations for {d} directions of {n}")
    found = _activations(b, names, alphas or (), betas or (), clip)
    return [_joined([found[k * n + i] for k in range(d)]) for i in range(n)]


def _joined(by_direction: list[tuple[tuple, Activation]]) -> Activation:
    if len({key for key, _ in by_direction}) == 1:
        return by_direction[0][1]

    def apply(b: Lowering, x: Value) -> Value:
        first = b.map("eq", b.iota(2, 3, 0), b.scalar(0, I64))
        return b.map("select", first, by_direction[0][1](b, x), by_direction[1][1](b, x))
    return apply


# ---- the ops -------------------------------------------------------------------------------------------------------
def _sum_of(net: _Net) -> Value | None:
    return None if net.bias is None else net.b.map("add", *net.bias)


@lowering
def RNN(b: Lowering, X: Value, W: Value, R: Value, B: Value | None = None, sequence_lens: Value | None = None,
        initial_h: Value | None = None, *, activation_alpha: Sequence[float] | None = None,
        activation_beta: Sequence[float] | None = None, activations: Sequence[str] = ("Tanh", "Tanh"),
        clip: float | None = None, direction: str = "forward", hidden_size: int | None = None,
        layout: int = 0) -> tuple[Value | None, ...]:
    net = _net(b, 1, X, _rows(b, W, R), B, sequence_lens, direction, hidden_size, layout)
    f, = _by_direction(net, activations[:len(net.reverse)], ("Tanh",), activation_alpha, activation_beta, clip)

    def cell(s: _Step, states: list[Value]) -> list[Value]:
        return [f(s.b, s.b.map("add", s.input(0), s.recurrent(states[0], 0, 1)(0)))]

    y, states = _run(net, _input_gates(net, _sum_of(net)), [_initial(net, initial_h, layout)], [], cell)
    return _results(net, y, states, layout)


@lowering
def GRU(b: Lowering, X: Value, W: Value, R: Value, B: Value | None = None, sequence_lens: Value | None = None,
        initial_h: Value | None = None, *, activation_alpha: Sequence[float] | None = None,
        activation_beta: Sequence[float] | None = None, activations: Sequence[str] | None = None,
        clip: float | None = None,
        direction: str = "forward", hidden_size: int | None = None, layout: int = 0,
        linear_before_reset: int = 0) -> tuple[Value | None, ...]:
    net = _net(b, 3, X, _rows(b, W, R), B, sequence_lens, direction, hidden_size, layout)
    f, g = _by_direction(net, activations, ("Sigmoid", "Tanh"), activation_alpha, activation_beta, clip)
    bias, inner_bias = _gru_bias(net, bool(linear_before_reset))

    def cell(s: _Step, states: list[Value]) -> list[Value]:
        (h,), inner = states, s.b
        part = s.recurrent(h, 0, 3 if linear_before_reset else 2)
        z = f(inner, inner.map("add", s.input(0), part(0)))
        r = f(inner, inner.map("add", s.input(1), part(1)))
        if linear_before_reset:
            hidden = part(2) if not s.extra else inner.map("add", part(2), s.extra[0])
            n = g(inner, inner.map("add", s.input(2), inner.map("mul", r, hidden)))
        else:
            n = g(inner, inner.map("add", s.input(2), s.recurrent(inner.map("mul", r, h), 2, 1)(2)))
        fresh = inner.map("mul", inner.map("sub", inner.scalar(1, z), z), n)
        return [inner.map("add", fresh, inner.map("mul", z, h))]

    y, states = _run(net, _input_gates(net, bias), [_initial(net, initial_h, layout)], inner_bias, cell)
    return _results(net, y, states, layout)


def _gru_bias(net: _Net, inside: bool) -> tuple[Value | None, list[Value]]:
    """The bias that is added to what X gives; and that of the hidden gate, where it is added before the reset."""
    if net.bias is None or not inside:
        return _sum_of(net), []
    b, (d, _, h) = net.b, net.state
    of_x, of_h = net.bias
    outer = [b.value("t.slice", v, starts=(0, 0, 0), sizes=(d, 1, h * 2), steps=(1, 1, 1)) for v in (of_x, of_h)]
    last = [b.value("t.slice", v, starts=(0, 0, h * 2), sizes=(d, 1, h), steps=(1, 1, 1)) for v in (of_x, of_h)]
    return b.value("t.concat", b.map("add", *outer), last[0], axis=2), [last[1]]


@lowering
def LSTM(b: Lowering, X: Value, W: Value, R: Value, B: Value | None = None, sequence_lens: Value | None = None,
         initial_h: Value | None = None, initial_c: Value | None = None, P: Value | None = None, *,
         activation_alpha: Sequence[float] | None = None, activation_beta: Sequence[float] | None = None,
         activations: Sequence[str] | None = None, clip: float | None = None, direction: str = "forward",
         hidden_size: int | None = None, input_forget: int = 0, layout: int = 0) -> tuple[Value | None, ...]:
    return lstm(b, X, _rows(b, W, R), B, sequence_lens, initial_h, initial_c, P, activation_alpha, activation_beta,
                activations, clip, direction, hidden_size, input_forget, layout)


def lstm(b: Lowering, X: Value, weights: tuple[Rows, Rows], B: Value | None, sequence_lens: Value | None,
         initial_h: Value | None, initial_c: Value | None, P: Value | None, activation_alpha: Sequence[float] | None,
         activation_beta: Sequence[float] | None, activations: Sequence[str] | None, clip: float | None,
         direction: str, hidden_size: int | None, input_forget: int, layout: int) -> tuple[Value | None, ...]:
    """The op with any kind of weights of the inputs and of the state."""
    net = _net(b, 4, X, weights, B, sequence_lens, direction, hidden_size, layout)
    f, g, h_of = _by_direction(net, activations, ("Sigmoid", "Tanh", "Tanh"), activation_alpha, activation_beta, clip)

    def cell(s: _Step, states: list[Value]) -> list[Value]:
        (h, c), inner = states, s.b
        part = s.recurrent(h, 0, 4)

        def gate(i: int, peephole: int, cell_state: Value, act: Activation) -> Value:
            total = inner.map("add", s.input(i), part(i))
            if s.extra and peephole >= 0:
                total = inner.map("add", total, inner.map("mul", s.extra[peephole], cell_state))
            return act(inner, total)

        i = gate(0, 0, c, f)
        forget = inner.map("sub", inner.scalar(1, i), i) if input_forget else gate(2, 2, c, f)
        following = inner.map("add", inner.map("mul", forget, c), inner.map("mul", i, gate(3, -1, c, g)))
        return [inner.map("mul", gate(1, 1, following, f), h_of(inner, following)), following]

    states = [_initial(net, initial_h, layout), _initial(net, initial_c, layout)]
    y, states = _run(net, _input_gates(net, _sum_of(net)), states, _peepholes(net, P), cell)
    return _results(net, y, states, layout)


def _peepholes(net: _Net, p: Value | None) -> list[Value]:
    """The weights from the cell to the input, output and forget gates, each [D, 1, H]."""
    if p is None:
        return []
    b, (d, _, h) = net.b, net.state
    b.guard("eq", b.shape(p)[1], h * 3, "there are not three peephole weights for each hidden element")
    parts = [b.value("t.slice", b.widen(p), starts=(0, h * i), sizes=(d, h), steps=(1, 1)) for i in range(3)]
    return [b.reshape(v, (d, 1, h)) for v in parts]
