"""Which ops widen weights: constants of few bits that a contraction multiplies as floats.

Written out, such weights take two to sixteen times the memory, and a product of few rows takes as long as reading
them does. So nobody computes them ahead: `fold` leaves the ops below alone, `fuse` gives their results no memory, and
the contraction's kernel holds them in the region of its right operand. A backend packs the constants from there as
narrow as they are, and widens them in registers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from onnxc.ir.core import Op, Value
from onnxc.ir.types import BF16, F16, F32, Tensor
from onnxc.passes.epilogues import is_elementwise
from onnxc.passes.kernel_builder import VIEWS

__all__ = ["widening_ops"]

_SMALLEST = 1 << 14     # elements: fewer are no burden as floats
_LONGEST = 32           # ops between the constants and the contraction
_SAVING = 2             # times as many bytes as the constants have, or more, are worth it


def widening_ops(ops: Iterable[Op]) -> set[Op]:
    """Of `ops`, those that widen the weights of a contraction; each makes as many elements as the weights have."""
    found: set[Op] = set()
    for op in ops:
        if op.name == "t.contract" and op.attr("to") == F32 and not _reads_windows(op.operand(0)):
            found |= _path(op.operand(1))
    return found


def _path(weights: Value) -> set[Op]:
    """The ops from constants to `weights` that make all of its elements; none where it is not worth it."""
    size = _elements(weights)
    if size < _SMALLEST:
        return set()
    path: set[Op] = set()
    seen: set[Value] = set()
    held, narrow, stack = 0, False, [weights]
    while stack:
        v = stack.pop()
        if v in seen:
            continue
        seen.add(v)
        op, elements = v.op, _elements(v)
        if op is None or elements == 0 or len(seen) > _LONGEST:
            return set()
        if op.name == "t.const":
            bits = v.tensor.dtype.bits
            held += elements * bits // 8
            narrow = narrow or (elements >= size and (bits <= 8 or v.tensor.dtype in (F16, BF16)))
        elif op.name in VIEWS or is_elementwise(op):
            stack.extend(op.inputs)
            if elements >= size:
                path.add(op)
        else:
            return set()
    return path if narrow and size * weights.tensor.dtype.bits // 8 >= _SAVING * held else set()


def _elements(v: Value) -> int:
    """How many elements a tensor of known dims has; 0 for any other value."""
    if not isinstance(v.type, Tensor) or not v.type.is_static:
        return 0
    return math.prod(d for d in v.dims if isinstance(d, int))


def _reads_windows(v: Value) -> bool:
    """Whether a contraction is a convolution, whose weights are read once for many positions."""
    while v.op is not None and v.op.name in VIEWS:
        v = v.op.operand(0)
    return v.op is not None and v.op.name == "t.window"
