"""Models in ONNX Runtime's own format through a session, and what decides which format a model is in."""

from __future__ import annotations

import numpy as np
import pytest

import onnxc
from onnxc.errors import NoSuchFile
from tests.session import models

X = np.random.default_rng(5).standard_normal((4, 3)).astype(np.float32)
FORMAT = "session.load_model_format"


@pytest.fixture(scope="module")
def ort_file(tmp_path_factory):
    ort = pytest.importorskip("onnxruntime")
    path = tmp_path_factory.mktemp("ort") / "m.ort"
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(path)
    weights = models.constant("w", np.random.default_rng(6).standard_normal((3, 5)).astype(np.float32))
    bias = models.constant("b", np.ones(5, np.float32))
    model = models.model([models.node("Gemm", "x w b", "h", "fc"), models.node("Relu", "h", "y", "act")],
                         [models.value("x", ["N", 3])], [models.value("y", ["N", 5])], [weights, bias],
                         producer_name="maker")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return path


def opened(engine, source, entry=None):
    options = engine.api.SessionOptions()
    options.log_severity_level = 4
    if entry is not None:
        options.add_session_config_entry(FORMAT, entry)
    return engine.api.InferenceSession(source, options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def expected(ort_file):
    ort = pytest.importorskip("onnxruntime")
    return ort.InferenceSession(ort_file, providers=["CPUExecutionProvider"]).run(None, {"x": X})[0]


@pytest.mark.parametrize("form", [str, lambda path: path, lambda path: path.read_bytes()], ids=["str", "path", "bytes"])
def test_a_model_in_onnx_runtimes_format(engine, ort_file, expected, form):
    session = opened(engine, form(ort_file))
    np.testing.assert_allclose(session.run(None, {"x": X})[0], expected, rtol=1e-6, atol=1e-6)
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [("x", "tensor(float)", ["N", 3])]
    assert session.get_modelmeta().producer_name == "maker"


def test_the_name_decides_in_any_case(engine, ort_file, tmp_path):
    (tmp_path / "m.ORT").write_bytes(ort_file.read_bytes())
    assert opened(engine, str(tmp_path / "m.ORT")).get_inputs()
    (tmp_path / "m.onnx").write_bytes(ort_file.read_bytes())
    with pytest.raises(engine.errors.InvalidProtobuf):
        opened(engine, str(tmp_path / "m.onnx"))
    (tmp_path / "onnx.ort").write_bytes(models.sums().SerializeToString())
    with pytest.raises(engine.errors.Fail, match="ORT model verification failed"):
        opened(engine, str(tmp_path / "onnx.ort"))


def test_a_name_that_is_nothing_but_the_ending_is_onnx(engine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".ort").write_bytes(models.sums().SerializeToString())
    assert opened(engine, ".ort").get_inputs()


def test_bytes_that_only_begin_like_the_format(engine):
    with pytest.raises(engine.errors.Fail, match="ORT model verification failed"):
        opened(engine, bytes(4) + b"ORTM" + bytes(40))
    with pytest.raises(engine.errors.InvalidProtobuf):      # too few to be looked at
        opened(engine, bytes(4) + b"ORTM")


def test_the_entry_decides_before_the_name(engine, ort_file, tmp_path):
    (tmp_path / "m.bin").write_bytes(ort_file.read_bytes())
    assert opened(engine, str(tmp_path / "m.bin"), "ORT").get_inputs()
    (tmp_path / "onnx.ort").write_bytes(models.sums().SerializeToString())
    assert opened(engine, str(tmp_path / "onnx.ort"), "ONNX").get_inputs()
    with pytest.raises(engine.errors.Fail, match="ORT model verification failed"):
        opened(engine, models.sums().SerializeToString(), "ORT")
    for entry in ("ONNX", "ort"):
        with pytest.raises(engine.errors.InvalidProtobuf):
            opened(engine, str(ort_file), entry)
        with pytest.raises(engine.errors.InvalidProtobuf):
            opened(engine, ort_file.read_bytes(), entry)


def test_no_such_file(ours, tmp_path):
    with pytest.raises(NoSuchFile):
        opened(ours, str(tmp_path / "none.ort"))


def test_the_compiler_alone_goes_by_content(ort_file, tmp_path):
    (tmp_path / "m.onnx").write_bytes(ort_file.read_bytes())
    onnxc.compile(tmp_path / "m.onnx", tmp_path / "m.onnxc")
    assert onnxc.InferenceSession(tmp_path / "m.onnxc").get_inputs()[0].name == "x"
