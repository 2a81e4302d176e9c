"""TensorProto -> numpy: every element type in every field, and every way in which size and data can disagree."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import SparseTensorProto, TensorProto, helper, numpy_helper

from onnxc import errors
from onnxc.frontend import Limits
from onnxc.frontend.external import ExternalFiles
from onnxc.frontend.tensors import TensorReader
from onnxc.ir.types import ALL_DTYPES, DType

READER = TensorReader(ExternalFiles(None), Limits())
NUMERIC = [d for d in ALL_DTYPES if d.kind != "str"]


def sample(d: DType, count: int) -> np.ndarray:
    """Values that all types can hold, negative ones and fractions where there are any."""
    if d.kind == "complex":
        return (np.arange(count) - 1j * np.arange(count)[::-1]).astype(d.numpy)
    if d.kind == "bool":
        return np.arange(count) % 2 == 1
    if d.bits == 2:
        return (np.arange(count) % 4 - (2 if d.kind == "int" else 0)).astype(np.int8).astype(d.numpy)
    if d.bits == 4 and d.is_integer:
        return (np.arange(count) % 16 - (8 if d.kind == "int" else 0)).astype(np.int8).astype(d.numpy)
    low = -3 if d.is_signed and d.name != "f8e8m0" else 1
    return (np.arange(count) + low).astype(np.float32).astype(d.numpy)


@pytest.mark.parametrize("d", NUMERIC, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (7,), (2, 0, 3), (3, 5)], ids=str)
def test_raw_and_typed_fields(d: DType, shape: tuple[int, ...]) -> None:
    a = sample(d, int(np.prod(shape))).reshape(shape)
    raw = numpy_helper.from_array(a, "t")
    typed = helper.make_tensor("t", d.onnx, shape, list(a.ravel()))
    for proto in (raw, typed):
        assert proto.data_type == d.onnx
        found = READER.read(proto)
        assert found.dtype == d.numpy and found.shape == shape and found.tobytes() == a.tobytes()


def test_strings() -> None:
    a = np.array([["a", ""], ["\u00e9", "x" * 100]], object)
    found = READER.read(numpy_helper.from_array(a))
    assert found.dtype == object and found.tolist() == a.tolist()


def test_raw_data_is_not_copied() -> None:
    proto = numpy_helper.from_array(np.arange(1000, dtype=np.float32))
    assert not READER.read(proto).flags.owndata


@pytest.mark.parametrize("name", ["u4", "i4", "u2", "i2", "f4e2m1"])
@pytest.mark.parametrize("count", range(9))
def test_sub_byte_types_pack_from_the_lowest_bits(name: str, count: int) -> None:
    d = next(d for d in ALL_DTYPES if d.name == name)
    codes = (np.arange(count) * 7 + 3) % (1 << d.bits)
    packed = bytearray((count * d.bits + 7) // 8)
    for i, c in enumerate(codes):
        packed[i * d.bits // 8] |= int(c) << (i * d.bits % 8)
    found = READER.read(TensorProto(data_type=d.onnx, dims=[count], raw_data=bytes(packed)))
    assert [int(v) for v in found.view(np.uint8) & ((1 << d.bits) - 1)] == codes.tolist()


def tensor(dtype: int = TensorProto.FLOAT, dims: tuple[int, ...] = (2,), **fields: object) -> TensorProto:
    return TensorProto(name="w\n", data_type=dtype, dims=list(dims), **fields)  # type: ignore[arg-type]


BAD: list[tuple[TensorProto, type[Exception], str]] = [
    (tensor(raw_data=bytes(7)), errors.InvalidGraph, "take 8 bytes, but its raw data has 7"),
    (tensor(raw_data=bytes(9)), errors.InvalidGraph, "take 8 bytes"),
    (tensor(), errors.InvalidGraph, "entries of float_data, but there are 0"),
    (tensor(float_data=[1.0]), errors.InvalidGraph, "there are 1"),
    (tensor(float_data=[1.0] * 3), errors.InvalidGraph, "there are 3"),
    (tensor(dims=(), float_data=[]), errors.InvalidGraph, "there are 0"),
    (tensor(dims=(0,), float_data=[1.0]), errors.InvalidGraph, "there are 1"),
    (tensor(float_data=[1.0, 2.0], raw_data=bytes(8)), errors.InvalidGraph, "one and only one value field"),
    (tensor(int64_data=[1, 2]), errors.InvalidGraph, "stand in raw_data or float_data, not in int64_data"),
    (tensor(dims=(-1,), float_data=[]), errors.InvalidGraph, "no negative dim"),
    (tensor(dims=(2**31, 2**31)), errors.Fail, "element count"),
    (tensor(dims=(0, 2**62)), errors.Fail, "element count"),
    (tensor(dims=(1,) * 33, float_data=[1.0]), errors.Fail, "rank"),
    (tensor(dtype=0), errors.InvalidGraph, "element type 0"),
    (tensor(dtype=99), errors.InvalidGraph, "element type 99"),
    (tensor(dtype=TensorProto.FLOAT6E2M3), errors.NotImplemented, "FLOAT6E2M3"),
    (tensor(dtype=TensorProto.INT8, int32_data=[1, 128]), errors.InvalidGraph, "outside of -128..127"),
    (tensor(dtype=TensorProto.UINT8, int32_data=[1, -1]), errors.InvalidGraph, "outside of 0..255"),
    (tensor(dtype=TensorProto.BOOL, int32_data=[1, 2]), errors.InvalidGraph, "outside of 0..1"),
    (tensor(dtype=TensorProto.BOOL, raw_data=b"\x01\x02"), errors.InvalidGraph, "other than 0 and 1"),
    (tensor(dtype=TensorProto.FLOAT16, int32_data=[1, 65536]), errors.InvalidGraph, "outside of 0..65535"),
    (tensor(dtype=TensorProto.UINT32, uint64_data=[1, 2**32]), errors.InvalidGraph, "outside of 0..4294967295"),
    (tensor(dtype=TensorProto.INT4, dims=(3,), raw_data=b"\0"), errors.InvalidGraph, "take 2 bytes"),
    (tensor(dtype=TensorProto.INT4, dims=(3,), int32_data=[1]), errors.InvalidGraph, "take 2 entries"),
    (tensor(dtype=TensorProto.COMPLEX64, float_data=[1.0, 2.0]), errors.InvalidGraph, "take 4 entries"),
    (tensor(dtype=TensorProto.STRING, string_data=[b"a"]), errors.InvalidGraph, "1 elements of string_data"),
    (tensor(dtype=TensorProto.STRING, string_data=[b"a", b"\xff"]), errors.InvalidGraph, "string 1 is not UTF-8"),
    (tensor(dtype=TensorProto.STRING, raw_data=b"ab"), errors.InvalidGraph, "raw_data"),
    (tensor(dtype=TensorProto.STRING, dims=(1,), string_data=[b"x" * (2**20 + 1)]), errors.Fail, "string_bytes"),
    (tensor(float_data=[1.0, 2.0], segment=TensorProto.Segment(begin=0, end=2)), errors.NotImplemented, "segments"),
]


@pytest.mark.parametrize("proto,kind,words", BAD, ids=[w for _, _, w in BAD])
def test_bad_tensors(proto: TensorProto, kind: type[errors.OnnxcError], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        READER.read(proto)
    assert "'w\\n'" in caught.value.message, "the tensor is named, control characters escaped"


def sparse(values: list[float], indices: np.ndarray, dims: tuple[int, ...]) -> SparseTensorProto:
    return helper.make_sparse_tensor(numpy_helper.from_array(np.array(values, np.float32), "s"),
                                     numpy_helper.from_array(indices), dims)


@pytest.mark.parametrize("indices", [np.array([1, 5], np.int64), np.array([[0, 1], [1, 2]], np.int64)],
                         ids=["flat", "nd"])
def test_sparse(indices: np.ndarray) -> None:
    np.testing.assert_array_equal(READER.sparse(sparse([3, 4], indices, (2, 3))), [[0, 3, 0], [0, 0, 4]])


@pytest.mark.parametrize("values,indices,dims,kind,words", [
    ([3, 4], [1, 6], (2, 3), errors.InvalidGraph, "have to lie in the dims"),
    ([3, 4], [-1, 2], (2, 3), errors.InvalidGraph, "have to lie in the dims"),
    ([3, 4], [2, 2], (2, 3), errors.InvalidGraph, "each once"),
    ([3, 4], [3, 2], (2, 3), errors.InvalidGraph, "sorted"),
    ([3, 4], [[0, 3], [1, 0]], (2, 3), errors.InvalidGraph, "outside of the dims"),
    ([3, 4], [1], (2, 3), errors.InvalidGraph, "has to be"),
    ([3, 4], [[1, 2]], (2, 3), errors.InvalidGraph, "has to be"),
    ([3], [0], (2**40,), errors.Fail, "dense_bytes"),
])
def test_bad_sparse(values: list[float], indices: list, dims: tuple[int, ...], kind: type[Exception],
                    words: str) -> None:
    with pytest.raises(kind, match=words):
        READER.sparse(sparse(values, np.array(indices, np.int64), dims))
