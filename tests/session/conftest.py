"""The engines that a row of the contract is run on: onnxc, and ONNX Runtime itself where both agree."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from typing import Any

import onnx
import pytest


@dataclass(frozen=True)
class Engine:
    """A module with `InferenceSession` and the module of its exceptions."""

    name: str
    api: Any
    errors: Any

    def session(self, model: onnx.ModelProto | bytes, *arguments: Any, **options: Any) -> Any:
        data = model if isinstance(model, bytes) else model.SerializeToString()
        if "providers" not in options:
            options["providers"] = ["CPUExecutionProvider"]
        return self.api.InferenceSession(data, *arguments, **options)


def _engine(name: str) -> Engine:
    if name == "onnxc":
        return Engine(name, importlib.import_module("onnxc"), importlib.import_module("onnxc.errors"))
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    api = pytest.importorskip("onnxruntime")
    api.set_default_logger_severity(4)
    return Engine(name, api, importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state"))


@pytest.fixture(scope="session", params=["onnxc", "onnxruntime"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Both engines: for rows of the contract that they share."""
    return _engine(request.param)


@pytest.fixture(scope="session")
def ours() -> Engine:
    """onnxc alone: for rows where ONNX Runtime does something that is not to be copied."""
    return _engine("onnxc")
