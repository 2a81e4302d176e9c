"""The parts below a session: packed elements, dimensions from shapes, shapes from dimensions."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from onnxc.errors import InvalidArgument, RuntimeException
from onnxc.ir.dims import parse_dim
from onnxc.ir.types import ALL_DTYPES, F32, Tensor, dtype_of
from onnxc.runtime.bind import DimBinder, shape_function
from onnxc.runtime.packing import pack, unpack

NARROW = [d for d in ALL_DTYPES if 0 < d.bits < 8]


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3,), (2, 3), (5, 0), (4, 4)])
def test_unpacking_undoes_packing(dtype, shape):
    codes = np.random.default_rng(0).integers(0, 1 << dtype.bits, shape, np.uint8)
    array = np.asarray(codes).view(dtype.numpy)
    packed = pack(array, dtype)
    assert packed.nbytes == dtype.nbytes(array.size)
    again = unpack(packed, dtype, shape)
    assert (again.dtype, again.shape) == (dtype.numpy, shape)
    np.testing.assert_array_equal(again.view(np.uint8), codes)


def test_the_first_element_is_lowest():
    four = np.array([1, 2, -1], ml_dtypes.int4)
    np.testing.assert_array_equal(pack(four, dtype_of(four.dtype)), [0x21, 0x0F])
    two = np.array([1, 2, 3, 0, 3], ml_dtypes.uint2)
    np.testing.assert_array_equal(pack(two, dtype_of(two.dtype)), [0b00_11_10_01, 0b11])


def binder(*shapes, symbols):
    types = [Tensor(F32, tuple(parse_dim(str(d)) for d in shape)) for shape in shapes]
    return DimBinder(symbols, types, [f"in{i}" for i in range(len(shapes))])


@pytest.mark.parametrize(("shapes", "fed", "expected"), [
    ([("N", 3)], [(7, 3)], {"N": 7}),
    ([("2*N + 1", "N")], [(7, 3)], {"N": 3}),
    ([("2*N + 1",)], [(7,)], {"N": 3}),
    ([("N + M",), ("M",)], [(7,), (7,)], {"N": 0, "M": 7}),
    ([("A + B + C",), ("A - B",), ("B",)], [(9,), (1,), (2,)], {"A": 3, "B": 2, "C": 4}),
    ([("8 - N",), ("N // 2",)], [(3,), (2,)], {"N": 5}),
    ([()], [()], {}),
])
def test_symbols_are_solved_in_whatever_order_works(shapes, fed, expected):
    assert binder(*shapes, symbols=list(expected)).bind(fed) == expected


@pytest.mark.parametrize(("shapes", "fed", "says"), [
    ([("N",), ("N",)], [(2,), (3,)], "dimension 0 of input 'in1' is 3, but dimension 0 of input 'in0' is 2"),
    ([("2*N",)], [(3,)], "dimension 0 of input 'in0' is 3, which is not of the form"),
    ([("N + 5",)], [(3,)], "with N at least 0"),
    ([("N", "N // 2")], [(4, 3)], "dimension 1 of input 'in0' is 3"),
    ([("N", 3)], [(4, 2)], "dimension 1 of input 'in0' is 2; the model takes 3 only"),
    ([("N",)], [(4, 2)], "Invalid rank for input: in0 Got: 2 Expected: 1"),
])
def test_shapes_that_do_not_fit_are_named(shapes, fed, says):
    with pytest.raises(InvalidArgument, match=says):
        binder(*shapes, symbols=["N"]).bind(fed)


def test_a_symbol_that_no_input_gives_is_noticed_before_a_run():
    with pytest.raises(RuntimeException, match=r"the dimensions M, which the shapes of its inputs \(in0\) do not give"):
        binder(("N", "N * M"), symbols=["N", "M"]).bind([(1, 2)])


def test_shapes_of_outputs():
    shapes = shape_function([Tensor(F32, (parse_dim("N"), 2)), Tensor(F32, (parse_dim("(N + 3) // 2"),))])
    assert shapes({"N": 4}) == ((4, 2), (3,))
