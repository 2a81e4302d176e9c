"""Model-local functions: found by name, checked to call each other without a cycle, measured before inlining."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from onnx import FunctionProto

from onnxc.errors import Fail
from onnxc.frontend.graph import Graph, Node, Viewer
from onnxc.frontend.limits import Limits
from onnxc.frontend.load import check_opsets
from onnxc.frontend.problems import Problems, printable

__all__ = ["Function", "Functions", "FunctionKey", "inlined_size", "walk_nodes"]

FunctionKey = tuple[str, str, str]


class Function:
    """A function as it can be called: its body, the opsets that the body means, and its attributes' defaults."""

    def __init__(self, proto: FunctionProto, viewer: Viewer, opsets: dict[str, int]) -> None:
        self.name = viewer.name(proto.name)
        self.body: Graph = viewer.function(proto)
        imports = check_opsets(proto.opset_import, f"function '{printable(self.name)}'")
        self.opsets = imports or opsets
        self.defaults = {viewer.name(a.name): a for a in proto.attribute_proto}
        self.attributes = {*map(viewer.name, proto.attribute), *self.defaults}
        #: Outputs that nothing makes. A schema's function may leave optional outputs out; using one is an error.
        self.unmade = set(self.body.free).intersection(self.body.outputs)
        used = {name for node in self.body.nodes for name in node.used()}
        ghosts = [n for n in self.body.free if n in used]
        if ghosts:
            names = ", ".join(printable(n) for n in ghosts[:20])
            viewer.problems.add(Fail, f"This is an invalid model. Error: function '{printable(self.name)}' uses names "
                                      f"that are neither its inputs nor made in it: {names}.")


class Functions:
    """The functions of a model by (domain, name, overload)."""

    def __init__(self, protos: Iterable[FunctionProto], opsets: dict[str, int], limits: Limits,
                 problems: Problems) -> None:
        viewer = Viewer(limits, problems)
        self._table: dict[FunctionKey, Function] = {}
        for proto in protos:
            domain = viewer.name(proto.domain)
            key = ("" if domain == "ai.onnx" else domain, viewer.name(proto.name), viewer.name(proto.overload))
            if key in self._table:
                problems.add(Fail, f"This is an invalid model. Error: function {_text(key)} is defined twice.")
            self._table[key] = Function(proto, viewer, opsets)
        self._sizes = self._measure()

    def __len__(self) -> int:
        return len(self._table)

    def called_by(self, node: Node) -> Function | None:
        """The function that a node calls; None when it is an operator."""
        return self._table.get((node.domain, node.op_type, node.overload)) if self._table else None

    def size_of(self, graph: Graph) -> int:
        """How many nodes a graph has once everything in it is inlined."""
        return inlined_size(graph, self._table, self._sizes)

    def _measure(self) -> dict[FunctionKey, int]:
        """Sizes of all functions, callees first; Fail when functions call each other in a cycle."""
        calls = {k: list(dict.fromkeys(c for n in walk_nodes(f.body) if (c := _key(n)) in self._table))
                 for k, f in self._table.items()}
        sizes: dict[FunctionKey, int] = {}
        for root in calls:
            path: dict[FunctionKey, Iterator[FunctionKey]] = {}
            if root not in sizes:
                path[root] = iter(calls[root])
            while path:
                key, rest = next(reversed(path.items()))
                callee = next((c for c in rest if c not in sizes), None)
                if callee is None:
                    sizes[key] = inlined_size(self._table[key].body, self._table, sizes)
                    del path[key]
                elif callee in path:
                    cycle = list(path)[list(path).index(callee):]
                    raise Fail("This is an invalid model. Error: functions call each other in a cycle: "
                               + " -> ".join(map(_text, [*cycle[:20], callee])) + ".")
                else:
                    path[callee] = iter(calls[callee])
        return sizes


def inlined_size(graph: Graph, table: dict[FunctionKey, Function], sizes: dict[FunctionKey, int]) -> int:
    """The nodes of a graph and its subgraphs, calls counted with the size of what they call."""
    return sum(sizes[_key(n)] + 1 if _key(n) in table else 1 for n in walk_nodes(graph))


def walk_nodes(graph: Graph) -> Iterator[Node]:
    """All nodes of a graph and of its subgraphs."""
    pending = [graph]
    while pending:
        g = pending.pop()
        for n in g.nodes:
            yield n
            pending += n.subgraphs.values()


def _key(node: Node) -> FunctionKey:
    return node.domain, node.op_type, node.overload


def _text(key: FunctionKey) -> str:
    return printable(":".join(p for p in key if p))
