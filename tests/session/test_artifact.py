"""Artifacts: the same results without the compiler, equal bytes for equal models, and no damage that goes unnoticed."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import onnxc
from onnxc.errors import Fail, InvalidArgument, ModelRequiresCompilation, NoSuchFile, OnnxcError
from onnxc.runtime import artifact, cpu
from onnxc.runtime.artifact import ArtifactError, ArtifactTargetError, open_artifact, save
from onnxc.runtime.digest import TreeChecksum
from tests.session import models

ROOT = Path(__file__).resolve().parents[2]
X = np.arange(6, dtype=np.float32).reshape(2, 3)


def weighted():
    """y = x * w + b with constants of several sizes, one of them empty."""
    return models.model(
        [models.node("Mul", "x w", "m"), models.node("Add", "m b", "y"), models.node("Concat", "e i", "t", axis=0)],
        [models.value("x", ["N", 3]), models.value("i", ["M"], models.INT64)],
        [models.value("y", ["N", 3]), models.value("t", [None], models.INT64)],
        [models.constant("w", np.array([1, 2, 3], np.float32)), models.constant("b", np.float32(0.5)),
         models.constant("e", np.zeros(0, np.int64))], producer_name="maker", model_version=3)


@pytest.fixture(scope="module")
def compiled():
    return onnxc.compile(weighted().SerializeToString())


@pytest.fixture(scope="module")
def file(compiled, tmp_path_factory):
    path = tmp_path_factory.mktemp("artifact") / "m.onnxc"
    save(compiled, path)
    return path


# ---- round trip ------------------------------------------------------------------------------------------------------

def test_what_is_saved_is_what_is_opened(compiled, file):
    opened = open_artifact(file)
    for field in dataclasses.fields(compiled):
        if field.name not in ("constants", "report"):
            assert getattr(opened, field.name) == getattr(compiled, field.name), field.name
    for ours, theirs in zip(compiled.constants, opened.constants, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert theirs.ctypes.data % 64 == 0
        assert not theirs.flags.writeable


@pytest.mark.parametrize("form", [str, Path, lambda p: p.read_bytes()], ids=["str", "path", "bytes"])
def test_a_session_opens_it_by_content(file, tmp_path, form):
    other = tmp_path / "renamed.onnx"
    other.write_bytes(file.read_bytes())
    session = onnxc.InferenceSession(form(other))
    y, t = session.run(None, {"x": X, "i": np.array([4, 5])})
    np.testing.assert_array_equal(y, X * np.float32([1, 2, 3]) + np.float32(0.5))
    np.testing.assert_array_equal(t, [4, 5])
    assert session.statistics()["compilations"] == 0
    assert [i.shape for i in session.get_inputs()] == [["N", 3], ["M"]]
    meta = session.get_modelmeta()
    assert (meta.producer_name, meta.version) == ("maker", 3)


def test_equal_models_give_equal_bytes(file, tmp_path):
    onnxc.compile(weighted().SerializeToString(), tmp_path / "again.onnxc")
    assert (tmp_path / "again.onnxc").read_bytes() == file.read_bytes()


def test_running_it_needs_no_compiler(file, tmp_path):
    """Opened and run after a move, where the folder that it was made in is gone, by a process that cannot import what
    compiles: neither the packages nor onnxc's own parts."""
    code = (
        "import sys\n"
        "refused = ('onnx', 'google.protobuf', 'llvmlite', 'triton', 'torch', 'platformdirs', 'filelock',\n"
        "           'onnxc.driver', 'onnxc.codegen', 'onnxc.passes', 'onnxc.frontend', 'onnxc.lowerings')\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if any(name == r or name.startswith(r + '.') for r in refused):\n"
        "            raise AssertionError('imported ' + name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "import numpy as np, onnxc\n"
        "for name in refused[:3]:\n"
        "    try:\n"
        "        __import__(name)\n"
        "    except AssertionError:\n"
        "        continue\n"
        "    raise SystemExit(name + ' can be imported: the test shows nothing')\n"
        "s = onnxc.InferenceSession(sys.argv[1])\n"
        "y, t = s.run(None, {'x': np.ones((4, 3), np.float32), 'i': np.array([1])})\n"
        "print(y.sum(), t)\n"
    )
    made, moved = tmp_path / "made", tmp_path / "moved"
    made.mkdir()
    moved.mkdir()
    (made / "m.onnxc").write_bytes(file.read_bytes())
    (made / "m.onnxc").rename(moved / "other name")
    made.rmdir()
    done = subprocess.run([sys.executable, "-c", code, "other name"], cwd=moved, capture_output=True, text=True,
                          check=False, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "30.0 [1]"


def test_constants_that_may_be_overridden_are_constants_in_it(tmp_path):
    onnxc.compile(models.overridable().SerializeToString(), tmp_path / "m.onnxc")
    session = onnxc.InferenceSession(tmp_path / "m.onnxc")
    assert [i.name for i in session.get_overridable_initializers()] == ["w"]
    np.testing.assert_array_equal(session.run(None, {"x": X})[0], X * [1, 2, 3])
    with pytest.raises(ModelRequiresCompilation, match="w"):
        session.run(None, {"x": X, "w": np.zeros(3, np.float32)})


# ---- writing ---------------------------------------------------------------------------------------------------------

def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(compiled, file, tmp_path, monkeypatch):
    path = tmp_path / "m.onnxc"
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artifact._Writer, "finish", full)
    with pytest.raises(OSError, match="No space"):
        save(compiled, path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["m.onnxc"]
    with pytest.raises(OSError):
        save(compiled, tmp_path / "no such folder" / "m.onnxc")


def test_an_open_session_survives_a_new_file_of_its_name(file, compiled, tmp_path):
    path = tmp_path / "m.onnxc"
    path.write_bytes(file.read_bytes())
    session = onnxc.InferenceSession(path)
    save(dataclasses.replace(compiled, report={}), path)
    assert session.run(["y"], {"x": X, "i": np.array([1])})[0].shape == (2, 3)


# ---- damage ----------------------------------------------------------------------------------------------------------

def test_every_single_bit_counts(file):
    whole = file.read_bytes()
    generator = random.Random(0)
    places = [*range(128 * 8), *(generator.randrange(len(whole) * 8) for _ in range(500))]
    for place in places:
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        with pytest.raises((ArtifactError, Fail)):
            open_artifact(bytes(changed))


@pytest.mark.parametrize("size", [0, 1, 8, 71, 127, 128, 1000, -1])
def test_a_file_cut_short_is_refused(file, tmp_path, size):
    path = tmp_path / "cut.onnxc"
    path.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ArtifactError, match=r"cut\.onnxc"):
        open_artifact(path)


def test_a_file_with_more_at_its_end_is_refused(file):
    with pytest.raises(ArtifactError, match="should have"):
        open_artifact(file.read_bytes() + b"\0")


def test_what_is_not_there_or_no_file(tmp_path):
    with pytest.raises(NoSuchFile):
        open_artifact(tmp_path / "nope.onnxc")
    with pytest.raises(ArtifactError):
        open_artifact(tmp_path)


def sealed(whole: bytes, change, version: int = artifact.FORMAT) -> bytes:
    """The artifact with its manifest changed and a checksum that fits: what only a hostile or a newer writer makes."""
    *_, at, size = artifact._HEADER.unpack_from(whole)
    manifest = json.loads(whole[at:at + size])
    change(manifest)
    text = json.dumps(manifest).encode()
    body = whole[artifact._DIGEST_END:at] + text
    head = artifact._HEADER.pack(artifact.MAGIC, version, 0, artifact._DIGEST_END + len(body), at, len(text))
    digest = TreeChecksum()
    digest.update(body)
    return head + digest.digest(head) + body


def test_a_changed_and_resealed_artifact_still_opens(file):
    assert open_artifact(sealed(file.read_bytes(), lambda m: None)).symbols == open_artifact(file).symbols


@pytest.mark.parametrize("change", [
    lambda m: m.clear(),
    lambda m: m["parts"].update(object=[0, 10]),
    lambda m: m["parts"].update(object=[128, 1 << 60]),
    lambda m: m["parts"].update(object=[-64, 64]),
    lambda m: m["parts"].update(object="128"),
    lambda m: m["parts"].update(program=[128.0, 1]),
    lambda m: m["constants"][0].update(shape=[1 << 40]),
    lambda m: m["constants"][0].update(shape=[-3]),
    lambda m: m["constants"][0].update(dtype="str"),
    lambda m: m["constants"][0].update(dtype="f31"),
    lambda m: m["constants"][0].update(at=[129, 12]),
    lambda m: m.update(inputs=[]),
    lambda m: m.update(outputs=None),
    lambda m: m["inputs"][0].update(dims=["N // 0", 3]),
    lambda m: m["inputs"][0].update(dims=[-1, 3]),
    lambda m: m["inputs"][0].update(dims=[True, 3]),
    lambda m: m["signature"].update(inputs={}),
    lambda m: m["signature"]["inputs"][0].update(name=3),
    lambda m: m["signature"]["inputs"][0].update(shape=[-2]),
    lambda m: m.update(symbols="N"),
    lambda m: m.update(features=[1]),
    lambda m: m.update(target=None),
    lambda m: m.update(report=3),
])
def test_a_manifest_that_makes_no_sense_is_refused(file, change):
    with pytest.raises((ArtifactError, ArtifactTargetError)):
        open_artifact(sealed(file.read_bytes(), change))


def test_object_code_that_is_none_is_a_typed_error(file):
    def change(manifest):
        manifest["parts"]["object"] = manifest["parts"]["program"]

    with pytest.raises(OnnxcError):
        onnxc.InferenceSession(sealed(file.read_bytes(), change))


def test_a_newer_format_is_named(file):
    with pytest.raises(Fail, match="format 9"):
        open_artifact(sealed(file.read_bytes(), lambda m: None, version=9))


# ---- machines --------------------------------------------------------------------------------------------------------

def test_code_for_another_processor_is_refused_by_name(file):
    whole = file.read_bytes()
    with pytest.raises(ArtifactTargetError, match="amx-fp99, zz") as refused:
        open_artifact(sealed(whole, lambda m: m["features"].extend(["zz", "amx-fp99"])))
    assert refused.value.missing == ("amx-fp99", "zz")
    with pytest.raises(ArtifactTargetError, match="riscv64-linux-gnu"):
        open_artifact(sealed(whole, lambda m: m.update(target="riscv64-linux-gnu/generic")))
    with pytest.raises(ArtifactTargetError, match="windows"):
        open_artifact(sealed(whole, lambda m: m.update(target="x86_64-windows-msvc/x86-64-v3")))


def test_a_processor_without_the_features_refuses_before_it_runs(file, monkeypatch):
    monkeypatch.setattr(cpu, "host_extensions", lambda: frozenset({"sse", "sse2"}))
    with pytest.raises(ArtifactTargetError, match="this processor lacks"):
        onnxc.InferenceSession(file)


def test_a_lesser_target_runs_here(tmp_path):
    onnxc.compile(models.sums().SerializeToString(), tmp_path / "v2.onnxc", target="x86-64-v2")
    assert "avx2" not in open_artifact(tmp_path / "v2.onnxc").features
    z, _ = onnxc.InferenceSession(tmp_path / "v2.onnxc").run(None, {"x": X, "y": X})
    np.testing.assert_array_equal(z, X + X)
    with pytest.raises(InvalidArgument, match="x86-64-v9"):
        onnxc.compile(models.sums().SerializeToString(), target="x86-64-v9")


def test_what_the_compiler_may_use_here_is_what_the_processor_is_said_to_have():
    from onnxc.codegen.llvm.target import Target
    assert cpu.missing(Target.host().features) == []


def test_cpuinfo_is_read_as_what_all_processors_share():
    text = ("processor\t: 0\nflags\t\t: fpu sse2 pni avx avx512_vnni bmi1 abm\nmodel name\t: flags of fame\n\n"
            "processor\t: 1\nflags\t\t: fpu sse2 pni avx bmi1\n")
    found = cpu.extensions_in(text, "x86_64")
    assert {"sse3", "avx", "bmi", "sse2", "sse"} <= found
    assert not {"avx512vnni", "lzcnt", "avx512f"} & found
    assert cpu.extensions_in("Features\t: fp asimd asimddp i8mm\n", "aarch64") >= {"neon", "dotprod", "i8mm"}
    assert cpu.extensions_in("", "aarch64") == {"neon", "fp-armv8"}
