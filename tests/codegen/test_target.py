"""Targets: their texts, what LLVM makes of them, and the errors of a module that LLVM refuses."""

from __future__ import annotations

import dataclasses
import re
from concurrent.futures import ThreadPoolExecutor

import llvmlite.binding as llvm
import pytest
from llvmlite import ir

from onnxc.codegen.llvm import extensions
from onnxc.codegen.llvm.target import CompileError, Pipeline, Target, TargetError

LEVEL_WIDTHS = {"x86-64": (16, 16), "x86-64-v2": (16, 16), "x86-64-v3": (32, 16), "x86-64-v4": (64, 32),
                "aarch64-neon": (16, 32)}

FMA_16 = """
define <16 x float> @fma(<16 x float> %a, <16 x float> %b, <16 x float> %c) {
  %r = call <16 x float> @llvm.fma.v16f32(<16 x float> %a, <16 x float> %b, <16 x float> %c)
  ret <16 x float> %r
}
declare <16 x float> @llvm.fma.v16f32(<16 x float>, <16 x float>, <16 x float>)
"""

COPY_64 = """
define void @copy(ptr %to, ptr %from) {
  call void @llvm.memcpy.p0.p0.i64(ptr %to, ptr %from, i64 64, i1 false)
  ret void
}
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
"""

ADD = "define i32 @add(i32 %a, i32 %b) {\n  %s = add i32 %a, %b\n  ret i32 %s\n}\n"


@pytest.mark.parametrize(("text", "width"), LEVEL_WIDTHS.items())
def test_levels_have_their_width_and_registers(text, width):
    target = Target.parse(text)
    assert (target.vector_bytes, target.vector_registers) == width
    assert target.lanes(32) == width[0] // 4
    assert target.lanes(64) * 2 == target.lanes(32)


@pytest.mark.parametrize("text", ["host", *extensions.LEVELS, "x86_64-linux-gnu/znver4+avx512f-avx2+gfni",
                                  "x86_64-apple-darwin/x86-64-v4-avx512vl+amx-bf16",
                                  "x86_64-linux-gnu/skylake-avx512+avx512vnni", "arm64-apple-darwin/apple-m1+bf16"])
def test_text_parses_back(text):
    target = Target.parse(text)
    assert Target.parse(str(target)) == target
    assert hash(Target.parse(str(target))) == hash(target)


def test_every_single_extension_parses_back():
    for arch, table in extensions.EXTENSIONS.items():
        for cpu in ("x86-64-v3", "znver4") if arch == "x86_64" else ("generic",):
            for name in table:
                for sign in "+-":
                    target = Target.parse(f"{arch}-linux-gnu/{cpu}{sign}{name}")
                    assert Target.parse(str(target)) == target
                    if name not in extensions.BASELINE[arch]:
                        assert (name in target.features) == (sign == "+")


def test_flags_keep_the_features_closed_under_requirements():
    without_avx = Target.parse("x86_64-linux-gnu/x86-64-v4-avx")
    assert not {name for name in without_avx.features if name.startswith("avx")}
    assert "fma" not in without_avx.features
    assert without_avx.vector_bytes == 16
    assert "avx2" in Target.parse("x86_64-linux-gnu/x86-64+avx512bf16").features
    assert "avx" in Target("x86_64-linux-gnu", "x86-64", frozenset({"avx2"})).features


@pytest.mark.parametrize("text", ["", "hosts", "x86-64-v5", "x86_64-linux-gnu", "x86_64-linux-gnu/", "/x86-64",
                                  "x86_64-linux-gnu/x86-64-v3+avx9000", "x86_64-linux-gnu/x86-64-v3+",
                                  "x86_64-linux-gnu/nonesuch", "riscv64-linux-gnu/generic", "wasm32/generic+simd128"])
def test_bad_texts_are_typed_errors_that_say_what_would_do(text):
    with pytest.raises(TargetError, match="known are|supported are|is none of"):
        Target.parse(text)


def test_lanes_refuses_widths_that_do_not_divide():
    for bits in (0, -8, 24):
        with pytest.raises(ValueError, match="whole number"):
            Target.parse("x86-64-v3").lanes(bits)


def test_host_has_only_what_llvm_detects():
    enabled = {name for name, on in llvm.get_host_cpu_features().items() if on}
    host = Target.host()
    assert host.features <= enabled | extensions.BASELINE[host.arch]
    assert 4096 <= host.l1_bytes <= host.l2_bytes
    assert dataclasses.replace(host, features=frozenset()).l1_bytes == extensions.CACHES[host.arch][0]


def test_tables_agree_with_llvm(capfd):
    """LLVM reports an unknown cpu or extension on stderr and carries on, so silence there is the check."""
    llvm.initialize_all_targets()
    for arch, table in extensions.EXTENSIONS.items():
        made = llvm.Target.from_triple(f"{arch}-linux-gnu")
        made.create_target_machine(features=",".join(f"+{name}" for name in table))
        for cpu in extensions.CPUS[arch]:
            made.create_target_machine(cpu=cpu)
    assert capfd.readouterr().err == ""
    host_names = set(llvm.get_host_cpu_features())
    if Target.host().arch == "x86_64":
        # xop, fma4 ... are reported by every x86 host, on or off, so the whole table must be among the names.
        assert set(extensions.EXTENSIONS["x86_64"]) <= host_names


def test_sixteen_floats_are_one_zmm_register():
    assert re.search(r"vfmadd\d+ps\s+%zmm", Target.parse("x86-64-v4").assembly(FMA_16))
    assert "zmm" in Target.parse("x86-64-v4").assembly(COPY_64)
    assert "zmm" in Target.parse("x86_64-linux-gnu/skylake-avx512+avx512f+avx512vl+avx512bw+avx512dq").assembly(COPY_64)
    v3 = Target.parse("x86-64-v3").assembly(FMA_16)
    assert "ymm" in v3 and "zmm" not in v3


def test_an_extension_that_the_cpu_implies_can_be_off():
    """A virtual machine may mask AVX-512 on a core whose tuning model has it: the features decide."""
    masked = Target("x86_64-linux-gnu", "znver4", Target.parse("x86-64-v3").features)
    assert "zmm" not in masked.assembly(FMA_16)
    assert "ymm" not in Target.parse("x86_64-linux-gnu/znver4").assembly(FMA_16)


def test_aarch64_emits_neon():
    assert re.search(r"fmla\s+v\d+\.4s", Target.parse("aarch64-neon").assembly(FMA_16))
    assert Target.parse("aarch64-neon").compile(ADD)[18:20] == (183).to_bytes(2, "little")  # EM_AARCH64


def test_compile_takes_text_builder_and_parsed_modules_alike():
    builder_module = ir.Module()
    pair = ir.FunctionType(ir.IntType(32), [ir.IntType(32)] * 2)
    function = ir.Function(builder_module, pair, "add")
    block = ir.IRBuilder(function.append_basic_block())
    block.ret(block.add(*function.args))
    parsed = llvm.parse_assembly(ADD)
    before = str(parsed)
    target = Target.parse("x86-64-v3")
    assert target.assembly(ADD).count("add:") == 1
    for module in (ADD, builder_module, parsed):
        assert target.compile(module).startswith(b"\x7fELF")
    assert str(parsed) == before


def test_the_pipeline_optimises_and_leaves_vectorising_to_us():
    loop = """
define void @scale(ptr noalias %x, i64 %n) {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %p = getelementptr float, ptr %x, i64 %i
  %v = load float, ptr %p
  %w = fmul float %v, 2.0
  store float %w, ptr %p
  %next = add nuw nsw i64 %i, 1
  %more = icmp ult i64 %next, %n
  br i1 %more, label %loop, label %done
done:
  ret void
}
"""
    target = Target.parse("x86-64-v3")
    assert " x float>" not in target.optimized_ir(loop)
    assert " x float>" in target.optimized_ir(loop, pipeline=Pipeline(loop_vectorize=True))
    dead = "define i32 @f() {\n  %a = add i32 1, 2\n  %b = mul i32 %a, 7\n  ret i32 %b\n}"
    assert "ret i32 21" in target.optimized_ir(dead)


def test_linked_modules_become_one_and_are_optimised_together():
    calls = "declare i32 @add(i32, i32)\ndefine i32 @five() {\n  %r = call i32 @add(i32 2, i32 3)\n  ret i32 %r\n}"
    target = Target.parse("x86-64-v3")
    assert "ret i32 5" in target.optimized_ir(calls, linked=[ADD])
    with pytest.raises(CompileError, match=r"link.*add") as caught:
        target.compile(ADD, linked=[ADD])
    assert caught.value.stage == "link"


def test_pipeline_refuses_levels_that_llvm_lacks():
    with pytest.raises(ValueError, match="expected 0, 1, 2 or 3"):
        Pipeline(level=4)


def test_parse_error_names_function_and_reason():
    broken = ADD + "define i32 @wrong(i32 %a) {\n  ret i32 %missing\n}\n"
    with pytest.raises(CompileError, match="parse the module in function @wrong: .*%missing") as caught:
        Target.parse("x86-64-v3").compile(broken)
    assert caught.value.function == "wrong"
    assert caught.value.stage == "parse"


def test_verifier_error_names_function_and_reason():
    broken = ADD + """
define i32 @wrong(i1 %c) {
entry:
  br i1 %c, label %left, label %right
left:
  %onlyhere = add i32 1, 2
  br label %right
right:
  ret i32 %onlyhere
}
"""
    with pytest.raises(CompileError, match="dominate") as caught:
        Target.parse("x86-64-v3").compile(broken)
    assert caught.value.function == "wrong"
    assert caught.value.stage == "verify"


def test_text_that_is_no_module_is_a_compile_error():
    for text in ("define", "\x00", "ret void", "define void @f() { ret void"):
        with pytest.raises(CompileError):
            Target.parse("x86-64-v3").compile(text)


def test_compiling_from_many_threads_gives_the_same_objects():
    target = Target.parse("x86-64-v3")
    texts = [ADD.replace("@add", f"@add{i}") for i in range(8)]
    alone = [target.compile(text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(target.compile, texts)) == alone
