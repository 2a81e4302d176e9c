"""`ModelCompiler`: what it writes is opened by the engine's own sessions, and does the same."""

from __future__ import annotations

import numpy as np
import pytest

from tests.session import models

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def compiler(engine, model, **options):
    return engine.api.ModelCompiler(engine.api.SessionOptions(), model, **options)


def check(engine, compiled):
    session = engine.api.InferenceSession(compiled, providers=["CPUExecutionProvider"])
    z, w = session.run(None, {"x": X, "y": X})
    np.testing.assert_array_equal(z, X + X)
    np.testing.assert_array_equal(w, -X - X)
    return session


@pytest.fixture
def path(tmp_path):
    (tmp_path / "m.onnx").write_bytes(models.sums().SerializeToString())
    return tmp_path / "m.onnx"


@pytest.mark.parametrize("form", [str, lambda path: path, lambda path: path.read_bytes()], ids=["str", "path", "bytes"])
def test_bytes(engine, path, form):
    made = compiler(engine, form(path))
    assert type(made.compile_to_bytes()) is bytes
    check(engine, made.compile_to_bytes())


def test_streams(engine, path):
    parts: list[bytes] = []
    assert compiler(engine, path).compile_to_stream(parts.append) is None
    check(engine, b"".join(parts))


@pytest.mark.parametrize("form", [str, lambda path: path], ids=["str", "path"])
def test_files(engine, path, tmp_path, form):
    assert compiler(engine, path).compile_to_file(form(tmp_path / "compiled.onnx")) is None
    check(engine, str(tmp_path / "compiled.onnx"))


def test_a_file_that_exists(engine, path, tmp_path):
    target, flag = str(tmp_path / "compiled.onnx"), engine.api.OrtCompileApiFlags.ERROR_IF_OUTPUT_FILE_EXISTS
    compiler(engine, path, flags=flag).compile_to_file(target)
    compiler(engine, path).compile_to_file(target)
    with pytest.raises(engine.errors.Fail, match=r"since the file .*compiled.onnx.* exists already"):
        compiler(engine, path, flags=flag).compile_to_file(target)


def test_what_cannot_be_written(engine, path, tmp_path):
    with pytest.raises(engine.errors.InvalidArgument, match="compiled.onnx"):
        compiler(engine, path).compile_to_file(str(tmp_path / "no" / "compiled.onnx"))
    with pytest.raises(TypeError, match="Output model's filepath is of unexpected type"):
        compiler(engine, path).compile_to_file(5)


@pytest.mark.parametrize(("bad", "kind"), [(b"", ValueError), ("", ValueError), (3, TypeError), (None, TypeError)])
def test_what_is_no_model(engine, bad, kind):
    with pytest.raises(kind):
        compiler(engine, bad)


def test_models_are_opened_when_they_are_compiled(engine, tmp_path):
    with pytest.raises(engine.errors.InvalidProtobuf):
        compiler(engine, b"junk that is no model").compile_to_bytes()
    missing = compiler(engine, tmp_path / "none.onnx")
    with pytest.raises((engine.errors.NoSuchFile, engine.errors.InvalidArgument), match="exist"):
        missing.compile_to_bytes()


def test_options_are_the_sessions(engine, path):
    with pytest.raises(TypeError):
        engine.api.ModelCompiler(None, path)
    with pytest.raises(TypeError):
        compiler(engine, path, graph_optimization_level=3)
    options = engine.api.SessionOptions()
    options.add_free_dimension_override_by_name("N", 2)
    compiled = engine.api.ModelCompiler(options, path).compile_to_bytes()
    if engine.name == "onnxc":      # the others' model says no more than the one that it was made of
        assert check(engine, compiled).get_inputs()[0].shape == [2, 3]


def test_it_is_an_artifact_and_needs_no_compiler(ours, path, tmp_path):
    compiler(ours, path).compile_to_file()
    assert check(ours, str(tmp_path / "m_ctx.onnx")).statistics()["compilations"] == 0
    with pytest.raises(ours.errors.InvalidArgument, match="given as bytes"):
        compiler(ours, path.read_bytes()).compile_to_file()
    again = compiler(ours, tmp_path / "m_ctx.onnx").compile_to_bytes()
    assert again == (tmp_path / "m_ctx.onnx").read_bytes()


def test_a_model_that_leaves_nothing_to_compile(engine):
    texts = models.copies(8).SerializeToString()
    flag = engine.api.OrtCompileApiFlags.ERROR_IF_NO_NODES_COMPILED
    with pytest.raises(engine.errors.Fail, match="Unable to compile any nodes"):
        compiler(engine, texts, flags=flag).compile_to_bytes()


def test_constants_stay_inside(ours, path):
    for outside in ({"external_initializers_file_path": "w.bin"}, {"get_initializer_location_func": print}):
        with pytest.raises(ours.errors.NotImplemented, match="lie in its own file"):
            compiler(ours, path, **outside)
