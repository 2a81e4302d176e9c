"""`run`: names, feeds and results by ONNX Runtime's contract. Every row here also holds for ONNX Runtime itself."""

from __future__ import annotations

import collections
import ctypes
import gc
import logging
import time
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest

from tests.session import models

X = np.arange(6, dtype=np.float32).reshape(2, 3)
Y = np.full((2, 3), 10, np.float32)


@pytest.fixture(scope="module")
def sums(engine):
    return engine.session(models.sums())


def feed(**changes):
    return {"x": X, "y": Y, **changes}


# ---- output names ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("names", [None, [], (), ""])
def test_no_names_mean_all_outputs_in_order(sums, names):
    z, w = sums.run(names, feed())
    np.testing.assert_array_equal(z, X + Y)
    np.testing.assert_array_equal(w, -(X + Y))


def test_an_output_inside_of_the_model_is_none(engine):
    with pytest.raises(engine.errors.InvalidArgument, match="Invalid output name:h"):
        engine.session(models.softmaxes()).run(["h"], {"x": X})


@pytest.mark.parametrize("form", [list, tuple, lambda names: (n for n in names),
                                  lambda names: dict.fromkeys(names).keys(), lambda names: list(map(np.str_, names))],
                         ids=["list", "tuple", "generator", "view", "numpy texts"])
def test_names_choose_and_order(sums, form):
    w, z = sums.run(form(["w", "z"]), feed())
    np.testing.assert_array_equal(z, X + Y)
    np.testing.assert_array_equal(w, -(X + Y))


@pytest.mark.parametrize("form", [set, np.array])
def test_one_name_in_a_set_or_an_array(sums, form):
    (w,) = sums.run(form(["w"]) if form is np.array else {"w"}, feed())
    np.testing.assert_array_equal(w, -(X + Y))


def test_a_subset_and_a_name_twice(sums):
    assert len(sums.run(["w"], feed())) == 1
    first, second = sums.run(["w", "w"], feed())
    np.testing.assert_array_equal(first, second)


def test_a_bare_name_is_not_a_list_of_letters(sums):
    with pytest.raises(TypeError):
        sums.run("z", feed())


@pytest.mark.parametrize("name", ["nope", "", "x", "Z"])
def test_an_unknown_output_name_is_refused(engine, sums, name):
    with pytest.raises(engine.errors.InvalidArgument, match=f"Invalid output name:{name}"):
        sums.run([name], feed())


# ---- input names -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("mapping", [dict, collections.OrderedDict, collections.UserDict,
                                     lambda pairs: types.MappingProxyType(dict(pairs))])
def test_any_mapping_is_a_feed(sums, mapping):
    z, _ = sums.run(None, mapping([("y", Y), ("x", X)]))
    np.testing.assert_array_equal(z, X + Y)


@pytest.mark.parametrize("feed", [None, [X, Y]], ids=["none", "list"])
def test_what_is_no_mapping_has_no_keys(sums, feed):
    with pytest.raises(AttributeError):
        sums.run(None, feed)


@pytest.mark.parametrize("value", [X, None], ids=["array", "none"])
def test_names_of_inputs_are_texts(sums, value):
    with pytest.raises(TypeError):
        sums.run(None, {**feed(), 1: value})


def test_which_mistake_is_told_of_first(engine, sums):
    """Missing inputs, then values that make no tensor, then inputs that do not fit, then names of outputs."""
    with pytest.raises(ValueError, match="are missing from input feed"):
        sums.run(["q"], {"x": (1,)})
    with pytest.raises(RuntimeError, match="for input 'x'"):
        sums.run(["q"], feed(x=(1,)))
    with pytest.raises(engine.errors.InvalidArgument, match="Invalid rank for input: x"):
        sums.run(["q"], feed(x=X[0]))


def test_missing_inputs_are_listed_beside_those_fed(sums):
    with pytest.raises(ValueError, match=r"Required inputs \(\['y'\]\) are missing from input feed \(\['x'\]\)\."):
        sums.run(None, {"x": X})


def test_an_input_that_no_node_uses_is_required(engine):
    session = engine.session(models.unused())
    assert [i.name for i in session.get_inputs()] == ["x", "u"]
    with pytest.raises(ValueError, match=r"\['u'\]"):
        session.run(None, {"x": X[0]})
    (y,) = session.run(None, {"x": X[0], "u": X[0, :0]})
    np.testing.assert_array_equal(y, -X[0])


def test_an_unknown_input_name_is_refused_unless_it_holds_none(engine, sums):
    with pytest.raises(engine.errors.InvalidArgument, match="Invalid input name: q"):
        sums.run(None, feed(q=X))
    with pytest.raises(RuntimeError):
        sums.run(None, feed(q=[1.0]))
    assert len(sums.run(None, feed(q=None))) == 2


# ---- element types, ranks and sizes ----------------------------------------------------------------------------------

@pytest.mark.parametrize(("bad", "named"), [(X.astype(np.float64), "double"), (X.astype(np.int32), "int32"),
                                            (X > 0, "bool"), (X.astype(np.float16), "float16"),
                                            (X.astype(object), "string"), (X.astype(str), "string")])
def test_a_wrong_element_type_is_named_with_the_right_one(engine, sums, bad, named):
    text = rf"Unexpected input data type. Actual: \(tensor\({named}\)\) , expected: \(tensor\(float\)\)"
    with pytest.raises(engine.errors.InvalidArgument, match=text):
        sums.run(None, feed(y=bad))


@pytest.mark.parametrize(("element", "given", "said"), [
    ("BOOL", np.uint8, "uint8"), ("UINT8", np.bool_, "bool"), ("INT64", np.int32, "int32"),
    ("INT32", np.int64, "int64"), ("FLOAT16", np.float32, "float"), ("DOUBLE", np.float32, "float")])
def test_elements_are_never_converted(engine, element, given, said):
    session = engine.session(models.copies(getattr(onnx.TensorProto, element)))
    name = {"DOUBLE": "double"}.get(element, element.lower())
    text = rf"Unexpected input data type. Actual: \(tensor\({said}\)\) , expected: \(tensor\({name}\)\)"
    with pytest.raises(engine.errors.InvalidArgument, match=text):
        session.run(None, {"x": np.ones(3, given)})


@pytest.mark.parametrize("bad", [np.zeros(3, np.float32), np.zeros((2, 3, 1), np.float32), np.array(1, np.float32)])
def test_a_wrong_rank_is_refused(engine, sums, bad):
    text = (f"Invalid rank for input: y Got: {bad.ndim} Expected: 2 "
            "Please fix either the inputs/outputs or the model.")
    with pytest.raises(engine.errors.InvalidArgument, match=text):
        sums.run(None, feed(y=bad))


def test_every_wrong_size_is_listed(engine):
    fixed = engine.session(models.copies(models.FLOAT, [2, "N", 3]))
    with pytest.raises(engine.errors.InvalidArgument) as refused:
        fixed.run(None, {"x": np.zeros((5, 4, 7), np.float32)})
    assert ("Got invalid dimensions for input: x for the following indices\n index: 0 Got: 5 Expected: 2\n"
            " index: 2 Got: 7 Expected: 3\n Please fix either the inputs/outputs or the model.") in str(refused.value)


@pytest.mark.parametrize("rows", [0, 1, 2, 7, 1000])
def test_an_open_dimension_takes_any_size(sums, rows):
    x = np.random.default_rng(rows).standard_normal((rows, 3), np.float32)
    z, w = sums.run(None, {"x": x, "y": x})
    np.testing.assert_array_equal(z, x + x)
    assert w.shape == (rows, 3)


def test_an_input_without_a_shape_takes_any_rank(engine):
    model = models.model([models.node("Add", "x y", "z"), models.node("Neg", "z", "w")],
                         [models.value("x", None), models.value("y", ["N", 3])],
                         [models.value("z", None), models.value("w", None)])
    session = engine.session(model)
    assert [a.shape for a in (*session.get_inputs(), *session.get_outputs())] == [[], ["N", 3], [], []]
    for shape in ((), (3,), (1, 3), (4, 2, 3), (0, 2, 3), (2, 1)):
        x = np.full(shape, 2, np.float32)
        z, w = session.run(None, feed(x=x))
        np.testing.assert_array_equal(z, x + Y)
        np.testing.assert_array_equal(w, -z)
        np.testing.assert_array_equal(session.run(["w"], feed(x=x), engine.api.RunOptions())[0], w)
    with pytest.raises(engine.errors.Fail, match="while running Add node. Name:'add_z'"):
        session.run(None, feed(x=X[:, :2]))


def test_programs_for_ranks_are_kept_and_bound(ours):
    session = ours.session(models.copies(models.FLOAT, None))
    assert session.report()["host_ops"] == []
    for _ in range(2):
        binding = session.io_binding()
        binding.bind_cpu_input("x", X)
        binding.bind_output("y")
        session.run_with_iobinding(binding)
        np.testing.assert_array_equal(binding.copy_outputs_to_cpu()[0], X)
    assert session.statistics()["compilations"] == 1


# ---- dimensions of one name ------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("x", "y"), [(2, 2), (2, 1), (1, 4), (2, 0), (3, 3), (0, 1), (1, 0)])
def test_sizes_that_a_name_shares_need_not_be_equal(engine, x, y):
    """A size of 1 is broadcast; whether others go together is the operators' matter."""
    session = engine.session(models.sums())
    feed = {"x": np.full((x, 3), 1, np.float32), "y": np.full((y, 3), 2, np.float32)}
    if x == y or 1 in (x, y):
        for _ in range(2):
            z, w = session.run(None, feed)
            np.testing.assert_array_equal(z, feed["x"] + feed["y"])
            np.testing.assert_array_equal(w, -z)
        np.testing.assert_array_equal(session.run(["w"], feed, engine.api.RunOptions())[0], -z)
    else:
        with pytest.raises((engine.errors.Fail, engine.errors.InvalidArgument)):
            session.run(None, feed)
    assert session.run(None, {"x": X, "y": Y})[0].shape == (2, 3)


def test_dimensions_of_one_name_that_never_meet(engine):
    model = models.model([models.node("Neg", "x", "z"), models.node("Abs", "y", "w")],
                         [models.value("x", ["N", 3]), models.value("y", ["N", "N"])],
                         [models.value("z", ["N", 3]), models.value("w", ["N", "N"])])
    x, y = np.ones((2, 3), np.float32), -np.ones((4, 5), np.float32)
    session = engine.session(model)
    z, w = session.run(None, {"x": x, "y": y})
    np.testing.assert_array_equal(z, -x)
    np.testing.assert_array_equal(w, -y)
    values = {"x": engine.api.OrtValue.ortvalue_from_numpy(x), "y": engine.api.OrtValue.ortvalue_from_numpy(y)}
    np.testing.assert_array_equal(session.run_with_ort_values(["w"], values)[0].numpy(), -y)
    binding = session.io_binding()
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    binding.bind_output("w")
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(binding.get_outputs()[0].numpy(), -y)


def test_a_question_mark_is_no_name(engine):
    session = engine.session(models.copies(models.FLOAT, ["?", 3, "?"]))
    assert session.get_inputs()[0].shape == ["?", 3, "?"]
    x = np.ones((2, 3, 4), np.float32)
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], x)


NUMBERS = [("FLOAT", np.float32), ("DOUBLE", np.float64), ("FLOAT16", np.float16), ("BOOL", np.bool_),
           *((f"{sign}INT{bits}", np.dtype(f"{sign}int{bits}".lower()).type)
             for sign in ("", "U") for bits in (8, 16, 32, 64))]


@pytest.mark.parametrize(("element", "dtype"), NUMBERS, ids=lambda v: v if isinstance(v, str) else "")
def test_every_plain_element_type_passes_through(engine, element, dtype):
    session = engine.session(models.copies(getattr(onnx.TensorProto, element)))
    low, high = (0, 1) if dtype is np.bool_ else (np.finfo(dtype).min, np.finfo(dtype).max) \
        if np.issubdtype(dtype, np.floating) else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    x = np.array([low, high, 1, 0, high], dtype)
    (y,) = session.run(None, {"x": x})
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize("element", ["BFLOAT16", "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ"])
def test_element_types_that_numpy_has_not_pass_through_as_values(engine, element):
    number = getattr(onnx.TensorProto, element)
    model = models.copies(number)
    model.opset_import[0].version = 21
    bits = np.array([0, 1, 77, 128, 255], np.uint16 if element == "BFLOAT16" else np.uint8)
    value = engine.api.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, number)
    (y,) = engine.session(model).run_with_ort_values(None, {"x": value})
    assert (y.data_type(), y.element_type(), y.shape()) == (f"tensor({element.lower()})", number, [5])
    assert ctypes.string_at(y.data_ptr(), bits.nbytes) == bits.tobytes()


# ---- forms of a value ------------------------------------------------------------------------------------------------

def _readonly(a):
    b = a.copy()
    b.flags.writeable = False
    return b


def _unaligned(a):
    b = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    b[...] = a
    assert not b.flags.aligned
    return b


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("form", [
    np.asfortranarray, lambda a: a[::-1], lambda a: a[:, ::-1], lambda a: np.repeat(a, 2, 0)[::2],
    lambda a: np.stack([a, a], -1)[..., 1], lambda a: np.broadcast_to(a[:1], a.shape), np.asmatrix,
    lambda a: np.ma.masked_array(a, a > 2), _readonly, _unaligned, lambda a: a.T.copy().T,
], ids=["fortran", "rows reversed", "columns reversed", "row stride", "element stride", "broadcast", "matrix", "masked",
        "read only", "unaligned", "transposed"])
def test_arrays_of_every_layout_are_read_right(sums, form):
    x = form(X)
    before = np.array(x)
    z, _ = sums.run(None, feed(x=x))
    np.testing.assert_array_equal(z, np.asarray(x) + Y)
    np.testing.assert_array_equal(np.asarray(x), before)


def test_scalars_are_arrays_of_rank_0(engine):
    session = engine.session(models.copies(models.INT64, []))
    (y,) = session.run(None, {"x": np.array(7)})
    assert isinstance(y, np.ndarray)
    assert (y.shape, int(y)) == ((), 7)


@pytest.mark.parametrize(("given", "expected"), [([1.5, 2], [1, 2]), ([np.int8(3), 4], [3, 4]), ([], []),
                                                 ([True, False], [1, 0])])
def test_a_list_takes_the_declared_element_type(engine, given, expected):
    (y,) = engine.session(models.copies(models.INT64)).run(None, {"x": given})
    assert y.dtype == np.int64
    assert y.tolist() == expected


def test_a_list_of_rows_and_of_arrays(sums):
    z, _ = sums.run(None, {"x": X.tolist(), "y": list(Y)})
    np.testing.assert_array_equal(z, X + Y)


NO_LIST = "Could not create tensor from given input list"
NO_ARRAY = "Input must be a list of dictionaries or a single numpy array for input 'x'"
NO_OBJECT = "Unable to handle object of type <class '{}'>"
NO_NUMBER = r"Numpy_type {} can't be converted to MLDataType\."


@pytest.mark.parametrize(("bad", "text"), [
    ([[1.0, 2.0], [3.0]], NO_LIST), ([["a"]], NO_LIST), ([[1j]], NO_LIST), ((1.0, 2.0), NO_ARRAY), (range(3), NO_ARRAY),
    ("abc", NO_ARRAY), (b"abc", NO_ARRAY), ({1.0}, NO_ARRAY), (collections.deque([1.0]), NO_ARRAY),
    (iter([1.0]), NO_ARRAY), (1.0, NO_OBJECT.format("float")), (1, NO_OBJECT.format("int")),
    (True, NO_OBJECT.format("bool")), (np.float32(1), NO_OBJECT.format("numpy.float32")),
    (object(), NO_OBJECT.format("object")), (X.astype(complex), NO_NUMBER.format(15)),
    (X.astype(np.complex64), NO_NUMBER.format(14)), (X.astype("datetime64[s]"), NO_NUMBER.format(21)),
    (X.astype("timedelta64[s]"), NO_NUMBER.format(22)), (X.astype(np.longdouble), NO_NUMBER.format(13)),
], ids=lambda value: "" if isinstance(value, str) else type(value).__name__)
def test_what_makes_no_tensor_is_a_runtime_error(sums, bad, text):
    with pytest.raises(RuntimeError, match=text):
        sums.run(None, feed(x=bad))


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="NumPy before 2.0")
def test_texts_of_any_length_are_no_numbers(sums):
    with pytest.raises(RuntimeError, match=r"Numpy_type \d+ can't be converted to MLDataType\."):
        sums.run(None, feed(x=np.array([["a"]], np.dtypes.StringDType())))


# ---- what nodes refuse -----------------------------------------------------------------------------------------------

def two(op, **attributes):
    """z = op(x, y), whose dimensions have nothing in common."""
    return models.model([models.node(op, "x y", "z", "it", **attributes)],
                        [models.value("x", ["A", "B"]), models.value("y", ["C", "D"])], [models.value("z", None)])


@pytest.mark.parametrize("op", ["Add", "MatMul", "Concat"])
def test_sizes_that_do_not_go_together_name_the_node(engine, op):
    session = engine.session(two(op, **({"axis": 0} if op == "Concat" else {})))
    with pytest.raises(engine.errors.Fail) as refused:
        session.run(None, {"x": X, "y": X[:, :2]} if op != "MatMul" else {"x": X, "y": X})
    head = f"[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running {op} node. Name:'it' Status "
    assert str(refused.value).startswith(head + "Message: ")
    assert session.run(None, {"x": X[:, :2], "y": X[:, :2]})[0].size


def test_an_index_out_of_range_names_the_node(engine):
    with pytest.raises(engine.errors.InvalidArgument, match="Non-zero status code returned while running Gather node. "
                                                            "Name:'pick' Status Message: .*out of"):
        engine.session(models.picks()).run(None, {"x": X, "i": np.array([7])})


@pytest.mark.parametrize("of_session", [2, 4])
def test_what_a_node_refuses_is_logged_as_well(ours, caplog, of_session):
    options = ours.api.SessionOptions()
    options.log_severity_level, options.logid = of_session, "mine"
    session = ours.session(two("Add"), options)
    with caplog.at_level(logging.WARNING, "onnxc"), pytest.raises(ours.errors.Fail) as refused:
        session.run(None, {"x": X, "y": X[:, :2]})
    logged = [(r.levelname, r.getMessage()) for r in caplog.records if r.name == "onnxc"]
    assert logged == ([("ERROR", f"mine: {refused.value.message}")] if of_session == 2 else [])


@pytest.mark.parametrize("how", ["run", "values", "binding"])
@pytest.mark.parametrize(("of_session", "of_run", "is_said"), [(2, 4, False), (4, 2, True), (2, -1, True)])
def test_a_run_is_logged_as_its_options_have_it(ours, caplog, how, of_session, of_run, is_said):
    options, for_run = ours.api.SessionOptions(), ours.api.RunOptions()
    options.log_severity_level, options.logid = of_session, "mine"
    for_run.log_severity_level, for_run.logid = of_run, "first"
    session, feed = ours.session(two("Add"), options), {"x": X, "y": X[:, :2].copy()}
    with caplog.at_level(logging.WARNING, "onnxc"), pytest.raises((ours.errors.Fail, RuntimeError)):
        if how == "run":
            session.run(None, feed, for_run)
        elif how == "values":
            values = {name: ours.api.OrtValue.ortvalue_from_numpy(array) for name, array in feed.items()}
            session.run_with_ort_values(None, values, for_run)
        else:
            binding = session.io_binding()
            for name, array in feed.items():
                binding.bind_cpu_input(name, array)
            binding.bind_output(session.get_outputs()[0].name)
            session.run_with_iobinding(binding, for_run)
    logged = [r.getMessage() for r in caplog.records if r.name == "onnxc"]
    assert [text.startswith("mine: first: Non-zero status code") for text in logged] == [True] * is_said


def test_a_run_of_no_severity_is_refused(ours):
    options = ours.api.RunOptions()
    options.log_severity_level = 7
    with pytest.raises(RuntimeError, match="Invalid logging severity 7"):
        ours.session(models.sums()).run(None, {"x": X, "y": X}, options)


def test_only_the_models_own_dimensions_are_named(ours):
    """And not what room there is for what is appended to an input."""
    with pytest.raises(ours.errors.Fail, match=r"\(with A = 2, B = 3, C = 2, D = 2\)"):
        ours.session(two("Concat", axis=0)).run(None, {"x": X, "y": X[:, :2]})


# ---- results ---------------------------------------------------------------------------------------------------------

def test_results_are_arrays_of_the_callers_own(engine):
    session = engine.session(models.copies(models.FLOAT, ["N", 3]))
    (first,) = session.run(None, {"x": X})
    (second,) = session.run(None, {"x": X})
    assert type(session.run(None, {"x": X})) is list
    for result in (first, second):
        assert type(result) is np.ndarray
        assert result.flags.c_contiguous
        assert result.flags.writeable
        assert not np.shares_memory(result, X)
    assert not np.shares_memory(first, second)
    first[:] = 5
    np.testing.assert_array_equal(second, X)
    del session
    gc.collect()
    np.testing.assert_array_equal(second, X)


def test_a_result_without_axes_is_an_array(engine):
    (y,) = engine.session(models.total()).run(None, {"x": X})
    assert isinstance(y, np.ndarray)
    assert (y.shape, float(y)) == ((), 15.0)


def test_arguments_have_names(sums):
    assert len(sums.run(output_names=["z"], input_feed=feed(), run_options=None)) == 1


# ---- overridable initializers ----------------------------------------------------------------------------------------

def test_an_initializer_that_is_an_input_may_be_fed(engine):
    session = engine.session(models.overridable())
    assert [i.name for i in session.get_inputs()] == ["x"]
    assert [(i.name, i.shape) for i in session.get_overridable_initializers()] == [("w", [3])]
    plain, = session.run(None, {"x": X})
    np.testing.assert_array_equal(plain, X * [1, 2, 3])
    other, = session.run(None, {"x": X, "w": np.array([3, 0, 1], np.float32)})
    np.testing.assert_array_equal(other, X * [3, 0, 1])
    np.testing.assert_array_equal(session.run(None, {"x": X})[0], plain)
    with pytest.raises(engine.errors.InvalidArgument, match="w"):
        session.run(None, {"x": X, "w": np.zeros(4, np.float32)})


def test_before_ir_version_4_it_is_a_constant(engine):
    session = engine.session(models.overridable(ir_version=3))
    assert session.get_overridable_initializers() == []
    with pytest.raises(engine.errors.InvalidArgument, match="Invalid input name: w"):
        session.run(None, {"x": X, "w": np.zeros(3, np.float32)})


# ---- stopping --------------------------------------------------------------------------------------------------------

def test_terminate_stops_runs_until_it_is_set_back(engine, sums):
    options = engine.api.RunOptions()
    options.terminate = True
    with pytest.raises(engine.errors.Fail, match="Exiting due to terminate flag being set to true"):
        sums.run(None, feed(), options)
    options.terminate = False
    assert len(sums.run(None, feed(), options)) == 2


def test_terminate_stops_a_run_that_is_under_way(engine):
    """Between two of many nodes, where ONNX Runtime looks for it; on one thread, so that no machine is done before."""
    one, options = engine.api.SessionOptions(), engine.api.RunOptions()
    one.intra_op_num_threads = 1
    session = engine.session(models.chain(100, 256), one)
    x = np.ones((8000, 256), np.float32)
    with ThreadPoolExecutor(1) as thread:
        run = thread.submit(session.run, None, {"x": x}, options)
        time.sleep(0.05)
        assert not run.done(), "the run was too short to be stopped"
        options.terminate = True
        with pytest.raises(engine.errors.Fail, match="Exiting due to terminate flag being set to true"):
            run.result(60)
    options.terminate = False
    assert session.run(None, {"x": x[:1]}, options)[0].shape == (1, 256)


def test_run_options_of_another_type_are_refused(sums):
    with pytest.raises(TypeError):
        sums.run(None, feed(), {"terminate": True})


# ---- outputs that are something else as well -------------------------------------------------------------------------

def test_an_output_listed_twice_gives_two_results(engine):
    model = models.model([models.node("Neg", "x", "y")], [models.value("x", ["N"])],
                         [models.value("y", ["N"]), models.value("y", ["N"])])
    session = engine.session(model)
    assert [o.name for o in session.get_outputs()] == ["y", "y"]
    first, second = session.run(None, {"x": X[0]})
    np.testing.assert_array_equal(first, second)


def test_outputs_that_are_inputs_or_initializers(engine):
    model = models.model([models.node("Neg", "x", "y")], [models.value("x", [3])],
                         [models.value("x", [3]), models.value("w", [2]), models.value("y", [3])],
                         [models.constant("w", np.array([4, 5], np.float32))])
    x, w, y = engine.session(model).run(None, {"x": X[0]})
    np.testing.assert_array_equal(x, X[0])
    np.testing.assert_array_equal(w, [4, 5])
    np.testing.assert_array_equal(y, -X[0])
    assert not np.shares_memory(x, X)


def test_an_initializer_that_is_an_output_stays_as_it_is(engine):
    model = models.model([models.node("Neg", "x", "y")], [models.value("x", [3])],
                         [models.value("w", [2]), models.value("y", [3])],
                         [models.constant("w", np.array([4, 5], np.float32))])
    session = engine.session(model)
    w, _ = session.run(None, {"x": X[0]})
    w[:] = 0
    np.testing.assert_array_equal(session.run(["w"], {"x": X[0]})[0], [4, 5])


def wrongly_declared(shape):
    return models.model([models.node("Neg", "x", "y")], [models.value("x", ["N", 3])], [models.value("y", shape)])


@pytest.mark.parametrize("shape", [[7, 7], [7, 3], [3], ["N", 7]], ids=str)
def test_a_declared_output_shape_that_is_wrong_is_a_hint(engine, shape):
    np.testing.assert_array_equal(engine.session(wrongly_declared(shape)).run(None, {"x": X})[0], -X)


def test_a_declared_output_shape_that_is_wrong_is_warned_of(ours, caplog):
    session = ours.session(wrongly_declared([2, "K"]))
    with caplog.at_level(logging.WARNING, "onnxc"):
        for rows in (2, 1, 1):
            session.run(None, {"x": X[:rows]})
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == [
        "Expected shape from model of [2, 'K'] does not match actual shape of [1, 3] for output y"]


def test_nodes_in_any_order(engine):
    model = models.model([models.node("Neg", "h", "y"), models.node("Abs", "x", "h")], [models.value("x", ["N", 3])],
                         [models.value("y", ["N", 3])])
    np.testing.assert_array_equal(engine.session(model).run(None, {"x": X})[0], -X)


# ---- constructor -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("nothing", [None, {}, 0, ""])
def test_falsy_options_are_none(engine, nothing):
    session = engine.api.InferenceSession(models.sums().SerializeToString(), nothing)
    assert session.get_session_options().intra_op_num_threads == 0


def test_all_available_providers_may_be_passed_back(engine):
    session = engine.session(models.sums(), providers=engine.api.get_available_providers())
    assert session.get_providers()[-1] == "CPUExecutionProvider"
    np.testing.assert_array_equal(session.run(["z"], feed())[0], X + Y)


def test_options_of_providers_in_a_list_of_their_own(engine):
    session = engine.session(models.sums(), providers=["CPUExecutionProvider"], provider_options=[{}])
    assert session.get_providers() == ["CPUExecutionProvider"]


def test_objects_that_numpy_makes_arrays_of(ours):
    """Beyond ONNX Runtime, which refuses them."""
    class Table:
        def __array__(self, dtype=None, copy=None):
            return X

    np.testing.assert_array_equal(ours.session(models.sums()).run(["z"], feed(x=Table()))[0], X + Y)


def test_idle_threads_sleep_when_asked_to(ours):
    options = ours.api.SessionOptions()
    options.intra_op_num_threads = 2
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ours.session(models.chain(4), options)
    session.run(None, {"x": np.ones((2000, 32), np.float32)})
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.05
