"""Attention at both levels: scores, softmax and the weighted sum of values as one op, whose scores never are in memory.

`t.attend(q, k, v, extras...) {scores, out, missing}`: with `s = region(contract(q, k, scores), extras...)`, the result
is `contract(softmax(s), v, out)`, the softmax along the last axis of s, which both specs call by one letter and `out`
sums over. The region gives each score from the product at the same place: scales, masks, biases. A row of weights that
are NaN (no score but -inf, a score that is NaN or +inf) counts as zeros with `missing`. Over no keys the result is 0.

`k.attend {batch, m, n, k, columns, accumulate, missing}`: for each point of batch and m, and each of `columns`.
Regions: the query at (batch, m, k) and the key at (batch, n, k) yield the factors of the product that is summed over k;
the score at (batch, m, n) takes that sum and yields what the softmax over n takes; the value at (batch, n, columns) is
what the weights of n are multiplied with; the epilogue at (batch, m, columns) takes the weighted sum and stores.
Directly in the kernel's body and alone there. How the softmax goes through n, and what it rescales meanwhile, is the
target's business.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from onnxc.ir.core import Op
from onnxc.ir.registry import REQUIRED, register
from onnxc.ir.types import F32, Scalar, Tensor
from onnxc.ops.fold import parse_spec
from onnxc.ops.kernel import axes_faults, region_faults

__all__ = ["KERNEL_AXES", "softmax"]

KERNEL_AXES = ("batch", "m", "n", "k", "columns")


# ---- tensors -------------------------------------------------------------------------------------------------------
def _check(op: Op) -> Iterator[str]:
    if len(op.inputs) < 3 or len(op.inputs) != len(op.operands):
        yield "t.attend takes queries, keys, values and what its region reads"
        return
    q, k, v, *extras = (x.tensor for x in op.inputs)
    scores, out = parse_spec(op.attr("scores")), parse_spec(op.attr("out"))
    last = scores.out[-1:]
    if (scores.n, out.k, scores.out) != (last, last, out.lhs) or scores.batch != out.batch or scores.m != out.m:
        yield f"'{op.attr('scores')}' and '{op.attr('out')}' are not the products of one attention"
        return
    sizes = {**scores.sizes(q.dims, k.dims), **dict(zip(out.rhs, v.dims, strict=True))}
    wanted = Tensor(F32, tuple(sizes[c] for c in scores.out))
    region = op.regions[0]
    taken = [a.type for a in region.args]
    if taken != [wanted, *extras]:
        yield f"the region of t.attend takes ({', '.join(map(str, taken))}), not {wanted} and the extras"
    given = [x.type for x in region.last.inputs] if region.last is not None and region.last.name == "yield" else []
    if given != [wanted]:
        yield f"the region of t.attend yields ({', '.join(map(str, given))}), not ({wanted})"


def _ref(attrs: dict[str, Any], q: np.ndarray, k: np.ndarray, v: np.ndarray, *extras: np.ndarray) -> np.ndarray:
    scores, out = parse_spec(attrs["scores"]), parse_spec(attrs["out"])
    product = np.einsum(f"{scores.lhs},{scores.rhs}->{scores.out}", q.astype(np.float64), k.astype(np.float64))
    (logits,) = attrs["regions"][0](product.astype(np.float32), *extras)
    weights = softmax(logits.astype(np.float64), attrs["missing"])
    return np.einsum(f"{out.lhs},{out.rhs}->{out.out}", weights, v.astype(np.float64)).astype(np.float32)


def softmax(scores: np.ndarray, missing: bool) -> np.ndarray:
    """The weights along the last axis."""
    if not scores.shape[-1]:
        return scores
    with np.errstate(all="ignore"):
        powers = np.exp(scores - scores.max(-1, keepdims=True))
        weights = powers / powers.sum(-1, keepdims=True)
    return np.where(np.isnan(weights), 0.0, weights) if missing else weights


register("t.attend", "q, k, v, extras*", attrs={"scores": REQUIRED, "out": REQUIRED, "missing": False},
         traits="pure isolated", regions=1, check=_check, ref=_ref,
         doc="softmax of the scores of queries and keys, times values")


# ---- kernels -------------------------------------------------------------------------------------------------------
def _attend(op: Op) -> Iterator[str]:
    for key in KERNEL_AXES:
        pairs: Any = op.attrs[key]
        if not all(isinstance(p, tuple) and len(p) == 2 for p in pairs):
            yield f"'{key}' of {op.name} is a list of [axis, extent]"
        else:
            yield from axes_faults(op, tuple(p[0] for p in pairs), tuple(p[1] for p in pairs))
    number = Scalar(op.attrs["accumulate"])  # type: ignore[arg-type]
    for i, taken, given in ((0, 0, 1), (1, 0, 1), (2, 1, 1), (3, 0, 1), (4, 1, 0)):
        yield from region_faults(op, i, [number] * taken, [number] * given)


register("k.attend", "", "", attrs={**dict.fromkeys(KERNEL_AXES, REQUIRED), "accumulate": REQUIRED, "missing": False},
         traits="loop", regions=5, check=_attend,
         doc="attention with loads, scores, epilogue and stores given as regions")
