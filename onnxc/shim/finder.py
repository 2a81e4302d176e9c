"""Finds `onnxruntime` and its submodules in onnxc, and its distribution."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import Distribution, DistributionFinder
from importlib.util import spec_from_loader
from types import ModuleType

from onnxc.shim.distribution import ShimDistribution
from onnxc.shim.names import ALIASES, NAME, fill

__all__ = ["install_as_onnxruntime"]


def install_as_onnxruntime() -> None:
    """Makes `import onnxruntime`, and imports of its submodules, give onnxc from now on; see `onnxc.shim`.

    Raises RuntimeError where the real package was imported before: what others took out of it would stay.
    """
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    if NAME in sys.modules:
        raise RuntimeError("onnxruntime is imported already, and what others took out of it would stay: call "
                           "onnxc.install_as_onnxruntime() first, or start with python -m onnxc.shim.")
    sys.meta_path.insert(0, _Finder())


class _Finder(DistributionFinder):
    """Stands in front of Python's own finders."""

    def find_spec(self, fullname: str, path: Sequence[str] | None = None,
                  target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname == NAME:
            spec = spec_from_loader(NAME, _Package(), is_package=True)
            assert spec is not None
            spec.submodule_search_locations = _real_folders()
            return spec
        home = _home(fullname)
        return None if home is None else spec_from_loader(fullname, _Alias(home))

    def find_distributions(self, context: DistributionFinder.Context = DistributionFinder.Context()  # noqa: B008
                           ) -> Iterable[Distribution]:
        # Whoever lists all distributions finds the real one, where there is one.
        if context.name.lower() == NAME if context.name is not None else not _real_folders():
            yield ShimDistribution()


def _home(fullname: str) -> str | None:
    """The module of onnxc that stands behind a submodule of onnxruntime; None for what is the real package's."""
    if not fullname.startswith(f"{NAME}."):
        return None
    rest = fullname.removeprefix(f"{NAME}.")
    for alias, home in ALIASES.items():
        if rest == alias or rest.startswith(f"{alias}."):
            return home + rest.removeprefix(alias)
    if rest == "transformers.io_binding_helper" or (rest == "transformers" and not _real_folders()):
        return None if _real_folders() else f"onnxc.shim.{rest}"
    return None


def _real_folders() -> list[str]:
    """Where the real package lies, if it is installed: its pure Python parts are found there."""
    spec = PathFinder.find_spec(NAME)
    return [] if spec is None or spec.submodule_search_locations is None else list(spec.submodule_search_locations)


class _Package(Loader):
    """The module `onnxruntime`: onnxc's public names, and a version on ONNX Runtime's scale."""

    def exec_module(self, module: ModuleType) -> None:
        fill(module)
        for submodule in ("capi.onnxruntime_pybind11_state", "capi._pybind_state",
                          "capi.onnxruntime_inference_collection"):
            importlib.import_module(f"{NAME}.{submodule}")


class _Alias(Loader):
    """Gives a module of onnxc under a second name: the same object, so that its classes are the same."""

    def __init__(self, home: str) -> None:
        self._home = home
        self._own: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        try:
            module = importlib.import_module(self._home)
        except ModuleNotFoundError as error:
            if error.name == self._home:
                raise ModuleNotFoundError(f"No module named {spec.name!r} (onnxc has no {self._home})",
                                          name=spec.name) from None
            raise
        self._own = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._own     # the import system put the second name's in
