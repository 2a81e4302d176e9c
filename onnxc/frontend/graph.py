"""GraphProto -> a plain, sorted view that the importer walks: names checked, nodes in an order that can run.

A view knows the names that it takes from outside (`free`), so a subgraph's captures are known before it is imported.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Iterable, Sequence

from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, SparseTensorProto, TensorProto, TypeProto

from onnxc.errors import Fail, InvalidArgument, InvalidGraph, InvalidProtobuf
from onnxc.frontend.limits import Limits
from onnxc.frontend.problems import Problems, printable

__all__ = ["Graph", "Node", "Viewer", "check_defined"]


@dataclasses.dataclass(slots=True, eq=False)
class Node:
    """One node. `domain` "" is ai.onnx; inputs and outputs that are left out are ""."""

    name: str
    op_type: str
    domain: str
    overload: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, AttributeProto]
    subgraphs: dict[str, Graph]

    @property
    def label(self) -> str:
        """What messages and locations call the node: its name, or its first output."""
        return self.name or next((o for o in self.outputs if o), "")

    @property
    def text(self) -> str:
        """The node in words, for messages."""
        shown = f"{self.domain}:{self.op_type}" if self.domain else self.op_type
        return f"node ({printable(self.label)}) of type {printable(shown)}"

    def used(self) -> Iterable[str]:
        """The names that running the node needs, those that its subgraphs capture included."""
        yield from (i for i in self.inputs if i)
        for g in self.subgraphs.values():
            yield from g.free


@dataclasses.dataclass(slots=True, eq=False)
class Graph:
    """A graph or function body. `types` holds declared types by value name; initializers keep their position."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: list[Node]
    types: dict[str, TypeProto]
    initializers: dict[str, tuple[int, TensorProto]]
    sparse: dict[str, SparseTensorProto]
    free: tuple[str, ...] = ()

    def is_constant(self, name: str) -> bool:
        return name in self.initializers or name in self.sparse


class Viewer:
    """Makes views. What is wrong with names is collected in `problems`."""

    def __init__(self, limits: Limits, problems: Problems) -> None:
        self.limits, self.problems = limits, problems

    def graph(self, proto: GraphProto, depth: int = 0) -> Graph:
        """The view of a graph that stands `depth` subgraphs deep."""
        self.limits.require("nesting", depth, "The nesting of subgraphs")
        self.limits.require("nodes", len(proto.node), "The number of nodes")
        types = {self.name(v.name): v.type for vs in (proto.value_info, proto.output, proto.input) for v in vs
                 if v.HasField("type")}
        initializers = {self.name(t.name): (i, t) for i, t in enumerate(proto.initializer)}
        sparse = {self.name(t.values.name): t for t in proto.sparse_initializer}
        g = Graph(self.name(proto.name), tuple(self.name(v.name) for v in proto.input),
                  tuple(self.name(v.name) for v in proto.output),
                  [self.node(n, depth) for n in proto.node], types, initializers, sparse)
        return self._finish(g)

    def function(self, proto: FunctionProto) -> Graph:
        """The view of a function's body."""
        types = {self.name(v.name): v.type for v in proto.value_info if v.HasField("type")}
        g = Graph(self.name(proto.name), tuple(map(self.name, proto.input)), tuple(map(self.name, proto.output)),
                  [self.node(n, 0) for n in proto.node], types, {}, {})
        return self._finish(g)

    def node(self, proto: NodeProto, depth: int) -> Node:
        """The view of a node with its subgraphs."""
        attributes: dict[str, AttributeProto] = {}
        subgraphs: dict[str, Graph] = {}
        domain = self.name(proto.domain)
        node = Node(self.name(proto.name), self.name(proto.op_type), "" if domain == "ai.onnx" else domain,
                    self.name(proto.overload), tuple(map(self.name, proto.input)), tuple(map(self.name, proto.output)),
                    attributes, subgraphs)
        for a in proto.attribute:
            name = self.name(a.name)
            if name in attributes or name in subgraphs:
                self.problems.add(InvalidGraph, f"This is an invalid model. {node.text} gives attribute "
                                                f"'{printable(name)}' twice.")
            if a.type == AttributeProto.GRAPH and not a.ref_attr_name:
                subgraphs[name] = self.graph(a.g, depth + 1)
            else:
                attributes[name] = a
        return node

    def name(self, text: str | bytes) -> str:
        """A name, checked: UTF-8 and of bounded length."""
        if isinstance(text, bytes):
            raise InvalidProtobuf(f"Protobuf parsing failed: the name {text[:40]!r} is not UTF-8.")
        if len(text) > 1024:
            self.limits.require("name_bytes", len(text), f"The length of the name '{printable(text, 60)}'")
        return text

    def _finish(self, g: Graph) -> Graph:
        producer = self._definitions(g)
        needs = [tuple(dict.fromkeys(n.used())) for n in g.nodes]
        defined = set(g.inputs) | g.initializers.keys() | g.sparse.keys()
        free = dict.fromkeys(u for used in needs for u in used if u not in producer and u not in defined)
        free.update(dict.fromkeys(o for o in g.outputs if o not in producer and o not in defined))
        g.free = tuple(free)
        self._sort(g, producer, needs)
        return g

    def _definitions(self, g: Graph) -> dict[str, int]:
        """The node that produces each name; duplicates are problems."""
        producer: dict[str, int] = {}
        given = set(g.inputs) | g.initializers.keys() | g.sparse.keys()
        for name in _repeated(g.inputs):
            self.problems.add(Fail, f"This is an invalid model. Error: Duplicate definition-site for "
                                    f"({printable(name)}): it is a graph input twice.")
        for name in _repeated([n.name for n in g.nodes if n.name]):
            self.problems.add(Fail, f"This is an invalid model. Error: two nodes with same node name "
                                    f"({printable(name)}).")
        for i, node in enumerate(g.nodes):
            for out in node.outputs:
                if not out:
                    continue
                if out in producer or out in given:
                    first = g.nodes[producer[out]].text if out in producer else "a graph input or initializer"
                    self.problems.add(Fail, f"This is an invalid model. Error: Duplicate definition of name "
                                            f"({printable(out)}): by {first} and by {node.text}.")
                if out not in given:
                    producer.setdefault(out, i)
        return producer

    def _sort(self, g: Graph, producer: dict[str, int], needs: Sequence[tuple[str, ...]]) -> None:
        """Put the nodes in an order that can run: the given one, where it can (smallest index first)."""
        if all(producer.get(u, -1) < i for i, used in enumerate(needs) for u in used):
            return
        waits = [len({producer[u] for u in used if u in producer}) for used in needs]
        users: list[list[int]] = [[] for _ in g.nodes]
        for i, used in enumerate(needs):
            for p in {producer[u] for u in used if u in producer}:
                users[p].append(i)
        ready = [i for i, n in enumerate(waits) if n == 0]
        order: list[int] = []
        while ready:
            i = heapq.heappop(ready)
            order.append(i)
            for user in users[i]:
                waits[user] -= 1
                if waits[user] == 0:
                    heapq.heappush(ready, user)
        if len(order) < len(g.nodes):
            cycle = _cycle(producer, needs, {i for i, n in enumerate(waits) if n})
            names = " -> ".join(f"({printable(g.nodes[i].label)})" for i in cycle[:20])
            raise Fail(f"This is an invalid model. Error: the graph is not acyclic. These {len(cycle)} nodes wait for "
                       f"each other: {names}{' ...' if len(cycle) > 20 else ''}.")
        g.nodes = [g.nodes[i] for i in order]


def _repeated(names: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    twice: dict[str, None] = {}
    for n in names:
        if n in seen:
            twice[n] = None
        seen.add(n)
    return list(twice)


def _cycle(producer: dict[str, int], needs: Sequence[tuple[str, ...]], stuck: set[int]) -> list[int]:
    """One cycle among nodes that each wait for another of them, in the order of data flow."""
    at = min(stuck)
    path: dict[int, None] = {}
    while at not in path:
        path[at] = None
        at = next(producer[u] for u in needs[at] if producer.get(u) in stuck)
    nodes = list(path)
    return nodes[nodes.index(at):][::-1]


def check_defined(main: Graph, problems: Problems) -> None:
    """Add a problem for every name that is used somewhere in `main` but defined nowhere in scope of it."""
    ghosts = set(main.free)
    if not ghosts:
        return
    for out in main.outputs:
        if out in ghosts:
            problems.add(Fail, f"This is an invalid model. Error: Graph output ({printable(out)}) does not exist in "
                               "the graph.")
    pending = [main]
    while pending:
        g = pending.pop()
        for node in g.nodes:
            for name in node.inputs:
                if name in ghosts and name in g.free:
                    problems.add(InvalidArgument, f"Invalid model. Node input '{printable(name)}' is not a graph "
                                                  "input, initializer, or output of a previous node. "
                                                  f"It is used by {node.text}.")
            pending += [s for s in node.subgraphs.values() if ghosts.intersection(s.free)]
        if g is not main:
            for name in g.outputs:
                if name in ghosts and name in g.free:
                    problems.add(InvalidArgument, f"Invalid model. Output '{printable(name)}' of subgraph "
                                                  f"'{printable(g.name)}' is not defined in it or around it.")
