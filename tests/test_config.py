"""The ONNXC_* settings: defaults, every field's values, bad values, misspelt names, and that they are read once."""

import dataclasses
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from onnxc.config import Config, PassSwitch, config, settings
from onnxc.errors import InvalidArgument


def test_an_empty_environment_gives_the_defaults():
    assert Config.from_environ({}) == Config()
    assert Config.from_environ({"ONNXC_DEBUG": "", "ONNXC_CACHE": "", "PATH": "/bin"}) == Config()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("debug", "5", 5),
        ("debug", " 0 ", 0),
        ("dump", "/tmp/a/../b", "/tmp/b"),
        ("dump", "~/d", str(Path.home() / "d")),
        ("verify", "2", 2),
        ("fuel", "0", 0),
        ("fuel", "123456789012", 123456789012),
        ("passes", "-fuse", (PassSwitch("fuse", False),)),
        ("passes", "-fuse, +layout", (PassSwitch("fuse", False), PassSwitch("layout", True))),
        ("passes", "-fold-batch-norm", (PassSwitch("fold-batch-norm", False),)),
        ("cache", "off", "off"),
        ("cache", "ro", "ro"),
        ("cache", "store", os.path.abspath("store")),
        ("cache_size", "500M", 500 << 20),
        ("cache_size", "8 g", 8 << 30),
        ("cache_size", "0", 0),
        ("threads", "8", 8),
        ("target", "x86-64-v3", "x86-64-v3"),
    ],
)
def test_values(name, text, value):
    read = Config.from_environ({f"ONNXC_{name.upper()}": text})
    assert read == dataclasses.replace(Config(), **{name: value})


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("ONNXC_DEBUG", "6", "from 0 to 5"),
        ("ONNXC_DEBUG", "-1", "from 0 to 5"),
        ("ONNXC_DEBUG", "yes", "from 0 to 5"),
        ("ONNXC_DEBUG", "1_0", "from 0 to 5"),
        ("ONNXC_DEBUG", "٣", "from 0 to 5"),
        ("ONNXC_VERIFY", "3", "from 0 to 2"),
        ("ONNXC_VERIFY", "1.0", "from 0 to 2"),
        ("ONNXC_FUEL", "-1", "at least 0"),
        ("ONNXC_FUEL", "9" * 5000, "at least 0"),
        ("ONNXC_THREADS", "0", "at least 1"),
        ("ONNXC_PASSES", "fuse", "with a sign"),
        ("ONNXC_PASSES", "-", "with a sign"),
        ("ONNXC_PASSES", "-a,,+b", "with a sign"),
        ("ONNXC_PASSES", "-a,+a", "'a' occurs twice"),
    ],
)
def test_bad_values_name_the_variable_the_text_and_what_was_expected(variable, text, expected):
    with pytest.raises(InvalidArgument) as caught:
        Config.from_environ({variable: text})
    assert caught.value.message.startswith(f"{variable}={text[:10]!r}"[:-1])
    assert expected in caught.value.message


def test_a_misspelt_variable_is_warned_of():
    with pytest.warns(UserWarning, match="ONNXC_DEBGU is not a setting.*ONNXC_DEBUG"):
        assert Config.from_environ({"ONNXC_DEBGU": "1"}) == Config()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Config.from_environ({"ONNXCOMPILER": "1"})


def test_the_process_environment_is_read_once(monkeypatch):
    config.cache_clear()
    try:
        monkeypatch.setenv("ONNXC_DEBUG", "3")
        first = config()
        monkeypatch.setenv("ONNXC_DEBUG", "4")
        assert config() is first
        assert first.debug == 3
    finally:
        config.cache_clear()


def test_settings_are_frozen_and_hashable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().debug = 1  # type: ignore[misc]
    assert hash(Config(debug=1)) == hash(Config(debug=1))


def test_every_setting_is_listed_with_its_value_default_and_sentence():
    rows = settings(Config(debug=2))
    assert [row.variable for row in rows] == [f"ONNXC_{f.name.upper()}" for f in dataclasses.fields(Config)]
    assert (rows[0].value, rows[0].default) == (2, 0)
    assert all(row.doc.endswith(".") and len(row.doc) > 20 for row in rows)


def test_the_module_needs_the_standard_library_only():
    code = "import sys, onnxc.config; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
