"""Products with narrow weights against float64: codes of 2, 4 and 8 bits in blocks, with and without scales and zero
points, floats of 16 bits, ends that fill neither words nor panels, few rows that widen weights themselves and many that
share a panel."""

from __future__ import annotations

import dataclasses
import functools
from typing import cast

import ml_dtypes
import numpy as np
import pytest

from onnxc.codegen.interp import run_kernel
from onnxc.codegen.llvm.narrow import narrow_operand, stored_type
from onnxc.codegen.llvm.prepack import pack
from onnxc.codegen.llvm.schedule import schedule
from onnxc.ir.core import Func, Module, Op, Ref
from onnxc.ir.parser import parse_func
from onnxc.ir.types import Mem, dtype_named
from onnxc.ir.verify import verify
from onnxc.ops import load_all
from onnxc.runtime.packing import pack as pack_bits
from tests.codegen.native import NativeKernel
from tests.codegen.test_contract import target_here

load_all()
TARGETS = ["host", "x86-64-v3", "x86-64"]
NUMPY = {"u2": ml_dtypes.uint2, "i2": ml_dtypes.int2, "u4": ml_dtypes.uint4, "i4": ml_dtypes.int4, "u8": np.uint8,
         "i8": np.int8, "f16": np.float16, "bf16": ml_dtypes.bfloat16}


@dataclasses.dataclass(frozen=True)
class Case:
    """Weights [n, k] of type `dtype` in blocks of `block`; `zero` is "" (none), "const" (one number), "codes" (of
    `dtype`) or "floats"."""

    dtype: str
    n: int
    k: int
    block: int
    zero: str = ""
    scaled: bool = True

    @property
    def bits(self) -> int:
        """Of an integer code, which differs from its zero point by at most 2 ** bits; 0 for floats."""
        return 0 if self.dtype in ("f16", "bf16") else int(self.dtype[1:])

    @property
    def blocks(self) -> int:
        return -(-self.k // self.block)


CASES = [Case("u4", 70, 64, 32, "const"), Case("u4", 130, 100, 16, "codes"), Case("i4", 64, 40, 40),
         Case("u4", 20, 33, 33, "floats"), Case("i8", 100, 96, 32), Case("u8", 65, 50, 10, "codes"),
         Case("u8", 16, 7, 7, "const"), Case("u2", 80, 64, 32, "const"), Case("i2", 33, 48, 16, "floats"),
         Case("i8", 5, 30, 30, scaled=False), Case("f16", 200, 90, 90, scaled=False),
         Case("f16", 64, 64, 64, scaled=False), Case("bf16", 37, 35, 35, scaled=False)]
IDS = [f"{c.dtype}-{c.n}x{c.k}-{c.block}{c.zero}" for c in CASES]


def kernel(c: Case) -> Func:
    """The product with M rows, as it is before weights are packed."""
    code, at = c.dtype, f"<j>, <(l // {c.block})>"
    lines = [f"%c = k.load(%w) {{index = [<j>, <l>]}} : {code}", "%f = s.cast(%c) {to = !f32} : f32"]
    last = "f"
    if c.zero == "const":
        lines += [f"%z = s.const() {{value = {1 << (int(code[1:]) - 1)}.0, dtype = !f32}} : f32"]
    elif c.zero == "codes":
        lines += [f"%y = k.load(%zero) {{index = [{at}]}} : {code}", "%z = s.cast(%y) {to = !f32} : f32"]
    elif c.zero == "floats":
        lines += [f"%z = k.load(%zero) {{index = [{at}]}} : f32"]
    if c.zero:
        lines += ["%d = s.sub(%f, %z) : f32"]
        last = "d"
    if c.scaled:
        lines += [f"%s = k.load(%scale) {{index = [{at}]}} : f32", f"%p = s.mul(%{last}, %s) : f32"]
        last = "p"
    table = f"[{c.n}, {c.blocks}]"
    zeros = code if c.zero == "codes" else "f32"
    return parse_func(f"""
func @k(%x: mem<f32[M, {c.k}]>, %w: mem<{code}[{c.n}, {c.k}]>, %scale: mem<f32{table}>, %zero: mem<{zeros}{table}>,
        %o: mem<f32[M, {c.n}]>) kind "kernel" {{
  k.contract() {{batch = [], m = [[<i>, <M>]], n = [[<j>, {c.n}]], k = [[<l>, {c.k}]], accumulate = !f32}} () {{
    %a = k.load(%x) {{index = [<i>, <l>]}} : f32
    yield(%a)
  }} () {{
    {chr(10).join(lines)}
    yield(%{last})
  }} (%sum: f32) {{
    k.store(%o, %sum) {{index = [<i>, <j>]}}
  }}
}}""")


def constants(c: Case) -> dict[str, np.ndarray]:
    rng, shape = np.random.default_rng(c.n), (c.n, c.blocks)
    if c.dtype in ("f16", "bf16"):
        return {"w": rng.standard_normal((c.n, c.k)).astype(NUMPY[c.dtype]), "scale": np.ones(shape, np.float32),
                "zero": np.zeros(shape, np.float32)}
    bits, least = c.bits, 0 if c.dtype[0] == "u" else -(1 << (c.bits - 1))

    def codes(*shape: int) -> np.ndarray:
        return rng.integers(least, least + (1 << bits), shape).astype(NUMPY[c.dtype])

    zero = codes(*shape) if c.zero == "codes" else rng.uniform(0, 15, shape).astype(np.float32)
    return {"w": codes(c.n, c.k), "scale": rng.uniform(0.1, 1, shape).astype(np.float32), "zero": zero}


def weights(c: Case, given: dict[str, np.ndarray]) -> np.ndarray:
    """[n, k] in float64."""
    spread = {key: np.repeat(given[key].astype(np.float64), c.block, 1)[:, :c.k] for key in ("scale", "zero")}
    zero = {"": 0.0, "const": 2.0 ** (c.bits - 1)}.get(c.zero, spread["zero"])
    return (given["w"].astype(np.float64) - zero) * (spread["scale"] if c.scaled else 1.0)


@functools.cache
def packed(c: Case, target: str) -> tuple[Func, list[np.ndarray]]:
    """The kernel behind `schedule` and `pack`, and its constants in order."""
    module, func = Module(), kernel(c)
    module.constants.update(constants(c))
    main = module.add(Func("main", [func.args[0].type, func.args[-1].type], ["x", "y"], kind="program"))
    main.attrs.update(symbols=("M",), inputs=1, guards=(), arena=None)
    module.add(func)
    given = [main.body.append(Op("p.const", (), [a.type], {"ref": Ref(a.name)})).result for a in func.args[1:-1]]
    main.body.append(Op("p.launch", [main.args[0], *given, main.args[1]], (), {"kernel": Ref("k"), "writes": (4,)}))
    main.body.append(Op("return"))
    schedule(module, target_here(target))
    pack(module, target_here(target))
    verify(module)
    launch = next(op for op in module.main.body.ops if op.name == "p.launch")
    made = [v.op for v in launch.inputs[2:]]
    return module.funcs["k"], [module.constants[cast(Ref, op.attrs["ref"]).name] for op in made if op is not None]


@functools.cache
def native(c: Case, target: str) -> NativeKernel:
    return NativeKernel(packed(c, target)[0], target_here(target))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("c", CASES, ids=IDS)
def test_narrow_weights_stay_narrow_and_multiply_exactly(c: Case, target: str) -> None:
    func, arrays = packed(c, target)
    assert narrow_operand(func) is not None and arrays[0].dtype == stored_type(dtype_named(c.dtype)).numpy
    wanted = weights(c, constants(c))
    memories = [pack_bits(a, cast(Mem, v.type).dtype) for a, v in zip(arrays, func.args[2:], strict=True)]
    for rows in (1, 2, 3, 4, 9, 40):
        x = np.random.default_rng(rows).standard_normal((rows, c.k)).astype(np.float32)
        out, meaning = (np.full((rows, c.n), np.nan, np.float32) for _ in range(2))
        assert native(c, target).run([x, out, *memories], {"M": rows}, lambda total: [total // 2], threads=2) is None
        assert run_kernel(func, [x.reshape(-1), meaning.reshape(-1), *arrays], {"M": rows}) == []
        exact = x.astype(np.float64) @ wanted.T
        # Sums in f32 of c.k products: what rounding them one after the other may add up to at most.
        bound = c.k * 2.0**-23 * (np.abs(x).astype(np.float64) @ np.abs(wanted).max(0, initial=0, keepdims=True).T)
        bound = bound + c.k * 2.0**-23 * 2**c.bits * np.abs(x).sum(1, keepdims=True)
        assert (np.abs(out - exact) <= bound).all() and (np.abs(meaning - exact) <= bound).all(), rows


def test_blocks_that_begin_within_a_word_are_packed_as_floats() -> None:
    _, arrays = packed(Case("u4", 40, 36, 12, "const"), "host")
    assert arrays[0].dtype == np.float32


def test_zero_points_in_the_middle_need_no_memory_and_panels_no_more_than_codes_and_scales() -> None:
    _, arrays = packed(CASES[0], "host")
    assert [a.dtype.name for a in arrays] == ["int4", "float32"]
