"""The exception family: same names, codes and texts as ONNX Runtime's, and whole after pickling and copying."""

import copy
import pickle

import onnxruntime as ort
import onnxruntime.capi.onnxruntime_pybind11_state as reference
import pytest

from onnxc import errors


def onnx_runtime_classes():
    return {name: c for name, c in vars(reference).items() if isinstance(c, type) and issubclass(c, Exception)}


def test_every_exception_of_onnx_runtime_has_a_namesake():
    assert {c.__name__ for c in errors.ONNX_RUNTIME_ERRORS} == set(onnx_runtime_classes())


@pytest.mark.parametrize("cls", errors.ONNX_RUNTIME_ERRORS, ids=lambda c: c.__name__)
def test_text_message_and_bases(cls):
    error = cls("node 'n': 3 inputs")
    assert str(error) == f"[ONNXRuntimeError] : {cls.code} : {cls.status} : node 'n': 3 inputs"
    assert error.args == (str(error),)
    assert error.message == "node 'n': 3 inputs"
    assert not isinstance(error, (RuntimeError, NotImplementedError, OSError, ValueError))


def test_codes_and_statuses():
    assert " ".join(f"{c.code} {c.status}" for c in errors.ONNX_RUNTIME_ERRORS) == (
        "1 FAIL 2 INVALID_ARGUMENT 3 NO_SUCHFILE 4 NO_MODEL 5 ENGINE_ERROR 6 RUNTIME_EXCEPTION 7 INVALID_PROTOBUF "
        "8 MODEL_LOADED 9 NOT_IMPLEMENTED 10 INVALID_GRAPH 11 EP_FAIL 12 MODEL_LOAD_CANCELED "
        "13 MODEL_REQUIRES_COMPILATION 14 NOT_FOUND 15 DEVICE_RESET"
    )


@pytest.mark.parametrize(
    ("model", "name"),
    [(b"", "InvalidArgument"), (b"\xff\xff\xff", "InvalidProtobuf"), ("missing.onnx", "NoSuchFile")],
)
def test_head_of_the_text_is_what_onnx_runtime_prints(model, name):
    with pytest.raises(getattr(reference, name)) as caught:
        ort.InferenceSession(model)
    ours = getattr(errors, name)("")
    assert str(caught.value).startswith(str(ours))


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidGraph("a : b"),
        errors.Cancelled(),
        errors.UnsupportedModel([("n", "Foo", "", "no lowering"), ("", "Bar", "my.dom", "dtype f8")]),
    ],
    ids=lambda e: type(e).__name__,
)
@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_copies_are_equal(error, again):
    other = again(error)
    assert type(other) is type(error)
    assert (str(other), other.args, vars(other)) == (str(error), error.args, vars(error))


def test_the_base_is_for_catching_only():
    with pytest.raises(TypeError, match="derived"):
        errors.OnnxcError("x")
    with pytest.raises(errors.OnnxcError):
        raise errors.EPFail("x")


def test_cancelled_is_what_a_terminated_run_raises():
    assert isinstance(errors.Cancelled(), errors.Fail)
    assert str(errors.Cancelled()) == "[ONNXRuntimeError] : 1 : FAIL : Exiting due to terminate flag being set to true."


def test_unsupported_model_lists_its_nodes():
    error = errors.UnsupportedModel([("n", "Foo", "", "no lowering"), ("", "Bar", "my.dom", "dtype f8")])
    assert error.nodes[1].domain == "my.dom"
    assert error.message.splitlines() == [
        "Could not find an implementation for 2 nodes of this model:",
        "  ai.onnx:Foo node 'n': no lowering",
        "  my.dom:Bar node '': dtype f8",
    ]
    assert isinstance(error, errors.NotImplemented)


def test_unsupported_model_text_is_bounded_and_its_list_is_not():
    error = errors.UnsupportedModel((f"n{i}", "Foo", "", "no lowering") for i in range(1000))
    assert len(error.nodes) == 1000
    assert len(error.message.splitlines()) == errors.UnsupportedModel.SHOWN + 2
    assert error.message.endswith("and 980 more")
    with pytest.raises(ValueError, match="at least one"):
        errors.UnsupportedModel([])


def test_a_head_is_not_put_twice():
    """As tests of programs do, which raise what they copied from a log, or nothing."""
    text = "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Invalid input name: q"
    assert str(errors.InvalidArgument(text)) == text
    assert errors.InvalidArgument(text).message == "Invalid input name: q"
    assert errors.Fail().message == ""
