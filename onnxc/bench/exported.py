"""The peer torch, which reads no ONNX: it runs the program that the model was exported from, as `torch.export.save`
wrote it, eager or compiled by torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from onnxc.errors import Fail, InvalidArgument

__all__ = ["Exported", "pair_inputs"]

Feed = Mapping[str, Any]


class Exported:
    """An exported program, ready to run on feeds whose inputs are in the model's order. Runs raise InvalidArgument for
    a feed that does not fit the program, and what torch raises."""

    def __init__(self, torch: Any, path: str, threads: int, compiled: bool) -> None:
        torch.set_num_threads(threads)
        program = torch.export.load(path)
        module = program.module()
        self._torch, self._path, self._compiled = torch, path, compiled
        self._module = torch.compile(module) if compiled else module
        self._spec = program.call_spec.in_spec
        self._trees = torch.utils._pytree
        self._wanted = [s.arg for s in program.graph_signature.input_specs if s.kind.name == "USER_INPUT"]
        self._values = {n.name: n.meta.get("val") for n in program.graph.nodes if n.op == "placeholder"}
        self._pairs: dict[str, str] | None = None

    def __call__(self, feed: Feed) -> list[np.ndarray]:
        first = self._pairs is None
        pairs = self._pairs = self._checked_pairs(feed) if self._pairs is None else self._pairs
        leaves = [self._argument(arg, feed[pairs[arg.name]]) if arg.name in pairs else arg.value
                  for arg in self._wanted]
        args, kwargs = self._trees.tree_unflatten(leaves, self._spec)
        with self._torch.inference_mode():
            outputs = self._run(args, kwargs)
        if first:
            self._check_unwritten(leaves)
        return [self._array(leaf) for leaf in self._trees.tree_leaves(outputs) if leaf is not None]

    def _run(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        try:
            return self._module(*args, **kwargs)
        except Exception as error:
            if self._compiled and "C++" in str(error):
                raise Fail("torch.compile needs a C++ compiler (g++, or the one that CXX names) and Python's headers; "
                           f"without them measure 'torch', which runs eagerly. It says: {error}") from error
            raise

    def _checked_pairs(self, feed: Feed) -> dict[str, str]:
        placeholders = [a.name for a in self._wanted if not hasattr(a, "value")]
        pairs = pair_inputs(placeholders, list(feed), self._path)
        for placeholder, name in pairs.items():
            self._check(placeholder, name, feed[name])
        return pairs

    def _check(self, placeholder: str, name: str, value: Any) -> None:
        """Element types and sizes agree, which tells inputs that were paired in the wrong order."""
        if not isinstance(value, np.ndarray) or value.dtype.kind in "OUS":
            raise InvalidArgument(f"Input '{name}' is no tensor of numbers, which is all that torch can be given.")
        wanted = self._values[placeholder]
        if not isinstance(wanted, self._torch.Tensor):
            return
        dtype, shape = str(wanted.dtype).removeprefix("torch."), list(wanted.shape)
        fits = len(shape) == value.ndim and all(not isinstance(d, int) or d == n
                                                for d, n in zip(shape, value.shape, strict=True))
        if dtype != value.dtype.name or not fits:
            raise InvalidArgument(
                f"Placeholder '{placeholder}' of {self._path} takes {dtype}[{', '.join(map(str, shape))}], and the "
                f"model's input '{name}' that it is paired with is {value.dtype.name}"
                f"[{', '.join(map(str, value.shape))}]: give the program that this model was exported from.")

    def _check_unwritten(self, leaves: Sequence[Any]) -> None:
        names = [a.name for a, leaf in zip(self._wanted, leaves, strict=True) if getattr(leaf, "_version", 0)]
        if names:
            raise InvalidArgument(f"{self._path} writes into what it is given for {', '.join(names)}, which every "
                                  "other engine is given too: export a program that returns new values instead.")

    def _argument(self, arg: Any, value: np.ndarray) -> Any:
        if not isinstance(self._values[arg.name], self._torch.Tensor):
            return value.item()
        if not hasattr(ml_dtypes, value.dtype.name):
            return self._torch.from_numpy(value)
        # NumPy's own types are all that torch takes and gives; others pass as their bits.
        bits = self._torch.from_numpy(value.view(f"i{value.itemsize}"))
        return bits.view(getattr(self._torch, value.dtype.name))

    def _array(self, leaf: Any) -> np.ndarray:
        if not isinstance(leaf, self._torch.Tensor):
            return np.asarray(leaf)
        other = getattr(ml_dtypes, str(leaf.dtype).removeprefix("torch."), None)
        if other is None:
            return np.asarray(leaf.numpy(force=True))
        bits = leaf.view(getattr(self._torch, f"int{8 * leaf.element_size()}")).numpy(force=True)
        return np.asarray(bits.view(other))


def pair_inputs(placeholders: Sequence[str], inputs: Sequence[str], path: str) -> dict[str, str]:
    """The model's input for each placeholder: the one of its name, and what is left on both sides in order."""
    if len(placeholders) != len(inputs):
        raise InvalidArgument(
            f"{path} takes {len(placeholders)} tensors ({', '.join(placeholders) or 'none'}) and the model is given "
            f"{len(inputs)} ({', '.join(inputs) or 'none'}): give the program that this model was exported from.")
    left = iter([name for name in inputs if name not in placeholders])
    return {p: p if p in inputs else next(left) for p in placeholders}
