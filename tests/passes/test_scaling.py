"""Nets of many thousands of ops: no recursion, kernels of bounded size, and time that grows with the ops."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from onnxc.codegen.program_interp import run_program
from onnxc.ir.builder import Builder
from onnxc.ir.core import Func, Module, Value
from onnxc.ir.dims import sym
from onnxc.ir.types import F32, Tensor
from onnxc.ops import load_all
from onnxc.passes import pipeline

load_all()
N = sym("N")
Link = Callable[[Builder, Value, int], Value]


def chain(length: int, link: Link) -> Module:
    """`length` links one behind the other on x: f32[N, 8]."""
    module = Module()
    func = module.add(Func("main", [Tensor(F32, (N, 8))], ["x"]))
    b, v = Builder(module, func.body), func.args[0]
    for i in range(length):
        v = link(b, v, i)
    b.op("return", [v], types=())
    func.result_types = [v.type]
    return module


def lowered(module: Module, left_out: tuple[str, ...] = ()) -> float:
    """Run the passes; the seconds they took."""
    context = pipeline.Context(supplied={"schedule": lambda m: None, "pack": lambda m: None})
    start = time.process_time()
    pipeline.run(module, context, pipeline.PIPELINE[1:], left_out)
    return time.process_time() - start


def halve(b: Builder, v: Value, i: int) -> Value:
    return b.value("t.mul", v, b.const(np.float32(0.5)))


def add_own(b: Builder, v: Value, i: int) -> Value:
    return b.value("t.max", b.value("t.neg", v), v)


def centre(b: Builder, v: Value, i: int) -> Value:
    kept = b.value("t.reshape", b.value("t.reduce", v, kind="max", axes=(1,)), shape=(*v.dims[:1], 1))
    return b.value("t.sub", v, kept)


def turn(b: Builder, v: Value, i: int) -> Value:
    """Views whose indices do not go together again."""
    shape = v.dims[::-1] if i % 2 else v.dims
    return b.value("t.neg", b.value("t.reshape", b.value("t.transpose", v, perm=(1, 0)), shape=shape))


def overlap(b: Builder, v: Value, i: int) -> Value:
    """Each element from two of the link before."""
    ends = [b.value("t.slice", v, starts=(0, k), sizes=(N, 7), steps=(1, 1)) for k in (0, 1)]
    return b.value("t.pad", b.value("t.max", *ends), low=(0, 0), high=(0, 1))


def multiply(b: Builder, v: Value, i: int) -> Value:
    product = b.value("t.contract", v, b.const(np.full((8, 8), 2.0**-6, np.float32)), spec="mk,kn->mn")
    return b.value("t.add", product, v)


LINKS = [halve, add_own, centre, turn, overlap, multiply]


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("left_out", [(), tuple(p.name for p in pipeline.PIPELINE if not p.required)],
                         ids=["all", "required"])
def test_long_chains_are_right(link: Link, left_out: tuple[str, ...]) -> None:
    module = chain(150, link)
    lowered(module, left_out)
    x = np.array([[3, -1, 4, 1, -5, 9, 2, 6]] * 2, np.float32) / 64
    y = x
    for i in range(150):
        y = REFERENCE[link.__name__](y, i)
    (found,), errors = run_program(module, [x], {"N": 2})
    assert not errors
    np.testing.assert_allclose(found, y, rtol=1e-4)                # 150 roundings, in products of 8 terms each


def _turned(x: np.ndarray, i: int) -> np.ndarray:
    return -x.T.reshape(x.shape[::-1] if i % 2 else x.shape)


REFERENCE: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "halve": lambda x, i: x * np.float32(0.5), "add_own": lambda x, i: np.abs(x),
    "centre": lambda x, i: x - x.max(1, keepdims=True), "turn": _turned,
    "overlap": lambda x, i: np.pad(np.maximum(x[:, :7], x[:, 1:]), ((0, 0), (0, 1))),
    "multiply": lambda x, i: x @ np.full((8, 8), 2.0**-6, np.float32) + x}


@pytest.mark.parametrize("link", LINKS)
def test_kernels_stay_small(link: Link) -> None:
    module = chain(200, link)
    lowered(module)
    sizes = [sum(1 for _ in f.walk()) for f in module.funcs.values() if f.kind == "kernel"]
    assert max(sizes) <= 1200, "ops of one kernel"


@pytest.mark.slow
@pytest.mark.parametrize("link", LINKS)
def test_twice_the_ops_take_twice_the_time(link: Link) -> None:
    """The best of turns, as other work on the machine only adds time, to both sizes alike; a quadratic part would make
    it four times."""
    lowered(chain(50, link))
    best = {150: float("inf"), 300: float("inf")}
    for _ in range(6):
        for n in best:
            best[n] = min(best[n], lowered(chain(n, link)))
        if best[300] <= 3.2 * best[150]:
            return
    raise AssertionError(f"{best[300] / best[150]:.1f} times the time for twice the ops")


@pytest.mark.parametrize("left_out", [(), tuple(p.name for p in pipeline.PIPELINE if not p.required)],
                         ids=["all", "required"])
def test_ten_thousand_ops(left_out: tuple[str, ...]) -> None:
    assert lowered(chain(10_000, halve), left_out) < 30


def test_parts_of_a_concatenation_read_only_what_is_theirs() -> None:
    module = Module()
    func = module.add(Func("main", [Tensor(F32, (N, 3))] * 300, [f"x{i}" for i in range(300)]))
    b = Builder(module, func.body)
    v = b.value("t.concat", *func.args, axis=1)
    b.op("return", [v], types=())
    func.result_types = [v.type]
    lowered(module)
    launches = [op for op in module.main.body.ops if op.name == "p.launch"]
    assert len(launches) == 300 and {len(op.inputs) for op in launches} == {2}
    x = [np.full((2, 3), i, np.float32) for i in range(300)]
    (found,), _ = run_program(module, x, {"N": 2})
    np.testing.assert_array_equal(found, np.concatenate(x, 1))


def test_constants_are_compared_by_content_only_where_samples_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxc.passes import clean

    hashed: list[int] = []
    monkeypatch.setattr(clean, "constant_hash", lambda a: hashed.append(a.nbytes) or a.tobytes())
    module = Module()
    for i in range(20):
        module.constants[f"w{i}"] = np.full((64, 64), i % 10 if i < 12 else i, np.float32)
    clean.merge_constants(module)
    assert len(hashed) == 4, "two pairs of equal ones among twenty"
