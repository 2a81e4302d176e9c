"""Triton source to cubin on a machine without a GPU: it compiles, spills nothing, and is the same each time."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys

import pytest

from onnxc.codegen.schedule import Schedule
from onnxc.codegen.triton import target as target_module
from onnxc.codegen.triton.emit import emit_kernel
from onnxc.codegen.triton.target import (
    GpuTarget,
    KernelTooLarge,
    TritonCompileError,
    TritonMissing,
    Usage,
    compile_kernel,
)
from onnxc.ops import kernel, scalar  # noqa: F401  (their rows)
from tests.codegen.kernels import KERNELS
from tests.codegen.spike import SPIKES

ALL = {**SPIKES, **KERNELS}
SM_90 = GpuTarget(90)
needs_triton = pytest.mark.triton


@pytest.mark.parametrize(("text", "capability"), [("sm_90", 90), ("90", 90), ("9.0", 90), ("sm_120", 120),
                                                  ("sm_90a", 90)])
def test_targets_by_name(text, capability):
    assert GpuTarget.parse(text) == GpuTarget(capability)
    assert str(GpuTarget.parse(text)) == f"sm_{capability}"


@pytest.mark.parametrize("text", ["", "sm_", "hopper", "x86-64"])
def test_other_names_are_refused(text):
    with pytest.raises(ValueError, match="no GPU architecture"):
        GpuTarget.parse(text)


@needs_triton
@pytest.mark.parametrize("name", ALL)
def test_kernels_compile_without_spills(name):
    """With 64-bit offsets and nothing known of the dims, which takes the most registers."""
    source = emit_kernel(ALL[name].func())
    built = compile_kernel(source, SM_90)
    usage = built.usage
    assert isinstance(usage, Usage)
    assert usage.registers > 0
    assert (usage.stack, usage.spills) == (0, 0)
    assert built.shared <= SM_90.shared_limit
    assert built.warps == source.schedule.warps
    parameters = re.search(r"\.entry \w+\((.*?)\)", built.ptx, re.S)
    assert parameters is not None
    assert parameters[1].count(".param") == len(source.arguments) + 2


@needs_triton
def test_aligned_products_use_wide_tensor_core_instructions():
    """f16 with aligned rows: warp-group products, fed by asynchronous copies."""
    source = emit_kernel(KERNELS["conv"].func(), index_bits=32, multiples={"C": 16, "O": 16})
    built = compile_kernel(source, SM_90)
    assert built.usage.spills == 0
    code = built.disassembly()
    assert "HGMMA" in code
    assert "LDGSTS" in code


@needs_triton
def test_f32_products_stay_exact_unless_told():
    func = SPIKES["matmul_gelu"].func()
    assert "GMMA" not in compile_kernel(emit_kernel(func), SM_90).disassembly()
    fast = emit_kernel(func, index_bits=32, multiples={"M": 16, "N": 16, "K": 16}, tf32=True)
    assert re.search(r"HGMMA\S*TF32", compile_kernel(fast, SM_90).disassembly())


@needs_triton
@pytest.mark.parametrize("capability", [80, 120])
def test_other_architectures(capability):
    assert compile_kernel(emit_kernel(SPIKES["softmax"].func()), GpuTarget(capability)).usage.spills == 0


@needs_triton
def test_builds_are_reproducible():
    """Equal sources give equal bytes, in a new process of another hash seed too: no path, line or time gets in."""
    source = emit_kernel(SPIKES["softmax"].func())
    first, second = compile_kernel(source, SM_90), compile_kernel(source, SM_90)
    assert first.cubin == second.cubin
    script = ("import sys, hashlib; from onnxc.ops import kernel, scalar; from tests.codegen.spike import SPIKES\n"
              "from onnxc.codegen.triton.emit import emit_kernel\n"
              "from onnxc.codegen.triton.target import GpuTarget, compile_kernel\n"
              "built = compile_kernel(emit_kernel(SPIKES['softmax'].func()), GpuTarget(90))\n"
              "sys.stdout.write(built.cubin.hex())")
    done = subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONHASHSEED": "7"},
                          capture_output=True, text=True, check=True)
    assert bytes.fromhex(done.stdout) == first.cubin


@needs_triton
def test_the_users_cache_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    compile_kernel(emit_kernel(SPIKES["cumsum"].func()), SM_90)
    assert list(tmp_path.iterdir()) == []


@needs_triton
def test_tiles_that_do_not_fit_are_refused():
    blocks = (("i", 256), ("j", 128), ("p", 128))
    source = emit_kernel(SPIKES["matmul_gelu"].func(), Schedule(blocks=blocks, warps=8, stages=4), index_bits=32,
                         multiples={"M": 16, "N": 16, "K": 16}, tf32=True)
    with pytest.raises(KernelTooLarge, match="bytes of shared memory"):
        compile_kernel(source, SM_90)


@needs_triton
def test_a_refused_source_is_in_the_error():
    source = emit_kernel(SPIKES["cumsum"].func())
    broken = dataclasses.replace(source, text=source.text.replace("tl.load(", "tl.no_such_op("))
    with pytest.raises(TritonCompileError, match="k_cumsum for sm_90") as caught:
        compile_kernel(broken, SM_90)
    assert caught.value.source == broken.text


def test_without_triton_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(target_module, "_triton", target_module._triton.__wrapped__)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(TritonMissing, match=r"pip install onnxc\[gpu\]"):
        compile_kernel(emit_kernel(SPIKES["cumsum"].func()), SM_90)


def test_an_interpreting_process_does_not_compile(monkeypatch):
    monkeypatch.setattr(target_module, "_triton", target_module._triton.__wrapped__)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(TritonMissing, match="TRITON_INTERPRET"):
        compile_kernel(emit_kernel(SPIKES["cumsum"].func()), SM_90)
