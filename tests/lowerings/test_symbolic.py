"""Shapes that are only known at run time: what the lowering says about them holds for every size."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from onnxc.errors import UnsupportedModel
from tests.lowerings.models import GuardFailed, lowered

FAR = 2 ** 63 - 1


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def ramp(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)


# ---- slices --------------------------------------------------------------------------------------------------------
POSITIONS = (-FAR - 1, -5, -2, -1, 0, 1, 3, 6, 2 ** 31 - 1, FAR)


def sliced(x: np.ndarray, start: int, end: int, step: int) -> np.ndarray:
    """numpy's slice; ONNX moves a start before the first element to it when it goes down, where numpy gives nothing."""
    return x[0 if step < 0 and start < -len(x) else start:end:step]


@pytest.mark.parametrize("step", [1, 2, -1, -3, FAR, -FAR])
def test_a_slice_of_a_symbolic_axis_is_onnxs(step: int) -> None:
    for start, end in itertools.product(POSITIONS, POSITIONS):
        model = lowered("(float[N] x) => (float[M] y) { y = Slice(x, s, e, a, t) }", s=ints(start), e=ints(end),
                        a=ints(-1), t=ints(step))
        for n in range(6):
            want = sliced(ramp(n), start, end, step)
            np.testing.assert_array_equal(model(ramp(n)), want, f"{start}:{end}:{step} of {n}")


@pytest.mark.parametrize("offset", [-7, -2, -1, 0, 1, 4])
@pytest.mark.parametrize("step", [1, -2])
def test_a_slice_may_start_and_end_at_computed_positions(offset: int, step: int) -> None:
    model = lowered("""(float[N] x) => (float[A] y, float[B] z) {
        n = Shape(x)  p = Add(n, o)  y = Slice(x, p, far, zero, step)  z = Slice(x, zero, p, zero, step) }""",
                    o=ints(offset), far=ints(FAR), zero=ints(0), step=ints(step))
    for n in range(6):
        x = ramp(n)
        first, last = model(x)
        np.testing.assert_array_equal(first, sliced(x, n + offset, FAR, step), f"from {n} + {offset}")
        np.testing.assert_array_equal(last, sliced(x, 0, n + offset, step), f"to {n} + {offset}")


def test_the_end_of_a_slice_may_be_a_dim_of_another_input() -> None:
    model = lowered("""(float[K, N] x, float[N] t) => (float[A, B] y) { n = Shape(t)  y = Slice(x, zero, n, one) }""",
                    zero=ints(0), one=ints(1))
    assert model.types == ["f32[K, N]"]
    wide = lowered("(float[4, 512] x, float[N] t) => (float[A, B] y) { n = Shape(t)  y = Slice(x, zero, n, one) }",
                   zero=ints(0), one=ints(1))
    assert wide.types == ["f32[4, min(N, 512)]"]


def test_a_whole_slice_is_nothing() -> None:
    model = lowered("(float[N, 4] x) => (float[N, 4] y) { y = Slice(x, s, e) }", s=ints(0, 0), e=ints(FAR, 2 ** 31 - 1))
    assert model.ops == ["t.const", "t.const", "return"]


# ---- shapes --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("shape", "found"), [
    ((0, -1), "f32[B, S*768]"), ((0, 0, -1), "f32[B, S, 768]"), ((-1, 64), "f32[B*S*12, 64]"),
    ((0, -1, 12, 64), "f32[B, S, 12, 64]"), ((-1,), "f32[B*S*768]"), ((0, 0, 0, 8, 8, -1), "f32[B, S, 12, 8, 8, 1]"),
])
def test_reshape_divides_symbols(shape: tuple[int, ...], found: str) -> None:
    model = lowered("(float[B, S, 12, 64] x) => (float[] y) { y = Reshape(x, s) }", s=ints(*shape))
    assert model.types == [found] and model.guards == []
    x = ramp(2, 3, 12, 64)
    full = [x.shape[i] if d == 0 else d for i, d in enumerate(shape)]
    np.testing.assert_array_equal(model(x), x.reshape(full))


def test_reshape_to_sizes_that_cannot_be_compared_is_guarded() -> None:
    model = lowered("(float[N] x) => (float[A, B] y) { y = Reshape(x, s) }", s=ints(-1, 4))
    np.testing.assert_array_equal(model(ramp(8)), ramp(2, 4))
    with pytest.raises(GuardFailed):
        model(ramp(7))


def test_reshape_to_the_shape_of_another_input() -> None:
    model = lowered("(float[N] x, float[A, B] like) => (float[A, B] y) { s = Shape(like)  y = Reshape(x, s) }")
    np.testing.assert_array_equal(model(ramp(6), ramp(2, 3)), ramp(2, 3))
    with pytest.raises(GuardFailed):
        model(ramp(6), ramp(2, 2))


def test_reshape_by_a_divisor_that_may_be_zero() -> None:
    model = lowered("""(float[N] x, float[M] y) => (float[A, B] z) {
        m = Shape(y)  s = Concat<axis = 0>(m, rest)  z = Reshape(x, s) }""", rest=ints(-1))
    assert model(ramp(6), ramp(3)).shape == (3, 2)
    assert model(ramp(0), ramp(0)).shape[0] == 0
    with pytest.raises(GuardFailed):
        model(ramp(6), ramp(0))


def test_allowzero_and_copied_dims() -> None:
    zero = lowered("(float[N, 0] x) => (float[A, B, C] y) { y = Reshape<allowzero = 1>(x, s) }", s=ints(3, 0, 5))
    assert zero(ramp(2, 0)).shape == (3, 0, 5)
    copied = lowered("(float[N, M] x) => (float[A, B] y) { y = Reshape(x, s) }", s=ints(0, 0))
    assert copied.types == ["f32[N, M]"]


def test_flatten_squeeze_and_unsqueeze_of_symbols() -> None:
    assert lowered("(float[A, B, 3] x) => (float[P, Q] y) { y = Flatten<axis = -1>(x) }").types == ["f32[A*B, 3]"]
    assert lowered("(float[A, B] x) => (float[P, Q] y) { y = Flatten<axis = 0>(x) }").types == ["f32[1, A*B]"]
    one = lowered("(float[A, B] x) => (float[A] y) { y = Squeeze(x, a) }", a=ints(-1))
    np.testing.assert_array_equal(one(ramp(3, 1)), ramp(3))
    with pytest.raises(GuardFailed):
        one(ramp(3, 2))
    with pytest.raises(UnsupportedModel, match="give the axes"):
        lowered("(float[A, B] x) => (float[A] y) { y = Squeeze(x) }")
    two = lowered("(float[A] x) => (float[P, Q, R] y) { y = Unsqueeze(x, a) }", a=ints(-1, 0))
    assert two.types == ["f32[1, A, 1]"]


def test_shape_arithmetic_is_known_through_where_and_range() -> None:
    """The forms exporters write for expand, position ids and causal masks."""
    expand = lowered("""(float[N, 1] x, float[M] m) => (float[P, Q] y) {
        n = Shape<start = 0, end = 1>(x)  k = Shape(m)  s = Concat<axis = 0>(n, k)
        minus = ConstantOfShape<value = int64[1] {-1}>(two)
        eq = Equal(s, minus)  w = Where(eq, one, s)  y = Expand(x, w) }""", two=ints(2), one=ints(1))
    assert expand.types == ["f32[N, M]"]
    assert expand(ramp(2, 1), ramp(3)).shape == (2, 3)
    positions = lowered("""(float[B, S] x) => (int64[P] y) {
        s = Shape<start = 1>(x)  n = Squeeze(s)  y = Range(zero, n, one) }""", zero=np.int64(0), one=np.int64(1))
    assert positions.types == ["i64[S]"]
    np.testing.assert_array_equal(positions(ramp(2, 5)), np.arange(5))


@pytest.mark.parametrize(("start", "delta"), [(0, 1), (2, 3), (9, -2), (-3, 1)])
def test_range_to_a_symbol(start: int, delta: int) -> None:
    model = lowered("(float[N] x) => (int64[M] y) { n = Size(x)  y = Range(s, n, d) }", s=np.int64(start),
                    d=np.int64(delta))
    for n in range(6):
        np.testing.assert_array_equal(model(ramp(n)), np.arange(start, n, delta))


# ---- broadcasting --------------------------------------------------------------------------------------------------
def test_different_symbols_broadcast_with_a_guard() -> None:
    model = lowered("(float[A, C] x, float[B, 1] y) => (float[M, N] z) { z = Add(x, y) }")
    for a, b in ((3, 3), (1, 3), (3, 1)):
        np.testing.assert_array_equal(model(ramp(a, 2), ramp(b, 1)), ramp(a, 2) + ramp(b, 1))
    with pytest.raises(GuardFailed):
        model(ramp(2, 2), ramp(3, 1))


def test_a_symbol_broadcasts_to_a_number() -> None:
    model = lowered("(float[A] x, float[4] y) => (float[N] z) { z = Mul(x, y) }")
    assert model.types == ["f32[4]"]
    np.testing.assert_array_equal(model(ramp(1), ramp(4)), ramp(1) * ramp(4))
    with pytest.raises(GuardFailed):
        model(ramp(2), ramp(4))


def test_equal_symbols_need_no_guard() -> None:
    model = lowered("(float[N, S] x, float[N, S] y) => (float[N, S] z) { t = Add(x, y)  z = Mul(t, x) }")
    assert model.guards == [] and "t.broadcast" not in model.ops


def test_a_table_cut_to_the_sequence_broadcasts_to_it() -> None:
    """Position embeddings: max(min(S, 512), S) is S, and sequences longer than the table are refused at run time."""
    model = lowered("""(float[B, S, 2] x) => (float[B, S, 2] y) {
        n = Shape<start = 1, end = 2>(x)  t = Slice(table, zero, n, zero)  y = Add(x, t) }""", table=ramp(5, 2),
                    zero=ints(0))
    assert model.types == ["f32[B, S, 2]"]
    np.testing.assert_array_equal(model(ramp(2, 3, 2)), ramp(2, 3, 2) + ramp(5, 2)[:3])
    with pytest.raises(GuardFailed):
        model(ramp(2, 6, 2))


# ---- others --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("n", [0, 1, 5, 6, 7])
def test_split_of_a_symbol(n: int) -> None:
    model = lowered("(float[N, 2] x) => (float[A, 2] a, float[B, 2] b, float[C, 2] c) "
                    "{ a, b, c = Split<axis = 0, num_outputs = 3>(x) }")
    part = -(-n // 3)
    for got, want in zip(model(ramp(n, 2)), (ramp(n, 2)[i * part:(i + 1) * part] for i in range(3)), strict=True):
        np.testing.assert_array_equal(got, want)


def test_split_into_given_parts_is_guarded() -> None:
    model = lowered("(float[N] x) => (float[A] a, float[B] b) { a, b = Split(x, s) }", s=ints(2, 3))
    first, second = model(ramp(5))
    np.testing.assert_array_equal(first, ramp(5)[:2])
    np.testing.assert_array_equal(second, ramp(5)[2:])
    with pytest.raises(GuardFailed):
        model(ramp(6))


@pytest.mark.parametrize("ceil_mode", [0, 1])
@pytest.mark.parametrize(("kernel", "stride", "pads"), [(3, 2, (1, 1)), (2, 2, (0, 0)), (4, 3, (0, 2)), (3, 1, (1, 1))])
def test_pooling_a_symbolic_image(kernel: int, stride: int, pads: tuple[int, int], ceil_mode: int) -> None:
    attributes = f"kernel_shape = [{kernel}], strides = [{stride}], pads = {list(pads)}, ceil_mode = {ceil_mode}"
    symbolic, static = (f"(float[1, 1, {n}] x) => (float[1, 1, M] y, float[1, 1, M] z) {{ "
                        f"y = MaxPool<{attributes}>(x)  z = AveragePool<{attributes}>(x) }}" for n in ("N", "%d"))
    model = lowered(symbolic)
    for n in range(kernel, kernel + 7):
        x = ramp(1, 1, n)[:, :, ::-1] - 3
        for got, want in zip(model(x), lowered(static % n)(x), strict=True):
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("scale", [2.0, 1.5, 0.5, 0.7])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resizing_a_symbolic_image(mode: str, scale: float) -> None:
    text = "(float[1, {0}] x) => (float[A, B] y) {{ y = Resize<mode = \"" + mode + "\">(x, , s) }}"
    table = np.array([1, scale], np.float32)
    model = lowered(text.format("N"), s=table)
    for n in (3, 4, 10):
        got, want = model(ramp(1, n)), lowered(text.format(n), s=table)(ramp(1, n))
        assert got.shape == (1, int(np.float32(n) * np.float32(scale)))
        np.testing.assert_array_equal(got, want)


def test_pad_concat_tile_and_gather_of_symbols() -> None:
    model = lowered("""(float[N, 2] x, float[M, 2] y) => (float[A, B] z, float[C, D] t, float[E, F] p) {
        z = Concat<axis = 0>(x, y)  t = Tile(x, r)  p = Pad(x, w) }""", r=ints(2, 3), w=ints(1, -1, 2, 0))
    assert model.types == ["f32[M + N, 2]", "f32[N*2, 6]", "f32[N + 3, 1]"]
    z, t, p = model(ramp(3, 2), ramp(1, 2))
    np.testing.assert_array_equal(z, np.concatenate([ramp(3, 2), ramp(1, 2)]))
    np.testing.assert_array_equal(t, np.tile(ramp(3, 2), (2, 3)))
    np.testing.assert_array_equal(p, np.pad(ramp(3, 2)[:, 1:], ((1, 2), (0, 0))))


# ---- sizes by arithmetic -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("offset", "divisor"), [(-1, 2), (-1, 16), (-5, 2), (-7, 3), (-4, 4), (2, 3)])
def test_sizes_are_divided_towards_zero(offset: int, divisor: int) -> None:
    """Feature pyramids resize to 1 + (H - 1) / 16, where H may be 0 as far as anyone knows."""
    model = lowered("(float[N] x) => (float[M] y) { s = Shape(x) a = Add(s, c) q = Div(a, d) n = Add(q, k) "
                    "y = ConstantOfShape(n) }", c=ints(offset), d=ints(divisor), k=ints(4))
    for n in range(9):
        assert model(ramp(n)).shape == (4 + int((n + offset) / divisor),)
