"""Loading: the errors that ONNX Runtime's callers know, versions, limits, and weights that the parser never sees."""

from __future__ import annotations

import os
import pathlib
import random
import threading

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxc import errors
from onnxc.frontend import Limits, import_model, load_model
from onnxc.frontend.wire import BytesSource, FileSource, split
from tests.frontend.models import graph, model, node, value

RELU = model(graph([node("Relu", "x", "y")], [value("x")], [value("y")]))


def with_weights(rows: int = 100, cols: int = 64) -> onnx.ModelProto:
    """A model whose two large initializers stand around a small one."""
    r = np.random.default_rng(0)
    arrays = {"w": r.standard_normal((rows, cols)).astype(np.float32), "small": np.ones(cols, np.float32),
              "v": r.standard_normal((cols, rows)).astype(np.float32)}
    nodes = [node("MatMul", "x w", "a"), node("Add", "a small", "b"), node("MatMul", "b v", "y")]
    return model(graph(nodes, [value("x", ("N", rows))], [value("y", ("N", rows))],
                       [numpy_helper.from_array(a, n) for n, a in arrays.items()]))


def constants(m: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in m.graph.initializer}


def test_path_pathlike_and_bytes_give_the_same(tmp_path: pathlib.Path) -> None:
    m = with_weights()
    path = tmp_path / "m.onnx"
    path.write_bytes(m.SerializeToString())
    for source in (str(path), path, path.read_bytes()):
        loaded = load_model(source)
        module = import_model(loaded)
        assert len(loaded.blobs) == 2
        for name, array in constants(m).items():
            np.testing.assert_array_equal(module.constants[name], array)
    assert load_model(path).folder == str(tmp_path) and load_model(path.read_bytes()).folder is None


def test_importing_twice_gives_the_same(tmp_path: pathlib.Path) -> None:
    loaded = load_model(with_weights().SerializeToString())
    first, second = import_model(loaded), import_model(loaded)
    assert first.constants["w"] is not None
    np.testing.assert_array_equal(first.constants["w"], second.constants["w"])


def test_weights_are_read_only_and_aligned() -> None:
    for array in import_model(load_model(with_weights().SerializeToString())).constants.values():
        assert array.flags.aligned and not array.flags.writeable


def test_split_leaves_the_same_message_without_weights() -> None:
    m = with_weights()
    rest, blobs = split(BytesSource(m.SerializeToString()))
    assert len(rest) < 2000 and sorted(blobs) == [0, 2]
    back = onnx.ModelProto.FromString(rest)
    for i, blob in blobs.items():
        assert not back.graph.initializer[i].HasField("raw_data")
        back.graph.initializer[i].raw_data = blob.tobytes()
    assert back.SerializeToString(deterministic=True) == m.SerializeToString(deterministic=True)


def test_split_reads_a_file_through_its_window(tmp_path: pathlib.Path) -> None:
    m = with_weights(500, 300)
    for i in range(20_000):         # the nodes alone are longer than the window
        m.graph.node.append(node("Identity", "x", f"unused_{i}"))
    path = tmp_path / "m.onnx"
    path.write_bytes(m.SerializeToString())
    fd = os.open(path, os.O_RDONLY)
    try:
        from_file, blobs = split(FileSource(fd, path.stat().st_size))
    finally:
        os.close(fd)
    from_bytes, others = split(BytesSource(path.read_bytes()))
    assert from_file == from_bytes and blobs.keys() == others.keys()
    assert all(np.array_equal(blobs[i], others[i]) for i in blobs)


def test_a_graph_in_two_parts_is_merged_as_protobuf_does() -> None:
    m = with_weights()
    first, second = onnx.ModelProto(), onnx.ModelProto()
    first.CopyFrom(m)
    del first.graph.initializer[1:]
    second.graph.initializer.extend(m.graph.initializer[1:])
    module = import_model(load_model(first.SerializeToString() + second.SerializeToString()))
    np.testing.assert_array_equal(module.constants["v"], constants(m)["v"])


def test_a_pipe_is_read_to_its_end(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(RELU.SerializeToString()))
    writer.start()
    assert load_model(path).proto.graph.node[0].op_type == "Relu"
    writer.join()


@pytest.mark.parametrize("source", [None, 1, [], bytearray(b"x"), memoryview(b"x"), RELU, ""])
def test_other_types_are_type_errors(source: object) -> None:
    with pytest.raises(TypeError, match="Unable to load from type"):
        load_model(source)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["missing.onnx", "no/such/folder.onnx", "nul\0byte", "m.onnx/below"])
def test_missing_file(tmp_path: pathlib.Path, name: str) -> None:
    (tmp_path / "m.onnx").write_bytes(RELU.SerializeToString())
    with pytest.raises(errors.NoSuchFile, match="failed. File doesn't exist"):
        load_model(os.path.join(tmp_path, name))


def test_junk_truncation_folder_and_emptiness(tmp_path: pathlib.Path) -> None:
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(b"this is no model" * 3000)
    for source in (junk, tmp_path):
        with pytest.raises(errors.InvalidProtobuf, match=r"Load model from .* failed:Protobuf parsing failed\."):
            load_model(source)
    with pytest.raises(errors.InvalidProtobuf, match=r"Failed to load model because protobuf parsing failed\."):
        load_model(b"\xff" * 64)
    data = with_weights().SerializeToString()
    with pytest.raises(errors.InvalidProtobuf):
        load_model(data[:-5])
    junk.write_bytes(b"")
    for empty in (b"", junk, helper.make_model(RELU.graph).SerializeToString()[:2], onnx.ModelProto(ir_version=7)
                  .SerializeToString()):
        with pytest.raises(errors.InvalidArgument, match=r"No graph was found in the protobuf\."):
            load_model(empty)


def test_every_truncation_of_a_model_ends_in_a_typed_error_or_loads() -> None:
    data = with_weights(80, 64).SerializeToString()
    for length in [*range(200), *random.Random(1).sample(range(200, len(data)), 100)]:
        try:
            import_model(load_model(data[:length]))
        except errors.OnnxcError:
            continue
        # A cut between two top-level fields leaves a well-formed message.
        assert length > 100


def opsets(*pairs: tuple[str, int]) -> bytes:
    m = onnx.ModelProto()
    m.CopyFrom(RELU)
    del m.opset_import[:]
    m.opset_import.extend(helper.make_opsetid(d, v) for d, v in pairs)
    return m.SerializeToString()


@pytest.mark.parametrize("pairs,kind,words", [
    ([], errors.Fail, "Missing opset in the model"),
    ([("", 29)], errors.Fail, "official support for domain ai.onnx is till opset 28"),
    ([("ai.onnx", 2**62)], errors.Fail, "support for domain ai.onnx is till opset 28"),
    ([("", 21), ("ai.onnx.ml", 6)], errors.Fail, "support for domain ai.onnx.ml is till opset 5"),
    ([("", 21), ("com.microsoft", 2)], errors.Fail, "support for domain com.microsoft is till opset 1"),
    ([("", 0)], errors.InvalidGraph, "Opset 0 .* does not exist"),
    ([("", -3)], errors.InvalidGraph, "does not exist"),
    ([("", 13), ("ai.onnx", 14)], errors.Fail, "two versions, 13 and 14"),
])
def test_opset_versions(pairs: list[tuple[str, int]], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        load_model(opsets(*pairs))


@pytest.mark.parametrize("pairs", [[("", 1)], [("", 6)], [("", 7)], [("", 28)], [("", 13), ("ai.onnx", 13)],
                                   [("", 13), ("my.own", 99)]])
def test_opset_versions_that_load(pairs: list[tuple[str, int]]) -> None:
    import_model(load_model(opsets(*pairs)))


@pytest.mark.parametrize("version,loads", [(0, True), (3, True), (14, True), (15, False), (-1, False), (2**40, False)])
def test_ir_version(version: int, loads: bool) -> None:
    m = onnx.ModelProto()
    m.CopyFrom(RELU)
    m.ir_version = version
    if loads:
        load_model(m.SerializeToString())
    else:
        with pytest.raises(errors.Fail, match=f"Unsupported model IR version: {version}, max supported IR version: 14"):
            load_model(m.SerializeToString())


def test_size_limit_names_itself(tmp_path: pathlib.Path) -> None:
    data = RELU.SerializeToString()
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    for source in (data, path):
        with pytest.raises(errors.Fail, match=rf"Limits\(model_bytes={len(data)}\)"):
            load_model(source, limits=Limits(model_bytes=10))
