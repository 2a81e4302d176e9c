"""The pass `append_in_place`: an output that is an input with something appended may be written behind that input.

`present = concat(past, new)` starts with a copy of the past. In the programs of decoders every step copies all that the
steps before it appended. This pass finds such pairs of an input and an output, and lets both lie in memory with room
along the axis of the concatenation: kernels index with two further dims, the rooms of the past and of the present,
whose values the caller of a run gives. Where nothing else is said they are the extents themselves. A caller who has the
past in memory with enough room gives the same memory as the present: then what is there stays there, because the
launch that copies the past is left out when it would copy memory to itself, and no other launch writes rows of it.
"""

from __future__ import annotations

import dataclasses
from typing import cast

from onnxc.ir.core import Func, Module, Op, Ref, Value
from onnxc.ir.dims import DimLike, product, provably_nonneg, sym, symbols_of
from onnxc.ir.types import Mem, Scalar
from onnxc.passes.fuse import symbols_in
from onnxc.passes.kernel_builder import element_type

__all__ = ["append_in_place"]


@dataclasses.dataclass(frozen=True)
class _Pair:
    """Output `present` begins, along `axis`, with all of input `past`, which `copy` copies there. `extents` are theirs
    along the axis."""

    past: Value
    present: Value
    axis: int
    copy: Op
    extents: tuple[DimLike, DimLike]


def append_in_place(module: Module) -> None:
    """Mark the pairs of @main (attributes `caches` and `rooms`) and give their memory room."""
    main = module.main
    inputs = cast(int, main.attrs["inputs"])
    taken: set[Value] = set()
    pairs = []
    for present in main.args[inputs:]:
        pair = _pair(module, main, present)
        if pair is not None and pair.past not in taken and _has_room(module, pair):
            taken.add(pair.past)
            pairs.append(pair)
    if not pairs:
        return
    symbols = symbols_in(main)
    rooms: dict[tuple[DimLike, DimLike], tuple[str, str]] = {}      # pairs of equal extents share them: so do kernels
    for pair in pairs:
        names = f"past_room{len(rooms)}", f"present_room{len(rooms)}"
        while symbols & set(names):
            names = f"_{names[0]}", f"_{names[1]}"
        names = rooms.setdefault(pair.extents, names)
        for value, name in zip((pair.past, pair.present), names, strict=True):
            _give_room(module, value, pair.axis, sym(name))
    main.attrs["caches"] = tuple(
        (main.args.index(p.past), main.args.index(p.present) - inputs, p.axis, *rooms[p.extents]) for p in pairs)
    main.attrs["rooms"] = tuple((name, extent) for extents, names in rooms.items()
                                for name, extent in zip(names, extents, strict=True))


# ---- what is a pair --------------------------------------------------------------------------------------------------
def _pair(module: Module, main: Func, present: Value) -> _Pair | None:
    """The pair of an output, if one launch copies an input to its beginning and all others write behind that."""
    launches = list(_launches(present))
    copies = [(op, past) for op in launches for past in [_copied(module, main, op, present)] if past is not None]
    if len(copies) != 1:
        return None
    copy, past = copies[0]
    ours, theirs = past.mem.shape, present.mem.shape
    if symbols_of([*ours, *theirs]) - {str(s) for s in cast(tuple, main.attrs["symbols"])}:
        return None                 # sizes that only a run tells
    if past.mem.dtype != present.mem.dtype or past.mem.dtype.bits < 8 or len(ours) != len(theirs):
        return None
    axes = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
    if len(axes) != 1 or isinstance(ours[axes[0]], int) or not provably_nonneg(theirs[axes[0]] - ours[axes[0]]):
        return None                 # a past of known extent is no past of the next run
    pair = _Pair(past, present, axes[0], copy, (ours[axes[0]], theirs[axes[0]]))
    others = [op for op in launches if op is not copy]
    apart = all(op.inputs != copy.inputs and _writes_behind(module, op, pair) for op in others)
    return pair if apart else None


def _launches(v: Value) -> dict[Op, None]:
    """The launches that use a buffer, or a view of it, in order."""
    found: dict[Op, None] = {}
    for user in v.users:
        if user.name == "p.view":
            found.update(_launches(user.result))
        elif user.name == "p.launch":
            found[user] = None
    return found


def _copied(module: Module, main: Func, launch: Op, present: Value) -> Value | None:
    """The input of @main that a launch copies to the same places of `present`, if it does that and nothing else."""
    kernel = _kernel(module, launch)
    if launch.block is not main.body or len(launch.inputs) != 2 or launch.inputs[1] is not present:
        return None
    past = launch.inputs[0]
    loop = kernel.body.first
    if past not in main.args[:cast(int, main.attrs["inputs"])] or loop is None or loop.name != "k.parallel":
        return None
    region = loop.regions[0]
    loads = [op for op in region.ops if op.name == "k.load"]
    stores = [op for op in region.ops if op.name == "k.store"]
    casts = [op for op in region.ops if op.name == "s.cast"]
    if len(loads) != 1 or len(stores) != 1 or len(region) != 2 + len(casts):
        return None
    exact = (Scalar(past.mem.dtype), Scalar(element_type(past.mem.dtype)))
    if any(op.result.type not in exact for op in casts):
        return None                 # what is stored has been rounded
    load, store = loads[0], stores[0]
    plain = not load.attrs["where"] and not store.attrs["where"] and store.attrs["combine"] is None
    extents = dict(zip(map(str, _tuple(loop, "axes")), _tuple(loop, "extents"), strict=True))
    everything = [extents.get(str(i), 1 if i == 0 else None) for i in _tuple(load, "index")]
    same = load.attrs["index"] == store.attrs["index"] and len(set(map(str, _tuple(load, "index")))) >= len(extents)
    return past if plain and same and everything == list(past.mem.shape) else None


def _writes_behind(module: Module, launch: Op, pair: _Pair) -> bool:
    """Whether a launch writes nothing of the present, or only rows behind those of the past."""
    kernel, written = _kernel(module, launch), _tuple(launch, "writes")
    for i, v in enumerate(launch.inputs):
        if i not in written or _root(v) is not pair.present:
            continue
        if v is not pair.present:
            return False
        for store in [op for op in kernel.walk() if op.name == "k.store" and op.operand(0) is kernel.args[i]]:
            if not provably_nonneg(_tuple(store, "index")[pair.axis] - pair.extents[0]):
                return False
    return True


def _root(v: Value) -> Value:
    while v.op is not None and v.op.name == "p.view":
        v = v.op.operand(0)
    return v


# ---- room ------------------------------------------------------------------------------------------------------------
def _has_room(module: Module, pair: _Pair) -> bool:
    """Whether all that uses the two buffers can do so with room along the axis."""
    return all(_uses_fit(module, v, pair.axis) for v in (pair.past, pair.present))


def _uses_fit(module: Module, v: Value, axis: int) -> bool:
    for user in v.users:
        if user.name == "p.view":
            inner = _axis_of(v.mem, user.result.mem, axis)
            if inner is None or not _uses_fit(module, user.result, inner):
                return False
        elif user.name == "p.launch":
            kernel = _kernel(module, user)
            for i, operand in enumerate(user.inputs):
                if operand is v and kernel.args[i].type != v.type:
                    return False
        else:
            return False
    return True


def _axis_of(mem: Mem, view: Mem, axis: int) -> int | None:
    """The axis of a view that is `axis` of the memory, with as many elements in front of it."""
    for i, d in enumerate(view.shape):
        if d == mem.shape[axis] and product(view.shape[:i]) == product(mem.shape[:axis]):
            return i
    return None


def _give_room(module: Module, v: Value, axis: int, room: DimLike) -> None:
    """The same memory with `room` along the axis, wherever it is named."""
    wide = Mem(v.mem.dtype, (*v.mem.shape[:axis], room, *v.mem.shape[axis + 1:]))
    for user in dict.fromkeys(v.users):
        if user.name == "p.view":
            inner = _axis_of(v.mem, user.result.mem, axis)
            assert inner is not None            # `_uses_fit` has seen it
            _give_room(module, user.result, inner, room)
            continue
        kernel = _kernel(module, user)
        for i, operand in enumerate(user.inputs):
            if operand is v:
                kernel.args[i].type = wide
    v.type = wide


def _kernel(module: Module, launch: Op) -> Func:
    return module.funcs[cast(Ref, launch.attrs["kernel"]).name]


def _tuple(op: Op, name: str) -> tuple:
    return cast(tuple, op.attrs[name])
