"""onnxc under ONNX Runtime's name: what programs import and look for, each in a process of its own."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
INSTALL = "import onnxc; onnxc.install_as_onnxruntime()\n"
HIDDEN = """
import importlib.machinery
real = importlib.machinery.PathFinder.find_spec
importlib.machinery.PathFinder.find_spec = classmethod(
    lambda cls, name, path=None, target=None: None if name == "onnxruntime" else real(name, path, target))
"""


def python(code: str, *arguments: str, check: bool = True) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True,
                          check=False)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout if check else done.stderr


@pytest.mark.parametrize("before", ["", HIDDEN], ids=["beside the real package", "alone"])
def test_every_module_is_there_once(before):
    python(before + INSTALL + """
import onnxruntime as ort, onnxruntime.capi.onnxruntime_pybind11_state as state, onnxruntime.backend
from onnxruntime.capi import _pybind_state as C
from onnxruntime.capi.onnxruntime_inference_collection import InferenceSession
from onnxruntime.datasets import get_example
import onnxc.errors
assert ort.InferenceSession is InferenceSession is onnxc.InferenceSession
assert state.Fail is C.Fail is onnxc.errors.Fail
assert onnxruntime.backend is __import__("onnxc.backend").backend
import onnxc.capi
assert onnxc.capi.__spec__.name == "onnxc.capi" and onnxc.capi is onnxruntime.capi
session = ort.InferenceSession(get_example("mul_1.onnx"), providers=ort.get_available_providers())
try:
    session.run(["no such output"], {session.get_inputs()[0].name: __import__("numpy").zeros((3, 2), "float32")})
except onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument:
    pass
else:
    raise AssertionError
""")


@pytest.mark.parametrize("before", ["", HIDDEN], ids=["beside the real package", "alone"])
def test_programs_that_look_whether_it_is_installed(before):
    python(before + INSTALL + """
import importlib.metadata, importlib.util
assert importlib.metadata.version("onnxruntime") == "1.31.1"
assert importlib.metadata.distribution("onnxruntime").metadata["Name"] == "onnxruntime"
assert importlib.util.find_spec("onnxruntime") is not None
import onnxruntime
assert importlib.util.find_spec("onnxruntime") is onnxruntime.__spec__
assert onnxruntime.__version__ == onnxruntime.get_version_string() == "1.31.1"
try:
    importlib.metadata.version("no-such-distribution")
except importlib.metadata.PackageNotFoundError:
    pass
""")


def test_every_public_name_and_no_other():
    python(INSTALL + """
import onnxruntime
from onnxruntime import *
for name in onnxc.__all__:
    assert "version" in name or name == "package_name" or getattr(onnxruntime, name) is getattr(onnxc, name), name
assert "InferenceSession" in dir(onnxruntime)
try:
    onnxruntime.no_such_name
except AttributeError as error:
    assert "onnxc" in str(error)
try:
    import onnxruntime.no_such_module
except ModuleNotFoundError as error:
    assert error.name == "onnxruntime.no_such_module"
""")


@pytest.mark.torch
@pytest.mark.parametrize("before", ["", HIDDEN], ids=["beside the real package", "alone"])
def test_type_helper(before):
    python(before + INSTALL + """
import numpy, torch, onnxruntime
from onnxruntime.transformers.io_binding_helper import TypeHelper as T
assert T.ort_type_to_numpy_type("tensor(float)") is numpy.float32
assert T.ort_type_to_numpy_type("tensor(bool)") is bool
assert T.ort_type_to_torch_type("tensor(bfloat16)") is torch.bfloat16
assert T.numpy_type_to_torch_type(numpy.int64) is torch.int64
assert T.torch_type_to_numpy_type(torch.float16) is numpy.float16
from onnxruntime.datasets import get_example
session = onnxruntime.InferenceSession(get_example("mul_1.onnx"))
assert set(T.get_io_numpy_type_map(session).values()) == {numpy.float32}
name = session.get_inputs()[0].name
assert T.get_input_type(session, name) == "tensor(float)"
for call in (lambda: T.ort_type_to_numpy_type("tensor(none)"), lambda: T.get_output_type(session, "none")):
    try:
        call()
    except ValueError:
        continue
    raise AssertionError
""")


def test_pure_python_parts_come_from_the_real_package(tmp_path):
    if importlib.util.find_spec("onnxruntime") is None:
        pytest.skip("onnxruntime is not installed")
    python(INSTALL + """
import sys, onnx, onnxruntime
from onnxruntime.datasets import get_example
from onnxruntime.quantization import quantize_dynamic
from onnxruntime.tools.onnx_model_utils import make_dim_param_fixed
assert "onnxruntime" in onnxruntime.quantization.__file__ and "onnxc" not in onnxruntime.quantization.__file__
quantize_dynamic(get_example("mul_1.onnx"), sys.argv[1])
onnxruntime.InferenceSession(sys.argv[1])
""", str(tmp_path / "q.onnx"))


def test_weights_are_packed_by_the_real_package():
    """Its tools look for helpers of its compiled module under the paths that are onnxc's."""
    if importlib.util.find_spec("onnxruntime") is None:
        pytest.skip("onnxruntime is not installed")
    pytest.importorskip("onnx_ir", reason="ONNX Runtime's packer of weights needs it")
    python(INSTALL + """
import numpy as np, onnxruntime
from onnx import helper, numpy_helper
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
w, x = (np.random.default_rng(i).standard_normal(s).astype(np.float32) for i, s in enumerate([(64, 48), (3, 64)]))
graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"], "mm")], "g",
                          [helper.make_tensor_value_info("x", 1, ["N", 64])],
                          [helper.make_tensor_value_info("y", 1, ["N", 48])], [numpy_helper.from_array(w, "w")])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
quantizer = MatMulNBitsQuantizer(model, block_size=32, is_symmetric=True)
quantizer.process()
(node,) = quantizer.model.model.graph.node
assert node.op_type == "MatMulNBits"
session = onnxruntime.InferenceSession(quantizer.model.model.SerializeToString())
y = session.run(None, {"x": x})[0]
# Weights of 4 bits are off by up to a sixteenth of the largest of 32, some 0.15; 64 of them add up like a random walk.
assert 0 < np.abs(y - x @ w).max() < 4
assert "onnxc" in type(session).__module__
""")


def test_helpers_of_the_compiled_module_come_from_the_real_package():
    if importlib.util.find_spec("onnxruntime") is None:
        pytest.skip("onnxruntime is not installed")
    python(INSTALL + """
import numpy as np, onnxruntime
from onnxruntime.capi._pybind_state import quantize_matmul_4bits, Fail
w = np.arange(-32, 32, dtype=np.float32).reshape(32, 2)
packed, scales = np.zeros((2, 1, 16), np.uint8), np.zeros(2, np.float32)
quantize_matmul_4bits(packed, w, scales, np.zeros(2, np.uint8), 32, 2, 32, True)
found = np.stack([packed & 15, packed >> 4], -1).reshape(2, 32).astype(np.float32) - 8
np.testing.assert_allclose((found * scales[:, None]).T, w, atol=np.abs(scales).max())
assert Fail is onnxc.errors.Fail
try:
    onnxruntime.capi._pybind_state.no_such_helper
except AttributeError:
    pass
else:
    raise AssertionError
""")
    python(HIDDEN + INSTALL + """
try:
    from onnxruntime.capi._pybind_state import quantize_matmul_4bits
except ImportError:
    pass
else:
    raise AssertionError
""")


def test_it_cannot_come_too_late():
    if importlib.util.find_spec("onnxruntime") is None:
        pytest.skip("onnxruntime is not installed")
    code = "import os; os.environ['ORT_DISABLE_TELEMETRY'] = '1'; import onnxruntime\n" + INSTALL
    assert "onnxruntime is imported already" in python(code, check=False)
    python(INSTALL + INSTALL + "import onnxruntime\n" + INSTALL)


def test_programs_run_unchanged(tmp_path):
    program = tmp_path / "program.py"
    program.write_text("import sys, helper, onnxruntime\n"
                       "print(__name__, sys.argv[1:], helper.__name__, onnxruntime.InferenceSession.__module__)\n")
    (tmp_path / "helper.py").write_text("")
    done = subprocess.run([sys.executable, "-m", "onnxc.shim", str(program), "a", "-b"], cwd=ROOT, capture_output=True,
                          text=True, check=True)
    assert done.stdout.split("\n")[0] == "__main__ ['a', '-b'] helper onnxc.runtime.session"
    module = [sys.executable, "-m", "onnxc.shim", "-m", "json.tool", "--help"]
    assert "usage" in subprocess.run(module, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for bad in ([], ["-m"], ["--help"]):
        done = subprocess.run([sys.executable, "-m", "onnxc.shim", *bad], cwd=ROOT, capture_output=True, text=True,
                              check=False)
        assert "usage: python -m onnxc.shim" in done.stderr
