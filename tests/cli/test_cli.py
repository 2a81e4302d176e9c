"""The command line: what each verb prints and writes, and how it fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import onnxc
from onnxc.cli import main
from tests.session import models

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "examples" / "digits" / "digits.onnx"
X = np.arange(6, dtype=np.float32).reshape(2, 3)


def onnxc_command(*arguments: object, status: int = 0) -> str:
    """What a verb that ends with `status` prints; with errors where it fails, and without the progress that a slow
    machine shows where it does not."""
    done = CliRunner().invoke(main, [str(a) for a in arguments])
    assert done.exit_code == status, done.output + repr(done.exception)
    return done.output if status else done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli")
    (path / "m.onnx").write_bytes(models.sums().SerializeToString())
    onnxc.compile(path / "m.onnx", path / "m.onnxc")
    np.save(path / "x.npy", X)
    np.savez(path / "both.npz", x=X, y=X)
    return path


# ---- run -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("model", ["m.onnx", "m.onnxc"])
def test_run_on_files_writes_and_compares(folder, tmp_path, model):
    out = tmp_path / "out.npz"
    onnxc_command("run", folder / model, "-i", f"x={folder / 'x.npy'}", "-i", f"y={folder / 'x.npy'}", "-o", out)
    with np.load(out) as results:
        np.testing.assert_array_equal(results["z"], X + X)
        np.testing.assert_array_equal(results["w"], -X - X)
    assert "ok" in onnxc_command("run", folder / model, "-i", folder / "both.npz", "--compare", out)
    np.savez(out, z=X + X + np.float32(0.1))
    assert "WRONG in 6 of 6" in onnxc_command("run", folder / model, "-i", folder / "both.npz", "--compare", out,
                                              status=1)
    assert "ok" in onnxc_command("run", folder / model, "-i", folder / "both.npz", "--compare", out, "--tol", "0.2")
    np.savez(out, z=X[0])
    assert "shape [2, 3] against [3]" in onnxc_command("run", folder / model, "-i", folder / "both.npz", "--compare",
                                                       out, status=1)
    np.savez(out, q=X)
    assert "are no outputs" in onnxc_command("run", folder / model, "-i", folder / "both.npz", "--compare", out,
                                             status=1)


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_archive_is_named(folder, tmp_path, damage):
    np.savez_compressed(tmp_path / "both.npz", x=np.random.default_rng(0).random(1000), y=X)
    data = bytearray((tmp_path / "both.npz").read_bytes())
    data[200:300] = bytes(100)
    (tmp_path / "both.npz").write_bytes(data[:len(data) // 2] if damage == "cut" else data)
    assert "both.npz cannot be read" in onnxc_command("run", folder / "m.onnx", "-i", tmp_path / "both.npz", status=1)


def test_run_on_random_values_of_named_sizes(folder):
    shown = onnxc_command("run", folder / "m.onnx", "--random", "--dim", "N=5", "--threads", "1")
    assert "[5, 3]" in shown
    assert "float32" in shown
    assert onnxc_command("run", folder / "m.onnx", "--random", "-d", "N=5").splitlines()[:3] == shown.splitlines()[:3]
    assert onnxc_command("run", folder / "m.onnx", "--random", "-d", "N=5", "--seed", "1").splitlines()[1] \
        != shown.splitlines()[1]


def test_run_refuses_with_one_message(folder, tmp_path):
    assert "Required inputs (['x', 'y'])" in onnxc_command("run", folder / "m.onnx", status=1)
    assert "no input" in onnxc_command("run", folder / "m.onnx", "--random", "--dim", "Q=5", status=1).lower()
    assert "not NAME=SIZE" in onnxc_command("run", folder / "m.onnx", "--random", "--dim", "5", status=2)
    assert "cannot be read" in onnxc_command("run", folder / "m.onnx", "-i", f"x={folder / 'm.onnx'}", status=1)
    assert "NoSuchFile" in onnxc_command("run", tmp_path / "nope.onnx", status=1)
    assert "No such option" in onnxc_command("run", folder / "m.onnx", "--nope", status=2)


# ---- compile, inspect ------------------------------------------------------------------------------------------------

def test_compile_writes_an_artifact(folder, tmp_path):
    shown = onnxc_command("compile", folder / "m.onnx", "-o", tmp_path / "v3.onnxc", "--target", "x86-64-v3")
    assert "x86-64-v3" in shown
    assert onnxc.open_artifact(tmp_path / "v3.onnxc").target.endswith("x86-64-v3")
    assert "x86-64-v9" in onnxc_command("compile", folder / "m.onnx", "--target", "x86-64-v9", status=1)


def test_inspect_shows_signature_stages_and_kernels(folder, tmp_path):
    shown = onnxc_command("inspect", DIGITS)
    assert "image" in shown
    assert "[batch, 1, 8, 8]" in shown
    assert "schedule" in shown
    stages = [line.split()[0] for line in onnxc_command("inspect", DIGITS, "--list").splitlines()[1:]]
    assert stages[0] == "import"
    assert {"lower", "fuse", "to-kernel", "plan-memory"} <= set(stages)
    assert "onnx.Conv" in onnxc_command("inspect", DIGITS, "--stage", "import")
    assert "t.fused" in onnxc_command("inspect", DIGITS, "--stage", "fuse")
    assert "plan-memory" in onnxc_command("inspect", DIGITS, "--stage", "nope", status=2)
    assert "stages" in onnxc_command("inspect", DIGITS, "--html", tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text("ascii").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("model", ["m.onnx", "m.onnxc"])
def test_inspect_shows_a_kernel_in_every_form(folder, model):
    (name, *_) = onnxc.open_artifact(folder / "m.onnxc").kernels
    assert "k.store" in onnxc_command("inspect", folder / model, "--kernel", name)
    assert f"@{name}" in onnxc_command("inspect", folder / model, "--kernel", name, "--llvm")
    assert f"{name}:" in onnxc_command("inspect", folder / model, "--kernel", name, "--asm")
    assert "@triton.jit" in onnxc_command("inspect", folder / model, "--kernel", name, "--triton")
    assert name in onnxc_command("inspect", folder / model, "--kernel", "nope", status=2)
    assert "--kernel" in onnxc_command("inspect", folder / model, "--asm", status=2)


def test_inspect_of_an_artifact(folder):
    assert "compiled for" in onnxc_command("inspect", folder / "m.onnxc")
    assert "p.launch" in onnxc_command("inspect", folder / "m.onnxc", "--stage", "program")
    assert "one stage" in onnxc_command("inspect", folder / "m.onnxc", "--list", status=2)


def test_inspect_of_a_model_with_host_steps(tmp_path):
    path = tmp_path / "m.onnx"
    parts = onnx.helper.make_tensor_sequence_value_info("s", models.FLOAT, ["N", 3])
    path.write_bytes(models.model([models.node("ConcatFromSequence", "s", "j", "join", axis=0),
                                   models.node("Neg", "j", "y")], [parts],
                                  [models.value("y", None)]).SerializeToString())
    shown = onnxc_command("inspect", path)
    assert "host steps: ConcatFromSequence (join)" in shown
    (name,) = [word for word in shown.split() if "_neg" in word]
    assert "k.store" in onnxc_command("inspect", path, "--kernel", name)
    assert f"{name}:" in onnxc_command("inspect", path, "--kernel", name, "--asm")
    assert "host ConcatFromSequence" in onnxc_command("inspect", path, "--stage", "program")
    assert "one stage" in onnxc_command("inspect", path, "--list", status=2)


def test_inspect_of_a_model_whose_ranks_a_run_tells(tmp_path):
    (tmp_path / "m.onnx").write_bytes(models.copies(models.FLOAT, None).SerializeToString())
    shown = onnxc_command("inspect", tmp_path / "m.onnx")
    assert "any rank" in shown
    assert "compiled in the first run, which tells the ranks of: x" in shown
    assert "there are none" in onnxc_command("inspect", tmp_path / "m.onnx", "--kernel", "k0", status=2)


# ---- opt -------------------------------------------------------------------------------------------------------------

TEXT = """
func @main(%x: f32[N]) -> (f32[N]) kind "graph" {
  %a = t.neg(%x) : f32[N]
  %b = t.neg(%x) : f32[N]
  %c = t.add(%a, %b) : f32[N]
  return(%c)
}
"""


def test_opt_runs_passes_on_text(tmp_path):
    (tmp_path / "in.ir").write_text(TEXT)
    assert onnxc_command("opt", tmp_path / "in.ir").count("t.neg") == 2
    onnxc_command("opt", tmp_path / "in.ir", "-p", "cse,dce", "-o", tmp_path / "out.ir")
    assert (tmp_path / "out.ir").read_text().count("t.neg") == 1
    # Its own output is input again.
    assert onnxc_command("opt", tmp_path / "out.ir") == (tmp_path / "out.ir").read_text()


def test_opt_refuses_unknown_passes_and_broken_text(tmp_path):
    (tmp_path / "in.ir").write_text(TEXT)
    assert "there is no pass 'nope'" in onnxc_command("opt", tmp_path / "in.ir", "-p", "nope", status=1)
    (tmp_path / "in.ir").write_text(TEXT.replace("%b)", "%nope)"))
    assert "nope" in onnxc_command("opt", tmp_path / "in.ir", status=1)
    assert "canonicalize" in onnxc_command("opt", "--list")


# ---- ops, env --------------------------------------------------------------------------------------------------------

def test_ops_and_coverage():
    listed = onnxc_command("ops")
    assert "Conv" in listed
    assert "ai.onnx: " in listed
    missing = {line.split()[1] for line in onnxc_command("ops", "--coverage").splitlines() if line.endswith("none")}
    assert not missing & {line.split()[1] for line in listed.splitlines() if line.count("  ")}


def test_env_shows_every_setting():
    shown = onnxc_command("env")
    for name in ("ONNXC_DEBUG", "ONNXC_CACHE", "ONNXC_TARGET", "llvmlite", "numpy", "threads"):
        assert name in shown


def test_env_says_what_options_do():
    shown = onnxc_command("env", "--options")
    for name in ("intra_op_num_threads", "session.intra_op.allow_spinning", "terminate", "gpu_graph_id"):
        assert f"  {name}\n    " in shown


# ---- the process -----------------------------------------------------------------------------------------------------

def test_errors_leave_no_traceback_unless_debugging(tmp_path):
    command = [sys.executable, "-m", "onnxc.cli", "run", str(tmp_path / "nope.onnx")]
    plain = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (plain.returncode, plain.stdout) == (1, "")
    _, found, rest = plain.stderr.partition("Error: NoSuchFile:")     # progress stands before it where time passes
    assert found and len(rest.splitlines()) == 1 and "Traceback" not in plain.stderr
    env = {"ONNXC_DEBUG": "1", "PATH": "", "PYTHONPATH": str(ROOT)}
    loud = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=env)
    assert "Traceback" in loud.stderr


def test_help_and_version():
    shown = onnxc_command("--help")
    for verb in ("run", "compile", "inspect", "opt", "bench", "ops", "env"):
        assert verb in shown
        assert "Usage" in onnxc_command(verb, "--help")
    assert onnxc.__version__ in onnxc_command("--version")


def test_long_work_says_what_it_does(capfd):
    import time

    from onnxc.cli import console
    with console.working("quick"):
        pass
    assert capfd.readouterr().err == ""
    with console.working("slow") as say:
        say("fuse")
        time.sleep(1.3)
    assert "slow: fuse" in capfd.readouterr().err
