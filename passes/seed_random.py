"""Gives each operator that draws random numbers its seed: a host step makes one for every run, native code the numbers.
The seed is a captured value of the node, behind its inputs."""

from __future__ import annotations

from onnxc.ir.core import Module, Op
from onnxc.ir.types import U64, Tensor

__all__ = ["SEED_OP", "seed_random"]

SEED_OP = "ai.onnxc.RandomSeed"
_DRAW = frozenset(f"onnx.{name}" for name in ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike",
                                              "Bernoulli", "Multinomial"))


def seed_random(module: Module) -> None:
    """Puts a host step in front of every such op of a module as imported."""
    for op in list(module.walk()):
        if (op.name in _DRAW or _is_training(module, op)) and op.block is not None:
            given = op.attrs.get("seed")
            attrs = {} if given is None else {"seed": given}
            seed = op.block.insert(Op(f"onnx.{SEED_OP}", (), [Tensor(U64, ())], attrs, (), op.loc), op).result
            op.set_operands([*op.operands, seed])
            op.attrs["captured"] = 1


def _is_training(module: Module, op: Op) -> bool:
    """Whether a Dropout may drop something."""
    mode = op.operands[2] if op.name == "onnx.Dropout" and len(op.operands) > 2 else None
    if mode is None:
        return False
    if mode.op is None or mode.op.name != "t.const" or mode.op.attrs["ref"] is not None:
        return True
    return bool(mode.op.attr("value").reshape(-1)[0])
