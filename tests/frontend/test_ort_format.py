"""ONNX Runtime's model format: what its own converter writes is read, and damaged files end in typed errors."""

from __future__ import annotations

import os
import random

import flatbuffers
import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from onnxc.errors import Fail, InvalidArgument, NotImplemented
from onnxc.frontend import import_model, load_model
from onnxc.ir.verify import verify
from onnxc.ops import load_all
from tests.frontend.damage import cut, flip, outcome
from tests.frontend.models import graph, model, node, untyped, value

load_all()


def ort_bytes(proto: onnx.ModelProto, folder, level: str = "ORT_ENABLE_ALL") -> bytes:
    """The model as ONNX Runtime saves it; like its converter, without the layouts of one kind of processor."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(folder / "m.ort")
    ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"],
                         disabled_optimizers=["NchwcTransformer"])
    return (folder / "m.ort").read_bytes()


def rich_model() -> onnx.ModelProto:
    """Something of everything that the format holds: every kind of attribute, branches, types, texts."""
    r = np.random.default_rng(3)
    weights = [numpy_helper.from_array(r.standard_normal((64, 80)).astype(np.float32), "w"),
               numpy_helper.from_array(np.array([1, -2], np.int64), "i"),
               numpy_helper.from_array(r.standard_normal((80, 64, 3)).astype(np.float32), "k"),
               numpy_helper.from_array(np.array(["a", "b"], object), "names")]
    then = graph([node("Mul", "m two", "t")], [], [value("t", None)], [numpy_helper.from_array(np.float32(2), "two")])
    other = graph([node("Relu", "m", "e")], [], [value("e", None)])
    nodes = [node("MatMul", "x w", "m", "mm"), node("If", "c", "f", "branch", then_branch=then, else_branch=other),
             node("LeakyRelu", "f", "l", "leaky", alpha=0.25), node("Unsqueeze", "l axis", "u", "three"),
             node("Conv", "u k", "v", "conv", pads=[1, 1], auto_pad="NOTSET"), node("Relu", "v", "y", "act"),
             node("SequenceConstruct", "y y", "s", "sequence"), node("Identity", "names", "n", "texts")]
    weights.append(numpy_helper.from_array(np.array([2]), "axis"))
    g = graph(nodes, [value("x", ("N", 64)), value("c", (), TensorProto.BOOL)], [value("y", None), untyped("s"),
                                                                               value("n", None, TensorProto.STRING)],
              weights)
    g.output[1].type.sequence_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT
    g.doc_string = "of the graph"
    m = model(g, 17, 9)
    m.producer_name, m.doc_string, m.domain, m.model_version = "maker", "what it does", "org.example", 7
    m.metadata_props.add(key="k", value="v")
    return m


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> bytes:
    return ort_bytes(rich_model(), tmp_path_factory.mktemp("ort"))


def test_everything_is_read(data):
    loaded = load_model(data)
    proto = loaded.proto
    assert (proto.producer_name, proto.doc_string, proto.domain) == ("maker", "what it does", "org.example")
    assert (proto.model_version, proto.ir_version) == (7, 9)
    assert {p.key: p.value for p in proto.metadata_props} == {"k": "v"}
    assert [i.name for i in proto.graph.input] == ["x", "c"]
    assert [o.name for o in proto.graph.output] == ["y", "s", "n"]
    assert proto.graph.output[1].type.sequence_type.elem_type.tensor_type.elem_type == TensorProto.FLOAT
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    by_type = {n.op_type: n for n in proto.graph.node}
    assert by_type["LeakyRelu"].attribute[0].f == 0.25
    assert {a.g.node[0].op_type for a in by_type["If"].attribute} == {"Mul", "Relu"}
    assert by_type["FusedConv"].domain == "com.microsoft"
    sizes = {t.name: loaded.blobs[i].nbytes if i in loaded.blobs else len(t.raw_data)
             for i, t in enumerate(proto.graph.initializer)}
    assert sizes["w"] == 64 * 80 * 4
    strings = next(t for t in proto.graph.initializer if t.data_type == TensorProto.STRING)
    assert list(strings.string_data) == [b"a", b"b"]
    verify(import_model(loaded))


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"])
def test_every_level_of_the_converter(tmp_path, level):
    verify(import_model(load_model(ort_bytes(rich_model(), tmp_path, level))))


def test_a_file_with_recorded_rewrites(tmp_path):
    pytest.importorskip("onnxruntime")
    from onnxruntime.tools.convert_onnx_models_to_ort import OptimizationStyle, convert_onnx_models_to_ort
    onnx.save(rich_model(), tmp_path / "m.onnx")
    convert_onnx_models_to_ort(tmp_path, optimization_styles=[OptimizationStyle.Fixed, OptimizationStyle.Runtime])
    for name in ("m.ort", "m.with_runtime_opt.ort"):
        verify(import_model(load_model(tmp_path / name)))


# ---- what is wrong ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("bad", [b"", b"ORTM", b"\x08\0\0\0ORTM", b"\xff\xff\xff\xffORTM" + bytes(40),
                                 b"\x10\0\0\0ORTM" + bytes(64), bytes(100)])
def test_bytes_that_are_no_such_model(bad):
    with pytest.raises(Fail, match="ORT model verification failed"):
        load_model(bad, ort_format=True)


def test_onnx_bytes_are_no_such_model():
    with pytest.raises(Fail, match="ORT model verification failed"):
        load_model(rich_model().SerializeToString(), ort_format=True)


def _built(version: bytes, model: bool = True) -> bytes:
    b = flatbuffers.Builder(0)
    text = b.CreateString(version)
    b.StartObject(10)
    inner = b.EndObject()
    b.StartObject(4)
    b.PrependUOffsetTRelativeSlot(0, text, 0)
    if model:
        b.PrependUOffsetTRelativeSlot(1, inner, 0)
    b.Finish(b.EndObject(), file_identifier=b"ORTM")
    return bytes(b.Output())


def test_other_versions_are_refused():
    with pytest.raises(Fail, match=r"version \['4'\] is not supported; 5 and 6 are"):
        load_model(_built(b"4"))


@pytest.mark.parametrize("model", [True, False])
def test_a_file_without_a_graph(model):
    with pytest.raises(InvalidArgument, match="No graph"):
        load_model(_built(b"6", model))


def _of_tables(b: flatbuffers.Builder, tables: list[int]) -> int:
    b.StartVector(4, len(tables), 4)
    for table in reversed(tables):
        b.PrependUOffsetTRelative(table)
    return b.EndVector()


def _of_fields(b: flatbuffers.Builder, count: int, **fields: int) -> int:
    b.StartObject(count)
    for slot, offset in fields.items():
        b.PrependUOffsetTRelativeSlot(int(slot.removeprefix("f")), offset, 0)
    return b.EndObject()


def test_tables_used_again_and_again_cost_no_more_than_the_file():
    """Thirty graphs, each of which holds the one below ten times: 10**30 when followed."""
    b = flatbuffers.Builder(0)
    version, inner = b.CreateString("6"), _of_fields(b, 9)
    for _ in range(30):
        inner_graphs = _of_tables(b, [inner] * 10)
        b.StartObject(13)
        b.PrependInt32Slot(2, onnx.AttributeProto.GRAPHS, 0)
        b.PrependUOffsetTRelativeSlot(12, inner_graphs, 0)
        attributes = _of_tables(b, [b.EndObject()])
        inner = _of_fields(b, 9, f2=_of_tables(b, [_of_fields(b, 13, f10=attributes)]))
    b.Finish(_of_fields(b, 4, f0=version, f1=_of_fields(b, 10, f7=inner)), file_identifier=b"ORTM")
    with pytest.raises(Fail, match="tables overlap"):
        load_model(bytes(b.Output()))


def test_a_text_used_again_and_again_costs_no_more_than_the_file():
    b = flatbuffers.Builder(0)
    version, long = b.CreateString("6"), b.CreateString("m" * 50_000)
    graph = _of_fields(b, 9, f5=_of_tables(b, [long] * 20_000))
    b.Finish(_of_fields(b, 4, f0=version, f1=_of_fields(b, 10, f7=graph)), file_identifier=b"ORTM")
    with pytest.raises(Fail, match="again and again"):
        load_model(bytes(b.Output()))


def test_data_in_another_file_is_refused(data):
    from onnxc.frontend import ort_format
    from onnxc.frontend.ort_buffer import Reader
    b = flatbuffers.Builder(0)
    b.StartObject(7)
    b.PrependInt64Slot(6, 64, -1)
    b.Finish(b.EndObject())
    reader = Reader(memoryview(bytes(b.Output())))
    with pytest.raises(NotImplemented, match="in another file"):
        ort_format._tensor(reader.table(reader.follow(0), 0), TensorProto())


def _word(r: random.Random, data: bytearray) -> None:
    at = r.randrange(len(data) // 4) * 4
    data[at:at + 4] = r.choice((0, 1, 4, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, r.randrange(len(data)),
                                r.randrange(1 << 32))).to_bytes(4, "little")


def _move(r: random.Random, data: bytearray) -> None:
    at = r.randrange(len(data))
    del data[at:at + 4 * r.randrange(1, 10)]


def _splice(r: random.Random, data: bytearray) -> None:
    a, b, n = r.randrange(len(data)), r.randrange(len(data)), 4 * r.randrange(1, 10)
    data[a:a + n] = data[b:b + n]


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> bytes:
    """Without large weights: any value is right for those."""
    m = rich_model()
    for i in (0, 2):
        array = numpy_helper.to_array(m.graph.initializer[i])
        m.graph.initializer[i].CopyFrom(numpy_helper.from_array(array[(slice(0, 2),) * 2], ("w", "", "k")[i]))
    m.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 2
    return ort_bytes(m, tmp_path_factory.mktemp("ort"))


@pytest.mark.parametrize("mutate", [flip, _word, cut, _move, _splice], ids=lambda f: f.__name__.strip("_"))
def test_mutated_bytes(small, mutate):
    r = random.Random(mutate.__name__)
    seen = set()
    for _ in range(int(os.environ.get("ONNXC_TEST_MUTATIONS", "200"))):
        bad = bytearray(small)
        for _ in range(r.choice((1, 1, 1, 2, 5))):
            mutate(r, bad)
            if not bad:
                break
        seen.add(outcome(bytes(bad), ort_format=True))
    assert "Fail" in seen
