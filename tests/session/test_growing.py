"""Outputs that continue an input: decode loops through numpy, OrtValue and IOBinding give the same values; where the
past lies in memory with room it is neither copied nor written, and nothing is compiled again."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxc

HEADS, WIDTH = 4, 16
Arrays = dict[str, np.ndarray]


def attention(dtype: int = TensorProto.FLOAT, keys_last: bool = False) -> bytes:
    """A step of attention whose keys and values are appended to those of the steps before; with `keys_last` keys lie
    as [batch, head, element, position]."""
    rows, columns = ["B", HEADS, "P", WIDTH], ["B", HEADS, WIDTH, "P"]
    new, turned = ["B", HEADS, "N", WIDTH], ["B", HEADS, WIDTH, "N"]
    nodes = [helper.make_node("Concat", ["past_k", "k"], ["present_k"], axis=3 if keys_last else 2),
             helper.make_node("Concat", ["past_v", "v"], ["present_v"], axis=2),
             helper.make_node("Transpose", ["present_k"], ["kt"], perm=[0, 1, 3, 2])]
    scores = helper.make_node("MatMul", ["q", "present_k" if keys_last else "kt"], ["s"])
    nodes = nodes[:2] if keys_last else nodes
    nodes += [scores, helper.make_node("Softmax", ["s"], ["p"], axis=-1),
              helper.make_node("MatMul", ["p", "present_v"], ["y"])]
    shapes = {"past_k": columns if keys_last else rows, "past_v": rows, "k": turned if keys_last else new, "v": new,
              "q": new}
    inputs = [helper.make_tensor_value_info(name, dtype, shape) for name, shape in shapes.items()]
    outputs = [helper.make_tensor_value_info(name, dtype, None) for name in ("y", "present_k", "present_v")]
    graph = helper.make_graph(nodes, "step", inputs, outputs)
    text = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()
    assert isinstance(text, bytes)
    return text


def step(rng: np.random.Generator, rows: int = 1, dtype: Any = np.float32, keys_last: bool = False) -> Arrays:
    new = {name: rng.standard_normal((2, HEADS, rows, WIDTH)).astype(dtype) for name in ("k", "v", "q")}
    return new | {"k": np.ascontiguousarray(new["k"].swapaxes(2, 3))} if keys_last else new


def empty(dtype: Any = np.float32, keys_last: bool = False) -> Arrays:
    return {"past_k": np.zeros((2, HEADS, WIDTH, 0) if keys_last else (2, HEADS, 0, WIDTH), dtype),
            "past_v": np.zeros((2, HEADS, 0, WIDTH), dtype)}


def values(arrays: Arrays) -> dict[str, Any]:
    return {name: onnxc.OrtValue.ortvalue_from_numpy(a) for name, a in arrays.items()}


def run(session: Any, past: dict[str, Any], new: Arrays) -> tuple[Any, dict[str, Any]]:
    y, k, v = session.run_with_ort_values(None, {**past, **values(new)})
    return y, {"past_k": k, "past_v": v}


def place(value: Any) -> int:
    """Where a value lies, which asking for its address as such would change: others expect no room in it."""
    return int(value._tensor.address)


@pytest.mark.parametrize(("onnx_type", "dtype", "keys_last"), [
    (TensorProto.FLOAT, np.float32, False), (TensorProto.FLOAT, np.float32, True),
    (TensorProto.FLOAT16, np.float16, False)])
def test_a_decode_loop_copies_the_past_only_when_it_runs_out_of_room(onnx_type: int, dtype: Any,
                                                                     keys_last: bool) -> None:
    session, rng = onnxc.InferenceSession(attention(onnx_type, keys_last)), np.random.default_rng(0)
    assert len(session._programs.plain.compiled.caches) == 2
    arrays, past = empty(dtype, keys_last), values(empty(dtype, keys_last))
    moves, places = 0, (0, 0)
    for i in range(200):
        new = step(rng, 3 if i == 7 else 1, dtype, keys_last)
        wanted, arrays["past_k"], arrays["past_v"] = session.run(None, {**arrays, **new})
        y, past = run(session, past, new)
        np.testing.assert_array_equal(y.numpy(), wanted)
        moves += places != (places := (place(past["past_k"]), place(past["past_v"])))
    assert moves == 2           # into the first room, and out of it when it was full
    for name, value in past.items():
        np.testing.assert_array_equal(value.numpy(), arrays[name])


def test_of_two_continuations_of_one_past_each_has_its_own_rows() -> None:
    session, rng = onnxc.InferenceSession(attention()), np.random.default_rng(1)
    _, past = run(session, values(empty()), step(rng, 5))
    before = past["past_k"].numpy().copy()
    one, other = step(rng), step(rng)
    (y1, after1), (y2, after2) = run(session, past, one), run(session, past, other)
    assert place(after1["past_k"]) == place(past["past_k"]) != place(after2["past_k"])
    for new, y, after in ((one, y1, after1), (other, y2, after2)):
        wanted, keys, _ = session.run(None, {"past_k": before, "past_v": past["past_v"].numpy(), **new})
        np.testing.assert_array_equal(y.numpy(), wanted)
        np.testing.assert_array_equal(after["past_k"].numpy(), keys)
    np.testing.assert_array_equal(past["past_k"].numpy(), before)
    _, again = run(session, after2, one)                    # a copy goes on in place
    assert place(again["past_k"]) == place(after2["past_k"])


def test_values_of_other_rooms_go_on_together() -> None:
    session, rng = onnxc.InferenceSession(attention()), np.random.default_rng(2)
    _, long = run(session, values(empty()), step(rng, 200))
    _, same = run(session, values({name: value.numpy() for name, value in long.items()}), step(rng))
    mixed = {"past_k": long["past_k"], "past_v": onnxc.OrtValue.ortvalue_from_numpy(long["past_v"].numpy())}
    new = step(rng)
    wanted, keys, _ = session.run(None, {**{name: value.numpy() for name, value in mixed.items()}, **new})
    y, after = run(session, mixed, new)
    np.testing.assert_array_equal(y.numpy(), wanted)
    np.testing.assert_array_equal(after["past_k"].numpy(), keys)
    assert same["past_k"].shape() == [2, HEADS, 201, WIDTH]


def test_outputs_bound_back_as_inputs_stay_where_they_are() -> None:
    session, rng = onnxc.InferenceSession(attention()), np.random.default_rng(3)
    arrays, past = empty(), values(empty())
    places = set()
    for _ in range(40):
        new, binding = step(rng), session.io_binding()
        for name, value in past.items():
            binding.bind_ortvalue_input(name, value)
        for name, array in new.items():
            binding.bind_cpu_input(name, array)
        for name in ("y", "present_k", "present_v"):
            binding.bind_output(name)
        session.run_with_iobinding(binding)
        y, past["past_k"], past["past_v"] = binding.get_outputs()
        wanted, arrays["past_k"], arrays["past_v"] = session.run(None, {**arrays, **new})
        np.testing.assert_array_equal(y.numpy(), wanted)
        places.add(place(past["past_v"]))
    assert len(places) == 1
    np.testing.assert_array_equal(past["past_v"].numpy(), arrays["past_v"])


def test_given_memory_for_the_present_is_written_without_room() -> None:
    session, rng = onnxc.InferenceSession(attention()), np.random.default_rng(4)
    _, past = run(session, values(empty()), step(rng, 5))
    new, binding = step(rng), session.io_binding()
    wanted = session.run(None, {**{name: value.numpy() for name, value in past.items()}, **new})
    keys = np.zeros((2, HEADS, 6, WIDTH), np.float32)
    for name, value in {**past, **values(new)}.items():
        binding.bind_ortvalue_input(name, value)
    binding.bind_output("y")
    binding.bind_ortvalue_output("present_k", onnxc.OrtValue.ortvalue_from_numpy(keys))
    binding.bind_output("present_v")
    session.run_with_iobinding(binding)
    for found, want in zip(binding.get_outputs(), wanted, strict=True):
        np.testing.assert_array_equal(found.numpy(), want)
    np.testing.assert_array_equal(keys, wanted[1])


def bound(session: Any, past: dict[str, Any], new: Arrays) -> Any:
    binding = session.io_binding()
    for name, value in {**past, **values(new)}.items():
        binding.bind_ortvalue_input(name, value)
    for name in ("y", "present_k", "present_v"):
        binding.bind_output(name)
    session.run_with_iobinding(binding)
    return binding


def test_a_run_that_is_repeated_leaves_what_others_continued() -> None:
    session, rng = onnxc.InferenceSession(attention()), np.random.default_rng(7)
    new = step(rng, 5)
    binding = bound(session, values(empty()), new)
    _, keys, rows = binding.get_outputs()
    _, after = run(session, {"past_k": keys, "past_v": rows}, step(rng))
    kept = after["past_k"].numpy().copy()
    new["k"][...] = 7
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(after["past_k"].numpy(), kept)
    for found, want in zip(binding.get_outputs(), session.run(None, {**empty(), **new}), strict=True):
        np.testing.assert_array_equal(found.numpy(), want)


def test_memory_with_room_is_not_written_by_a_run_that_has_none() -> None:
    session, rng = onnxc.InferenceSession(attention()), np.random.default_rng(8)
    new = step(rng, 5)
    binding = bound(session, values(empty()), new)
    binding.bind_ortvalue_output("present_v", onnxc.OrtValue.ortvalue_from_shape_and_type([2, HEADS, 5, WIDTH],
                                                                                          np.float32))
    new["k"][...] = rng.standard_normal(new["k"].shape)
    session.run_with_iobinding(binding)
    for found, want in zip(binding.get_outputs(), session.run(None, {**empty(), **new}), strict=True):
        np.testing.assert_array_equal(found.numpy(), want)


def test_a_present_with_room_can_be_bound_and_shared_like_any_value() -> None:
    session, rng = onnxc.InferenceSession(attention()), np.random.default_rng(9)
    _, past = run(session, values(empty()), step(rng, 5))
    _, after = run(session, past, step(rng))
    keys, rows = (past[name].numpy().copy() for name in ("past_k", "past_v"))
    new = step(rng, 6)
    wanted = session.run(None, {**empty(), **new})
    binding = bound(session, values(empty()), new)
    binding.bind_ortvalue_output("present_k", after["past_k"])
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(after["past_k"].numpy(), wanted[1])
    again, exported = onnxc.OrtValue.from_dlpack(after["past_v"]), np.from_dlpack(after["past_v"])
    assert again.data_ptr() == after["past_v"].data_ptr() == exported.ctypes.data
    assert exported.flags.c_contiguous
    after["past_v"].update_inplace(np.zeros(after["past_v"].shape(), np.float32))
    assert not exported.any() and not again.numpy().any()
    np.testing.assert_array_equal(past["past_k"].numpy(), keys)         # which had the same memory
    np.testing.assert_array_equal(past["past_v"].numpy(), rows)


def test_an_output_may_lie_where_the_past_does() -> None:
    session, rng = onnxc.InferenceSession(attention()), np.random.default_rng(10)
    _, past = run(session, values(empty()), step(rng, 5))
    new = step(rng)
    wanted = session.run(None, {**{name: value.numpy() for name, value in past.items()}, **new})
    binding = bound(session, past, new)
    binding.bind_output("y", "cpu", 0, np.float32, [2, HEADS, 1, WIDTH], place(past["past_k"]))
    session.run_with_iobinding(binding)
    for found, want in zip(binding.get_outputs(), wanted, strict=True):
        np.testing.assert_array_equal(found.numpy(), want)


def test_an_artifact_knows_its_caches(tmp_path: Any) -> None:
    from onnxc.driver import compile_model
    from onnxc.runtime.artifact import save
    path = tmp_path / "step.onnxc"
    save(compile_model(attention()), path)
    session, rng = onnxc.InferenceSession(path), np.random.default_rng(5)
    _, past = run(session, values(empty()), step(rng, 5))
    _, after = run(session, past, step(rng))
    assert place(after["past_k"]) == place(past["past_k"])


def test_what_is_appended_to_itself_is_no_cache() -> None:
    graph = onnx.load_from_string(attention()).graph
    graph.node[0].input[:] = ["past_k", "past_k"]
    text = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()
    session, rng = onnxc.InferenceSession(text), np.random.default_rng(6)
    compiled = session._programs.plain.compiled
    assert [compiled.signature.inputs[c.input].name for c in compiled.caches] == ["past_v"]
    new = step(rng)
    past = {"past_k": rng.standard_normal((2, HEADS, 1, WIDTH)).astype(np.float32),
            "past_v": rng.standard_normal((2, HEADS, 1, WIDTH)).astype(np.float32)}
    _, keys, _ = session.run(None, {**past, **new})
    np.testing.assert_array_equal(keys, np.concatenate([past["past_k"]] * 2, 2))
