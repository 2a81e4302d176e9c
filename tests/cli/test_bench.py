"""Measuring: what the verb prints and writes, work counted against sums done by hand, and ratios of known timings."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ET

import ml_dtypes
import numpy as np
import pytest
from click.testing import CliRunner

import onnxc
from onnxc.bench.cold import compile_cold, measure_cold
from onnxc.bench.engines import check_peers, first_outputs, largest_difference, open_engine
from onnxc.bench.exported import pair_inputs
from onnxc.bench.feeds import random_feed
from onnxc.bench.kernels import KernelTime, Profile, profile_kernels, program_of
from onnxc.bench.machine import Limits, fma_peak, has_byte_products, memory_rate
from onnxc.bench.roofline import roofline_svg
from onnxc.bench.timing import Timing, geometric_mean, take_turns
from onnxc.bench.work import Work, footprint, kernel_work, step_work
from onnxc.cli import main
from onnxc.codegen.llvm.target import Target
from onnxc.errors import Fail, InvalidArgument
from onnxc.ir.parser import parse_func, parse_module
from onnxc.ops import load_all
from tests.session import models

QUICK = ("--dim", "N=4", "--seconds", "0.05", "--rounds", "2")


@pytest.fixture(scope="module", autouse=True)
def tables():
    load_all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench")
    (path / "m.onnx").write_bytes(models.sums().SerializeToString())
    (path / "chain.onnx").write_bytes(models.chain(3, 32).SerializeToString())
    onnxc.compile(path / "m.onnx", path / "m.onnxc")
    onnxc.compile(path / "chain.onnx", path / "chain.onnxc")
    return path


def bench(*arguments: object, status: int = 0) -> str:
    done = CliRunner().invoke(main, ["bench", *[str(a) for a in arguments]])
    assert done.exit_code == status, done.output + repr(done.exception)
    return done.output


# ---- the verb --------------------------------------------------------------------------------------------------------

def test_bench_alone_says_how_it_starts_and_runs(folder):
    shown = bench(folder / "m.onnx", *QUICK)
    assert "s to compile" in shown
    assert "MiB, running" in shown
    assert "kernel" not in shown
    assert "s to compile" not in bench(folder / "m.onnxc", *QUICK, "--steady")


def test_bench_in_turns_with_onnxruntime_on_files(folder, tmp_path):
    pytest.importorskip("onnxruntime")
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.savez(folder / "both.npz", x=x, y=x)
    report = tmp_path / "r.json"
    shown = bench(folder / "m.onnx", "--vs", "onnxruntime", "--threads", "1", "--inputs", folder / "both.npz",
                  "--seconds", "0.05", "--rounds", "3", "--json", report, "--steady")
    assert "x as fast as onnxruntime" in shown
    assert "largest difference of outputs 0" in shown
    found = json.loads(report.read_text())
    assert found["shapes"] == {"x": [2, 3], "y": [2, 3]}
    assert [t["name"] for t in found["timings"]] == ["onnxc", "onnxruntime"]
    assert [len(t["rounds"]) for t in found["timings"]] == [3, 3]
    ratio = found["ratios"]["onnxruntime"]
    assert ratio["low"] <= ratio["median"] <= ratio["high"]
    assert found["starts"] == {}


def test_kernels_are_listed_drawn_and_reported(folder, tmp_path):
    picture, report = tmp_path / "r.svg", tmp_path / "r.json"
    shown = bench(folder / "chain.onnxc", "--dim", "N=8", "--seconds", "0.05", "--rounds", "1", "--steady", "--kernels",
                  "--top", "1", "--roofline", picture, "--json", report)
    assert "GFLOP/s" in shown
    assert "others" in shown
    assert "at their limits" in shown
    profile = json.loads(report.read_text())["profile"]
    assert profile["dims"] == {"N": 8}
    assert sum(k["work"]["operations"] for k in profile["kernels"]) == 3 * 2 * 8 * 32 * 32
    assert sum(k["share"] for k in profile["kernels"]) == pytest.approx(1)
    tree = ET.fromstring(picture.read_text())
    discs = tree.findall("{http://www.w3.org/2000/svg}circle")
    assert len(discs) == len(profile["kernels"])
    titles = [d[0].text or "" for d in discs]
    assert all(k["name"] in title for k, title in zip(profile["kernels"], titles, strict=True))


@pytest.mark.parametrize(("peers", "model", "words"), [
    ("no_such_engine", "m.onnx", "no engine 'no_such_engine' to compare with; there are onnxruntime, openvino, torch"),
])
def test_peers_that_cannot_be_measured(folder, peers, model, words):
    assert words in bench(folder / model, "--vs", peers, status=1)


def test_absent_peers_and_peers_of_compiled_models(folder, monkeypatch):
    monkeypatch.setattr("onnxc.bench.engines.find_spec", lambda name: None)
    with pytest.raises(InvalidArgument, match="pip install openvino"):
        check_peers(["openvino"], str(folder / "m.onnx"))
    monkeypatch.setattr("onnxc.bench.engines.find_spec", lambda name: True)
    with pytest.raises(InvalidArgument, match="is a compiled model, which onnxruntime cannot read"):
        check_peers(["onnxruntime"], str(folder / "m.onnxc"))
    check_peers(["onnxruntime"], str(folder / "m.onnx"))
    with pytest.raises(InvalidArgument, match=r"There is no .*m\.pt2: torch reads no ONNX.*--torch-program"):
        check_peers(["torch"], str(folder / "m.onnx"))
    monkeypatch.setattr("onnxc.bench.engines.shutil.which", lambda name: None)
    with pytest.raises(InvalidArgument, match=r"torch\.compile needs a C\+\+ compiler"):
        check_peers(["torch-compiled"], str(folder / "m.onnx"))
    monkeypatch.setattr("onnxc.bench.engines.find_spec", lambda name: None)
    with pytest.raises(InvalidArgument, match="pip install torch$"):
        check_peers(["torch-compiled"], str(folder / "m.onnx"))


def test_models_that_cannot_be_measured(folder, tmp_path):
    assert "NoSuchFile" in bench(tmp_path / "nope.onnx", status=1)
    (tmp_path / "bad.onnx").write_bytes(b"\x08\x08nothing")
    assert "InvalidProtobuf" in bench(tmp_path / "bad.onnx", status=1)
    assert "no input" in bench(folder / "m.onnxc", "--dim", "Q=4", status=1).lower()


# ---- torch -----------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """What `models.sums` would be exported from, as files: with the model's names, with others, and one that writes
    into its input."""
    torch = pytest.importorskip("torch")

    class Sums(torch.nn.Module):
        def forward(self, y, x):
            return x + y, -(x + y)

    class Others(torch.nn.Module):
        def forward(self, first, scale, *, rest):
            total = first + rest["b"]
            return {"a": total, "b": [scale * total, None]}

    class Writes(torch.nn.Module):
        def forward(self, x, y):
            return x.add_(y), -x

    path, n = tmp_path_factory.mktemp("programs"), {0: torch.export.Dim("N")}
    a, b = torch.zeros(2, 3), torch.zeros(2, 3)     # two: one tensor in both places would be one input
    export, save = torch.export.export, torch.export.save
    save(export(Sums(), (a, b), dynamic_shapes=(n, n)), path / "m.pt2")
    save(export(Others(), (a, -1), {"rest": {"b": b}}), path / "others.pt2")
    save(export(Writes(), (a, b), dynamic_shapes=(n, n)), path / "writes.pt2")
    (path / "m.onnx").write_bytes(models.sums().SerializeToString())
    return path


@pytest.mark.torch
def test_bench_in_turns_with_torch(folder, program, tmp_path):
    report = tmp_path / "r.json"
    shown = bench(program / "m.onnx", "--vs", "torch", "--threads", "1", *QUICK, "--json", report)
    assert "x as fast as torch" in shown
    assert "largest difference of outputs 0" in shown
    found = json.loads(report.read_text())
    assert found["starts"]["torch"]["first_run"] > 0
    assert found["starts"]["torch"]["peak_bytes"] > found["starts"]["onnxc"]["peak_bytes"]
    # A compiled model serves as well, since torch does not read it.
    assert "x as fast as torch" in bench(folder / "m.onnxc", "--vs", "torch", "--torch-program", program / "m.pt2",
                                         *QUICK, "--steady")


@pytest.mark.torch
@pytest.mark.parametrize(("peer", "file"), [("torch", "m.pt2"), ("torch", "others.pt2"),
                                            ("torch-compiled", "others.pt2")])
def test_programs_get_inputs_by_name_and_else_in_order(program, peer, file):
    if peer == "torch-compiled" and not shutil.which("g++"):
        pytest.skip("needs a C++ compiler")
    x, y = np.full((2, 3), 2, np.float32), np.full((2, 3), 5, np.float32)
    z, w = open_engine(peer, str(program / file), 1)({"x": x, "y": y})
    assert (z == 7).all()
    assert (w == -7).all()


@pytest.mark.torch
def test_feeds_that_no_program_fits(program):
    x, wide = np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float32)
    engine = open_engine("torch", str(program / "m.pt2"), 1)
    with pytest.raises(InvalidArgument, match=r"takes 2 tensors \(y, x\) and the model is given 1 \(x\)"):
        first_outputs("torch", engine, {"x": x})
    with pytest.raises(InvalidArgument, match=r"'y' .* takes float32\[\w+, 3\].*input 'y'.* is float32\[2, 4\]"):
        first_outputs("torch", engine, {"x": x, "y": wide})
    with pytest.raises(InvalidArgument, match=r"takes float32.*is float64\[2, 3\]"):
        first_outputs("torch", engine, {"x": x, "y": x.astype(np.float64)})
    with pytest.raises(InvalidArgument, match="'y' is no tensor of numbers"):
        first_outputs("torch", engine, {"x": x, "y": [x]})
    writes = open_engine("torch", str(program / "writes.pt2"), 1)
    with pytest.raises(InvalidArgument, match="writes into what it is given for x, which"):
        first_outputs("torch", writes, {"x": x, "y": x.copy()})
    with pytest.raises(Fail, match="torch failed on this model"):
        open_engine("torch", str(program / "m.onnx"), 1)


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float16", "bool", "uint8", "int64", "complex64"])
def test_programs_keep_element_types(tmp_path, dtype):
    import torch

    class Same(torch.nn.Module):
        def forward(self, x):
            return x.clone()

    torch.export.save(torch.export.export(Same(), (torch.zeros(3).to(getattr(torch, dtype)),)), tmp_path / "p.pt2")
    x = np.array([0, 1, 2]).astype(getattr(ml_dtypes, dtype, dtype))
    (same,) = open_engine("torch", str(tmp_path / "p.pt2"), 1)({"anything": x})
    assert same.dtype == x.dtype
    assert (same == x).all()


def test_pairs_of_placeholders_and_inputs():
    assert pair_inputs(["y", "x"], ["x", "y"], "p") == {"y": "y", "x": "x"}
    assert pair_inputs(["a", "b"], ["x", "y"], "p") == {"a": "x", "b": "y"}
    assert pair_inputs(["y", "b"], ["x", "y"], "p") == {"y": "y", "b": "x"}
    assert pair_inputs([], [], "p") == {}
    with pytest.raises(InvalidArgument, match=r"p takes 0 tensors \(none\) and the model is given 1 \(x\)"):
        pair_inputs([], ["x"], "p")


# ---- first starts ----------------------------------------------------------------------------------------------------

def test_first_starts_are_measured_in_new_processes(folder, tmp_path):
    compiling = compile_cold(str(folder / "m.onnx"), str(tmp_path / "m.onnxc"))
    assert compiling.seconds > 0
    assert compiling.first_run is None
    feed = {"x": np.zeros((1 << 20, 3), np.float32), "y": np.zeros((1 << 20, 3), np.float32)}
    large = measure_cold("onnxc", str(tmp_path / "m.onnxc"), feed, 1)
    small = measure_cold("onnxc", str(tmp_path / "m.onnxc"), {name: a[:1] for name, a in feed.items()}, 1)
    # Two inputs and two outputs of 12 MiB each, and nothing of this process, which may be larger than either.
    assert 40 << 20 < large.peak_bytes - small.peak_bytes < 90 << 20
    with pytest.raises(Fail, match=r"run .*m\.onnxc.*Required inputs"):
        measure_cold("onnxc", str(tmp_path / "m.onnxc"), {}, 1)


# ---- timing ----------------------------------------------------------------------------------------------------------

def test_ratios_are_of_rounds_and_have_quartiles():
    ours = Timing("a", 1.0, 1.0, 4, (1.0, 2.0, 1.0, 4.0))
    theirs = Timing("b", 2.0, 1.0, 4, (2.0, 2.0, 3.0, 16.0))
    ratio = ours.ratio_to(theirs)      # 2, 1, 3, 4
    assert (ratio.low, ratio.median, ratio.high) == (1.75, 2.5, 3.25)
    assert ours.ratio_to(ours).median == 1
    assert geometric_mean([0.5, 2.0, 8.0]) == pytest.approx(2)


def test_engines_take_turns():
    seen: list[str] = []
    timings = take_turns({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, 0.002, 4)
    turns = [name for i, name in enumerate(seen) if i == 0 or seen[i - 1] != name]
    assert turns == ["a", "b", "a", "b", "a"]      # ab, ba, ab, ba: who follows whom changes
    assert [t.name for t in timings] == ["a", "b"]
    assert sum(t.runs for t in timings) == len(seen) - 8       # a run of each turn warms up


def test_differences_of_outputs():
    a = np.array([1.0, np.nan, np.inf, -4.0])
    assert largest_difference([a], [a.copy()]) == (0, 0)
    assert largest_difference([a], [np.array([1.0, np.nan, np.inf, -5.0])]) == (1.0, 0.2)
    assert np.isnan(largest_difference([a], [a[:3]])[0])
    assert np.isnan(largest_difference([a], [np.nan_to_num(a)])[0])
    assert largest_difference([], []) == (0, 0)
    with pytest.raises(Fail, match="1 outputs here and 0 there"):
        largest_difference([a], [])


def test_what_a_peer_says_about_a_model_keeps_its_name(tmp_path):
    pytest.importorskip("onnxruntime")
    (tmp_path / "bad.onnx").write_bytes(b"\x08\x08nothing")
    with pytest.raises(Fail, match="onnxruntime failed on this model"):
        open_engine("onnxruntime", str(tmp_path / "bad.onnx"), 1)
    (tmp_path / "m.onnx").write_bytes(models.sums().SerializeToString())
    engine = open_engine("onnxruntime", str(tmp_path / "m.onnx"), 1)
    with pytest.raises(Fail, match="onnxruntime failed on this model.*'y'"):
        first_outputs("onnxruntime", engine, {"x": np.zeros((2, 3), np.float32)})


# ---- work ------------------------------------------------------------------------------------------------------------

PRODUCT = """
func @k(%x: mem<f32[N, 8]>, %w: mem<f32[8, 5]>, %b: mem<f32[5]>, %out: mem<f32[N, 5]>) kind "kernel" {
  k.contract() {batch = [], m = [[<i0>, <N>]], n = [[<i1>, 5]], k = [[<i2>, 8]], accumulate = !f32} () {
    %0 = k.load(%x) {index = [<i0>, <i2>], where = [], other = 0.0} : f32
    yield(%0)
  } () {
    %1 = k.load(%w) {index = [<i2>, <i1>], where = [], other = 0.0} : f32
    yield(%1)
  } (%sum: f32) {
    %2 = k.load(%b) {index = [<i1>], where = [], other = 0.0} : f32
    %3 = s.add(%sum, %2) : f32
    k.store(%out, %3) {index = [<i0>, <i1>], where = [], combine = none}
  }
}
"""

NORM = """
func @k(%x: mem<f64[N, 16]>, %out: mem<f64[N, 16]>) kind "kernel" {
  k.parallel() {axes = [<i0>], extents = [<N>]} () {
    %0 = k.reduce() {axes = [<r>], extents = [16], kinds = ["add"]} : f64 () {
      %1 = k.load(%x) {index = [<i0>, <r>], where = [], other = 0.0} : f64
      %2 = s.mul(%1, %1) : f64
      yield(%2)
    }
    k.sweep() {axes = [<i1>], extents = [16]} () {
      %3 = k.load(%x) {index = [<i0>, <i1>], where = [], other = 0.0} : f64
      %4 = s.div(%3, %0) : f64
      k.store(%out, %4) {index = [<i0>, <i1>], where = [], combine = none}
    }
  }
}
"""

PICK = """
func @k(%table: mem<f16[1000, 4]>, %i: mem<i64[N]>, %out: mem<f16[N, 4]>) kind "kernel" {
  k.parallel() {axes = [<i0>, <i1>], extents = [<N>, 4]} () {
    %0 = k.load(%i) {index = [<i0>], where = [], other = 0} : i64
    %1 = k.load(%table, %0) {index = [<$0>, <i1>], where = [], other = 0.0} : f16
    k.store(%out, %1) {index = [<i0>, <i1>], where = [], combine = none}
  }
}
"""


@pytest.mark.parametrize(("text", "n", "expected"), [
    (PRODUCT, 3, Work(2 * 3 * 5 * 8 + 3 * 5, 4 * (24 + 40 + 5), 4 * 15)),
    (PRODUCT, 0, Work(0, 0, 0)),
    (NORM, 2, Work(2 * 16 * 2 + 2 * 16, 8 * 32, 8 * 32, "f64")),       # read twice from memory that counts once
    (PICK, 3, Work(0, 2 * 12 + 8 * 3, 2 * 12)),                        # of the table, what is touched
    (PICK, 5000, Work(0, 2 * 4000 + 8 * 5000, 2 * 20000)),             # of the table, all of it
], ids=["product", "no-rows", "norm", "gather", "long-gather"])
def test_work_of_kernels(text, n, expected):
    assert kernel_work(parse_func(text), {"N": n}) == expected


def test_work_of_bytes_is_limited_by_products_of_bytes():
    text = PRODUCT.replace("mem<f32[N, 8]>", "mem<u8[N, 8]>").replace("mem<f32[8, 5]>", "mem<i8[8, 5]>") \
        .replace("f32", "i32").replace("= 0.0", "= 0").replace("k.load(%x) {index = [<i0>, <i2>], where = [], other = 0"
        "} : i32", "k.load(%x) {index = [<i0>, <i2>], where = [], other = 0} : u8").replace(
        "k.load(%w) {index = [<i2>, <i1>], where = [], other = 0} : i32",
        "k.load(%w) {index = [<i2>, <i1>], where = [], other = 0} : i8")
    work = kernel_work(parse_func(text), {"N": 3})
    assert work == Work(2 * 3 * 5 * 8 + 15, 24 + 40 + 20, 60, "i8")


def test_work_of_loops_and_what_data_decides():
    module = parse_module(PROGRAM)
    once = Work(4, 16, 16)
    assert step_work(module, {"N": 3}) == [once, once.times(5), Work(0, 16, 16), None]
    # A loop that may end early tells how often it ran.
    counted = parse_module(PROGRAM.replace('count = ""}', 'count = "done"}'))
    assert step_work(counted, {"N": 3, "done": 2, "it": 1})[1] == once.times(2)
    assert footprint(module, {"N": 3}) == 128 + 3 * 16 + 1


PROGRAM = """
func @main(%x: mem<f32[4]>, %c: mem<bool[]>, %y: mem<f32[4]>, %z: mem<f32[4]>) kind "program" {symbols = ["N"],
    inputs = 2, guards = [], arena = 128} {
  p.launch(%x, %y) {kernel = @neg, writes = [1]}
  %0 = p.loop(%y) {symbol = "it", extent = <N + 2>, conditional = false, count = ""} : mem<f32[4]> (%s: mem<f32[4]>) {
    p.launch(%s, %z) {kernel = @neg, writes = [1]}
    yield(%s)
  }
  p.copy(%y, %z)
  %1 = p.if(%c) : mem<f32[4]> () {
    p.launch(%x, %z) {kernel = @neg, writes = [1]}
    yield(%x)
  } () {
    yield(%y)
  }
  return()
}
func @neg(%x: mem<f32[4]>, %out: mem<f32[4]>) kind "kernel" {
  k.parallel() {axes = [<i0>], extents = [4]} () {
    %0 = k.load(%x) {index = [<i0>], where = [], other = 0.0} : f32
    %1 = s.neg(%0) : f32
    k.store(%out, %1) {index = [<i0>], where = [], combine = none}
  }
}
"""


# ---- kernels and limits ----------------------------------------------------------------------------------------------

def test_profiles_hold_every_step_and_its_dims(folder):
    session = onnxc.InferenceSession(folder / "chain.onnxc")
    feed = random_feed(session.get_inputs(), {"N": 16})
    profile = profile_kernels(str(folder / "chain.onnxc"), feed, 1, 0.02)
    compiled = onnxc.open_artifact(folder / "chain.onnxc")
    assert sum(k.launches for k in profile.kernels) == len(compiled.steps)
    assert 0 < profile.seconds < profile.run_seconds * 1.5
    assert profile.dims == {"N": 16}
    assert {f.name for f in program_of(compiled).funcs.values()} >= {k.name for k in profile.kernels}


def test_shares_of_limits():
    limits = Limits({"f32": 100.0, "f64": 50.0}, 10.0, 1, 1)
    bound_by_compute = KernelTime("a", 1, 4.0, Work(200, 10, 0), "")
    bound_by_memory = KernelTime("b", 1, 4.0, Work(100, 10, 10), "")
    assert bound_by_compute.limit(limits) == (0.5, "compute")
    assert bound_by_memory.limit(limits) == (0.5, "memory")
    assert KernelTime("c", 1, 4.0, Work(200, 1, 0, "f64"), "").limit(limits) == (1.0, "compute")
    assert KernelTime("d", 1, 4.0, None, "").limit(limits) is None
    unknown = KernelTime("d", 1, 3.0, None, "<node>")
    profile = Profile((bound_by_compute, bound_by_memory, unknown), 11.0, 12.0, {}, limits)
    assert profile.least_seconds() == 2 + 2 + 3
    picture = roofline_svg(profile, "a < b")
    assert "not drawn: 1 kernels" in picture
    assert len(ET.fromstring(picture).findall("{http://www.w3.org/2000/svg}circle")) == 2


def test_pictures_number_kernels_where_their_discs_lie_and_name_them_in_a_key():
    limits = Limits({"f32": 100.0}, 10.0, 1, 1)
    kernels = [KernelTime(name, 1, 4.0, Work(200, 10, 0), "n, m, n") for name in ("a", "b" * 40)]
    tree = ET.fromstring(roofline_svg(Profile(tuple(kernels), 8.0, 8.0, {}, limits), "m"))
    texts = [(t.text or "", t) for t in tree.findall("{http://www.w3.org/2000/svg}text")]
    numbers = [[t for text, t in texts if text == number] for number in ("1", "2")]
    (first, _), (second, _) = (sorted(found, key=lambda t: float(t.get("x", 0)))[-2:] for found in numbers)
    assert first.get("x") == second.get("x")
    assert float(second.get("y", 0)) == float(first.get("y", 0)) + 10      # of one place: below, not on top of it
    assert [text for text, _ in texts if text in ("a", "b" * 29 + "\u2026", "50.0%")] == ["a", "50.0%",
                                                                                        "b" * 29 + "\u2026", "50.0%"]
    assert (tree.findall("{http://www.w3.org/2000/svg}circle")[0][0].text or "").endswith("\nn, m")


def test_a_picture_needs_no_kernel_with_operations():
    limits = Limits({"f32": 1e11}, 1e10, 1 << 20, 2)
    profile = Profile((KernelTime("copy", 1, 1.0, Work(0, 8, 8), ""),), 1.0, 1.0, {}, limits)
    assert "not drawn: 1 kernels" in roofline_svg(profile, "m")


def test_limits_of_this_machine_are_plausible():
    """Not how fast it is: that what is counted as operations and bytes did happen."""
    host = Target.host()
    for dtype in ("f32", "f64"):
        assert 1e8 < max(fma_peak(host, dtype)() for _ in range(3)) < 1e13
        assert 1e8 < max(fma_peak(host, dtype, 2)() for _ in range(3)) < 1e13
    if has_byte_products(host):
        assert 1e8 < fma_peak(host, "i8")() < 1e14
    assert 1e8 < memory_rate(host, 1 << 20, 1) < 1e13
    with pytest.raises(InvalidArgument, match="no peak for f16"):
        fma_peak(host, "f16")
