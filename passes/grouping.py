"""Decides which values of a block live in memory, the roots, and thereby which ops each kernel computes.

Ops are placed from the last to the first, each when its users have been: a value is computed in the group of its
users unless that repeats work or hides memory from a contraction. Then every group is built as a kernel, to see
whether it fits; where it does not, a value in it becomes a root, and only the ops before that value are placed again.
Groups are bounded in depth and size: so the time that all this takes grows with the number of ops, and so do kernels
and the time LLVM takes.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Iterable, Iterator

from onnxc.errors import RuntimeException
from onnxc.ir.core import Block, Module, Op, Value
from onnxc.ir.dims import provably_nonneg
from onnxc.ir.printer import op_line
from onnxc.ops.control import is_step
from onnxc.passes.epilogues import PRODUCTS, epilogue_ends, is_elementwise, narrow_source
from onnxc.passes.kernel_builder import VIEWS, NotFusable
from onnxc.passes.kernels import MOST_FOLDS, SCATTERS, Group, build_kernels
from onnxc.passes.widening import widening_ops

__all__ = ["Grouping"]

_FOLDS = ("t.reduce", "t.argreduce")
_ALWAYS = ("t.scan", "t.topk", "t.concat", "t.compact", "t.nms", *SCATTERS)         # kernels of their own shape
_REPEATING = ("t.window", "t.gather", "t.gather_nd", "t.gather_elements", "t.topk", "t.concat", "t.pad",
              "t.nms", "t.walk")                  # read their operand anywhere
_STEPS = ("t.sub", "t.add", "t.mul")
_CONDITIONAL = ("t.window", "t.pad")    # contractions read through them: an access with a condition
_DEEPEST = 64           # ops one behind the other in a kernel, and
_LARGEST = 256          # ops in all: beside that many, a value's way to memory and back costs nothing


class Grouping:
    """The roots of a block, and for every other value the roots whose groups compute it."""

    def __init__(self, module: Module, block: Block, taken: frozenset[str]) -> None:
        self.module, self.block, self.taken = module, block, taken
        self.ops = list(block.ops)
        self.position = {op: i for i, op in enumerate(self.ops)}
        self.after_fold = _after_folds(self.ops)
        self.walked = _walked(self.ops)
        self.widening = widening_ops(self.ops)
        self.held: set[Value] = set()                     # reshapes known to be views of memory
        self.groups: dict[Value, set[Value]] = {}
        self.depth: dict[Value, int] = {}                 # ops from a value to the root that is furthest,
        self.folds: dict[Value, int] = {}                 # and folds among them
        self.size: Counter[Value] = Counter()             # ops in the group of a root
        self.fitting: set[Hashable] = set()               # groups that are known to be kernels: layers repeat
        self.roots = set(self._demanded())
        self.ends = epilogue_ends(self.ops, self.roots.__contains__)
        self.roots.update(self.ends.values())
        self.place(reversed(self.ops))
        self._fit()

    def _demanded(self) -> Iterator[Value]:
        """What the block gives, and what steps of the program take."""
        yield from (v for v in self.block.terminator.inputs if not is_given(v))
        for op in self.ops:
            if is_step(op):
                yield from (v for v in op.inputs if not is_given(v) and (v.op is None or v.op.name != "t.const"))

    # ---- memory ----------------------------------------------------------------------------------------------------
    def in_memory(self, v: Value) -> bool:
        """Whether a value is in memory, be it as a reshape, which is the same memory under another shape."""
        path = []
        while v not in self.held and v not in self.roots and not is_given(v):
            if v.op is None or v.op.name != "t.reshape":
                return False
            path.append(v)
            v = v.op.operand(0)
        self.held.update(path)
        return True

    def is_view_of_memory(self, v: Value) -> bool:
        """Whether a root needs no kernel."""
        return v.op is not None and v.op.name == "t.reshape" and self.in_memory(v.op.operand(0))

    def stored(self) -> list[Value]:
        """The roots that a kernel has to compute, in the order of the block."""
        return [r for op in self.ops for r in op.results if r in self.roots and not self.is_view_of_memory(r)]

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

    def group(self, root: Value, name: str = "trial") -> Group:
        """The group of a root."""
        return Group(self.module, root, self.inputs_of(root), self.taken, name)

    # ---- placing ---------------------------------------------------------------------------------------------------
    def place(self, ops: Iterable[Op]) -> list[Value]:
        """Place ops whose users have been; later ones first. Gives the new roots."""
        new = []
        for op in ops:
            # What takes no operands decides for no other op: constants are shared by too many groups to be looked at.
            if len(op.results) != 1 or is_step(op) or not op.inputs:
                continue
            v = op.result
            wanted = self._user_groups(v)
            if v in self.roots or self._is_too_deep(op, wanted) or self._must_be_root(op, v, wanted):
                self.roots.add(v)
                wanted = {v}
                self.depth[v] = self.folds[v] = 0
                if self.groups.get(v) != wanted:
                    new.append(v)
            self.size.subtract(self.groups.get(v, ()))
            self.size.update(wanted)
            self.groups[v] = wanted
        return new

    def _is_too_deep(self, op: Op, wanted: set[Value]) -> bool:
        """Whether the op would make a group too deep or too large."""
        v = op.result
        following = [r for user in v.users for r in user.results]
        self.depth[v] = 1 + max((self.depth.get(r, 0) for r in following), default=0)
        self.folds[v] = (op.name in _FOLDS) + max((self.folds.get(r, 0) for r in following), default=0)
        return bool(wanted) and (self.depth[v] > _DEEPEST or self.folds[v] > MOST_FOLDS
                                 or any(self.size[g] >= _LARGEST for g in wanted))

    def _user_groups(self, v: Value) -> set[Value]:
        out: set[Value] = set()
        for user in v.users:
            for r in user.results:
                out |= self.groups.get(r, set())
        return out

    def _must_be_root(self, op: Op, v: Value, wanted: set[Value]) -> bool:
        if not wanted:
            return False                     # nobody needs it
        if op.name in _ALWAYS:
            return True
        if op.name in PRODUCTS:
            return wanted != {self.ends[v]}
        if op in self.widening or _is_free(op):
            return False
        if any(self._repeats(op, seen, user) for seen, user in self._readers(v)):
            return True
        # A window or a pad is a condition on what it reads, which is in memory where several groups need it.
        return len(wanted) > 1 and not (op.name in _CONDITIONAL or narrow_source(v) is not None
                                        or self._is_centred(op))

    def _is_centred(self, op: Op) -> bool:
        """Whether `op` is one step from a value that a fold of it needs in memory, like the distance from a mean: it is
        computed again where it is read, which costs less than the way to memory and back. That value becomes a root."""
        whole = [v for v in op.inputs if v.dims == op.result.dims]
        others = [v for v in op.inputs if v not in whole]
        return (op.name in _STEPS and len(whole) == 1 and all(v in self.after_fold for v in others)
                and self._store(whole[0]))

    def _readers(self, v: Value) -> Iterator[tuple[Value, Op]]:
        """The ops that read `v`, views in between looked through, each with the value that it reads."""
        stack = [v]
        while stack:
            seen = stack.pop()
            for user in seen.users:
                yield seen, user
                if user.name in VIEWS and user.result not in self.roots:
                    stack.append(user.result)

    def _repeats(self, op: Op, v: Value, user: Op) -> bool:
        """Whether inlining `op`, which `user` reads as `v`, computes elements more than once or hides memory from a
        contraction."""
        if user.name == "t.attend":
            return True
        if user.name == "t.contract":
            return not (op.name in _CONDITIONAL and self._keep_operand(op))
        if user.name == "t.concat" or user.name in SCATTERS:
            return op.name in _FOLDS
        if v in self.walked and user.name not in _FOLDS and any(
                not provably_nonneg(v.tensor.size - r.tensor.size) for r in user.results):
            return True
        if user.name in _REPEATING:
            return user.operand(0) is v and not (user.name == "t.pad" and is_elementwise(op))
        if v.tensor.size == 1 or v in self.after_fold or not (user.name in VIEWS or is_elementwise(user)):
            return False
        return any(not provably_nonneg(v.tensor.size - r.tensor.size) for r in user.results)

    def _keep_operand(self, op: Op) -> bool:
        """Make what `op` reads a root, so that a contraction reads memory through `op`."""
        return self._store(op.operand(0))

    def _store(self, v: Value) -> bool:
        """Make `v` a root, views looked through; whether it can be one."""
        while v not in self.roots and not is_given(v):
            if v.op is None or v.op.name == "t.window":
                return False            # windows in memory are copies of it
            if v.op.name not in VIEWS:
                self.roots.add(v)
                return True
            v = v.op.operand(0)
        return True

    # ---- fitting ---------------------------------------------------------------------------------------------------
    def _fit(self) -> None:
        """Build every group; what stands in the way of a kernel becomes a root, until all of them fit."""
        queue = deque(self.stored())
        while queue:
            root = queue.popleft()
            if not self.groups.get(root) or self.is_view_of_memory(root):
                continue
            obstacle = self._obstacle(root)
            if obstacle is not None:
                queue.extend([root, *self._split(obstacle)])

    def _obstacle(self, root: Value) -> Value | None:
        """A value that has to be in memory before a kernel can compute `root`; None if one can."""
        group = self.group(root)
        key = group.key()
        if key in self.fitting:
            return None
        try:
            build_kernels(group)
            self.fitting.add(key)
        except NotFusable as e:
            if e.value is root or self.in_memory(e.value) or e.value.op is None:
                where = op_line(root.op) if root.op is not None else repr(root)
                raise RuntimeException(f"no kernel computes {where}: {e.reason}") from e
            return e.value
        return None

    def _split(self, v: Value) -> list[Value]:
        """Make `v` a root and place again what is before it in its groups; the roots whose groups are others now."""
        old = self.groups.get(v, set())
        self.roots.add(v)
        before = self._before(v, old)
        new = self.place(sorted(before, key=self.position.__getitem__, reverse=True))
        return [v, *new, *old]

    def _before(self, v: Value, groups: set[Value]) -> set[Op]:
        """The ops that compute `v` inside of `groups`, its own included."""
        out: set[Op] = set()
        stack = [v]
        while stack:
            op = stack.pop().op
            if op is None or op in out or op not in self.position:
                continue
            out.add(op)
            stack.extend(x for x in op.inputs if x not in self.roots and self.groups.get(x, set()) & groups)
        return out


def is_given(v: Value) -> bool:
    """Whether a value is in memory without a kernel: arguments, constant arrays, and what steps of the program give."""
    return v.op is None or is_step(v.op) or (v.op.name == "t.const" and v.tensor.size != 1)


def _is_free(op: Op) -> bool:
    """Whether computing the op again costs nothing: views, and scalars that only depend on dims."""
    if op.name in VIEWS or op.name in ("t.const", "t.dims", "t.iota"):
        return True
    from_dims = all(v.op is not None and v.op.name in ("t.const", "t.dims") for v in op.inputs)
    return from_dims and op.result.tensor.size == 1


def _after_folds(ops: Iterable[Op]) -> set[Value]:
    """Values that depend on a fold through elementwise ops and views: they stand outside inner loops."""
    out: set[Value] = set()
    for op in ops:
        if op.name in _FOLDS or ((is_elementwise(op) or op.name in VIEWS) and any(v in out for v in op.inputs)):
            out.update(op.results)
    return out


def _walked(ops: Iterable[Op]) -> set[Value]:
    """Values that go down trees for each of their elements: walks, and what is looked up where they end."""
    out: set[Value] = set()
    for op in ops:
        looked_up = is_elementwise(op) or op.name in VIEWS or op.name == "t.gather"
        if op.name == "t.walk" or (looked_up and any(v in out for v in op.inputs)):
            out.update(op.results)
    return out
