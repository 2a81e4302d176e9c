"""External data: what may be read, the many ways to ask for something else, and every place where a tensor can sit."""

from __future__ import annotations

import hashlib
import os
import pathlib
import socket
import threading
import time

import numpy as np
import onnx
import pytest
from onnx import SparseTensorProto, TensorProto, helper, numpy_helper

from onnxc import errors
from onnxc.frontend import import_model, load_model
from onnxc.frontend.external import ExternalFiles
from tests.frontend.models import graph, model, node, untyped, value

DATA = np.arange(24, dtype=np.float32)


def external(location: str | None, array: np.ndarray = DATA, name: str = "w", **entries: object) -> TensorProto:
    """A tensor of `array`'s type and shape whose data is elsewhere."""
    t = numpy_helper.from_array(array, name)
    t.ClearField("raw_data")
    t.data_location = TensorProto.EXTERNAL
    if location is not None:
        t.external_data.add(key="location", value=location)
    for key, text in entries.items():
        t.external_data.add(key=key, value=str(text))
    return t


def with_tensor(t: TensorProto) -> onnx.ModelProto:
    return model(graph([node("Identity", "w", "y")], [], [untyped("y")], [t]))


def load(folder: pathlib.Path, t: TensorProto) -> np.ndarray:
    path = folder / "m.onnx"
    path.write_bytes(with_tensor(t).SerializeToString())
    return import_model(load_model(path)).constants["w"]


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A model's folder with data in it, below a folder with a secret in it."""
    (tmp_path / "secret").write_bytes(DATA.tobytes())
    inside = tmp_path / "model"
    (inside / "deep" / "er").mkdir(parents=True)
    (inside / "w.bin").write_bytes(b"skip" * 16 + DATA.tobytes() + b"rest")
    (inside / "deep" / "er" / "w.bin").write_bytes(DATA.tobytes())
    return inside


@pytest.mark.parametrize("location,entries", [
    ("w.bin", {"offset": 64, "length": 96}),
    ("w.bin", {"offset": "64"}),
    ("./w.bin", {"offset": 64}),
    ("deep/er/w.bin", {}),
    ("deep/./er/w.bin", {"offset": 0, "length": 96}),
    ("deep/er/w.bin", {"checksum": hashlib.sha1(DATA.tobytes()).hexdigest()}),
    ("deep/er/w.bin", {"prepacked_0": "name|0|1|2"}),
])
def test_reading(folder: pathlib.Path, location: str, entries: dict) -> None:
    found = load(folder, external(location, **entries))
    np.testing.assert_array_equal(found, DATA)
    assert found.dtype == np.float32 and not found.flags.writeable


def test_the_models_folder_may_be_reached_through_a_link(folder: pathlib.Path) -> None:
    load(folder, external("deep/er/w.bin"))
    os.symlink(folder, folder.parent / "link")
    found = import_model(load_model(folder.parent / "link" / "m.onnx")).constants["w"]
    np.testing.assert_array_equal(found, DATA)


def test_no_elements_and_packed_elements(folder: pathlib.Path) -> None:
    import ml_dtypes
    (folder / "packed").write_bytes(b"\x21\x43")
    path = folder / "m.onnx"
    path.write_bytes(with_tensor(external("packed", np.array([1, 2, 3], ml_dtypes.uint4))).SerializeToString())
    op = import_model(load_model(path)).main.body.first
    assert op.attrs["value"].astype(int).tolist() == [1, 2, 3]
    path.write_bytes(with_tensor(external("packed", np.zeros((0, 3), np.float32))).SerializeToString())
    assert import_model(load_model(path)).main.body.first.attrs["value"].shape == (0, 3)


#: Locations that leave the folder, or try to.
ESCAPES = ["../secret", "deep/../../secret", "deep/er/../../../secret", "junk/../../secret", "..", "../",
           "../model/w.bin",
           "deep/..", "./../secret", "deep/../w.bin", "/etc/passwd", "//etc/passwd", "/", "~/secret", "~",
           "\\etc\\passwd", "C:\\secret", "c:secret", "C:/secret", "\\\\server\\share", "\\\\?\\C:\\x",
           "/proc/self/environ", "/dev/zero"]
#: Locations that are not a plain relative path of an existing file.
MALFORMED = ["", ".", "./", "./.", "deep//er/w.bin", "w.bin/", "deep/", "w\0.bin", "w.bin\n", "\x7f", "..\\secret",
             "deep\\er\\w.bin", "file:///etc/passwd", "file:w.bin/..x/", "http://host/w.bin"]
#: Locations of something that is not there, or is no file.
ABSENT = ["missing", "deep/missing", "missing/w.bin", "w.bin/below", "deep", "...", "%2e%2e/secret", "$HOME/secret",
          "\u2025/secret", "w.bin ", " w.bin", "x" * 300, "/".join(["d"] * 3000)]


@pytest.mark.parametrize("location", ESCAPES)
def test_escaping_locations(folder: pathlib.Path, location: str) -> None:
    with pytest.raises(errors.Fail, match="initializer: w. External data path escapes model directory") as caught:
        load(folder, external(location, offset=0))
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("location", MALFORMED + ABSENT)
def test_other_bad_locations(folder: pathlib.Path, location: str) -> None:
    with pytest.raises(errors.Fail, match="External data path validation failed for initializer: w"):
        load(folder, external(location))


def test_a_link_may_lead_where_the_model_could_go_without_one(folder: pathlib.Path) -> None:
    os.symlink("deep/er/w.bin", folder / "to_inside")
    os.symlink("deep", folder / "shallow")
    for location in ("to_inside", "shallow/er/w.bin"):
        np.testing.assert_array_equal(load(folder, external(location)), DATA)


def test_a_hubs_cache_of_links_to_files_named_by_their_digests(tmp_path: pathlib.Path) -> None:
    snapshot, blobs = tmp_path / "models--x" / "snapshots" / "0a1b", tmp_path / "models--x" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "feed").write_bytes(with_tensor(external("model.onnx_data")).SerializeToString())
    (blobs / "beef").write_bytes(DATA.tobytes())
    os.symlink("../../blobs/feed", snapshot / "model.onnx")
    os.symlink("../../blobs/beef", snapshot / "model.onnx_data")
    found = import_model(load_model(snapshot / "model.onnx")).constants["w"]
    np.testing.assert_array_equal(found, DATA)
    (snapshot / "model.onnx").unlink()
    (snapshot / "model.onnx").write_bytes((blobs / "feed").read_bytes())    # whose folder has nothing to do with blobs
    with pytest.raises(errors.Fail, match="links are not followed"):
        import_model(load_model(snapshot / "model.onnx"))


def test_links_pipes_sockets_and_folders(folder: pathlib.Path) -> None:
    os.symlink(folder.parent / "secret", folder / "to_secret")
    os.symlink(folder.parent, folder / "up")
    os.symlink("loop", folder / "loop")
    os.link(folder.parent / "secret", folder / "hard")
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(folder / "s"))
        for location, words in (("to_secret", "links are not followed"),
                                ("up/secret", "below"), ("loop", "links are not followed"), ("hard", "2 hard links"),
                                ("pipe", "not a regular file"), ("s", "below"), ("deep", "not a regular file")):
            with pytest.raises(errors.Fail, match=words):
                load(folder, external(location))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(folder: pathlib.Path) -> None:
    (folder / "w.bin").chmod(0)
    with pytest.raises(errors.Fail, match="Permission denied"):
        load(folder, external("w.bin"))


@pytest.mark.parametrize("entries,words", [
    ({"offset": 65, "length": 96 + 4}, "'length' is 100 but the tensor's dims and type take 96"),
    ({"offset": 69}, "out of bounds or can not be read in full"),
    ({"offset": 10**18}, "out of bounds"),
    ({"offset": 2**63}, "out of bounds"),
    ({"offset": 10**19}, "not a number of bytes"),
    ({"offset": -1}, "not a number of bytes"),
    ({"offset": "0x10"}, "not a number of bytes"),
    ({"offset": "1e3"}, "not a number of bytes"),
    ({"offset": " 1"}, "not a number of bytes"),
    ({"offset": ""}, "not a number of bytes"),
    ({"offset": "\u0661"}, "not a number of bytes"),
    ({"length": -96}, "not a number of bytes"),
    ({"length": 2**60}, "'length' is"),
    ({"length": 0}, "'length' is 0"),
    ({"basepath": "/etc"}, "Unknown entry 'basepath'"),
    ({"__class__": "x"}, "Unknown entry '__class__'"),
    ({"checksum": "0" * 40}, "SHA-1"),
])
def test_bad_entries(folder: pathlib.Path, entries: dict, words: str) -> None:
    with pytest.raises(errors.Fail, match=words):
        load(folder, external("w.bin", **entries))


def test_entries_missing_or_twice(folder: pathlib.Path) -> None:
    with pytest.raises(errors.Fail, match="no 'location'"):
        load(folder, external(None))
    twice = external("w.bin", offset=64)
    twice.external_data.add(key="location", value="deep/er/w.bin")
    with pytest.raises(errors.Fail, match="given twice"):
        load(folder, twice)


def test_strings_cannot_be_external(folder: pathlib.Path) -> None:
    t = external("w.bin", np.zeros(1, np.float32))
    t.data_type = TensorProto.STRING
    with pytest.raises(errors.Fail, match="Strings cannot"):
        load(folder, t)


def test_bytes_need_a_folder(folder: pathlib.Path) -> None:
    data = with_tensor(external("deep/er/w.bin")).SerializeToString()
    with pytest.raises(errors.Fail, match="initializer: w.*does not exist"):
        import_model(load_model(data))
    np.testing.assert_array_equal(import_model(load_model(data, folder=folder)).constants["w"], DATA)


def _everywhere(t: TensorProto) -> dict[str, onnx.ModelProto]:
    """Models that hold the tensor in each place that the format has for one."""
    short = external("../secret", np.zeros(1, np.int64), "indices")
    dense = numpy_helper.from_array(np.ones(1, np.float32), "s")
    index = numpy_helper.from_array(np.zeros(1, np.int64))
    one = external("../secret", np.ones(1, np.float32), "s")
    constant = node("Constant", "_", "y", value=t)
    constant.ClearField("input")
    sub = graph([node("Identity", "w", "z")], [], [untyped("z")], [t])
    inner = graph([constant], [], [untyped("y")])
    condition = value("c", (), TensorProto.BOOL)
    function = helper.make_function("own", "f", [], ["y"], [constant], [helper.make_opsetid("", 21)])
    default = helper.make_function("own", "g", [], ["y"], [helper.make_node("Constant", [], ["y"])],
                                   [helper.make_opsetid("", 21)], attribute_protos=[helper.make_attribute("v", t)])
    default.node[0].attribute.add(name="value", ref_attr_name="v", type=onnx.AttributeProto.TENSOR)
    return {
        "initializer": with_tensor(t),
        "constant": model(graph([constant], [], [untyped("y")])),
        "sparse values": model(graph([node("Identity", "s", "y")], [], [untyped("y")], sparse_initializer=[
            SparseTensorProto(values=one, indices=index, dims=[4])])),
        "sparse indices": model(graph([node("Identity", "s", "y")], [], [untyped("y")], sparse_initializer=[
            SparseTensorProto(values=dense, indices=short, dims=[4])])),
        "sparse attribute": model(graph([helper.make_node("Constant", [], ["y"], sparse_value=SparseTensorProto(
            values=one, indices=index, dims=[4]))], [], [untyped("y")])),
        "attribute": model(graph([node("ConstantOfShape", "x", "y", value=one)], [value("x", (1,), TensorProto.INT64)],
                                 [untyped("y")])),
        "attributes of an unknown operator": model(graph([helper.make_node(
            "Anything", ["x"], ["y"], domain="com.microsoft", tensors=[dense, one])], [value("x")], [untyped("y")]),
            com_microsoft=1),
        "subgraph initializer": model(graph([node("If", "c", "y", then_branch=sub, else_branch=sub)], [condition],
                                            [untyped("y")])),
        "subgraph constant": model(graph([node("If", "c", "y", then_branch=inner, else_branch=inner)], [condition],
                                         [untyped("y")])),
        "function": model(graph([helper.make_node("f", [], ["y"], domain="own")], [], [untyped("y")]), own=1,
                          functions=[function]),
        "attribute default of a function": model(graph([helper.make_node("g", [], ["y"], domain="own")], [],
                                                       [untyped("y")]), own=1, functions=[default]),
        "attribute of a call": model(graph([helper.make_node("g", [], ["y"], domain="own", v=t)], [], [untyped("y")]),
                                     own=1, functions=[default]),
    }


@pytest.mark.parametrize("place", sorted(_everywhere(external("x"))))
def test_every_place_of_a_tensor_is_held_to_the_rules(folder: pathlib.Path, place: str) -> None:
    path = folder / "m.onnx"
    path.write_bytes(_everywhere(external("../secret"))[place].SerializeToString())
    with pytest.raises(errors.Fail, match="External data path escapes model directory"):
        import_model(load_model(path))


def test_swapping_the_file_for_a_link_while_reading_never_gives_the_other_file(tmp_path: pathlib.Path) -> None:
    inside = tmp_path / "model"
    inside.mkdir()
    good, secret = np.full(1024, 1, np.uint8), np.full(1024, 2, np.uint8)
    (tmp_path / "secret").write_bytes(secret.tobytes())
    (inside / "good").write_bytes(good.tobytes())
    target, stop = inside / "w", threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for make in (lambda p: p.symlink_to(tmp_path / "secret"), lambda p: p.write_bytes(good.tobytes())):
                fresh = inside / "fresh"
                make(fresh)
                fresh.replace(target)

    thread = threading.Thread(target=swap)
    thread.start()
    read = refused = 0
    end = time.monotonic() + 20
    try:
        # Both outcomes are sure to come up in time; until then, and for a while, none may be the other file.
        while time.monotonic() < end and not (read > 300 and refused > 300):
            try:
                found = ExternalFiles(str(inside)).read([("location", "w")], 1024, "w")
                assert found.max() == 1
                read += 1
            except errors.Fail:
                refused += 1
    finally:
        stop.set()
        thread.join()
    assert read and refused
