"""`IOBinding` and runs on OrtValues. Rows with `engine` also hold for ONNX Runtime itself."""

from __future__ import annotations

import gc
import threading

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.session import models

X = np.arange(6, dtype=np.float32).reshape(2, 3)
Y = np.full((2, 3), 10, np.float32)


@pytest.fixture(scope="module")
def sums(engine):
    return engine.session(models.sums())


@pytest.fixture
def binding(sums):
    """With both inputs bound."""
    binding = sums.io_binding()
    binding.bind_cpu_input("x", X.copy())
    binding.bind_cpu_input("y", Y.copy())
    return binding


def value_of(engine, array):
    return engine.api.OrtValue.ortvalue_from_numpy(array)


# ---- inputs ----------------------------------------------------------------------------------------------------------

def test_an_input_is_read_where_it_lies(engine, sums, binding):
    x = X.copy()
    binding.bind_cpu_input("x", x)
    binding.bind_output("z")
    assert sums.run_with_iobinding(binding) is None
    x[...] = 5
    sums.run_with_iobinding(binding)
    np.testing.assert_array_equal(binding.get_outputs()[0].numpy(), 5 + Y)


def test_an_array_that_is_not_contiguous_is_copied(sums, binding):
    wide = np.zeros((2, 6), np.float32)
    wide[:, ::2] = X
    binding.bind_cpu_input("x", wide[:, ::2])
    binding.bind_output("z")
    sums.run_with_iobinding(binding)
    np.testing.assert_array_equal(binding.copy_outputs_to_cpu()[0], X + Y)
    wide[...] = 7
    sums.run_with_iobinding(binding)
    np.testing.assert_array_equal(binding.copy_outputs_to_cpu()[0], X + Y)


@pytest.mark.parametrize("element", [np.float32, np.dtype("float32"), "float32", TensorProto.FLOAT], ids=str)
@pytest.mark.parametrize("shape", [[2, 3], (2, 3), np.array([2, 3])], ids=["list", "tuple", "array"])
def test_memory_by_address(sums, binding, element, shape):
    x, z = X.copy(), np.empty_like(X)
    binding.bind_input(name="x", device_type="cpu", device_id=0, element_type=element, shape=shape,
                       buffer_ptr=x.ctypes.data)
    binding.bind_output(name="z", device_type="cpu", device_id=0, element_type=element, shape=shape,
                        buffer_ptr=z.ctypes.data)
    sums.run_with_iobinding(binding)
    np.testing.assert_array_equal(z, X + Y)
    assert binding.get_outputs()[0].data_ptr() == z.ctypes.data


def test_nothing_lies_at_a_null_pointer(sums):
    binding = sums.io_binding()
    binding.bind_input("x", "cpu", 0, np.float32, (0, 3), 0)
    binding.bind_input("y", "cpu", 0, np.float32, (0, 3), 0)
    binding.bind_output("z")
    sums.run_with_iobinding(binding)
    assert binding.get_outputs()[0].shape() == [0, 3]


def test_something_does_not(ours):
    binding = ours.session(models.sums()).io_binding()
    with pytest.raises(RuntimeError, match="null pointer, but takes 24 bytes"):
        binding.bind_input("x", "cpu", 0, np.float32, (2, 3), 0)


def test_bound_memory_is_kept_alive(sums):
    binding = sums.io_binding()
    binding.bind_cpu_input("x", np.full((200, 3), 1, np.float32))
    binding.bind_cpu_input("y", np.full((200, 3), 2, np.float32))
    gc.collect()
    np.full((200, 3), 9, np.float32)
    binding.bind_output("z")
    sums.run_with_iobinding(binding)
    assert (binding.get_outputs()[0].numpy() == 3).all()


def test_an_array_is_no_value(sums, binding):
    with pytest.raises(AttributeError):
        binding.bind_ortvalue_input("x", X)
    with pytest.raises(AttributeError):
        binding.bind_ortvalue_output("z", X)


@pytest.mark.parametrize("name", [1, None])
def test_names_are_texts(engine, name):
    binding = engine.session(models.sums()).io_binding()
    with pytest.raises(TypeError):
        binding.bind_output(name)
    with pytest.raises(TypeError):
        binding.bind_cpu_input(name, np.ones((2, 3), np.float32))


def test_a_missing_input_of_a_program_made_in_the_first_run(engine):
    """Only a run tells the rank of x."""
    model = models.model([models.node("Neg", "x", "y")], [models.value("x", None)], [models.value("y", None)])
    session = engine.session(model)
    binding = session.io_binding()
    binding.bind_output("y")
    with pytest.raises(RuntimeError):
        session.run_with_iobinding(binding)


def test_inputs_that_are_not_there(sums, binding):
    with pytest.raises(RuntimeError, match="Failed to find NodeArg with name: nope in the def list"):
        binding.bind_cpu_input("nope", X)
    with pytest.raises(RuntimeError):
        binding.bind_cpu_input("x", [1.0])
    with pytest.raises(RuntimeError):
        binding.bind_input("x", "cuda", 0, np.float32, (2, 3), X.ctypes.data)


@pytest.mark.parametrize("name", ["abacus", "CPU", "Cuda"])
def test_a_device_that_never_was_is_a_bare_exception(binding, name):
    for bind in (lambda: binding.bind_input("x", name, 0, np.float32, (2, 3), X.ctypes.data),
                 lambda: binding.bind_output("z", name)):
        with pytest.raises(Exception, match=f"Unsupported device type: {name}") as refused:
            bind()
        assert type(refused.value) is Exception


def test_texts_are_bound_to_no_numbers(sums, binding):
    binding.bind_output("z")
    for texts in (np.array(["a"]), np.array(["a"], object)):
        with pytest.raises(RuntimeError, match=r"Unexpected input data type. Actual: \(tensor\(string\)\)"):
            binding.bind_cpu_input("x", texts)
            sums.run_with_iobinding(binding)


def test_texts_are_bound_to_texts(ours):
    """ONNX Runtime refuses: "Only binding non-string Tensors is currently supported"."""
    session = ours.session(models.copies(TensorProto.STRING))
    binding = session.io_binding()
    binding.bind_cpu_input("x", np.array(["a", "bc"]))
    binding.bind_output("y")
    session.run_with_iobinding(binding)
    assert binding.copy_outputs_to_cpu()[0].tolist() == ["a", "bc"]


def test_a_missing_input(sums):
    binding = sums.io_binding()
    binding.bind_cpu_input("x", X)
    binding.bind_output("z")
    with pytest.raises(RuntimeError, match="Missing Input: y"):
        sums.run_with_iobinding(binding)


@pytest.mark.parametrize(("bad", "says"), [
    (Y.astype(np.float64), r"Unexpected input data type. Actual: \(tensor\(double\)\) , expected: \(tensor\(float\)\)"),
    (Y[0], "Invalid rank for input: y Got: 1 Expected: 2"),
    (Y[:, :2], "Got invalid dimensions for input: y for the following indices\n index: 1 Got: 2 Expected: 3"),
], ids=["type", "rank", "size"])
def test_wrong_inputs_are_noticed_at_the_run(sums, binding, bad, says):
    binding.bind_cpu_input("y", bad)
    binding.bind_output("z")
    with pytest.raises(RuntimeError, match=says):
        sums.run_with_iobinding(binding)


# ---- outputs ---------------------------------------------------------------------------------------------------------

def test_type_and_shape_mean_nothing_without_memory(sums, binding):
    binding.bind_output(name="z", device_type="cpu", device_id=0, element_type=np.float64, shape=(7, 7))
    sums.run_with_iobinding(binding)
    results = binding.get_outputs()
    assert isinstance(results, list)
    assert (results[0].shape(), results[0].data_type()) == ([2, 3], "tensor(float)")


def test_a_value_is_written_in_place(engine, sums, binding):
    z = value_of(engine, np.zeros((2, 3), np.float32))
    before = z.data_ptr()
    binding.bind_ortvalue_output("z", z)
    sums.run_with_iobinding(binding)
    np.testing.assert_array_equal(z.numpy(), X + Y)
    assert binding.get_outputs()[0].data_ptr() == z.data_ptr() == before


def test_results_stand_in_the_order_in_which_they_were_bound(engine, sums, binding):
    binding.bind_output("w")
    binding.bind_output("z", "cpu", 0, np.float32, (2, 3))
    binding.bind_ortvalue_output("w", value_of(engine, np.zeros((2, 3), np.float32)))
    sums.run_with_iobinding(binding)
    w, z = binding.get_outputs()
    np.testing.assert_array_equal(z.numpy(), X + Y)
    np.testing.assert_array_equal(w.numpy(), -(X + Y))


def test_memory_that_a_run_made_is_used_again(sums, binding):
    binding.bind_output("z")
    sums.run_with_iobinding(binding)
    first = binding.get_outputs()[0]
    binding.bind_cpu_input("x", X * 2)
    sums.run_with_iobinding(binding)
    assert binding.get_outputs()[0].data_ptr() == first.data_ptr()
    np.testing.assert_array_equal(first.numpy(), X * 2 + Y)


def test_results_of_other_shapes_are_elsewhere(ours):
    """ONNX Runtime wants the output to be bound again."""
    sums = ours.session(models.sums())
    binding = sums.io_binding()
    binding.bind_output("z")
    for name, array in {"x": X, "y": Y}.items():
        binding.bind_cpu_input(name, array)
    sums.run_with_iobinding(binding)
    first = binding.get_outputs()[0]
    for name in "xy":
        binding.bind_cpu_input(name, np.ones((5, 3), np.float32))
    sums.run_with_iobinding(binding)
    assert binding.get_outputs()[0].shape() == [5, 3]
    np.testing.assert_array_equal(first.numpy(), X + Y)


def test_copies_are_copies(sums, binding):
    binding.bind_output("z")
    sums.run_with_iobinding(binding)
    (copy,) = binding.copy_outputs_to_cpu()
    binding.bind_cpu_input("x", X * 2)
    sums.run_with_iobinding(binding)
    np.testing.assert_array_equal(copy, X + Y)
    assert copy.flags.writeable


@pytest.mark.parametrize(("shape", "element", "says"), [
    ((5, 3), np.float32, "has shape {5,3} but the computed output shape for this run is {2,3}"),
    ((1, 3), np.float32, "has shape {1,3} but the computed output shape for this run is {2,3}"),
    ((2, 3), np.float64, "Unexpected output data type. Actual: (tensor(double)) , expected: (tensor(float))"),
    ((3, 2), np.float32, ""),
], ids=["larger", "smaller", "type", "turned"])
def test_memory_that_does_not_fit(sums, binding, shape, element, says):
    z = np.full(shape, 7, element)
    binding.bind_output("z", "cpu", 0, element, shape, z.ctypes.data)
    with pytest.raises(RuntimeError) as refused:
        sums.run_with_iobinding(binding)
    assert "Error in execution: " in str(refused.value)
    assert says in str(refused.value)
    assert (z == 7).all()


def test_names_and_places_of_outputs(sums, binding):
    with pytest.raises(RuntimeError, match="Error in execution: At least one output should be requested."):
        sums.run_with_iobinding(binding)
    for missing in ({"shape": (2, 3)}, {"element_type": np.float32}):
        with pytest.raises(ValueError, match="are to be provided if pre-allocated memory is provided"):
            binding.bind_output("z", "cpu", 0, buffer_ptr=X.ctypes.data, **missing)
    binding.bind_output("nope")
    with pytest.raises(RuntimeError, match="Invalid output name: ?nope"):
        sums.run_with_iobinding(binding)


def test_clearing(sums, binding):
    binding.bind_output("z")
    sums.run_with_iobinding(binding)
    kept = binding.get_outputs()[0]
    assert binding.clear_binding_outputs() is None
    assert list(binding.get_outputs()) == []
    binding.bind_output("w")
    assert binding.synchronize_inputs() is binding.synchronize_outputs() is None
    sums.run_with_iobinding(binding)
    (w,) = binding.copy_outputs_to_cpu()
    np.testing.assert_array_equal(w, -(X + Y))
    np.testing.assert_array_equal(kept.numpy(), X + Y)
    assert binding.clear_binding_inputs() is None
    with pytest.raises(RuntimeError):
        sums.run_with_iobinding(binding)


def test_a_binding_belongs_to_a_session(engine, sums, binding):
    binding.bind_output("z")
    with pytest.raises(ValueError, match="IOBinding must be used with the session that created it"):
        engine.session(models.sums()).run_with_iobinding(binding)
    made = engine.api.IOBinding(sums)
    made.bind_ortvalue_input("x", value_of(engine, X))
    made.bind_ortvalue_input("y", value_of(engine, Y))
    made.bind_output("z")
    sums.run_with_iobinding(made, engine.api.RunOptions())
    np.testing.assert_array_equal(made.get_outputs()[0].numpy(), X + Y)


def test_an_index_out_of_range(engine):
    session = engine.session(models.picks())
    binding = session.io_binding()
    binding.bind_cpu_input("x", X)
    binding.bind_cpu_input("i", np.array([9]))
    binding.bind_output("y")
    with pytest.raises(RuntimeError, match="Non-zero status code returned while running"):
        session.run_with_iobinding(binding)
    binding.bind_cpu_input("i", np.array([1]))
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(binding.get_outputs()[0].numpy(), X[[1]])


def test_errors_are_also_those_of_run(ours):
    session = ours.session(models.sums())
    binding = session.io_binding()
    with pytest.raises(ours.errors.InvalidArgument):
        session.run_with_iobinding(binding)
    with pytest.raises(RuntimeError, match="Can't allocate memory on the device cuda:0"):
        binding.bind_output("z", "cuda")


# ---- memory that overlaps --------------------------------------------------------------------------------------------

def test_an_output_may_take_the_place_of_an_input(ours):
    """Softmax reads every element of x several times: it must not see what it wrote itself."""
    session = ours.session(models.softmaxes())
    x = np.random.default_rng(0).standard_normal((40, 7), np.float32)
    (expected,) = session.run(None, {"x": x})
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    binding.bind_output("y", "cpu", 0, np.float32, x.shape, x.ctypes.data)
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(x, expected)


def test_a_result_that_became_an_input_is_not_overwritten(ours):
    session = ours.session(models.softmaxes())
    x = np.random.default_rng(0).standard_normal((40, 7), np.float32)
    (expected,) = session.run(None, {"x": session.run(None, {"x": x})[0]})
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    binding.bind_output("y")
    session.run_with_iobinding(binding)
    first = binding.get_outputs()[0]
    binding.bind_ortvalue_input("x", first)
    session.run_with_iobinding(binding)
    second = binding.get_outputs()[0]
    assert second.data_ptr() != first.data_ptr()
    np.testing.assert_array_equal(second.numpy(), expected)


def test_outputs_that_overlap_are_refused(ours):
    session = ours.session(models.sums())
    binding = session.io_binding()
    z = np.zeros((3, 3), np.float32)
    binding.bind_cpu_input("x", X)
    binding.bind_cpu_input("y", Y)
    binding.bind_output("z", "cpu", 0, np.float32, (2, 3), z[:2].ctypes.data)
    binding.bind_output("w", "cpu", 0, np.float32, (2, 3), z[1:].ctypes.data)
    with pytest.raises(RuntimeError, match="outputs 'z' and 'w' are bound to memory that overlaps"):
        session.run_with_iobinding(binding)


def test_addresses_that_are_no_multiples_of_the_element(ours):
    session = ours.session(models.sums())
    odd = np.zeros(25, np.uint8)[1:]
    odd[...] = X.reshape(-1).view(np.uint8)
    binding = session.io_binding()
    binding.bind_input("x", "cpu", 0, np.float32, (2, 3), odd.ctypes.data)
    binding.bind_cpu_input("y", Y)
    binding.bind_output("z")
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(binding.get_outputs()[0].numpy(), X + Y)
    binding.bind_output("z", "cpu", 0, np.float32, (2, 3), odd.ctypes.data)
    with pytest.raises(RuntimeError, match="output 'z' is bound to memory that must not be written, or whose address"):
        session.run_with_iobinding(binding)


# ---- binding again ---------------------------------------------------------------------------------------------------

def bound_again(engine, way):
    """A function that binds x, y and z of `sums` anew, runs, and gives z."""
    session = engine.session(models.sums())
    bound = session.io_binding()

    def step(x, y, z):
        binding = session.io_binding() if way == "fresh" else bound
        if way == "clear":
            binding.clear_binding_inputs()
            binding.clear_binding_outputs()
        for name, array in (("x", x), ("y", y)):
            if way in ("array", "fresh"):
                binding.bind_cpu_input(name, array)
            elif way == "value":
                binding.bind_ortvalue_input(name, value_of(engine, array))
            else:
                binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        if way == "value":
            binding.bind_ortvalue_output("z", value_of(engine, z))
        elif way in ("array", "fresh"):
            binding.bind_output("z")
        else:
            binding.bind_output("z", "cpu", 0, z.dtype, z.shape, z.ctypes.data)
        session.run_with_iobinding(binding)
        (result,) = binding.get_outputs()
        return result.numpy() if way in ("array", "fresh") else z

    return step


@pytest.mark.parametrize("way", ["array", "fresh", "value", "address", "clear"])
def test_other_memory_of_the_same_shape_and_back(engine, way):
    step = bound_again(engine, way)
    arrays = [np.full((2, 3), 1 << i, np.float32) for i in range(4)]
    seen = []
    for i in (0, 1, 2, 3, 3, 0, 1):
        x, y, z = arrays[i], arrays[(i + 1) % 4], np.zeros((2, 3), np.float32)
        found = step(x, y, z)
        np.testing.assert_array_equal(found, x + y)
        seen.append((found, x + y))
    # What earlier runs gave is not written again: the name was bound anew.
    for found, expected in seen:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("way", ["array", "fresh", "value", "address", "clear"])
def test_other_shapes_and_types_are_looked_at_anew(engine, way):
    step = bound_again(engine, way)
    for rows in (2, 5, 0, 2):
        x, z = np.full((rows, 3), rows, np.float32), np.zeros((rows, 3), np.float32)
        np.testing.assert_array_equal(step(x, x, z), x + x)
    x, z = np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)
    step(x, x, z)
    for bad in (x.astype(np.int32), np.ones((2, 4), np.float32), x[0]):
        with pytest.raises(RuntimeError):
            step(bad, x, z)
        np.testing.assert_array_equal(step(x, x, z), x + x)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_bound_in_whatever_order(engine, seed):
    """Random steps of binding, clearing and running; each run is right for what is bound then."""
    rng = np.random.default_rng(seed)
    session = engine.session(models.sums())
    binding, bound, alive = session.io_binding(), {}, []

    def bind(name, rows):
        array = rng.standard_normal((rows, 3), np.float32)
        how = rng.integers(3)
        if how == 0:
            binding.bind_cpu_input(name, array)
        elif how == 1:
            binding.bind_ortvalue_input(name, value_of(engine, array))
        else:
            binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        alive.append(array)
        bound[name] = array

    def bind_output(rows):
        bound["z"] = place = None if rng.integers(2) else np.zeros((rows, 3), np.float32)
        if place is None:
            binding.bind_output("z")
        elif rng.integers(2):
            binding.bind_ortvalue_output("z", value_of(engine, place))
        else:
            binding.bind_output("z", "cpu", 0, np.float32, place.shape, place.ctypes.data)
        alive.append(place)

    rows = 2
    for _ in range(60):
        if rng.integers(4) == 0:
            rows = int(rng.integers(5))
            for name in "xy":
                bind(name, rows)
            bind_output(rows)
        if rng.integers(4) == 0:
            binding.clear_binding_inputs()
            bound.pop("x", None), bound.pop("y", None)
        if rng.integers(4) == 0:
            binding.clear_binding_outputs()
            bound.pop("z", None)
        if rng.integers(8) == 0:
            binding, bound = session.io_binding(), {}
        for name in rng.permutation(["x", "y"]):
            if name not in bound or rng.integers(2):
                bind(str(name), rows)
        if "z" not in bound or rng.integers(3) == 0:
            bind_output(rows)
        session.run_with_iobinding(binding)
        for found in (binding.get_outputs()[0].numpy(), binding.copy_outputs_to_cpu()[0], bound["z"]):
            if found is not None:
                np.testing.assert_array_equal(found, bound["x"] + bound["y"])


def test_memory_that_overlaps_is_found_in_what_is_bound_again(ours):
    """Softmax reads every element several times: an output in the place of its input needs a copy."""
    session = ours.session(models.softmaxes())
    x, y = np.random.default_rng(0).standard_normal((2, 40, 7), np.float32)
    kept = x.copy()
    (expected,) = session.run(None, {"x": x})
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    for place in (y, x, y):
        x[...] = kept
        binding.bind_output("y", "cpu", 0, np.float32, x.shape, place.ctypes.data)
        session.run_with_iobinding(binding)
        np.testing.assert_array_equal(place, expected)


def test_memory_that_overlaps_is_found_among_several_outputs(ours):
    """Reductions read x as long as they run: no output may lie in it, nor two of them in one place."""
    session = ours.session(models.several())
    memory = np.zeros(400, np.float32)
    x = memory[100:220].reshape(40, 3)
    numbers = np.random.default_rng(0).standard_normal((40, 3), np.float32)
    x[...] = numbers
    expected = session.run(None, {"x": x})
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    for starts in ((0, 260), (0, 219), (99, 260), (260, 0), (100, 240)):
        x[...] = numbers
        for name, start in zip("yz", starts, strict=True):
            binding.bind_output(name, "cpu", 0, np.float32, (40, 1), memory[start:].ctypes.data)
        session.run_with_iobinding(binding)
        for start, values in zip(starts, expected, strict=True):
            np.testing.assert_array_equal(memory[start:start + 40].reshape(40, 1), values)
    binding.bind_output("z", "cpu", 0, np.float32, (40, 1), memory[139:].ctypes.data)
    with pytest.raises(RuntimeError, match="outputs 'y' and 'z' are bound to memory that overlaps"):
        session.run_with_iobinding(binding)


@pytest.mark.parametrize("wanted", ["y", "z", "zy"])
def test_some_outputs_of_several(engine, wanted):
    session = engine.session(models.several())
    found = []
    for scale in (1, 2, 3):
        x = np.arange(6, dtype=np.float32).reshape(2, 3) * scale
        binding = session.io_binding()
        binding.bind_cpu_input("x", x)
        for name in wanted:
            binding.bind_output(name)
        session.run_with_iobinding(binding)
        found.append((binding.get_outputs(), session.run([*wanted], {"x": x})))
    for values, expected in found:
        for value, array in zip(values, expected, strict=True):
            np.testing.assert_array_equal(value.numpy(), array)


def test_arrays_of_another_byte_order_and_without_a_gapless_order(ours):
    session = ours.session(models.sums())
    binding = session.io_binding()
    binding.bind_output("z")
    for x in (X, X.astype(">f4"), np.asfortranarray(X), X[::-1], X):
        binding.bind_cpu_input("x", x)
        binding.bind_cpu_input("y", Y)
        session.run_with_iobinding(binding)
        np.testing.assert_array_equal(binding.get_outputs()[0].numpy(), x + Y)


def test_an_array_that_is_changed_in_place(engine, sums, binding):
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    binding.bind_output("z")
    for shape in ((4, 3), (2, 6), (4, 3)):
        x.shape = shape
        binding.bind_cpu_input("x", x)
        binding.bind_cpu_input("y", np.ones((4, 3), np.float32))
        if shape == (2, 6):
            with pytest.raises(RuntimeError, match="index: 1 Got: 6 Expected: 3"):
                sums.run_with_iobinding(binding)
        else:
            binding.bind_output("z")
            sums.run_with_iobinding(binding)
            np.testing.assert_array_equal(binding.get_outputs()[0].numpy(), x + 1)


def test_memory_at_an_odd_address_is_read_by_every_run(ours):
    session = ours.session(models.sums())
    odd = np.zeros(25, np.uint8)[1:]
    binding = session.io_binding()
    binding.bind_input("x", "cpu", 0, np.float32, (2, 3), odd.ctypes.data)
    binding.bind_cpu_input("y", Y)
    binding.bind_output("z")
    for scale in (1, 2):
        odd[...] = (X * scale).reshape(-1).view(np.uint8)
        session.run_with_iobinding(binding)
        np.testing.assert_array_equal(binding.get_outputs()[0].numpy(), X * scale + Y)


def test_a_closed_session_does_not_run_what_was_bound(ours):
    session = ours.session(models.sums())
    binding = session.io_binding()
    binding.bind_cpu_input("x", X)
    binding.bind_cpu_input("y", Y)
    binding.bind_output("z")
    session.run_with_iobinding(binding)
    session.close()
    with pytest.raises(ours.errors.NoModel):
        session.run_with_iobinding(binding)


# ---- element types, sizes out of data --------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_types_that_numpy_has_not(ours, name):
    carrier = getattr(ml_dtypes, name)
    element = TensorProto.BFLOAT16 if name == "bfloat16" else getattr(TensorProto, name.upper().replace("_", ""))
    model = models.copies(element, [2, 3])
    model.opset_import[0].version = 21
    session = ours.session(model)
    x, y = X.astype(carrier), np.zeros((2, 3), carrier)
    binding = session.io_binding()
    binding.bind_input("x", "cpu", 0, element, (2, 3), x.ctypes.data)
    binding.bind_output("y", "cpu", 0, element, (2, 3), y.ctypes.data)
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(y.view(np.uint8), x.view(np.uint8))


def test_packed_elements(ours):
    model = models.model(
        [models.node("Cast", "x", "y", to=TensorProto.UINT4)], [models.value("x", ["N"], TensorProto.UINT8)],
        [models.value("y", ["N"], TensorProto.UINT4)])
    model.opset_import[0].version = 21
    session = ours.session(model)
    binding = session.io_binding()
    binding.bind_cpu_input("x", np.arange(5, dtype=np.uint8))
    binding.bind_output("y")
    session.run_with_iobinding(binding)
    (y,) = binding.get_outputs()
    assert y.tensor_size_in_bytes() == 3
    np.testing.assert_array_equal(y.numpy().astype(int), range(5))


@pytest.fixture
def found(engine):
    """The places of what is not zero: only data tells how many."""
    return engine.session(models.model([models.node("NonZero", "x", "y")], [models.value("x", ["N"])],
                                       [models.value("y", [1, "M"], models.INT64)]))


def test_sizes_out_of_data(engine, found):
    binding = found.io_binding()
    binding.bind_cpu_input("x", np.array([0, 1, 0, 2], np.float32))
    binding.bind_output("y")
    found.run_with_iobinding(binding)
    np.testing.assert_array_equal(binding.get_outputs()[0].numpy(), [[1, 3]])
    place = np.zeros((1, 2), np.int64)
    binding.bind_ortvalue_output("y", value_of(engine, place))
    found.run_with_iobinding(binding)
    np.testing.assert_array_equal(place, [[1, 3]])
    binding.bind_cpu_input("x", np.array([0, 1, 3, 2], np.float32))
    with pytest.raises(RuntimeError, match="computed output shape for this run is {1,3}"):
        found.run_with_iobinding(binding)


# ---- runs on values --------------------------------------------------------------------------------------------------

def test_runs_on_values(engine, sums):
    feed = {"x": value_of(engine, X), "y": value_of(engine, Y)}
    z, w = sums.run_with_ort_values(None, feed)
    np.testing.assert_array_equal(z.numpy(), X + Y)
    np.testing.assert_array_equal(w.numpy(), -(X + Y))
    (w,) = sums.run_with_ort_values(["w"], feed, engine.api.RunOptions())
    np.testing.assert_array_equal(w.numpy(), -(X + Y))
    (again,) = sums.run_with_ort_values(["w"], feed)
    assert again.data_ptr() != w.data_ptr()


def test_checks_of_runs_on_values(engine, sums):
    x = value_of(engine, X)
    with pytest.raises(ValueError, match=r"Required inputs \(\['y'\]\) are missing from input feed \(\['x'\]\)\."):
        sums.run_with_ort_values(None, {"x": x})
    with pytest.raises(AttributeError):
        sums.run_with_ort_values(None, {"x": X, "y": X})
    for feed, names, says in [({}, ["q"], "Invalid output name:q"), ({"q": x}, None, "Invalid input name: q"),
                              ({"y": value_of(engine, X.astype(np.float64))}, None, "Unexpected input data type"),
                              ({"y": value_of(engine, X[0])}, None, "Invalid rank for input: y")]:
        with pytest.raises(engine.errors.InvalidArgument, match=says):
            sums.run_with_ort_values(names, {"x": x, "y": x, **feed})


def test_a_value_is_fed_like_an_array(engine, sums):
    z, _ = sums.run(None, {"x": value_of(engine, X), "y": Y})
    np.testing.assert_array_equal(z, X + Y)


def test_initializers_are_overridden_by_values(engine):
    session = engine.session(models.overridable())
    w = np.array([5, 6, 7], np.float32)
    (y,) = session.run_with_ort_values(None, {"x": value_of(engine, X), "w": value_of(engine, w)})
    np.testing.assert_array_equal(y.numpy(), X * w)


def test_initializers_are_overridden_by_bindings(ours):
    session, w = ours.session(models.overridable()), np.array([5, 6, 7], np.float32)
    binding = session.io_binding()
    binding.bind_cpu_input("x", X)
    binding.bind_output("y")
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(binding.get_outputs()[0].numpy(), X * np.array([1, 2, 3], np.float32))
    binding.bind_cpu_input("w", w)
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(binding.get_outputs()[0].numpy(), X * w)


def test_vectors_of_values(ours):
    session = ours.session(models.sums())
    feeds, fetches = ours.api.OrtValueVector(), ours.api.OrtValueVector()
    feeds.push_back(value_of(ours, X))
    feeds.push_back(Y.copy().__dlpack__(), False)
    session.run_with_ortvaluevector(ours.api.RunOptions(), ["x", "y"], feeds, ["w"], fetches, [])
    np.testing.assert_array_equal(fetches[0].numpy(), -(X + Y))


# ---- many ------------------------------------------------------------------------------------------------------------

def test_bindings_of_one_session_in_threads(engine, sums):
    wrong = []

    def work(k):
        binding = sums.io_binding()
        x = np.full((k + 1, 3), k, np.float32)
        binding.bind_cpu_input("x", x)
        binding.bind_cpu_input("y", x)
        binding.bind_output("z")
        for step in range(200):
            x[...] = k + step
            sums.run_with_iobinding(binding)
            if not (binding.get_outputs()[0].numpy() == 2 * (k + step)).all():
                wrong.append((k, step))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def decoder(layers: int = 2, heads: int = 2, width: int = 4) -> onnx.ModelProto:
    """One step of a decoder: for each layer present = past with one more row, and a sum over it."""
    nodes, inputs, outputs = [], [models.value("x", [1, heads, 1, width])], []
    last = "x"
    for i in range(layers):
        shape = [1, heads, "past", width]
        inputs.append(models.value(f"past.{i}", shape))
        nodes += [models.node("Concat", f"past.{i} {last}", f"present.{i}", axis=2),
                  models.node("ReduceMean", f"present.{i}", f"mean.{i}", axes=[2], keepdims=1),
                  models.node("Tanh", f"mean.{i}", f"h.{i}")]
        outputs.append(models.value(f"present.{i}", [1, heads, "total", width]))
        last = f"h.{i}"
    return models.model(nodes, inputs, [models.value(last, [1, heads, 1, width]), *outputs])


@pytest.mark.parametrize("way", ["binding", "values"])
def test_a_loop_of_decoding_steps(engine, way):
    """200 steps, what one gives as present is the next one's past: equal to the loop through arrays."""
    session = engine.session(decoder())
    first = np.random.default_rng(0).standard_normal((1, 2, 1, 4), np.float32)
    names = ["h.1", "present.0", "present.1"]
    nothing = np.zeros((1, 2, 0, 4), np.float32)
    state = [first, nothing, nothing]
    expected = []
    for _ in range(200):
        state = session.run(names, dict(zip(["x", "past.0", "past.1"], state, strict=True)))
        expected.append(state[0])
    values = [value_of(engine, a) for a in (first, nothing, nothing)]
    binding = session.io_binding()
    for step in range(200):
        feed = dict(zip(["x", "past.0", "past.1"], values, strict=True))
        if way == "values":
            values = session.run_with_ort_values(names, feed)
        else:
            for name, value in feed.items():
                binding.bind_ortvalue_input(name, value)
            for name in names:
                binding.bind_output(name)
            session.run_with_iobinding(binding)
            values = binding.get_outputs()
        np.testing.assert_array_equal(values[0].numpy(), expected[step])
    np.testing.assert_array_equal(values[2].numpy(), state[2])
    if engine.name == "onnxc":
        assert session.statistics()["compilations"] <= 1
