"""Tensor ops (`t.*`) that move elements: constants, shapes, views, gathers. Arithmetic is in `ops.elementwise` and
`ops.fold`.

Shapes are attributes holding dims, never operands: lowering turns the shape arithmetic of a model into dims.
Broadcasting that cannot be read off the types stands as `t.broadcast`; the condition under which a broadcast or a
reshape is right becomes a guard of the program.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxc.ir.core import Ref
from onnxc.ir.dims import DimLike, product
from onnxc.ir.registry import REQUIRED, TypeInferenceError, register
from onnxc.ir.types import I32, I64, Tensor, Type

__all__ = ["check_range", "fail", "normal_axis", "tensor_operand"]


def fail(text: str) -> TypeInferenceError:
    return TypeInferenceError(text)


def tensor_operand(types: Sequence[Type | None], i: int, op: str) -> Tensor:
    """Operand type i as a tensor of known rank."""
    t = types[i]
    if not isinstance(t, Tensor) or t.shape is None:
        raise fail(f"operand {i} of {op} must be a tensor of known rank, not {t}")
    return t


def normal_axis(axis: int, rank: int, op: str) -> int:
    """`axis` in [0, rank)."""
    if not -rank <= axis < rank:
        raise fail(f"{op}: axis {axis} is out of range for rank {rank}")
    return axis % rank


# ---- constants -----------------------------------------------------------------------------------------------------
def _const(types: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    raise fail("the type of t.const is that of its array and is given when it is made")


def _const_ref(attrs: dict[str, Any]) -> np.ndarray:
    if isinstance(attrs["ref"], Ref):
        raise fail("a constant of the module is read through the module")
    return attrs["value"]


register("t.const", "", attrs={"value": None, "ref": None}, infer=None, ref=_const_ref,
         doc="a constant: `value` inline or `ref` to a constant of the module")


def _dims(types: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    return [Tensor(attrs["dtype"], (len(attrs["values"]),) if attrs["vector"] else ())]


def _dims_ref(attrs: dict[str, Any]) -> np.ndarray:
    a = np.asarray(attrs["values"], attrs["dtype"].numpy)
    return a if attrs["vector"] else a.reshape(())


register("t.dims", "", attrs={"values": REQUIRED, "vector": True, "dtype": I64}, infer=_dims, ref=_dims_ref,
         doc="dims as a tensor: a vector of `values`, or one of them as a scalar")


def _iota(types: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    normal_axis(attrs["axis"], len(attrs["shape"]), "t.iota")
    return [Tensor(attrs["dtype"], attrs["shape"])]


def _iota_ref(attrs: dict[str, Any]) -> np.ndarray:
    shape, axis = attrs["shape"], attrs["axis"]
    one = [1] * len(shape)
    one[axis] = shape[axis]
    return np.broadcast_to(np.arange(shape[axis]).astype(attrs["dtype"].numpy).reshape(one), shape)


register("t.iota", "", attrs={"shape": REQUIRED, "axis": 0, "dtype": I64}, infer=_iota, ref=_iota_ref,
         doc="the position along `axis`")


# ---- views ---------------------------------------------------------------------------------------------------------
def _broadcast(types: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    t, shape = tensor_operand(types, 0, "t.broadcast"), attrs["shape"]
    if len(shape) < t.rank:
        raise fail(f"t.broadcast of {t} to the lower rank {len(shape)}")
    for have, want in zip(t.dims, shape[len(shape) - t.rank:], strict=True):
        if isinstance(have, int) and have != 1 and isinstance(want, int) and have != want:
            raise fail(f"t.broadcast of {t} to [{', '.join(map(str, shape))}]: {have} is neither 1 nor {want}")
    return [Tensor(t.dtype, shape)]


register("t.broadcast", "x", attrs={"shape": REQUIRED}, traits="pure view", infer=_broadcast,
         ref=lambda attrs, x: np.broadcast_to(x, attrs["shape"]), doc="repeat dims of 1 (numpy's broadcast_to)")


def _reshape(types: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    t, shape = tensor_operand(types, 0, "t.reshape"), attrs["shape"]
    rest = t.size - product(shape)
    if isinstance(rest, int) and rest != 0:
        raise fail(f"t.reshape of {t} to [{', '.join(map(str, shape))}]: the sizes differ")
    return [Tensor(t.dtype, shape)]


register("t.reshape", "x", attrs={"shape": REQUIRED}, traits="pure view", infer=_reshape,
         ref=lambda attrs, x: np.reshape(x, attrs["shape"]), doc="the same elements in row-major order")


def _transpose(types: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    t, perm = tensor_operand(types, 0, "t.transpose"), attrs["perm"]
    if sorted(perm) != list(range(t.rank)):
        raise fail(f"t.transpose of {t}: {list(perm)} is not a permutation of its axes")
    return [Tensor(t.dtype, tuple(t.dims[p] for p in perm))]


register("t.transpose", "x", attrs={"perm": REQUIRED}, traits="pure view", infer=_transpose,
         ref=lambda attrs, x: np.transpose(x, attrs["perm"]), doc="axis i of the result is axis perm[i] of x")


def _slice(types: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    t = tensor_operand(types, 0, "t.slice")
    starts, sizes, steps = attrs["starts"], attrs["sizes"], attrs["steps"]
    if not len(starts) == len(sizes) == len(steps) == t.rank:
        raise fail(f"t.slice of {t} needs a start, size and step for each axis")
    if any(not isinstance(s, int) or s == 0 for s in steps):
        raise fail("t.slice: steps are integers other than 0")
    return [Tensor(t.dtype, sizes)]


def _slice_ref(attrs: dict[str, Any], x: np.ndarray) -> np.ndarray:
    for axis, (start, size, step) in enumerate(zip(attrs["starts"], attrs["sizes"], attrs["steps"], strict=True)):
        x = np.take(x, start + step * np.arange(size), axis)
    return x


register("t.slice", "x", attrs={"starts": REQUIRED, "sizes": REQUIRED, "steps": REQUIRED}, traits="pure view",
         infer=_slice, ref=_slice_ref, doc="element i of an axis is element start + i*step of x; all in range")

PAD_MODES = ("constant", "edge", "reflect", "wrap")


def _pad(types: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    t = tensor_operand(types, 0, "t.pad")
    if attrs["mode"] not in PAD_MODES:
        raise fail(f"t.pad: mode '{attrs['mode']}' is none of {', '.join(PAD_MODES)}")
    if not len(attrs["low"]) == len(attrs["high"]) == t.rank:
        raise fail(f"t.pad of {t} needs a low and a high amount for each axis")
    if len(types) > 1 and types[1] is not None and types[1] != Tensor(t.dtype, ()):
        raise fail(f"t.pad of {t} with a value of type {types[1]}")
    return [Tensor(t.dtype, tuple(a + d + c for a, d, c in zip(attrs["low"], t.dims, attrs["high"], strict=True)))]


def _pad_ref(attrs: dict[str, Any], x: np.ndarray, value: np.ndarray | None = None) -> np.ndarray:
    for axis, (low, high) in enumerate(zip(attrs["low"], attrs["high"], strict=True)):
        n = x.shape[axis]
        position = np.arange(-low, n + high)
        if attrs["mode"] == "constant":
            inside = np.take(x, np.clip(position, 0, max(n - 1, 0)), axis) if n else \
                np.zeros(x.shape[:axis] + (len(position),) + x.shape[axis + 1:], x.dtype)
            mask = ((position >= 0) & (position < n)).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
            x = np.where(mask, inside, np.asarray(0 if value is None else value, x.dtype)).astype(x.dtype)
        else:
            if n == 0 and len(position):
                raise fail(f"t.pad: axis {axis} has no elements to pad with in mode '{attrs['mode']}'")
            x = np.take(x, pad_source(position, n, attrs["mode"]), axis)
    return x


def pad_source(position: Any, n: Any, mode: str) -> Any:
    """Where element `position` (0 is the first of x, negative in the low pad) comes from along an axis of `n`."""
    if mode == "edge":
        return np.clip(position, 0, n - 1)
    if mode == "wrap":
        return np.mod(position, n)
    period = max(2 * (n - 1), 1)
    folded = np.mod(position, period)
    return np.minimum(folded, period - folded) if n > 1 else np.zeros_like(position)


register("t.pad", "x, value?", attrs={"low": REQUIRED, "high": REQUIRED, "mode": "constant"}, traits="pure",
         infer=_pad, ref=_pad_ref,
         doc="add elements before and after each axis (or cut: negative amounts); `value` defaults to 0; modes other "
             "than \"constant\" repeat what is there, so an axis that grows is not empty")


def _concat(types: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    first = tensor_operand(types, 0, "t.concat")
    axis = normal_axis(attrs["axis"], first.rank, "t.concat")
    total: DimLike = 0
    for i in range(len(types)):
        t = tensor_operand(types, i, "t.concat")
        if t.dtype != first.dtype or t.rank != first.rank:
            raise fail(f"t.concat of {first} and {t}")
        for a, (d, e) in enumerate(zip(first.dims, t.dims, strict=True)):
            if a != axis and isinstance(d, int) and isinstance(e, int) and d != e:
                raise fail(f"t.concat of {first} and {t}: axis {a} differs")
        total = total + t.dims[axis]
    return [Tensor(first.dtype, (*first.dims[:axis], total, *first.dims[axis + 1:]))]


register("t.concat", "first, more*", attrs={"axis": REQUIRED}, traits="pure", infer=_concat,
         ref=lambda attrs, *xs: np.concatenate(xs, attrs["axis"]), doc="join along an axis")


def _window(types: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    t = tensor_operand(types, 0, "t.window")
    axes, size, out = attrs["axes"], attrs["size"], attrs["out"]
    n = len(axes)
    if not n == len(size) == len(out) == len(attrs["stride"]) == len(attrs["dilation"]) == len(attrs["low"]):
        raise fail("t.window: axes, size, stride, dilation, low and out are of one length")
    if list(axes) != list(range(axes[0], axes[0] + n)) or axes[0] < 0 or axes[-1] >= t.rank:
        raise fail(f"t.window of {t}: axes {list(axes)} are not consecutive axes of it")
    first = axes[0]
    return [Tensor(t.dtype, (*t.dims[:first], *out, *size, *t.dims[first + n:]))]


def _window_ref(attrs: dict[str, Any], x: np.ndarray) -> np.ndarray:
    n, first = len(attrs["axes"]), attrs["axes"][0]
    fill = np.asarray(attrs["fill"], x.dtype)
    for i in range(n):
        axis = first + 2 * i                      # windows of the axes before have been put behind their positions
        at = np.arange(attrs["out"][i])[:, None] * attrs["stride"][i] - attrs["low"][i] \
            + np.arange(attrs["size"][i])[None, :] * attrs["dilation"][i]
        extent = x.shape[axis]
        mask = ((at >= 0) & (at < extent)).reshape([1] * axis + list(at.shape) + [1] * (x.ndim - axis - 1))
        if extent == 0:
            x = np.broadcast_to(fill, x.shape[:axis] + at.shape + x.shape[axis + 1:])
        else:
            taken = np.take(x, np.clip(at, 0, extent - 1), axis)
            x = np.where(mask, taken, fill).astype(x.dtype)
    order = [*range(first), *(first + 2 * i for i in range(n)), *(first + 2 * i + 1 for i in range(n)),
             *range(first + 2 * n, x.ndim)]
    return x.transpose(order)


register("t.window", "x", attrs={"axes": REQUIRED, "size": REQUIRED, "stride": REQUIRED, "dilation": REQUIRED,
                                 "low": REQUIRED, "out": REQUIRED, "fill": 0.0},
         traits="pure", infer=_window, ref=_window_ref,
         doc="sliding windows over consecutive axes: result axes are the positions (`out` of them), then the window "
             "(`size`); element (o, w) is x[o*stride + w*dilation - low], and `fill` outside x")


# ---- gathers -------------------------------------------------------------------------------------------------------
def _index_type(t: Tensor, op: str) -> None:
    if t.dtype not in (I32, I64):
        raise fail(f"{op}: indices are i32 or i64, not {t.dtype}")


def _gather(types: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    x, i = tensor_operand(types, 0, "t.gather"), tensor_operand(types, 1, "t.gather")
    _index_type(i, "t.gather")
    axis = normal_axis(attrs["axis"], x.rank, "t.gather")
    return [Tensor(x.dtype, (*x.dims[:axis], *i.dims, *x.dims[axis + 1:]))]


def check_range(i: np.ndarray, n: int, op: str) -> np.ndarray:
    """Indices into an axis of `n`, negative ones counted from its end; IndexError where one is out of range."""
    if i.size and (i.min() < -n or i.max() >= n):
        bad = i[(i < -n) | (i >= n)].ravel()[0]
        raise IndexError(f"{op}: index {bad} is out of range for an axis of {n}")
    return np.where(i < 0, i + n, i)


def _gather_ref(attrs: dict[str, Any], x: np.ndarray, i: np.ndarray) -> np.ndarray:
    axis = attrs["axis"] % x.ndim
    return np.take(x, check_range(i, x.shape[axis], "Gather"), axis)


register("t.gather", "x, indices", attrs={"axis": 0, "in_range": False}, infer=_gather, ref=_gather_ref,
         doc="slices of x at `indices` along `axis`; negative indices count from the end, others out of range are "
             "errors; `in_range`: all are known to be at least 0 and below the extent")


def _gather_elements(types: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    x, i = tensor_operand(types, 0, "t.gather_elements"), tensor_operand(types, 1, "t.gather_elements")
    _index_type(i, "t.gather_elements")
    normal_axis(attrs["axis"], x.rank, "t.gather_elements")
    if i.rank != x.rank:
        raise fail(f"t.gather_elements of {x} with indices {i}: ranks differ")
    return [Tensor(x.dtype, i.dims)]


def _gather_elements_ref(attrs: dict[str, Any], x: np.ndarray, i: np.ndarray) -> np.ndarray:
    axis = attrs["axis"] % x.ndim
    grid: list[np.ndarray] = list(np.indices(i.shape, sparse=True))
    grid[axis] = check_range(i, x.shape[axis], "GatherElements")
    return x[tuple(grid)]


register("t.gather_elements", "x, indices", attrs={"axis": 0, "in_range": False}, infer=_gather_elements,
         ref=_gather_elements_ref,
         doc="x at the index's own position, with `axis` replaced by the index")


def _gather_nd(types: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    x, i = tensor_operand(types, 0, "t.gather_nd"), tensor_operand(types, 1, "t.gather_nd")
    _index_type(i, "t.gather_nd")
    b = attrs["batch"]
    depth = i.dims[-1] if i.rank else None
    if not isinstance(depth, int) or not 0 <= b < min(i.rank, x.rank) or not 0 <= depth <= x.rank - b:
        raise fail(f"t.gather_nd of {x} with indices {i} and {b} batch axes: the last axis of the indices must be a "
                   "number of axes of x")
    return [Tensor(x.dtype, (*i.dims[:-1], *x.dims[b + depth:]))]


def _gather_nd_ref(attrs: dict[str, Any], x: np.ndarray, i: np.ndarray) -> np.ndarray:
    b, depth = attrs["batch"], i.shape[-1]
    batch = np.indices(i.shape[:b] + (1,) * (i.ndim - 1 - b), sparse=True)[:b] if b else ()
    at = (*batch, *(check_range(i[..., d], x.shape[b + d], "GatherND") for d in range(depth)))
    return x[at] if depth or b else np.broadcast_to(x, i.shape[:-1] + x.shape)


register("t.gather_nd", "x, indices", attrs={"batch": 0, "in_range": False}, infer=_gather_nd, ref=_gather_nd_ref,
         doc="x at index tuples (the last axis of `indices`), behind `batch` common axes")
