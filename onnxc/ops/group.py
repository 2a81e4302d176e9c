"""The op that fusion makes: a group of tensor ops that one kernel computes."""

from __future__ import annotations

from onnxc.ir.registry import register

register("t.fused", "inputs*", traits="pure isolated", regions=1, ref=lambda attrs, *xs: tuple(attrs["regions"][0](*xs)),
         doc="a group of tensor ops computed together; the region sees only its arguments and yields the group's value")
