"""The compile cache: what hits, what misses, and that no state of its folder makes a session fail or be wrong."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import onnxc
from onnxc.errors import OnnxcError
from onnxc.runtime import cache as caching
from onnxc.runtime import cache_key, cpu
from onnxc.runtime.cache import compile_through, open_folder
from tests.cache.models import X, scaled, scaled_by_file
from tests.session import models

ROOT = Path(__file__).resolve().parents[2]


def opened(source, factor: float | None = 2.0, options: onnxc.SessionOptions | None = None) -> str:
    """How the cache served a session, whose result is checked."""
    session = onnxc.InferenceSession(source, options)
    if factor is not None:
        np.testing.assert_array_equal(session.run(None, {"x": X})[0], X * np.float32(factor))
    statistics = session.statistics()
    assert statistics["compilations"] == (0 if statistics["cache"] == "hit" else 1)
    return statistics["cache"]


def the_entry(cache) -> Path:
    (entry,) = cache.entries()
    return entry.path


# ---- what hits -------------------------------------------------------------------------------------------------------

def test_the_second_session_compiles_nothing(cache, tmp_path):
    data = scaled(2).SerializeToString()
    (tmp_path / "m.onnx").write_bytes(data)
    assert [opened(data), opened(data), opened(str(tmp_path / "m.onnx"))] == ["miss", "hit", "hit"]
    assert len(cache.entries()) == 1


def test_content_options_and_initializers_fed_make_different_entries(cache):
    plain = onnxc.SessionOptions()
    plain.graph_optimization_level = onnxc.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = scaled(2).SerializeToString()
    assert [opened(data), opened(scaled(3).SerializeToString(), 3.0), opened(data, options=plain)] == ["miss"] * 3
    assert [opened(data), opened(scaled(3).SerializeToString(), 3.0), opened(data, options=plain)] == ["hit"] * 3
    for expected in ("miss", "hit"):
        session = onnxc.InferenceSession(models.overridable().SerializeToString())
        np.testing.assert_array_equal(session.run(None, {"x": X, "w": np.full(3, 5, np.float32)})[0], X * 5)
        assert session.statistics()["cache"] == expected


@pytest.mark.parametrize("change", ["sources", "packages", "machine", "settings"])
def test_all_that_a_compilation_depends_on_is_in_the_key(change, monkeypatch):
    content = cache_key.content_of(scaled(2).SerializeToString())
    before = cache_key.key_of(content, {})
    assert cache_key.key_of(content, {}) == before
    if change == "sources":
        monkeypatch.setattr(cache_key, "sources_digest", lambda: ("other", 0.0))
    elif change == "packages":
        monkeypatch.setattr(cache_key, "_versions", lambda: {"llvmlite": "99"})
    elif change == "machine":
        monkeypatch.setattr(cpu, "host_extensions", lambda: frozenset({"sse"}))
        cache_key._machine.cache_clear()
    else:
        monkeypatch.setattr(cache_key, "config", lambda: onnxc.config.Config(target="x86-64-v2"))
    try:
        assert cache_key.key_of(content, {}).name != before.name
    finally:
        cache_key._machine.cache_clear()


def test_every_source_file_counts(monkeypatch, tmp_path):
    package = tmp_path / "onnxc"
    package.mkdir()
    (package / "a.py").write_text("1")
    (package / "pool.ll").write_text("2")
    monkeypatch.setattr(cache_key, "_package_folders", lambda runtime: [package])
    seen = {cache_key.sources_digest()[0]}
    for name, text in [("a.py", "3"), ("pool.ll", "4"), ("b.py", "")]:
        (package / name).write_text(text)
        seen.add(cache_key.sources_digest()[0])
    assert len(seen) == 4


def test_source_files_are_read_again_only_when_they_were_changed(monkeypatch):
    read = []
    monkeypatch.setattr(cache_key.Path, "read_bytes", lambda path: read.append(path) or b"")
    monkeypatch.setattr(cache_key, "_STARTED", time.time() + 60)
    cache_key._digest_of.cache_clear()
    try:
        first = cache_key.sources_digest()
        assert cache_key.sources_digest() == first
        assert len(read) == len(set(read)) > 100
        monkeypatch.setattr(cache_key, "_STARTED", 0.0)
        assert cache_key.sources_digest() == first
        assert len(read) == 2 * len(set(read))
    finally:
        cache_key._digest_of.cache_clear()


def test_the_real_source_files_are_found():
    folders = cache_key._package_folders(Path(cache_key.__file__).resolve().parent)
    found = {p.name for folder in folders for p in folder.rglob("*.py")}
    assert {"driver.py", "pipeline.py", "target.py", "cache.py", "tensor.py"} <= found


def test_a_compiler_that_was_edited_under_a_running_process_keeps_nothing(cache, monkeypatch):
    monkeypatch.setattr(cache_key, "sources_digest", lambda: ("x", time.time() + 1))
    assert [opened(scaled(2).SerializeToString()) for _ in range(2)] == ["miss", "miss"]
    assert cache.entries() == []


# ---- external data ---------------------------------------------------------------------------------------------------

def test_external_data_is_content(cache, tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, factor in zip(folders, (2, 3), strict=True):
        folder.mkdir()
        scaled_by_file(folder, factor)
    time.sleep(0.05)
    found = [opened(str(folders[i] / "m.onnx"), (2, 3)[i]) for i in (0, 1, 0, 1)]
    assert found == ["miss", "miss", "hit", "hit"]
    (folders[0] / "w.bin").write_bytes(np.full(3, 7, np.float32).tobytes())
    time.sleep(0.05)
    assert [opened(str(folders[0] / "m.onnx"), 7) for _ in range(2)] == ["miss", "hit"]


@pytest.mark.parametrize("spoil", ["gone", "link", "hard link"])
def test_external_data_that_would_be_refused_is_refused_on_the_second_time_as_well(cache, tmp_path, spoil):
    folder = tmp_path / "model"
    folder.mkdir()
    path = scaled_by_file(folder, 2)
    time.sleep(0.05)
    assert [opened(str(path)), opened(str(path))] == ["miss", "hit"]
    weights = folder / "w.bin"
    weights.rename(tmp_path / "elsewhere")
    if spoil == "link":
        weights.symlink_to(tmp_path / "elsewhere")
    elif spoil == "hard link":
        os.link(tmp_path / "elsewhere", weights)
    with pytest.raises(OnnxcError):
        opened(str(path))


def test_a_model_that_changes_while_it_is_compiled_is_not_kept(cache, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(scaled(2).SerializeToString())

    def build():
        compiled = onnxc.compile(path)
        path.write_bytes(scaled(3).SerializeToString())
        return compiled

    compile_through(cache, str(path), None, {}, build)
    assert cache.entries() == []


# ---- folders that are not ours ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("mode", [0o777, 0o720, 0o702])
def test_a_folder_that_others_may_write_to_is_not_used(tmp_path, mode):
    (tmp_path / "c").mkdir()
    (tmp_path / "c").chmod(mode)
    assert open_folder(tmp_path / "c", 1 << 30) is None


def test_a_new_folder_is_for_its_owner_only(tmp_path):
    found = open_folder(tmp_path / "x" / "c", 1 << 30)
    assert found is not None
    assert found.folder.stat().st_mode & 0o777 == 0o700


def test_links_and_files_are_no_folders(tmp_path):
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").touch()
    assert open_folder(tmp_path / "link", 1) is None
    assert open_folder(tmp_path / "file", 1) is None
    assert open_folder(tmp_path / "file" / "below", 1) is None


def test_a_folder_of_someone_else_is_not_used(tmp_path, monkeypatch):
    (tmp_path / "c").mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert open_folder(tmp_path / "c", 1 << 30) is None


# ---- entries that are not right --------------------------------------------------------------------------------------

def test_a_damaged_entry_is_compiled_again_and_replaced(cache):
    data = scaled(2).SerializeToString()
    opened(data)
    whole = the_entry(cache).read_bytes()
    generator = random.Random(5)
    places = [0, 8 * 40, *(generator.randrange(8 * len(whole)) for _ in range(8))]
    for place in places:
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        the_entry(cache).write_bytes(changed)
        assert [opened(data), opened(data)] == ["miss", "hit"]
    for size in (0, 10, 127, len(whole) - 1):
        the_entry(cache).write_bytes(whole[:size])
        assert [opened(data), opened(data)] == ["miss", "hit"]
    assert the_entry(cache).read_bytes() == whole


def test_no_flipped_bit_is_ever_loaded(cache, monkeypatch):
    keys, store = [], cache.store
    monkeypatch.setattr(cache, "store", lambda key, compiled: keys.append(key) or store(key, compiled))
    opened(scaled(2).SerializeToString())
    path, (key,) = the_entry(cache), keys
    assert cache.load(key) is not None
    whole, generator = path.read_bytes(), random.Random(6)
    for _ in range(300):
        changed, place = bytearray(whole), generator.randrange(8 * len(whole))
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        path.chmod(0o600)
        assert cache.load(key) is None


def test_an_entry_of_another_key_under_this_name_is_not_used(cache):
    opened(scaled(3).SerializeToString(), 3.0)
    other = the_entry(cache).read_bytes()
    cache.clear()
    data = scaled(2).SerializeToString()
    opened(data)
    the_entry(cache).write_bytes(other)
    assert [opened(data), opened(data)] == ["miss", "hit"]


@pytest.mark.parametrize("spoil", ["mode", "link", "folder", "pipe"])
def test_an_entry_that_others_may_write_or_that_is_no_file_is_not_used(cache, tmp_path, spoil):
    data = scaled(2).SerializeToString()
    opened(data)
    path = the_entry(cache)
    if spoil == "mode":
        path.chmod(0o666)
    else:
        path.rename(tmp_path / "kept")
        {"link": lambda: path.symlink_to(tmp_path / "kept"), "folder": path.mkdir,
         "pipe": lambda: os.mkfifo(path)}[spoil]()
    assert opened(data) == "miss"


def test_notes_that_make_no_sense_are_no_harm(cache, tmp_path):
    path = scaled_by_file(tmp_path, 2)
    time.sleep(0.05)
    opened(str(path))
    (note,) = cache.folder.glob("*.files")
    for text in ("", "[3]", "{}", "[" * 100_000, '["../../etc/passwd"]', '["a\\u0000b"]', '["no such file"]'):
        note.write_text(text)
        assert [opened(str(path)), opened(str(path))] == ["miss", "hit"]


# ---- writing ---------------------------------------------------------------------------------------------------------

def test_a_cache_that_cannot_be_written_is_no_error(cache, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(caching, "save", full)
    assert [opened(scaled(2).SerializeToString()) for _ in range(2)] == ["miss", "miss"]


def test_read_only_reads_and_writes_nothing(cache):
    data = scaled(2).SerializeToString()
    opened(data)
    cache.writable = False
    before = sorted((p.name, p.stat().st_mtime_ns) for p in cache.folder.iterdir())
    assert [opened(data), opened(scaled(3).SerializeToString(), 3.0)] == ["hit", "miss"]
    assert sorted((p.name, p.stat().st_mtime_ns) for p in cache.folder.iterdir()) == before


def test_the_longest_unused_go_first(cache):
    sources = [scaled(f).SerializeToString() for f in (2, 3, 4)]
    for age, (source, factor) in enumerate(zip(sources, (2, 3, 4), strict=True)):
        known = {e.path for e in cache.entries()}
        opened(source, factor)
        (new,) = {e.path for e in cache.entries()} - known
        os.utime(new, (0, time.time() - 1000 + age))
    opened(sources[0], 2)                   # used again: the second is the oldest now
    cache.most_bytes = sum(e.size for e in cache.entries()) - 1
    cache.prune()
    assert [opened(s, f) for s, f in ((sources[0], 2), (sources[2], 4), (sources[1], 3))] == ["hit", "hit", "miss"]


def test_what_is_larger_than_the_cache_is_not_kept(cache):
    cache.most_bytes = 100
    opened(scaled(2).SerializeToString())
    assert cache.entries() == []


def test_left_overs_go_and_strange_files_stay(cache):
    old = cache.folder / f".{'a' * 64}.onnxc.x1"
    new = cache.folder / f".{'b' * 64}.onnxc.x2"
    strange = cache.folder / "notes.txt"
    for path in (old, new, strange):
        path.touch()
    os.utime(old, (0, time.time() - 7200))
    cache.prune()
    assert sorted(p.name for p in cache.folder.iterdir()) == sorted([new.name, strange.name])
    opened(scaled(2).SerializeToString())
    assert cache.clear() == 1
    assert [p.name for p in cache.folder.iterdir()] == [strange.name]


def test_threads_that_want_the_same_compile_it_once(cache):
    data = scaled(2).SerializeToString()
    outcomes = []
    threads = [threading.Thread(target=lambda: outcomes.append(opened(data))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["hit"] * 3 + ["miss"]


# ---- other processes -------------------------------------------------------------------------------------------------

def command(*arguments: str, **settings: str) -> str:
    environment = {**os.environ, **settings}
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_hit_in_another_process_loads_no_compiler(tmp_path):
    (tmp_path / "m.onnx").write_bytes(scaled(2).SerializeToString())
    code = ("import sys, numpy as np, onnxc\n"
            "s = onnxc.InferenceSession(sys.argv[1])\n"
            "print(s.run(None, {'x': np.ones((2, 3), np.float32)})[0].sum(), s.statistics()['cache'],\n"
            "      [m for m in ('onnx', 'llvmlite', 'google.protobuf', 'onnxc.driver') if m in sys.modules])\n")
    arguments = ("-c", code, str(tmp_path / "m.onnx"))
    folder = str(tmp_path / "cache")
    assert command(*arguments, ONNXC_CACHE=folder).startswith("12.0 miss")
    assert command(*arguments, ONNXC_CACHE=folder).strip() == "12.0 hit []"
    assert command(*arguments, ONNXC_CACHE="off").startswith("12.0 off")


def test_the_command_line_shows_and_empties_it(tmp_path):
    folder = str(tmp_path / "cache")
    (tmp_path / "m.onnx").write_bytes(scaled(2).SerializeToString())
    code = "import sys, onnxc; onnxc.InferenceSession(sys.argv[1])"
    command("-c", code, str(tmp_path / "m.onnx"), ONNXC_CACHE=folder)
    assert f"{folder}, 1 entries" in command("-m", "onnxc.cli", "env", ONNXC_CACHE=folder)
    listed = command("-m", "onnxc.cli", "cache", "--list", ONNXC_CACHE=folder)
    assert next((tmp_path / "cache").glob("*.onnxc")).stem in listed
    assert "removed 1 entries" in command("-m", "onnxc.cli", "cache", "--clear", ONNXC_CACHE=folder)
    assert list((tmp_path / "cache").iterdir()) == []
    assert "off" in command("-m", "onnxc.cli", "cache", ONNXC_CACHE="off")
