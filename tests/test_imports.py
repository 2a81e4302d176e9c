"""Which folder may import what, held by reading every import statement, and what `import onnxc` costs.

The direction of dependencies is a decision, not a habit: the IR knows no op, passes know no target, running a compiled
program needs no compiler. Imports inside functions count as well; they only move the moment.
"""

from __future__ import annotations

import ast
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("onnxc", "passes", "codegen", "runtime")
LINKED = ("passes", "codegen", "runtime")
COMPILERS = ("onnx", "llvmlite", "triton", "torch")

# Everything may import the standard library, its own folder and these; `onnxc.errors` itself imports nothing.
ALWAYS = ("numpy", "ml_dtypes", "onnxc.errors")

#: module prefix -> what it may import besides; the longest prefix that fits decides.
ALLOWED: dict[str, tuple[str, ...]] = {
    "onnxc.ir": (),
    "onnxc.ops": ("onnxc.ir",),
    "onnxc.frontend": ("onnxc.ir", "onnxc.ops", "onnx", "google.protobuf", "flatbuffers"),
    "onnxc.lowerings": ("onnxc.ir", "onnxc.ops"),
    "onnxc.passes": ("onnxc.ir", "onnxc.ops"),
    "onnxc.codegen": ("onnxc.ir", "onnxc.ops"),
    "onnxc.codegen.llvm": ("onnxc.codegen", "onnxc.ir", "onnxc.ops", "llvmlite"),
    "onnxc.codegen.triton": ("onnxc.codegen", "onnxc.ir", "onnxc.ops", "triton"),
    "onnxc.runtime": ("onnxc.ir", "onnxc.ops", "onnxc.config"),
    "onnxc": ("onnxc", "onnx", "click", "rich", "platformdirs", "filelock"),
    "onnxc.errors": (),
    "onnxc.config": (),
}
#: (importing module, imported module) that is allowed inside a function, where the reason stands.
LAZILY: dict[tuple[str, str], str] = {
    ("onnxc.runtime.programs", "onnxc.optimized"): "a session whose options say so writes its model",
    ("onnxc.runtime", "onnxc.driver"): "a session that is opened from a model compiles it",
    ("onnxc.shim.transformers", "torch"): "a map to torch's types, which whoever asks has loaded",
    ("onnxc.runtime.adapters", "onnxc.frontend.adapter_format"): "who loads an adapter reads its file",
    ("onnxc.runtime.profiling", "onnxc.bench.trace"): "a profile that ends says what work its kernels did",
    ("onnxc.runtime.cache", "platformdirs"): "where the cache lies; running an artifact needs no cache",
    ("onnxc.runtime.cache", "filelock"): "two who compile the same; running an artifact needs no cache",
    ("onnxc.codegen.llvm.target", "onnxc.runtime.cpu"): "one place asks for what the system has to permit",
    ("onnxc.runtime.host_images", "PIL"): "a model that decodes images; others do without the package",
    ("onnxc.runtime.loader", "llvmlite"): "hosts whose object format the loader does not read",
}


@dataclass(frozen=True)
class Import:
    """One imported module as a file names it, made absolute."""

    module: str
    target: str
    lazy: bool
    line: int


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "onnxc" else ("onnxc", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources() -> list[Path]:
    """Every Python file of the package, each under its real place: the links inside onnxc/ are not followed."""
    files = [f for folder in FOLDERS for f in sorted((ROOT / folder).rglob("*.py")) if f.resolve() == f]
    assert len(files) > 5
    return files


def imports(path: Path) -> Iterator[Import]:
    module = module_name(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    yield from _walk(ast.parse(path.read_text("utf-8"), str(path)), module, package, lazy=False)


def _walk(node: ast.AST, module: str, package: str, lazy: bool) -> Iterator[Import]:
    for target in _targets(node, package):
        yield Import(module, target, lazy, node.lineno)  # type: ignore[attr-defined]
    inside = lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or _for_types_only(node)
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, module, package, inside)


def _for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def _targets(node: ast.AST, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*above, base]) if base else ".".join(above)
        # `from onnxc import driver` imports a module as much as it reads a name.
        return [f"{base}.{alias.name}" if _is_module(f"{base}.{alias.name}") else base for alias in node.names]
    if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("import_module", "__import__"):
        first = node.args[0] if node.args else None
        return [first.value] if isinstance(first, ast.Constant) and isinstance(first.value, str) else []
    return []


def _is_module(name: str) -> bool:
    place = ROOT.joinpath(*name.split("."))
    return place.with_suffix(".py").is_file() or place.is_dir()


def _within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def allowed(found: Import) -> bool:
    """Whether the table has room for this import."""
    target = found.target
    if target.partition(".")[0] in sys.stdlib_module_names or any(_within(target, name) for name in ALWAYS):
        return True
    home = max((prefix for prefix in ALLOWED if _within(found.module, prefix)), key=len)
    if home not in ("onnxc", "onnxc.errors", "onnxc.config") and _within(target, home):
        return True
    if any(_within(target, name) for name in ALLOWED[home]):
        return _subfolder_is_open(home, target)
    return found.lazy and any(_within(found.module, m) and _within(target, t) for m, t in LAZILY)


def _subfolder_is_open(home: str, target: str) -> bool:
    """One backend's folder is closed to the other; the package's own modules see everything."""
    backends = [prefix for prefix in ("onnxc.codegen.llvm", "onnxc.codegen.triton") if _within(target, prefix)]
    return home == "onnxc" or not backends or home in backends


def test_every_import_is_in_the_table():
    found = [i for path in sources() for i in imports(path)]
    assert found
    wrong = [f"{i.module}:{i.line} imports {i.target}" for i in found if not allowed(i)]
    assert not wrong, "against the table of folders:\n  " + "\n  ".join(wrong)


@pytest.mark.parametrize(
    ("module", "target", "lazy", "verdict"),
    [
        ("onnxc.ir.core", "onnxc.ops.tensor", False, False),
        ("onnxc.ir.core", "onnxc.ir.types", False, True),
        ("onnxc.ir.core", "onnxc.errors", False, True),
        ("onnxc.ir.core", "onnx", True, False),
        ("onnxc.ops.tensor", "onnxc.ir", False, True),
        ("onnxc.frontend.load", "onnx.helper", False, True),
        ("onnxc.frontend.load", "onnxc.lowerings", False, False),
        ("onnxc.passes.fuse", "onnxc.codegen.schedule", True, False),
        ("onnxc.codegen.schedule", "llvmlite", True, False),
        ("onnxc.codegen.llvm.emit", "llvmlite.ir", False, True),
        ("onnxc.codegen.llvm.emit", "onnxc.codegen.schedule", False, True),
        ("onnxc.codegen.llvm.emit", "triton", False, False),
        ("onnxc.codegen.llvm.emit", "onnxc.codegen.triton.emit", False, False),
        ("onnxc.runtime.session", "onnxc.driver", False, False),
        ("onnxc.runtime.session", "onnxc.driver", True, True),
        ("onnxc.runtime.session", "onnxc.passes", True, False),
        ("onnxc.runtime.session", "torch", True, False),
        ("onnxc.runtime.session", "llvmlite", True, False),
        ("onnxc.runtime.loader", "llvmlite.binding", True, True),
        ("onnxc.runtime.loader", "llvmlite.binding", False, False),
        ("onnxc.driver", "onnxc.passes.pipeline", False, True),
        ("onnxc.driver", "llvmlite", False, False),
        ("onnxc.errors", "onnxc.ir", False, False),
        ("onnxc.cli", "click", False, True),
        ("onnxc.cli", "passes", False, False),
        ("onnxc.cli", "scipy", False, False),
    ],
)
def test_the_table_itself(module, target, lazy, verdict):
    assert allowed(Import(module, target, lazy, 1)) is verdict


def test_every_form_of_import_is_read():
    text = (
        "import a.b\nfrom ..ops import no_such_module\nfrom . import core\nfrom onnxc import frontend\n"
        "def f():\n    import llvmlite\n    importlib.import_module('torch')\n"
        "if TYPE_CHECKING:\n    import onnx\n"
    )
    found = _walk(ast.parse(text), "onnxc.ir.x", "onnxc.ir", lazy=False)
    assert [(i.target, i.lazy) for i in found] == [
        ("a.b", False),
        ("onnxc.ops", False),
        ("onnxc.ir.core", False),
        ("onnxc.frontend", False),
        ("llvmlite", True),
        ("torch", True),
        ("onnx", True),
    ]


def test_folders_are_imported_under_one_name():
    """`import passes` would work in the checkout, and load every module a second time."""
    for path in [*sources(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]:
        wrong = [i.line for i in imports(path) if i.target.partition(".")[0] in LINKED]
        assert not wrong, f"{path.relative_to(ROOT)}, lines {wrong}: import it as onnxc.<folder>"


@pytest.mark.parametrize("name", LINKED)
def test_links_are_relative_and_lead_to_the_folders(name):
    link = ROOT / "onnxc" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..") / name


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_import_onnxc_loads_no_compiler():
    loaded = python(f"import sys, onnxc; print([m for m in {COMPILERS} if m in sys.modules])")
    assert loaded == "[]"


def test_import_onnxc_is_fast():
    """At most 0.2 s over numpy, which callers have loaded anyway. In CPU time: other work on the machine is no cost."""

    def seconds(modules: str) -> float:
        before = os.times()
        python(f"import {modules}")
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    seconds("numpy, onnxc")  # writes the bytecode files
    over = statistics.median(seconds("numpy, onnxc") - seconds("numpy") for _ in range(5))
    assert over <= 0.2
