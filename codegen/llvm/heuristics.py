"""How kernels that are not contractions are run on a CPU: which axis is across lanes, how many, how jobs are shared.

The choice is by a count of instructions for one outer point: a vector instruction counts once for all its lanes, an
access whose elements are not neighbours once for each. What is said here about an axis of unknown extent assumes that
it is long.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from onnxc.codegen.accesses import Accesses, accesses_of, dependent_values, ends_as_one, linear_in, loop_axes
from onnxc.codegen.llvm.target import Target
from onnxc.codegen.llvm.transpose import tiled_loads
from onnxc.codegen.llvm.weights import weight
from onnxc.codegen.schedule import Schedule
from onnxc.ir.core import Block, Func, Op
from onnxc.ir.dims import DimLike, ceildiv, dim_max, floordiv, product, provably_less, symbols_of
from onnxc.ir.types import BOOL, Scalar

__all__ = ["NEAR", "grain_of", "least_cost", "ranked_schedules", "schedule_kernel", "vector_axes", "vectors_in_flight"]

NEAR = (-1, 2, 3, 4)            # strides of loads along the vector axis that whole vectors and shuffles serve
_UNKNOWN = 64                   # assumed extent of a symbolic axis
_UNROLL = 4                     # vectors in flight in a short loop: what hides the latency of an addition
_TILE = 8                       # rows of a tile; 16 rows of 16 floats spill, and measured slower (36 us for 26)
_CHUNK = 16384                  # scalar operations that make a chunk worth a thread's attention: some microseconds
_HORIZONTAL = 12                # instructions that fold one vector into one element
_GATHERED = 2.0                 # instructions an element of a load of lanes that are apart,
_SCATTERED = 6.0                # and of a store: each element is a cache line of its own, fetched and written back
_UNEVEN = 1.0                   # instructions an element of a condition that divides the vector axis
_NEVER = 1e9
_LEAST_SHARED = 4               # steps of an inner loop whose loads are worth sharing
_LOOP = 3                       # instructions to start and step an inner loop


def schedule_kernel(func: Func, target: Target) -> Schedule:
    """The schedule of a kernel without a contraction."""
    return ranked_schedules(func, target)[0]


def ranked_schedules(func: Func, target: Target) -> list[Schedule]:
    """A schedule for each axis that can be laid across lanes, and for each tile, by rising cost; scalar code is one."""
    return [schedule for _, schedule in _ranked(func, target)]


def least_cost(func: Func, target: Target) -> float:
    """Instructions for one outer point of the kernel as its best schedule runs it."""
    return min(cost for cost, _ in _ranked(func, target))


def _ranked(func: Func, target: Target) -> list[tuple[float, Schedule]]:
    accesses = Accesses(func)
    parallel = next((op for op in func.body.ops if op.name == "k.parallel"), None)
    if parallel is None:
        return [(0.0, Schedule())]
    outer = [n for n, _ in loop_axes(parallel)]
    inner = [n for n in accesses.axes if n not in outer and accesses.axes[n].loop.name not in ("k.scan", "k.iterate")]
    found = [Schedule()]
    # Points whose loops end at different times cannot share a vector.
    apart = any(op.name == "k.iterate" and ends_as_one(op) for op in func.walk())
    for name in [*(() if apart else reversed(outer)), *reversed(inner)]:
        candidate = Schedule(vector=name, lanes=_lanes(accesses, name, target), unroll=_UNROLL)
        if candidate.lanes > 1:
            found.append(candidate)
        tiles = [_tiled(candidate, along) for along in outer if along != name and name in outer]
        found.extend(tile for tile in tiles if tile.lanes > 1)
    costs = [(_cost(accesses, parallel, schedule), i) for i, schedule in enumerate(found)]
    ranked = [(cost, found[i]) for cost, i in sorted(costs) if cost < _NEVER or not found[i].blocks]
    jammed = _jammed(accesses, parallel, ranked[0][1], target)
    return ranked if jammed is None else [(ranked[0][0], jammed), *ranked]


def _jammed(accesses: Accesses, parallel: Op, schedule: Schedule, target: Target) -> Schedule | None:
    """The schedule with several points as one along an outer axis that a load in a reduction does not vary along, such
    as the weights of a depthwise convolution; None where there is nothing to share."""
    axis = accesses.axes.get(schedule.vector)
    loops = [op for op in parallel.regions[0].ops if op.regions]
    plain = all(op.name == "k.reduce" and not any(o.regions for o in op.regions[0].ops) for op in loops) and \
        all(op.attrs["combine"] is None for op in parallel.walk() if op.name == "k.store")
    if axis is None or axis.loop is not parallel or schedule.blocks or not plain:
        return None
    loops = [op for op in loops if provably_less(_LEAST_SHARED - 1, product(e for _, e in loop_axes(op)))]
    for name, extent in reversed(loop_axes(parallel)):
        if name != axis.name and _shares(accesses, loops, name, axis.name):
            width, unroll = _jam(extent, axis.extent, schedule, target)
            return dataclasses.replace(schedule, unroll=unroll, jam=width, blocks=((name, width),)) if width else None
    return None


def _shares(accesses: Accesses, loops: list[Op], name: str, vector: str) -> bool:
    """Whether vectors that the loops load are the same at all points along an axis, and others are not; all accesses
    and conditions have to be linear along it."""
    expressions = [accesses.flat(op) for op in accesses_of(accesses.axes[name].loop.regions[0])]
    conditions = [c for op in accesses_of(accesses.axes[name].loop.regions[0]) for c in accesses.conditions(op)]
    if any(linear_in(e, name) is None for e in [*expressions, *(expr for expr, _, _ in conditions)]) or \
            any(name in symbols_of((low, high)) for _, low, high in conditions):
        return False
    loads = [op for loop in loops for op in loop.walk() if op.name == "k.load"]
    varies = [name in symbols_of(accesses.flat(op)) for op in loads]
    return any(varies) and any(not v and _step(accesses, op, vector) == "next" and len(op.operands) == 1
                               for op, v in zip(loads, varies, strict=True))


def _jam(extent: DimLike, vector: DimLike, schedule: Schedule, target: Target) -> tuple[int, int]:
    """How many points run as one and how many vectors of each are in flight: sums for most of the registers, and a
    number of points that divides the axis, if there is one; (0, 0) for an axis of one point."""
    room = 16 if target.vector_registers >= 32 else 8
    vectors = vector // schedule.lanes if isinstance(vector, int) else _UNKNOWN

    def unroll(width: int) -> int:
        # Vectors that are left over have their loops to themselves: there should be none, or few.
        fits = (n for n in (4, 2) if n * width <= room and (vectors % n == 0 or vectors >= 4 * n))
        return next(fits, 1)

    if not isinstance(extent, int):
        return 4, unroll(4)
    widths = [w for w in range(2, min(extent, room, 8) + 1) if extent % w == 0] or [w for w in (4, 2) if w < extent]
    if not widths:
        return 0, 0
    best = max(widths, key=lambda w: (min(w * unroll(w), room // 2), -abs(w - 4)))
    return best, unroll(best)


def _tiled(schedule: Schedule, along: str) -> Schedule:
    """The schedule with square tiles over its vector axis and `along`."""
    lanes = min(schedule.lanes, _TILE if schedule.lanes <= 16 else 2 * _TILE)
    return dataclasses.replace(schedule, lanes=lanes, unroll=1, blocks=((along, lanes),))


def vector_axes(accesses: Accesses, schedule: Schedule) -> dict[Op, str]:
    """For each loop below the outer points that is cut into vectors: its axis. None is where an outer axis is."""
    axis = accesses.axes.get(schedule.vector)
    if axis is None or schedule.lanes <= 1 or axis.loop.name == "k.parallel":
        return {}
    found: dict[Op, str] = {}
    for op in accesses.func.body.ops:
        for region in op.regions:
            _choose_axes(accesses, region, schedule.vector, found)
    return found


def _choose_axes(accesses: Accesses, block: Block, wanted: str, found: dict[Op, str]) -> None:
    for op in block.ops:
        if not op.regions:
            continue
        axis = _best_axis(accesses, op, wanted) if op.name in ("k.reduce", "k.sweep") else None
        if axis is not None:
            found[op] = axis
            continue
        for region in op.regions:
            _choose_axes(accesses, region, wanted, found)


def _best_axis(accesses: Accesses, loop: Op, wanted: str) -> str | None:
    """The axis of a loop along which most accesses are neighbours; None when none are."""
    names = [n for n, e in loop_axes(loop) if not (isinstance(e, int) and e < 4)]
    if wanted in names:
        return wanted
    best, most = None, 0
    for name in names:
        steps = [_step(accesses, op, name) for op in loop.walk() if op.name in ("k.load", "k.store")]
        score = steps.count("next") - 2 * steps.count("far")
        if score > most:
            best, most = name, score
    return best


def grain_of(accesses: Accesses, schedule: Schedule, points: DimLike) -> DimLike:
    """Least jobs that a thread takes at once, for jobs of `points` outer points."""
    if schedule.grain > 1:
        return dim_max(1, ceildiv(schedule.grain, dim_max(1, points)))
    work: DimLike = 0
    for op in accesses.func.walk():
        work = work + weight(op) * _trips(accesses, op)
    return dim_max(1, floordiv(_CHUNK, dim_max(1, work * points)))


def _trips(accesses: Accesses, op: Op) -> DimLike:
    """How often an op runs in one outer point."""
    times: DimLike = 1
    for loop in _loops_around(op):
        if loop.name != "k.parallel":
            for _, extent in loop_axes(loop):
                # An extent that depends on an outer axis counts as its length is on average: half of a known one.
                times = times * (extent if not symbols_of(extent) & accesses.axes.keys() else _UNKNOWN)
    return times


def _loops_around(op: Op) -> Iterator[Op]:
    block = op.block
    while block is not None and isinstance(block.parent, Op):
        yield block.parent
        block = block.parent.block


# ---- cost ------------------------------------------------------------------------------------------------------------

def _cost(accesses: Accesses, parallel: Op, schedule: Schedule) -> float:
    """Instructions for one outer point."""
    axis = accesses.axes.get(schedule.vector)
    if axis is not None and axis.loop is parallel:
        lanes = _used_lanes(axis.extent, schedule.lanes)
        whole = _block_cost(accesses, parallel.regions[0], axis.name, lanes, {}, 1)
        for along, width in schedule.blocks:
            loads = tiled_loads(accesses, along, axis.name)
            filled = _used_lanes(accesses.axes[along].extent, width) / width
            saved = _access_cost("far", lanes) - _access_cost("tile", lanes)
            whole = whole - saved * len(loads) * filled + 0.1 if loads and filled >= 0.5 else _NEVER
        return whole
    return _block_cost(accesses, parallel.regions[0], "", 1.0, vector_axes(accesses, schedule), schedule.lanes)


def _block_cost(accesses: Accesses, block: Block, axis: str, lanes: float, chosen: dict[Op, str], width: int) -> float:
    varying = dependent_values(accesses.axes[axis].loop.regions[0], axis) if axis else set()
    total = 0.0
    for op in block.ops:
        if op.regions:
            total += _loop_cost(accesses, op, axis, lanes, chosen, width)
        elif op.name in ("k.load", "k.store"):
            step = _step(accesses, op, axis) if axis else "none"
            total += _SCATTERED if step == "far" and op.name == "k.store" else _access_cost(step, lanes)
            total += _UNEVEN * sum(linear_in(expr, axis) is None for expr, _, _ in accesses.conditions(op) if axis)
        else:
            # A value that is the same in all lanes is computed once for all of them.
            total += weight(op) / lanes if axis == "" or any(r in varying for r in op.results) or not op.results \
                else weight(op) / max(lanes, 16)
    return total


def _access_cost(step: str, lanes: float) -> float:
    """Instructions an element of a load or store."""
    # A tile's vector is loaded, goes through a shuffle for each doubling of lanes, is stored and loaded again.
    tile = (math.log2(lanes) + 3) / lanes
    return {"none": 1 / lanes, "next": 1 / lanes, "near": 4 / lanes, "tile": tile, "far": _GATHERED}[step]


def _loop_cost(accesses: Accesses, loop: Op, axis: str, lanes: float, chosen: dict[Op, str], width: int) -> float:
    trips = 1.0
    for _, extent in loop_axes(loop):
        trips *= extent if isinstance(extent, int) else _UNKNOWN
    across = chosen.get(loop)
    if across is not None:
        used = _used_lanes(accesses.axes[across].extent, width)
        body = sum(_block_cost(accesses, r, across, used, {}, width) for r in loop.regions)
        fold = _HORIZONTAL * len(loop.results)
        return trips * (body + _LOOP / used) + fold + _LOOP
    body = sum(_block_cost(accesses, r, axis, lanes, chosen, width) for r in loop.regions)
    return trips * (body + _LOOP / lanes) + _LOOP / lanes


def _used_lanes(extent: DimLike, lanes: int) -> float:
    """Elements a vector instruction handles on average, ends included."""
    if not isinstance(extent, int):
        return float(lanes)
    return extent / -(-extent // lanes) if extent else 1.0


def _step(accesses: Accesses, access: Op, axis: str) -> str:
    """How an access moves along an axis: "none", "next" (to the neighbour), "near" (a few elements), or "far"."""
    flat = accesses.flat(access)
    operands = [v for v in access.operands[1 if access.name == "k.load" else 2:] if v is not None]
    if operands and any(s.startswith("$") for s in symbols_of(flat)):
        varying = dependent_values(accesses.axes[axis].loop.regions[0], axis)
        if any(v in varying for v in operands):
            return "far"
    linear = linear_in(flat, axis)
    if linear is None:
        return "far"
    if not isinstance(linear.stride, int):
        return "far"
    near = access.name == "k.load" and linear.stride in NEAR
    return {0: "none", 1: "next"}.get(linear.stride, "near" if near else "far")


# ---- widths ----------------------------------------------------------------------------------------------------------

def _lanes(accesses: Accesses, axis: str, target: Target) -> int:
    """As many lanes as one register holds of the widest elements that vary along the axis; fewer for a short axis."""
    varying = dependent_values(accesses.axes[axis].loop.regions[0], axis)
    widths = [v.type.dtype.bits for v in varying if isinstance(v.type, Scalar) and v.type.dtype != BOOL]
    lanes = target.lanes(max([8, *widths]))
    extent = accesses.axes[axis].extent
    while isinstance(extent, int) and lanes > 1 and lanes // 2 >= extent:
        lanes //= 2
    return lanes


def vectors_in_flight(region: Block, schedule: Schedule, target: Target) -> int:
    """How many vectors one pass through a loop body handles: the schedule's, but fewer where the body needs the
    registers for itself."""
    if schedule.jam:
        return schedule.unroll
    body = sum(weight(op) for outer in region.ops for op in outer.walk())
    light = 10 if target.vector_registers >= 32 else 6
    return max(1, schedule.unroll if body <= light else min(schedule.unroll, 2))
