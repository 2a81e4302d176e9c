"""What the heuristics choose and what it becomes: axes across lanes, tiles, scratch rows, and tight inner loops."""

from __future__ import annotations

import re

import pytest
from llvmlite import ir

from onnxc.codegen.llvm.emit import emit_kernel
from onnxc.codegen.llvm.prepare import prepare_kernel
from onnxc.codegen.llvm.rowcache import SCRATCH
from onnxc.codegen.llvm.target import Target
from onnxc.codegen.schedule import Schedule
from onnxc.ir.core import Func
from onnxc.ir.dims import evaluate
from onnxc.ir.parser import parse_func
from tests.codegen.spike import SPIKES

V3 = Target.parse("x86-64-v3")
V4 = Target.parse("x86-64-v4")
ADD = """func @add(%a: mem<f32[N, C]>, %b: mem<f32[N, C]>, %o: mem<f32[N, C]>) kind "kernel" {
  k.parallel() {axes = [<i>, <j>], extents = [<N>, <C>]} () {
    %v = k.load(%a) {index = [<i>, <j>], where = [], other = 0} : f32
    %w = k.load(%b) {index = [<i>, <j>], where = [], other = 0} : f32
    %r = s.add(%v, %w) : f32
    k.store(%o, %r) {index = [<i>, <j>], where = [], combine = none} } }"""


def schedule_of(func: Func, target: Target = V4) -> Schedule:
    return Schedule.parse(str(prepare_kernel(func, target).attrs["schedule"]))


@pytest.mark.parametrize(("name", "vector"), [
    ("softmax", "j2"), ("layer_norm", "j2"), ("max_pool", "c"), ("gather_add", "j"), ("argmax", "j"), ("cumsum", "b")])
def test_vector_axis(name: str, vector: str) -> None:
    assert schedule_of(SPIKES[name].func()).vector == vector


def test_lanes_fit_the_register_and_the_axis() -> None:
    assert [schedule_of(parse_func(ADD), t).lanes for t in (V3, V4)] == [8, 16]
    assert schedule_of(parse_func(ADD.replace("N, C", "1, 6").replace("<N>, <C>", "1, 6"))).lanes == 8
    assert schedule_of(parse_func(ADD.replace("f32", "i8"))).lanes == 64


def test_transposed_copy_is_tiled() -> None:
    assert schedule_of(SPIKES["transpose_pad"].func()).blocks == (("j", 8),)


def test_a_given_schedule_stays() -> None:
    func = parse_func(ADD.replace('kind "kernel"', 'kind "kernel" {schedule = "vector=j lanes=4"}'))
    assert prepare_kernel(func, V4) is func


def test_exponentials_of_a_row_are_computed_once() -> None:
    func = prepare_kernel(SPIKES["softmax"].func(), V4)
    assert func.attrs[SCRATCH] == 1
    assert sum(op.name == "s.exp" for op in func.walk()) == 1
    assert SCRATCH not in prepare_kernel(SPIKES["layer_norm"].func(), V4).attrs      # x - mean costs less than a load


def test_small_kernels_are_one_chunk() -> None:
    code = emit_kernel(ir.Module(), parse_func(ADD), V4, lambda message: 0)
    small, large = {"N": 10, "C": 10}, {"N": 4096, "C": 4096}
    assert evaluate(code.grain, small) >= evaluate(code.total, small) == 1
    assert evaluate(code.total, large) > 8 * evaluate(code.grain, large)


def assembly(func: Func, target: Target) -> str:
    module = ir.Module()
    emit_kernel(module, func, target, lambda message: 0).function.linkage = "external"
    return target.assembly(module)


def loops_with(text: str, instruction: str) -> list[list[str]]:
    """The bodies of innermost loops (label to backward jump) in which an instruction occurs."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
    places = {line[:-1]: i for i, line in enumerate(lines) if re.fullmatch(r"\.LBB\w+:", line)}
    found = []
    for i, line in enumerate(lines):
        jump = re.match(r"j\w+\s+(\.LBB\w+)$", line)
        start = places.get(jump[1]) if jump else None
        if start is not None and start < i:
            body = [x for x in lines[start + 1:i + 1] if not x.startswith(".")]
            innermost = not any(re.fullmatch(r"\.LBB\w+:", x) for x in lines[start + 1:i])
            if innermost and any(instruction in x for x in body):
                found.append(body)
    return found


@pytest.mark.parametrize(("target", "register"), [(V3, "ymm"), (V4, "zmm")])
def test_inner_loop_of_an_addition_is_tight(target: Target, register: str) -> None:
    """Per vector: a load, an addition from memory, a store; per pass a counter and a jump."""
    bodies = [b for b in loops_with(assembly(parse_func(ADD), target), "vaddps") if sum("vaddps" in x for x in b) >= 4]
    assert bodies
    for body in bodies:
        additions = sum("vaddps" in x and register in x for x in body)
        assert len(body) <= 3 * additions + 4, body


@pytest.mark.parametrize("name", ["softmax", "layer_norm", "max_pool", "cumsum"])
def test_no_division_in_inner_loops(name: str) -> None:
    for body in loops_with(assembly(SPIKES[name].func(), V4), "zmm"):
        assert not any(re.match(r"i?div[lq]?\s", x) for x in body)


@pytest.mark.parametrize("name", [n for n in SPIKES if n != "matmul_gelu"])
def test_kernels_compile_for_arm(name: str) -> None:
    """Four lanes of NEON, and nothing from outside: no libm, no compiler runtime."""
    text = assembly(SPIKES[name].func(), Target.parse("aarch64-neon"))
    assert re.search(r"\bq\d+\b|\bv\d+\.[24][sd]\b", text)
    assert not re.findall(r"\bbl\s+(?!onnxc_fail)\w+", text)
