"""Named rewrites over a function: rules, the driver that applies them to a fixpoint, their log, and fuel.

A rule looks at one op and builds what replaces it:

    @rule("double-negation", root="t.neg")
    def _(m: Match) -> Value | None:
        inner = m.made_by(m.op.operand(0), "t.neg")
        return inner.operand(0) if inner else m.no("the operand is no negation")

It changes nothing that exists: it makes ops with `m.builder` (in front of the root op) and returns a value for each
result, of the same type, or None, best with a reason by `m.no`. Nothing is kept between calls. What a rule made before
it gave None is taken out again. Rules are tried in the order of their set and the first that applies wins.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from onnxc.errors import RuntimeException
from onnxc.ir.builder import Builder, constant_of
from onnxc.ir.compare import same_type
from onnxc.ir.core import Block, Func, Module, Op, Value
from onnxc.ir.printer import op_line, quote_name
from onnxc.ir.registry import lookup

__all__ = ["Application", "Fuel", "Match", "RewriteError", "RewriteLog", "RewriteLoop", "Rule", "RuleSet", "merge_locs",
           "rewrite", "rewrite_graphs", "rule"]

Replacement = Value | Sequence[Value] | None

_LOC_JOINT = ", "
_FAMILY = 64                    # rewrites of all descendants of one op, in units of the limit on a line of descent


class RewriteError(RuntimeException):
    """A rule broke its contract, or failed."""


class RewriteLoop(RewriteError):
    """Rules undo each other for ever; `rules` names the cycle."""

    rules: tuple[str, ...]


# ---- fuel and log --------------------------------------------------------------------------------------------------
class Fuel:
    """Numbers the rewrites of one compilation from 1, and ends them after `limit` (None: never).

    One object serves all passes of the compilation, so that a wrong rewrite can be found by bisecting `limit`.
    """

    __slots__ = ("limit", "used")

    def __init__(self, limit: int | None = None) -> None:
        self.limit, self.used = limit, 0

    @property
    def is_spent(self) -> bool:
        return self.limit is not None and self.used >= self.limit

    def spend(self) -> int:
        """Take one; its number."""
        self.used += 1
        return self.used


@dataclasses.dataclass(frozen=True)
class Application:
    """One rewrite that happened: `place` is file:line of the rule, `before` and `after` are lines of IR."""

    serial: int
    rule: str
    place: str
    func: str
    before: str
    after: tuple[str, ...]

    def __str__(self) -> str:
        after = "\n    ".join(self.after)
        head = f"#{self.serial} {self.rule} ({self.place}) in @{quote_name(self.func)}"
        return f"{head}\n    {self.before}\n ->  {after}"


class RewriteLog:
    """What rules did: every application in order, and how many ops each (rule, reason) refused."""

    def __init__(self) -> None:
        self.applied: list[Application] = []
        self.refused: Counter[tuple[str, str]] = Counter()

    def copy(self) -> RewriteLog:
        """The log as it is now, for `since`."""
        return self.since(RewriteLog())

    def since(self, earlier: RewriteLog) -> RewriteLog:
        """What was added after `earlier` was copied: the part of one pass in the log of a compilation."""
        part = RewriteLog()
        part.applied = self.applied[len(earlier.applied):]
        part.refused = self.refused - earlier.refused
        return part

    def counts(self) -> Counter[str]:
        """Applications by rule."""
        return Counter(a.rule for a in self.applied)

    def __str__(self) -> str:
        lines = [f"{n:5} x {name}" for name, n in self.counts().most_common()]
        lines += [f"{n:5} x {name} refused: {reason}" for (name, reason), n in self.refused.most_common()]
        return "\n".join(lines)


# ---- rules ---------------------------------------------------------------------------------------------------------
class Match:
    """What a rule sees: the root `op`, its `module`, and a `builder` that inserts in front of the op, at its location.

    `seen` are the ops that `made_by` gave; those that the rewrite leaves unused give their location to what is made.
    """

    __slots__ = ("builder", "made", "module", "op", "reason", "seen")

    def __init__(self, module: Module, op: Op) -> None:
        self.module, self.op = module, op
        self.made: list[Op] = []
        self.reason: str | None = None
        self.seen: list[Op] = []
        assert op.block is not None
        self.builder: Builder = _RecordingBuilder(module, op.block, op, op.loc, self.made)

    def const(self, value: Value | None) -> np.ndarray | None:
        """The array behind `value` when a t.const makes it."""
        return constant_of(self.module, value)

    def made_by(self, value: Value | None, *names: str) -> Op | None:
        """The op that makes `value`, if it is one of those names (of any name when none are given)."""
        op = value.op if value is not None else None
        if op is None or (names and op.name not in names):
            return None
        self.seen.append(op)
        return op

    def only_use(self, value: Value) -> bool:
        """Whether nothing else uses `value`, so that its op dies with the use."""
        return len(value.uses) == 1

    def pairs(self) -> Iterator[tuple[Value, Value]]:
        """The two operands of the root; then the other way round if the op is commutative."""
        a, b = (self.op.operand(i) for i in range(2))
        yield a, b
        row = lookup(self.op.name)
        if row is not None and row.has("commutative"):
            yield b, a

    def split(self, test: Callable[[Value], Any]) -> tuple[Value, Value] | None:
        """The first of `pairs` whose first value passes the test."""
        return next(((a, b) for a, b in self.pairs() if test(a)), None)

    def move_regions(self) -> list[Block]:
        """The root's regions, taken out of it for use in the replacement; after this the rule has to apply."""
        regions, self.op.regions = self.op.regions, []
        return regions

    def no(self, reason: str) -> Any:
        """Refuse, saying why; gives the None that the rule returns."""
        self.reason = reason
        return None


class _RecordingBuilder(Builder):
    def __init__(self, module: Module, block: Block, before: Op, loc: str, made: list[Op]) -> None:
        super().__init__(module, block, before, loc)
        self._made = made

    def insert(self, op: Op) -> Op:
        self._made.append(op)
        return super().insert(op)


@dataclasses.dataclass(frozen=True)
class Rule:
    """A rewrite; `roots` are the names of the ops that it looks at ("*": every op), `place` is where it stands."""

    name: str
    roots: tuple[str, ...]
    apply: Callable[[Match], Replacement]
    place: str


def rule(name: str, root: str | tuple[str, ...]) -> Callable[[Callable[[Match], Replacement]], Rule]:
    """Make the decorated function a rule."""
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise ValueError(f"'{name}' cannot name a rule: use lower case words joined by '-'")

    def make(apply: Callable[[Match], Replacement]) -> Rule:
        code = apply.__code__
        place = "/".join(PurePath(code.co_filename).parts[-2:])
        return Rule(name, (root,) if isinstance(root, str) else root, apply, f"{place}:{code.co_firstlineno}")

    return make


class RuleSet:
    """Rules in the order in which they are tried; their names are unique."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(rules)
        self._by_root: dict[str, tuple[Rule, ...]] = {}
        repeated = [name for name, n in Counter(r.name for r in self.rules).items() if n > 1]
        if repeated:
            raise ValueError(f"there are two rules '{repeated[0]}'")

    @staticmethod
    def of(namespace: Mapping[str, object]) -> RuleSet:
        """The rules bound to names in `namespace` (a module's `globals()`), in the order of their definition."""
        return RuleSet(v for v in namespace.values() if isinstance(v, Rule))

    def __iter__(self) -> Iterator[Rule]:
        return iter(self.rules)

    def __len__(self) -> int:
        return len(self.rules)

    def __add__(self, other: RuleSet) -> RuleSet:
        return RuleSet([*self, *other])

    def for_op(self, name: str) -> tuple[Rule, ...]:
        """The rules that look at ops of this name."""
        found = self._by_root.get(name)
        if found is None:
            found = self._by_root[name] = tuple(r for r in self.rules if name in r.roots or "*" in r.roots)
        return found


def merge_locs(*locs: str) -> str:
    """One location for an op that stands for several: their names, each once."""
    return _LOC_JOINT.join(dict.fromkeys(name for loc in locs if loc for name in loc.split(_LOC_JOINT)))


# ---- driver --------------------------------------------------------------------------------------------------------
def rewrite(func: Func, module: Module, rules: RuleSet, log: RewriteLog | None = None, fuel: Fuel | None = None,
            limit: int = 64, after: Callable[[Application], None] | None = None) -> int:
    """Apply `rules` in `func`, regions included, until none applies, and erase pure ops without uses.

    Gives the number of rewrites. `limit` is how long a line of descent may get (an op made by a rewrite of an op made
    by ...) before RewriteLoop. `after` is called after every rewrite. RewriteError when a rule breaks its contract.
    """
    return _Driver(func, module, rules, log or RewriteLog(), fuel or Fuel(), limit, after).run()


def rewrite_graphs(module: Module, rules: RuleSet, fuel: Fuel, log: RewriteLog) -> None:
    """Apply `rules` in every function of kind "graph"."""
    for func in module.funcs.values():
        if func.kind == "graph":
            rewrite(func, module, rules, log, fuel)


@dataclasses.dataclass
class _Descent:
    """How an op came about: the rewrite that made it, back to the original op, whose descendants are `family`."""

    depth: int
    family: list[int]
    step: Application
    parent: _Descent | None


class _Driver:
    def __init__(self, func: Func, module: Module, rules: RuleSet, log: RewriteLog, fuel: Fuel, limit: int,
                 after: Callable[[Application], None] | None) -> None:
        self.func, self.module, self.rules, self.log, self.fuel = func, module, rules, log, fuel
        self.limit, self.after = limit, after
        self.queue: deque[Op] = deque()
        self.queued: set[Op] = set()
        self.descent: dict[Op, _Descent] = {}
        self.refusals: set[tuple[Op, str, str]] = set()

    def run(self) -> int:
        self.push(self.func.walk())
        start = self.fuel.used
        while self.queue and not self.fuel.is_spent:
            op = self.queue.popleft()
            self.queued.discard(op)
            if op.block is None:
                continue
            if _is_dead(op):
                self.erase(op)
            else:
                self.try_rules(op)
        return self.fuel.used - start

    def push(self, ops: Iterable[Op | None]) -> None:
        for op in ops:
            if op is not None and op.block is not None and op not in self.queued:
                self.queued.add(op)
                self.queue.append(op)

    def erase(self, op: Op) -> None:
        """Erase an op whose results are unused, and look again at what it used."""
        producers = [v.op for inner in op.walk() for v in inner.inputs]
        op.erase()
        self.descent.pop(op, None)
        self.push(producers)

    def try_rules(self, op: Op) -> None:
        for candidate in self.rules.for_op(op.name):
            match = Match(self.module, op)
            try:
                out = candidate.apply(match)
            except Exception as e:
                raise self.error(candidate, op, f"failed with {type(e).__name__}: {e}") from e
            if out is not None:
                self.replace(op, candidate, match, [out] if isinstance(out, Value) else list(out))
                return
            self.undo(candidate, match)
            if match.reason is not None and (op, candidate.name, match.reason) not in self.refusals:
                self.refusals.add((op, candidate.name, match.reason))
                self.log.refused[candidate.name, match.reason] += 1

    def undo(self, candidate: Rule, match: Match) -> None:
        for made in reversed(match.made):
            if any(r.uses for r in made.results):
                raise self.error(candidate, match.op, "gave no replacement, but an op uses what it made")
            made.erase()

    def error(self, candidate: Rule, op: Op, what: str) -> RewriteError:
        return RewriteError(f"rule {candidate.name} ({candidate.place}) on {op_line(op)} in @{self.func.name}: {what}")

    def replace(self, op: Op, candidate: Rule, match: Match, values: list[Value]) -> None:
        self.check_replacement(op, candidate, match, values)
        step = Application(self.fuel.spend(), candidate.name, candidate.place, self.func.name, op_line(op),
                           tuple(map(op_line, match.made)) or tuple(map(repr, values)))
        self.note_descent(op, match, step)
        users = [user for r in op.results for user in r.users]
        enclosing = op.block.parent if op.block is not None else None
        for result, value in zip(op.results, values, strict=True):
            if value.op in match.made and not value.name:
                value.name = result.name
            result.replace_by(value)
        self.erase(op)
        dying = [seen.loc for seen in match.seen[::-1] if seen.block is not None and _is_dead(seen)]
        for made in match.made:
            made.loc = merge_locs(*dying, made.loc)
        self.push([*match.made, *users, enclosing if isinstance(enclosing, Op) else None])
        self.log.applied.append(step)
        if self.after is not None:
            self.after(step)

    def check_replacement(self, op: Op, candidate: Rule, match: Match, values: list[Value]) -> None:
        if len(values) != len(op.results):
            raise self.error(candidate, op, f"gave {len(values)} values for {len(op.results)} results")
        for result, value in zip(op.results, values, strict=True):
            if not same_type(result.type, value.type):
                raise self.error(candidate, op, f"gave {value!r} for {result!r}, which has another type")
            if value.owner is op:
                raise self.error(candidate, op, "gave a result of the op itself; a replacement is made anew")
        if any(v.owner is op for made in match.made for v in made.inputs):
            raise self.error(candidate, op, "made an op that uses a result of the op that it replaces")

    def note_descent(self, op: Op, match: Match, step: Application) -> None:
        parent = self.descent.get(op)
        family = parent.family if parent is not None else [0]
        family[0] += 1
        descent = _Descent(parent.depth + 1 if parent is not None else 1, family, step, parent)
        if descent.depth > self.limit or family[0] > self.limit * _FAMILY:
            raise self.loop(descent)
        for made in match.made:
            self.descent[made] = descent

    def loop(self, last: _Descent) -> RewriteLoop:
        steps: list[Application] = []
        at: _Descent | None = last
        while at is not None:
            steps.append(at.step)
            at = at.parent
        cycle = _cycle(steps)
        names = " -> ".join(s.rule for s in cycle)
        head = f"rewriting in @{self.func.name} does not end: {names} and so on, {last.depth} rewrites in a row"
        error = RewriteLoop("\n".join([head, *map(str, cycle)]))
        error.rules = tuple(s.rule for s in cycle)
        return error


def _cycle(steps: list[Application]) -> list[Application]:
    """The shortest run of rules that repeats at the end of a history given newest first; if none does, the last few."""
    names = [s.rule for s in steps]
    period = next((p for p in range(1, len(names) // 2 + 1) if names[:p] == names[p:2 * p]), 8)
    return steps[:period][::-1]


def _is_dead(op: Op) -> bool:
    row = lookup(op.name)
    return row is not None and row.has("pure") and bool(op.results) and not any(r.uses for r in op.results)
