"""The spike's kernels as native code: every size, whatever split of the jobs, flush against pages that fault."""

from __future__ import annotations

import contextlib
import random

import pytest

from onnxc.codegen.llvm.target import Target
from tests.codegen.native import NativeKernel, guarded
from tests.codegen.spike import SPIKES, cases

KERNELS = [name for name in SPIKES if name != "matmul_gelu"]


@pytest.mark.parametrize("target", ["x86-64-v2", "x86-64-v3", "x86-64-v4", "host"])
@pytest.mark.parametrize("name", KERNELS)
def test_spike(name: str, target: str) -> None:
    if target == "x86-64-v4" and not Target.host().features >= Target.parse(target).features:
        pytest.skip("this machine has no AVX-512")
    spike = SPIKES[name]
    kernel = NativeKernel(spike.func(), Target.parse(target))
    rng = random.Random(name)
    for sizes in cases(spike):
        for at_end in (False, True):
            arrays = spike.inputs(sizes)
            with contextlib.ExitStack() as stack:
                inside = [stack.enter_context(guarded(a, at_end)) for a in arrays]
                error = kernel.run(inside, sizes, lambda total: sorted(rng.choices(range(total + 1), k=3)), threads=2)
                output = inside[-1].copy()
                inside.clear()
            assert error is None
            spike.check(sizes, arrays, output)
