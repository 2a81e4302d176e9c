"""Emitting Triton source, without Triton: what the text holds, what the schedule changes in it, and what is refused."""

from __future__ import annotations

import ast

import pytest

from onnxc.codegen.schedule import Schedule
from onnxc.codegen.triton.emit import emit_kernel, offset_bits
from onnxc.codegen.triton.heuristics import schedule_kernel
from onnxc.codegen.triton.source import ERROR_LIMIT, TritonUnsupported, error_code
from onnxc.ir.dims import evaluate
from onnxc.ir.parser import parse_func
from onnxc.ops import kernel, scalar  # noqa: F401  (their rows)
from tests.codegen.kernels import KERNELS
from tests.codegen.spike import SPIKES

ALL = {**SPIKES, **KERNELS}


@pytest.mark.parametrize("name", ALL)
def test_source_is_python_and_the_same_each_time(name):
    first, second = emit_kernel(ALL[name].func()), emit_kernel(ALL[name].func())
    assert first == second
    function = next(f for f in ast.parse(first.text).body if isinstance(f, ast.FunctionDef) and f.name == first.name)
    assert len(function.args.args) == len(first.arguments)


def test_a_row_that_fits_a_block_is_read_once():
    """Without a bound on the row there are three loops that read it; with one, a load and an exp are left."""
    looped = emit_kernel(SPIKES["softmax"].func())
    held = emit_kernel(SPIKES["softmax"].func(), limits={"C": 300})
    assert looped.text.count("tl.load(") == 3
    assert looped.text.count("for ") == 3
    assert held.text.count("tl.load(") == 1
    assert "for " not in held.text
    assert held.text.count("tl.div_rn") == 1
    assert held.limits == (("C", 300),)
    assert ("j", 512) in held.schedule.blocks


def test_blocks_that_divide_need_no_mask():
    text = SPIKES["transpose_pad"].text.replace("N + 4", "128").replace("C + 4", "64").replace("<N>", "124") \
        .replace("<C>", "60").replace("[N, C]", "[124, 60]")
    source = emit_kernel(parse_func(text), Schedule(blocks=(("j", 32), ("i", 32))))
    assert source.grid == 8
    stores = [line for line in source.text.splitlines() if "tl.store" in line]
    assert stores and not any("mask" in line for line in stores)


def test_views_through_other_shapes_need_no_division():
    func = parse_func("""func @view(%x: mem<f32[N, 12]>, %o: mem<f32[12*N]>) kind "kernel" {
      k.parallel() {axes = [<i>], extents = [<12*N>]} () {
        %v = k.load(%x) {index = [<i // 12>, <i % 12>]} : f32
        k.store(%o, %v) {index = [<i>]}
      }
    }""")
    assert "//" not in emit_kernel(func, Schedule(blocks=(("i", 256),))).text


def test_grid_covers_the_blocks():
    source = emit_kernel(SPIKES["max_pool"].func(), Schedule(blocks=(("q", 4), ("c", 16))))
    assert evaluate(source.grid, {"N": 2, "H": 6, "W": 7, "C": 40}) == 2 * 3 * 1 * 3
    assert evaluate(source.grid, {"N": 2, "H": 0, "W": 7, "C": 40}) == 0


def test_a_blocked_axis_takes_those_behind_it():
    """One block over all outer axes: a flat position, split into axes by division."""
    source = emit_kernel(SPIKES["max_pool"].func(), Schedule(blocks=(("n", 64),)))
    assert evaluate(source.grid, {"N": 2, "H": 6, "W": 7, "C": 40}) == -(-2 * 3 * 4 * 40 // 64)


def test_offsets_are_as_wide_as_the_shapes_need():
    def func(shape):
        return parse_func(SPIKES["softmax"].text.replace("[N, C]", shape).replace("<N>", "4").replace("<C>", "4"))
    assert offset_bits(SPIKES["softmax"].func()) == 64
    assert offset_bits(func("[4, 4]")) == 32
    assert offset_bits(func("[65536, 32768]")) == 64
    narrow = emit_kernel(SPIKES["softmax"].func(), index_bits=32)
    assert [a.type for a in narrow.arguments if a.kind == "symbol"] == ["i32"]


def test_messages_have_codes():
    source = emit_kernel(KERNELS["scatter_add"].func())
    assert source.errors == ("an index is negative", "an index is too large")
    assert [a.kind for a in source.arguments[-2:]] == ["error", "error_base"]
    assert f"{ERROR_LIMIT} - error_base" in source.text
    assert f"{ERROR_LIMIT - 1} - error_base" in source.text
    assert error_code(0) is None
    assert error_code(ERROR_LIMIT - 5) == 5


def test_names_of_a_model_never_reach_the_source():
    """Argument and function names are the model's: any text at all."""
    text = SPIKES["softmax"].text.replace("%x", '%"a b\\"\\n import os ü"').replace("@softmax", '@"1; x()"')
    source = emit_kernel(parse_func(text))
    tree = ast.parse(source.text)
    assert source.name.isidentifier()
    assert not any(isinstance(n, ast.Import) and n.names[0].name == "os" for n in ast.walk(tree))


def test_contractions_take_tensor_cores_where_types_allow():
    assert "tl.dot" in emit_kernel(SPIKES["matmul_gelu"].func()).text
    assert 'input_precision="ieee"' in emit_kernel(SPIKES["matmul_gelu"].func()).text
    assert 'input_precision="tf32"' in emit_kernel(SPIKES["matmul_gelu"].func(), tf32=True).text
    assert "tl.dot" in emit_kernel(KERNELS["conv"].func()).text
    assert "tl.dot" in emit_kernel(KERNELS["int8"].func()).text
    for name in ("batched_f64", "batched_i32", "batched_u8"):
        assert "tl.dot" not in emit_kernel(KERNELS[name].func()).text


def test_a_product_with_a_vector_is_a_fold():
    func = parse_func(SPIKES["matmul_gelu"].text.replace("mem<f32[M,", "mem<f32[1,").replace("<M>", "1"))
    source = emit_kernel(func)
    assert "tl.dot" not in source.text
    assert dict(source.schedule.blocks)["j"] > 1


@pytest.mark.parametrize(("name", "unit"), [("softmax", "j"), ("transpose_pad", "i"), ("max_pool", "c"),
                                            ("gather_add", "j"), ("cumsum", "b"), ("scan", "l")])
def test_lanes_lie_along_the_contiguous_axis(name, unit):
    assert dict(schedule_kernel(ALL[name].func()).blocks)[unit] >= 32


def test_transpositions_get_tiles():
    assert dict(schedule_kernel(SPIKES["transpose_pad"].func()).blocks) == {"j": 32, "i": 64}


def test_aligned_rows_get_larger_tiles():
    func = KERNELS["conv"].func()
    plain, wide = schedule_kernel(func), schedule_kernel(func, multiples={"C": 16, "O": 16}, index_bits=32)
    assert dict(plain.blocks)["n"] == 64
    assert dict(wide.blocks)["n"] == 128
    assert schedule_kernel(func, multiples={"C": 16, "O": 16}).blocks == plain.blocks


def _copy(of: str, to: str, cast: str = "", store: str = "") -> str:
    value = "%w" if cast else "%v"
    return f"""func @f(%x: mem<{of}[N]>, %o: mem<{to}[N]>) kind "kernel" {{
      k.parallel() {{axes = [<i>], extents = [<N>]}} () {{
        %v = k.load(%x) {{index = [<i>]}} : {of}
        {cast}
        k.store(%o, {value}) {{index = [<i>]{store}}}
      }}
    }}"""


@pytest.mark.parametrize(("text", "problem"), [
    (_copy("u4", "u4"), "stores of u4"),
    (_copy("c64", "c64"), "c64"),
    (_copy("f8e8m0", "f8e8m0"), "f8e8m0"),
    (_copy("f32", "f8e4m3fn", "%w = s.cast(%v) {to = !f8e4m3fn, saturate = false} : f8e4m3fn"), "does not saturate"),
    (_copy("f32", "f32", "%w = s.nothing(%v) : f32"), "s.nothing"),
    (_copy("f32", "f32", "%w = t.add(%v, %v) : f32"), "t.add"),
    (SPIKES["softmax"].text.replace('kinds = ["max"]', 'kinds = ["median"]'), "median"),
    (SPIKES["softmax"].text.replace('kinds = ["max"]', 'kinds = ["or"]'), "no fold 'or' of f32"),
    (SPIKES["cumsum"].text.replace('kind = "add"', 'kind = "median"'), "median"),
])
def test_what_has_no_form_is_refused_by_name(text, problem):
    with pytest.raises(TritonUnsupported, match=problem):
        emit_kernel(parse_func(text))
