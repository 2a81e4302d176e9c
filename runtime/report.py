"""What became of a model: kernels and the nodes that each was made of, steps outside of native code, where they run."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from onnxc.ir.core import Module, Ref
from onnxc.ir.parser import parse_module
from onnxc.ops import load_all
from onnxc.ops.program import STEPS
from onnxc.runtime.compiled import CompiledModel

__all__ = ["OrtEpAssignedNode", "OrtEpAssignedSubgraph", "assignment_of", "program_of", "report_of"]

_CPU = "CPUExecutionProvider"


def program_of(compiled: CompiledModel) -> Module:
    """The program and its kernels, without constants, which its text names by their hashes."""
    load_all()
    return parse_module("\n".join(line for line in compiled.text.split("\n") if not line.startswith("const @")))


def report_of(compiled: CompiledModel) -> dict[str, Any]:
    """See `InferenceSession.report`."""
    nodes: dict[str, dict[str, None]] = defaultdict(dict)
    launches: dict[str, int] = defaultdict(int)
    copies = 0
    parts = [compiled] if compiled.host is None else compiled.host.compiled()
    for op in (op for part in parts for op in program_of(part).main.walk()):
        if op.name == "p.launch":
            ref = op.attrs["kernel"]
            name = ref.name if isinstance(ref, Ref) else str(ref)
            nodes[name].update(dict.fromkeys(part for part in (op.loc or "").split(", ") if part))
            launches[name] += 1
        elif op.name in STEPS and op.name in ("p.copy", "p.give"):
            copies += 1
    kernels = [{"name": name, "nodes": list(found), "launches": launches[name]} for name, found in nodes.items()]
    host = list(compiled.report.get("host_ops", ()))
    return {"target": compiled.target, "kernels": kernels, "copies": copies, "host_ops": host,
            "placement": {_CPU: [node.name for node in nodes_of(compiled)]},
            "passes": list(compiled.report.get("passes", ())), "rewrites": dict(compiled.report.get("rewrites", {})),
            "compile_seconds": compiled.report.get("compile_seconds", 0.0)}


class OrtEpAssignedNode:
    """A node of the model. Made by sessions."""

    def __init__(self, name: str, domain: str, op_type: str) -> None:
        self.name, self.domain, self.op_type = name, domain, op_type

    def __repr__(self) -> str:
        return f"OrtEpAssignedNode(name={self.name!r}, domain={self.domain!r}, op_type={self.op_type!r})"


class OrtEpAssignedSubgraph:
    """Nodes that run on one device. Made by sessions."""

    def __init__(self, ep_name: str, nodes: list[OrtEpAssignedNode]) -> None:
        self.ep_name, self._nodes = ep_name, nodes

    def get_nodes(self) -> list[OrtEpAssignedNode]:
        """The nodes, in the model's order."""
        return list(self._nodes)


def nodes_of(compiled: CompiledModel) -> list[OrtEpAssignedNode]:
    """The nodes of the model that was compiled."""
    return [OrtEpAssignedNode(name, domain, kind) for _, name, domain, kind in compiled.report.get("nodes", ())]


def assignment_of(compiled: CompiledModel) -> list[OrtEpAssignedSubgraph]:
    """Which device runs which nodes: one entry a node, as ONNX Runtime has it for the CPU."""
    return [OrtEpAssignedSubgraph(_CPU, [node]) for node in nodes_of(compiled)]
