"""Triton source run on numpy: the spike against float64, other kernels against the interpreter, under many schedules.

The second half breaks kernels on purpose: what a GPU would let pass has to be found.
"""

from __future__ import annotations

import dataclasses
import itertools
import random

import numpy as np
import pytest

from onnxc.codegen.interp import run_kernel
from onnxc.codegen.schedule import Schedule
from onnxc.codegen.triton.contract import contract_axes
from onnxc.codegen.triton.emit import emit_kernel
from onnxc.codegen.triton.simulate import Simulator, SimulatorError
from onnxc.ir.parser import parse_func
from onnxc.ops import kernel, scalar  # noqa: F401  (their rows)
from tests.codegen.kernels import KERNELS, same
from tests.codegen.spike import SPIKES, cases

pytestmark = pytest.mark.triton


FLOAT_PAIRS = list(itertools.permutations(("f32", "f16", "bf16", "f8e4m3fn", "f8e5m2", "f64"), 2))


@pytest.fixture(scope="module")
def simulator():
    with Simulator() as s:
        yield s


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("spike", SPIKES.values(), ids=SPIKES)
def test_spike_is_its_reference(simulator, spike, bits):
    source = emit_kernel(spike.func(), index_bits=bits)
    for sizes in cases(spike):
        arrays = spike.inputs(sizes)
        assert simulator.launch(source, arrays, sizes) == []
        spike.check(sizes, arrays, arrays[-1])


@pytest.mark.parametrize("case", KERNELS.values(), ids=KERNELS)
def test_kernels_are_what_the_interpreter_says(simulator, case):
    source = emit_kernel(case.func())
    for sizes in case.sizes:
        _compare(simulator, case, source, sizes)


def _compare(simulator, case, source, sizes):
    expected, found = case.arrays(sizes), case.arrays(sizes)
    errors = run_kernel(case.func(), expected, sizes)
    assert simulator.launch(source, found, sizes) == errors[:1]
    same(case, sizes, found, expected)


# ---- schedules change nothing --------------------------------------------------------------------------------------
def _axes(func):
    for op in func.walk():
        if op.name in ("k.parallel", "k.reduce", "k.sweep"):
            yield from map(str, op.attrs["axes"])
        elif op.name == "k.scan":
            yield str(op.attrs["axis"])
        elif op.name == "k.contract":
            yield from itertools.chain.from_iterable(contract_axes(op, g)[0] for g in ("batch", "m", "n", "k"))


def _random_schedule(func, rng):
    """Any axes blocked, by any extents: flattened groups, loops, unrolled loops and tiles of every rank come of it."""
    blocks = [(axis, rng.choice([None, 1, 2, 8, 16])) for axis in _axes(func)]
    return Schedule(blocks=tuple((a, n) for a, n in blocks if n is not None))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", [*SPIKES, *KERNELS])
def test_any_schedule_gives_the_same(simulator, name, seed):
    rng = random.Random(f"{name} {seed}")
    case = KERNELS.get(name)
    func = (case or SPIKES[name]).func()
    sizes = rng.choice(case.sizes[:3] if case else [s for s in cases(SPIKES[name]) if max(s.values()) < 100])
    limits = sizes if rng.random() < 0.5 else None
    source = emit_kernel(func, _random_schedule(func, rng), index_bits=rng.choice([32, 64]), limits=limits)
    if case:
        _compare(simulator, case, source, sizes)
    else:
        arrays = SPIKES[name].inputs(sizes)
        assert simulator.launch(source, arrays, sizes) == []
        SPIKES[name].check(sizes, arrays, arrays[-1])


def test_rows_held_in_a_block(simulator):
    for name in ("softmax", "layer_norm"):
        spike = SPIKES[name]
        source = emit_kernel(spike.func(), limits={"C": 300})
        for sizes in cases(spike):
            arrays = spike.inputs(sizes)
            simulator.launch(source, arrays, sizes)
            spike.check(sizes, arrays, arrays[-1])


def test_tf32_loses_what_it_may(simulator):
    """13 bits less of the fraction in every factor: 2**-10 of each term at most."""
    spike = SPIKES["matmul_gelu"]
    sizes = {"M": 37, "N": 70, "K": 90}
    arrays = spike.inputs(sizes)
    simulator.launch(emit_kernel(spike.func(), tf32=True), arrays, sizes)
    error = np.abs(arrays[-1] - spike.expected(sizes, arrays)).max()
    assert 1e-5 < error < 90 * 2 * 2**-10


# ---- errors of data, and of kernels ---------------------------------------------------------------------------------
def test_indices_out_of_range_are_recorded_and_not_read(simulator):
    source = emit_kernel(SPIKES["gather_add"].func())
    sizes = {"V": 4, "N": 3, "C": 5}
    for bad in (4, -5, 2**62, -2**63):
        arrays = [np.ones((4, 5), np.float32), np.array([0, bad, -1]), np.ones((3, 5), np.float32),
                  np.zeros((3, 5), np.float32)]
        assert simulator.launch(source, arrays, sizes) == ["an index is out of range"]
        np.testing.assert_array_equal(arrays[-1], [[2] * 5, [1] * 5, [2] * 5])


def test_the_smallest_code_is_kept(simulator):
    source = emit_kernel(KERNELS["scatter_add"].func())
    arrays = [np.array([7, -1, 0]), np.ones((3, 2), np.float32), np.zeros((3, 2), np.float32)]
    assert simulator.launch(source, arrays, {"N": 3, "C": 2, "V": 3}) == ["an index is negative"]


def _broken(source, old, new):
    assert old in source.text
    return dataclasses.replace(source, text=source.text.replace(old, new))


def _launch(simulator, source, n=100):
    arrays = [np.ones((n, 3), np.float32), np.zeros((n, 3), np.float32)]
    simulator.launch(source, arrays, {"N": n, "C": 3})


COPY = """func @copy(%x: mem<f32[N, C]>, %o: mem<f32[N, C]>) kind "kernel" {
  k.parallel() {axes = [<i>, <j>], extents = [<N>, <C>]} () {
    %v = k.load(%x) {index = [<i>, <j>]} : f32
    k.store(%o, %v) {index = [<i>, <j>]}
  }
}"""


@pytest.mark.parametrize(("old", "new", "problem"), [
    (" < d_C", " <= d_C", "out of bounds|race"),
    ("tl.load(m0_x", "tl.load(m0_x - 1", "outside"),
    ("tl.load(m0_x", "tl.load(m0_x + 1000000000", "out of bounds"),
    ("tl.store(m1_o + ", "tl.store(m1_o + 0 * ", "race|twice|out of bounds"),
    ("tl.program_id(0)", "(tl.program_id(0) + 1)", "out of bounds"),
    ("tl.program_id(0)", "(tl.program_id(0) // 2)", "race"),
    ("tl.load(m0_x", "tl.load((m0_x.to(tl.int64) + 2).to(tl.pointer_type(tl.float32))", "misaligned"),
    ("tl.store(m1_o", "tl.store(m0_x", "race"),
    ("tl.store(", "tl.stoer(", "stoer"),
])
def test_faults_are_found(simulator, old, new, problem):
    source = emit_kernel(parse_func(COPY), Schedule(blocks=(("i", 1), ("j", 4))))
    _launch(simulator, source)
    source = _broken(source, old, new)
    if new == "tl.store(m0_x":                          # each program reads its right neighbour's row
        source = _broken(source, "tl.load(m0_x + ", "tl.load(m0_x + d_C * (tl.program_id(0) < 98) + ")
    with pytest.raises(SimulatorError, match=problem):
        _launch(simulator, source)
    _launch(simulator, emit_kernel(parse_func(COPY)))   # the process lives on


@pytest.mark.parametrize(("of", "to"), FLOAT_PAIRS)
def test_casts_between_floats(simulator, of, to):
    """Every narrow value, and f32 values at and between them: equal bits, NaN for NaN."""
    func = parse_func(f"""func @f(%x: mem<{of}[N]>, %o: mem<{to}[N]>) kind "kernel" {{
      k.parallel() {{axes = [<i>], extents = [<N>]}} () {{
        %v = k.load(%x) {{index = [<i>]}} : {of}
        %w = s.cast(%v) {{to = !{to}}} : {to}
        k.store(%o, %w) {{index = [<i>]}}
      }}
    }}""")
    source_type, result_type = (a.type.dtype.numpy for a in func.args)
    every = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float64)
    with np.errstate(all="ignore"):
        x = np.concatenate([every, every * 1.0009765625, every * 0.99951171875]).astype(source_type)
    expected, found = ([x.copy(), np.zeros(x.size, result_type)] for _ in range(2))
    run_kernel(func, expected, {})
    simulator.launch(emit_kernel(func, Schedule(blocks=(("i", 65536),))), found, {"N": x.size})
    nan = np.isnan(expected[1])
    np.testing.assert_array_equal(np.isnan(found[1]), nan)
    bits = f"u{np.dtype(result_type).itemsize}"
    np.testing.assert_array_equal(found[1][~nan].view(bits), expected[1][~nan].view(bits))


@pytest.mark.parametrize("dtype", ["i4", "u4", "i2", "u2"])
def test_packed_loads(simulator, dtype):
    """Elements of less than a byte, the first in the lowest bits; the interpreter carries them one a byte."""
    func = parse_func(f"""func @f(%x: mem<{dtype}[N]>, %o: mem<i32[N + 1]>) kind "kernel" {{
      k.parallel() {{axes = [<i>], extents = [<N + 1>]}} () {{
        %v = k.load(%x) {{index = [<i - 1>], where = [[<i>, 1, <N + 1>]], other = 1}} : {dtype}
        %w = s.cast(%v) {{to = !i32}} : i32
        k.store(%o, %w) {{index = [<i>]}}
      }}
    }}""")
    bits = func.args[0].type.dtype.bits
    raw = np.random.default_rng(1).integers(0, 256, 25, np.uint8)
    fields = (raw[:, None] >> np.arange(0, 8, bits, dtype=np.uint8) & (2**bits - 1)).reshape(-1).astype(np.int32)
    values = np.where(fields >= 2 ** (bits - 1), fields - 2**bits, fields) if dtype[0] == "i" else fields
    out = np.zeros(values.size + 1, np.int32)
    simulator.launch(emit_kernel(func), [raw, out], {"N": values.size})
    np.testing.assert_array_equal(out, [1, *values])
