"""The pass `fuse`: decides which values live in memory and gathers the rest into `t.fused` groups, one value each.

A value is computed where it is used unless that repeats work: it goes to memory when several groups need it, when its user
reads it many times (windows, gathers, broadcasts, operands of contractions), or when no kernel can hold it. A contraction
takes the chain of one-to-one ops behind it as its epilogue. Whether a group fits one kernel is found by building it.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnxc.ir.core import Block, Func, Module, Op, Value
from onnxc.ir.dims import Dim, provably_nonneg, symbols_of
from onnxc.ir.registry import lookup
from onnxc.ir.types import Tensor
from onnxc.ops import group  # noqa: F401  (registers t.fused)
from onnxc.ops.control import defined_symbols, is_step
from onnxc.passes.kernel_builder import NotFusable
from onnxc.passes.kernels import Group, build_kernels

__all__ = ["fuse", "symbols_in"]

_VIEWS = ("t.broadcast", "t.reshape", "t.transpose", "t.slice")
_FOLDS = ("t.reduce", "t.argreduce")
_SCATTERS = ("t.scatter_elements", "t.scatter_nd")
_ALWAYS = ("t.scan", "t.topk", "t.concat", "t.compact", "t.nms", *_SCATTERS)         # kernels of their own shape
_FORK_OPS = 64                                       # ops within which an epilogue that forks has to join again
_REPEATING = ("t.window", "t.gather", "t.gather_nd", "t.gather_elements", "t.topk", "t.concat", "t.pad", "t.nms")   # read their operand anywhere


def fuse(module: Module) -> None:
    """Group the tensor ops of @main in place."""
    taken = symbols_in(module.main)
    for block in _blocks(module.main.body):
        _Fusion(module, block, taken).run()


def _blocks(block: Block) -> list[Block]:
    """A block and those in its ops, inner ones first: each is fused by itself."""
    inner = [b for op in block.ops for region in op.regions for b in _blocks(region)]
    return [*inner, block]


def symbols_in(func: Func) -> frozenset[str]:
    """Every dim symbol in the types of a function's values."""
    out: set[str] = set()
    for v in [*func.args, *(r for op in func.walk() for r in op.results)]:
        if isinstance(v.type, Tensor):
            out |= symbols_of(v.type.dims)
    for op in func.walk():
        out |= {name for name, _ in defined_symbols(op)}
        for a in op.attrs.values():
            if isinstance(a, Dim):
                out |= symbols_of(a)
            if isinstance(a, tuple):
                out |= symbols_of(d for d in a if not isinstance(d, (str, bytes, tuple, float, bool)) and _is_dim(d))
    return frozenset(out)


def _is_dim(a: object) -> bool:
    return isinstance(a, Dim)


def is_elementwise(op: Op) -> bool:
    row = lookup(op.name)
    return row is not None and row.has("elementwise") or op.name == "t.cast"


def _is_const(v: Value) -> bool:
    return v.op is not None and v.op.name == "t.const"


class _Fusion:
    def __init__(self, module: Module, block: Block, taken: frozenset[str]) -> None:
        self.module, self.block, self.taken = module, block, taken
        self.ops = list(block.ops)
        self.position = {op: i for i, op in enumerate(self.ops)}
        self.roots: set[Value] = set()
        self.after_fold: set[Value] = set()
        self.groups: dict[Value, set[Value]] = {}
        self.operands: dict[Op, tuple[Value | None, ...]] = {}
        self.ends: dict[Value, Value] = {}                # contraction result -> last value of its epilogue

    def run(self) -> None:
        self.mark_after_fold()
        self.roots = {v for v in self.block.terminator.inputs if not self.in_memory_anyway(v)}
        for op in self.ops:
            if is_step(op):
                self.roots.update(v for v in op.inputs if not self.in_memory_anyway(v) and not _is_const(v))
        self.mark_epilogues()
        built: dict[Value, frozenset[Value]] = {}
        while True:
            self.assign()
            if not self.split_unfit(built):
                break
        self.rewrite()

    # ---- roots -----------------------------------------------------------------------------------------------------
    @staticmethod
    def in_memory_anyway(v: Value) -> bool:
        """Arguments, constant arrays, and what steps of the program give."""
        return v.op is None or is_step(v.op) or (v.op.name == "t.const" and v.type.size != 1)  # type: ignore[attr-defined]

    def mark_after_fold(self) -> None:
        """Values that depend on a fold through elementwise ops and views: they stand outside inner loops."""
        for op in self.ops:
            if op.name in _FOLDS or ((is_elementwise(op) or op.name in _VIEWS) and
                                     any(v in self.after_fold for v in op.inputs)):
                self.after_fold.update(op.results)

    def mark_epilogues(self) -> None:
        """The last value of each contraction's chain is a root; later contractions choose first."""
        claimed: set[Value] = set()
        for op in reversed(self.ops):
            if op.name != "t.contract":
                continue
            v = op.result
            while v not in self.roots:
                following = self.epilogue_step(v, claimed)
                if following is None:
                    break
                v = following
                claimed.add(v)
            self.roots.add(v)
            self.ends[op.result] = v

    def epilogue_step(self, v: Value, claimed: set[Value]) -> Value | None:
        """The next value of a chain of one-to-one ops behind `v`; where the chain forks, the value in which it joins again."""
        if len(v.uses) > 1:
            return self.join(v, claimed)
        user = v.users[0] if v.users else None
        if user is None or not user.results or is_step(user) or user.result in claimed:
            return None
        if self.keeps_shape(user, v):
            return user.result
        # A pure reshape of a product costs nothing in memory; a transpose is done by its store.
        if user.name == "t.transpose" and self.transposes_for_memory(user):
            return user.result
        return None

    @staticmethod
    def keeps_shape(op: Op, v: Value) -> bool:
        """Whether `op` gives one element for each of `v`."""
        r = op.result.type if is_elementwise(op) else None
        return isinstance(r, Tensor) and isinstance(v.type, Tensor) and r.dims == v.type.dims

    def join(self, v: Value, claimed: set[Value]) -> Value | None:
        """The first value through which everything computed from `v` goes (x * sigmoid(x)), by elementwise ops only."""
        open_uses = {v: len(v.uses)}
        ahead = {user for user in v.users}
        for _ in range(_FORK_OPS):
            op = min(ahead, key=lambda o: self.position.get(o, len(self.position)), default=None)
            if op is None or not self.keeps_shape(op, v) or op.result in claimed:
                return None
            ahead.discard(op)
            for x in op.inputs:
                if x in open_uses:
                    open_uses[x] -= 1
            if not any(open_uses.values()):
                return op.result
            open_uses[op.result] = len(op.result.uses)
            ahead.update(op.result.users)
        return None

    @staticmethod
    def transposes_for_memory(op: Op) -> bool:
        """Whether a transposed product is better stored that way: when it is not read by a contraction, which can take
        either order of its rows."""
        return all(u.name not in ("t.contract", "t.reshape") for u in op.result.users) or op.attrs["perm"][-1] == len(op.attrs["perm"]) - 1  # type: ignore[index,arg-type]

    # ---- groups ----------------------------------------------------------------------------------------------------
    def assign(self) -> None:
        """Group membership of every op, from the last to the first; may add roots."""
        self.groups = {}
        for op in reversed(self.ops):
            if not op.results or is_step(op):
                continue
            v = op.result
            if self.in_memory_anyway(v):
                continue
            if v not in self.roots and self.must_be_root(op, v):
                self.roots.add(v)
            if v in self.roots:
                self.groups[v] = {v}
            else:
                self.groups[v] = self.user_groups(v)

    def user_groups(self, v: Value) -> set[Value]:
        out: set[Value] = set()
        for user in v.users:
            for r in user.results:
                out |= self.groups.get(r, set())
        return out

    def must_be_root(self, op: Op, v: Value) -> bool:
        wanted = self.user_groups(v)
        if not wanted:
            return False
        if op.name in _ALWAYS:
            return True
        if op.name == "t.contract":
            return wanted != {self.ends[v]}
        if self.is_free(op):
            return False
        if len(wanted) > 1:
            return True
        return any(self.repeats(op, seen, user) for seen, user in self.readers(v))

    def readers(self, v: Value) -> Iterator[tuple[Value, Op]]:
        """The ops that read `v`, views in between looked through, each with the value that it reads."""
        for user in v.users:
            yield v, user
            if user.name in _VIEWS and user.result not in self.roots:
                yield from self.readers(user.result)

    @staticmethod
    def is_free(op: Op) -> bool:
        """Whether computing the op again costs nothing: views, and scalars that only depend on dims."""
        if op.name in _VIEWS or op.name in ("t.const", "t.dims", "t.iota"):
            return True
        return op.result.type.size == 1 and all(  # type: ignore[attr-defined]
            v.op is not None and v.op.name in ("t.const", "t.dims") for v in op.inputs)

    def repeats(self, op: Op, v: Value, user: Op) -> bool:
        """Whether inlining `op`, which `user` reads as `v`, computes its elements more than once, or hides memory from a contraction."""
        plain = op.name in ("t.window", "t.pad") and self.over_memory(op.operand(0))
        if user.name == "t.contract":
            return not plain
        if user.name == "t.concat" or user.name in _SCATTERS:
            return op.name in _FOLDS
        if user.name in _REPEATING:
            reads_data = user.operand(0) is v
            return reads_data and not (user.name == "t.pad" and is_elementwise(op))
        if v.type.size == 1 or v in self.after_fold:  # type: ignore[attr-defined]
            return False
        for r in user.results:
            grown = r.type.size - v.type.size  # type: ignore[attr-defined]
            if user.name in _VIEWS or is_elementwise(user):
                if grown != 0 and not provably_nonneg(-grown if isinstance(grown, int) else grown * -1):
                    return True
        return False

    def over_memory(self, v: Value) -> bool:
        while v not in self.roots and not self.in_memory_anyway(v):
            if v.op is None or v.op.name not in _VIEWS:
                return False
            v = v.op.operand(0)
        return True

    # ---- fitting ---------------------------------------------------------------------------------------------------
    def in_memory(self, v: Value) -> bool:
        return v in self.roots or self.in_memory_anyway(v) or self.is_view_of_memory(v)

    def is_view_of_memory(self, v: Value) -> bool:
        """A reshape of what is in memory is the same memory under another shape."""
        return v.op is not None and v.op.name == "t.reshape" and self.in_memory(v.op.operand(0))

    def inputs_of(self, root: Value) -> list[Value]:
        """The values in memory that the group of `root` reads, in order of first need."""
        out: dict[Value, None] = {}
        seen: set[Value] = set()
        stack = [root]
        while stack:
            v = stack.pop()
            if v in seen:
                continue
            seen.add(v)
            if v is not root and self.in_memory(v):
                out[v] = None
            elif v.op is not None:
                stack.extend(reversed(v.op.inputs))
        return list(out)

    def split_unfit(self, built: dict[Value, frozenset[Value]]) -> bool:
        """Build every group that changed; values that stand in the way become roots. Whether any did."""
        changed = False
        for root in [r for op in self.ops for r in op.results if r in self.roots and self.groups.get(r)]:
            if self.is_view_of_memory(root):
                continue
            inputs = frozenset(self.inputs_of(root))
            if built.get(root) == inputs:
                continue
            try:
                build_kernels(Group(self.module, root, self.inputs_of(root), self.taken, "trial"))
                built[root] = inputs
            except NotFusable as e:
                if self.in_memory(e.value) and e.value is not root:
                    raise
                target = e.value if e.value is not root else None
                if target is None:
                    raise
                self.roots.add(target)
                changed = True
        return changed

    # ---- rewriting -------------------------------------------------------------------------------------------------
    def rewrite(self) -> None:
        """Replace the ops of each group by one t.fused at the place of its root."""
        plan = [(r, self.inputs_of(r)) for op in self.ops for r in op.results
                if r in self.roots and not self.is_view_of_memory(r)]
        groups = [(root, inputs, Group(self.module, root, inputs, self.taken, "").ops()) for root, inputs in plan]
        self.operands = {op: op.operands for op in self.ops}      # as they were: groups replace values as they are made
        moved: dict[Value, Value] = {}
        for root, inputs, ops in groups:
            moved[root] = self.wrap(root, [moved.get(v, v) for v in inputs], inputs, ops)
        for op in self.block.reversed_ops():
            row = lookup(op.name)
            if op.results and not any(r.uses for r in op.results) and row is not None and row.has("pure"):
                op.erase()

    def wrap(self, root: Value, operands: list[Value], inputs: list[Value], ops: list[Op]) -> Value:
        """The group as one op; gives its result, which has taken the root's place."""
        block = Block([v.type for v in inputs], [v.name for v in inputs])
        mapping = dict(zip(inputs, block.args))
        for op in ops:
            copy = Op(op.name, [None if v is None else mapping[v] for v in self.operands[op]], [r.type for r in op.results],
                      op.attrs, loc=op.loc, names=[r.name for r in op.results])
            block.append(copy)
            mapping.update(zip(op.results, copy.results))
        block.append(Op("yield", [mapping[root]]))
        at = root.op
        assert at is not None and at.block is not None
        loc = ", ".join(dict.fromkeys(op.loc for op in ops if op.loc))
        fused = Op("t.fused", operands, [root.type], {}, [block], loc, [root.name])
        at.block.insert(fused, at)
        root.replace_by(fused.result)
        return fused.result
