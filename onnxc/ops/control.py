"""Tensor ops that run regions, and ops that make dims out of data (`t.loop`, `t.if`, `t.require`, `t.read_dim`).

A *run symbol* is a dim symbol that gets its value during a run: the number of a loop's iteration, how often a loop ran,
how many elements were found. The op that gives it names it (`symbol`, `defines`); after that op, in its block and in
the regions inside, the symbol stands in types and attributes like any other dim. `bounds` are the most that the symbols
of `defines` can become, as dims, none where that is not known.

Ops with the trait "step" are steps of the program of their own: fusion leaves them alone, and what they take and give
is in memory. The `ref` of an op with `defines` gives the values of these symbols behind its results.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from onnxc.ir.compare import same_type
from onnxc.ir.core import Block, Op
from onnxc.ir.dims import DimLike, sym
from onnxc.ir.registry import REQUIRED, lookup, register
from onnxc.ir.types import BOOL, I32, I64, Tensor, Type
from onnxc.ops.tensor import fail, tensor_operand

__all__ = ["carried_of", "defined_symbols", "is_step"]


def is_step(op: Op) -> bool:
    """Whether the op is a step of the program of its own."""
    row = lookup(op.name)
    return row is not None and row.has("step")


def defined_symbols(op: Op) -> list[tuple[str, DimLike | None]]:
    """The run symbols that an op gives their value, with the most that they can be (None: not known)."""
    out: list[tuple[str, DimLike | None]] = []
    attrs: dict[str, Any] = op.attrs
    if op.name == "t.loop":
        out.append((attrs["symbol"], attrs["extent"] - 1))
    out.extend(zip(attrs.get("defines") or (), attrs.get("bounds") or (), strict=True))
    return out


# ---- loops ---------------------------------------------------------------------------------------------------------
def carried_of(op: Op) -> int:
    """How many values a t.loop carries from one iteration to the next."""
    return int(op.attrs["carried"])  # type: ignore[arg-type]


def _yielded(region: Block) -> list[Type]:
    last = region.last
    return [v.type for v in last.inputs] if last is not None and last.name == "yield" else []


def _differ(what: str, have: Sequence[Type], want: Sequence[Type]) -> Iterator[str]:
    if len(have) != len(want) or not all(map(same_type, have, want)):
        yield f"{what} ({', '.join(map(str, have))}), not ({', '.join(map(str, want))})"


def _loop_faults(op: Op) -> Iterator[str]:
    n, conditional = carried_of(op), bool(op.attrs["conditional"])
    given = [v.type for v in op.inputs]
    flag = [Tensor(BOOL, ())] if conditional else []
    yield from _differ("the condition of t.loop has type", given[:len(flag)], flag)
    inits = given[len(flag):]
    yield from _differ("the body of t.loop takes", [a.type for a in op.regions[0].args], inits)
    yielded = _yielded(op.regions[0])
    yield from _differ("the body of t.loop yields first", yielded[:len(flag) + n], [*flag, *inits[:n]])
    count: DimLike = sym(str(op.attrs["defines"][0])) if op.attrs["defines"] else op.attrs["extent"]  # type: ignore
    rows = [Tensor(t.dtype, (count, *t.dims)) for t in yielded[len(flag) + n:] if isinstance(t, Tensor)]
    yield from _differ("t.loop gives", [r.type for r in op.results], [*inits[:n], *rows])


def _loop_ref(attrs: dict[str, Any], *operands: Any) -> tuple[Any, ...]:
    n, conditional = attrs["carried"], bool(attrs["conditional"])
    body = attrs["regions"][0]
    goes_on = not conditional or bool(operands[0])
    state, captured = list(operands[conditional:conditional + n]), operands[conditional + n:]
    rows: list[list[Any]] = [[] for _ in attrs["row_types"]]
    count = 0
    while count < attrs["extent"] and goes_on:
        out = body(*state, *captured, dims={attrs["symbol"]: count})
        goes_on = not conditional or bool(out[0])
        state = out[conditional:conditional + n]
        for have, row in zip(rows, out[conditional + n:], strict=True):
            have.append(row)
        count += 1
    stacked = [np.stack(have) if have else np.empty((0, *t.dims), t.dtype.numpy)
               for have, t in zip(rows, attrs["row_types"], strict=True)]
    return (*state, *stacked, *[count] * len(attrs["defines"]))


register("t.loop", "operands*", "results*",
         attrs={"symbol": REQUIRED, "extent": REQUIRED, "carried": 0, "conditional": False, "row_types": (),
                "defines": (), "bounds": ()},
         traits="pure isolated step", regions=1, check=_loop_faults, ref=_loop_ref,
         doc="runs its region `extent` times, `symbol` counting from 0. Operands: with `conditional` a bool "
             "scalar, then the first values of `carried` values, then what the region captures. The region "
             "takes the carried values and the captured ones, and yields (with `conditional`) whether to go on, "
             "the next carried values, and rows of type `row_types`. Results: the last carried values, and each "
             "row stacked along a new first axis. A conditional loop may end earlier; it defines a symbol, how "
             "often it ran")


# ---- branches ------------------------------------------------------------------------------------------------------
def _if_faults(op: Op) -> Iterator[str]:
    if not op.inputs or not same_type(op.inputs[0].type, Tensor(BOOL, ())):
        yield "the condition of t.if is no bool scalar"
    captured = [v.type for v in op.inputs[1:]]
    for i, region in enumerate(op.regions):
        yield from _differ(f"region {i} of t.if takes", [a.type for a in region.args], captured)
        found, wanted = _yielded(region), [r.type for r in op.results]
        if len(found) != len(wanted) or any(
                not isinstance(a, Tensor) or not isinstance(b, Tensor) or a.dtype != b.dtype or a.rank != b.rank
                for a, b in zip(found, wanted, strict=True)):
            yield from _differ(f"region {i} of t.if yields", found, wanted)


def _if_ref(attrs: dict[str, Any], cond: Any, *captured: Any) -> tuple[Any, ...]:
    out = attrs["regions"][0 if bool(cond) else 1](*captured)
    sizes = [int(out[i].shape[axis]) for i, axis in attrs["sizes"]]
    return (*out, *sizes)


register("t.if", "cond, captured*", "results*", attrs={"defines": (), "bounds": (), "sizes": ()},
         traits="pure isolated step",
         regions=2, check=_if_faults, ref=_if_ref,
         doc="the first region where the condition holds, else the second. Both take what they capture and "
             "yield values of one element type and rank a result; where their dims differ, the result's dim is "
             "a symbol that the op defines: the n-th symbol is the size of axis sizes[n][1] of result "
             "sizes[n][0]")


# ---- dims out of data ----------------------------------------------------------------------------------------------
def _read_dim(types: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    t = tensor_operand(types, 0, "t.read_dim")
    if t.dtype not in (I32, I64) or t.size != 1:
        raise fail(f"t.read_dim of {t}: a dim is one element of i32 or i64")
    return []


def _read_dim_ref(attrs: dict[str, Any], x: np.ndarray) -> tuple[int, ...]:
    value, (bound,) = int(x.reshape(())), attrs["bounds"]
    if value < 0 or (bound is not None and value > bound):
        raise ValueError(attrs["message"])
    return (value,)


register("t.read_dim", "x", "", attrs={"defines": REQUIRED, "bounds": REQUIRED, "message": ""}, traits="step",
         infer=_read_dim, ref=_read_dim_ref,
         doc="makes one integer a dim; a negative one, or one above the bound, is an error of the run with that "
             "message")


def _require_ref(attrs: dict[str, Any]) -> tuple[()]:
    a, b = attrs["left"], attrs["right"]
    if not (a == b or (attrs["kind"] == "broadcast" and a == 1)):
        raise ValueError(attrs["message"])
    return ()


register("t.require", "", "", attrs={"kind": "eq", "left": REQUIRED, "right": REQUIRED, "message": ""}, traits="step",
         infer=lambda types, attrs: [], ref=_require_ref,
         doc="a guard at this place: an error of the run unless left == right (\"eq\"), or left is 1 or right "
             "(\"broadcast\")")
