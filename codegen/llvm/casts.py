"""`s.cast` between any two element types, on scalars or vectors, with the meaning that the scalar table gives.

Small floats are converted by integer arithmetic, exact and branch-free, except f16 where the target converts it.
"""

from __future__ import annotations

import dataclasses

from llvmlite import ir

from onnxc.codegen.llvm.dims import constant
from onnxc.codegen.llvm.intrinsics import intrinsic
from onnxc.codegen.llvm.registers import Element, register_type, with_lanes
from onnxc.codegen.llvm.target import Target
from onnxc.ir.types import BOOL, F32, F64, I32, DType

__all__ = ["Element", "cast_value", "converts_half", "widened"]

_HALF = ir.HalfType()

# Truncating and rounding, by lanes.
_F32_TO_I32 = (
    {1: "llvm.x86.sse.cvttss2si", 4: "llvm.x86.sse2.cvttps2dq", 8: "llvm.x86.avx.cvtt.ps2dq.256",
     16: "llvm.x86.avx512.mask.cvttps2dq.512"},
    {1: "llvm.x86.sse.cvtss2si", 4: "llvm.x86.sse2.cvtps2dq", 8: "llvm.x86.avx.cvt.ps2dq.256",
     16: "llvm.x86.avx512.mask.cvtps2dq.512"},
)


@dataclasses.dataclass(frozen=True)
class Format:
    """A small float: exponent and mantissa bits, exponent bias, and the codes of its special values.

    `largest` is the code of the largest finite magnitude, `infinity` of infinity (None: it has none), `nan` what a NaN
    becomes; `unsigned_nan` says that the NaN is the one code with only the sign bit set. Without `has_nan` a NaN
    becomes a zero of the other sign, as in ml_dtypes, and what is too large the largest finite value."""

    exponent: int
    mantissa: int
    bias: int
    largest: int
    infinity: int | None
    nan: int
    has_nan: bool = True
    unsigned_nan: bool = False

    @property
    def sign(self) -> int:
        return 1 << (self.exponent + self.mantissa)


FORMATS = {
    "f16": Format(5, 10, 15, 0x7bff, 0x7c00, 0x7e00),
    "bf16": Format(8, 7, 127, 0x7f7f, 0x7f80, 0x7fc0),
    "f8e4m3fn": Format(4, 3, 7, 0x7e, None, 0x7f),
    "f8e4m3fnuz": Format(4, 3, 8, 0x7f, None, 0x80, unsigned_nan=True),
    "f8e5m2": Format(5, 2, 15, 0x7b, 0x7c, 0x7e),
    "f8e5m2fnuz": Format(5, 2, 16, 0x7f, None, 0x80, unsigned_nan=True),
    "f4e2m1": Format(2, 1, 1, 0x7, None, 0x8, has_nan=False),
}


def cast_value(builder: ir.IRBuilder, target: Target, value: Element, to: DType, saturate: bool = True) -> Element:
    """`value` as type `to`. `saturate` holds for the 8-bit floats: out of range gives the largest finite value."""
    if value.dtype == to:
        return value
    return _Casts(builder, target).convert(value, to, saturate)


def widened(builder: ir.IRBuilder, value: Element, converts_half: bool) -> ir.Value:
    """A small float as f32, exact; f16 by the target's instruction where it has one."""
    return _SmallFloats(builder, converts_half).decode(value).value


def converts_half(target: Target) -> bool:
    """Whether the target has instructions between f16 and f32."""
    return "f16c" in target.features or target.arch == "aarch64"


class _SmallFloats:
    """Conversions between f32 and floats of up to 16 bits, which are held as their bits."""

    def __init__(self, builder: ir.IRBuilder, converts_half: bool) -> None:
        self.b, self.converts_half = builder, converts_half

    def type(self, dtype: DType, like: Element) -> ir.Type:
        return with_lanes(register_type(dtype), like.lanes)

    def integer(self, bits: int, like: Element) -> ir.Type:
        return with_lanes(ir.IntType(bits), like.lanes)

    def decode(self, value: Element) -> Element:
        """A small float as f32, exact."""
        name = value.dtype.name
        if name == "f16" and self.converts_half:
            half = self.b.bitcast(value.value, with_lanes(_HALF, value.lanes))
            return Element(self.b.fpext(half, self.type(F32, value)), F32)
        bits = self.b.zext(value.value, self.integer(32, value))
        if name == "bf16":
            return self._from_bits(self.b.shl(bits, constant(16, bits.type)), value)
        if name == "f8e8m0":
            return self._decode_power(bits, value)
        return self._decode_bits(bits, FORMATS[name], value)

    def _from_bits(self, bits: ir.Value, like: Element) -> Element:
        return Element(self.b.bitcast(bits, self.type(F32, like)), F32)

    def _decode_bits(self, bits: ir.Value, f: Format, like: Element) -> Element:
        b, type = self.b, bits.type
        magnitude = b.and_(bits, constant(f.sign - 1, type))
        sign = b.shl(b.and_(bits, constant(f.sign, type)), constant(31 - f.exponent - f.mantissa, type))
        # The code, read as an f32 of too small an exponent, times a power of two: subnormals come out right as well.
        small = b.bitcast(b.shl(magnitude, constant(23 - f.mantissa, type)), self.type(F32, like))
        scaled = b.bitcast(b.fmul(small, constant_float(2.0 ** (127 - f.bias), small.type)), type)
        special = None
        if f.infinity is not None:
            top = b.or_(b.shl(magnitude, constant(23 - f.mantissa, type)), constant(0x7f800000, type))
            special = b.select(b.icmp_unsigned(">=", magnitude, constant(f.infinity, type)), top, scaled)
        elif f.has_nan:
            is_nan = b.icmp_unsigned("==", bits if f.unsigned_nan else magnitude, constant(f.nan, type))
            special = b.select(is_nan, constant(0x7fc00000, type), scaled)
        return self._from_bits(b.or_(special if special is not None else scaled, sign), like)

    def _decode_power(self, bits: ir.Value, like: Element) -> Element:
        """f8e8m0: the value is 2 ** (code - 127); code 0 is a subnormal f32, 255 is NaN."""
        b, type = self.b, bits.type
        value = b.shl(bits, constant(23, type))
        value = b.select(b.icmp_unsigned("==", bits, constant(0, type)), constant(0x00400000, type), value)
        nan = b.icmp_unsigned("==", bits, constant(255, type))
        return self._from_bits(b.select(nan, constant(0x7fc00000, type), value), like)

    def encode(self, value: Element, to: DType, saturate: bool) -> Element:
        """f32 as a small float, rounded to nearest even."""
        if to.name == "f16" and self.converts_half:
            half = self.b.fptrunc(value.value, with_lanes(_HALF, value.lanes))
            return Element(self.b.bitcast(half, self.type(to, value)), to)
        bits = self.b.bitcast(value.value, self.integer(32, value))
        if to.name == "f8e8m0":
            code = self._encode_power(bits, saturate)
        else:
            code = self._encode_bits(bits, FORMATS[to.name], value, saturate and to.bits <= 8)
        return Element(self.b.trunc(code, self.type(to, value)), to)

    def _encode_bits(self, bits: ir.Value, f: Format, like: Element, saturate: bool) -> ir.Value:
        b, type = self.b, bits.type
        magnitude = b.and_(bits, constant(0x7fffffff, type))
        shift = 23 - f.mantissa
        odd = b.and_(b.lshr(magnitude, constant(shift, type)), constant(1, type))
        rounded = b.add(b.add(magnitude, odd), constant((1 << (shift - 1)) - 1, type))
        code = b.sub(b.lshr(rounded, constant(shift, type)), constant((127 - f.bias) << f.mantissa, type))
        if f.bias != 127:
            code = b.select(b.icmp_unsigned("<", magnitude, constant((128 - f.bias) << 23, type)),
                            self._subnormal(magnitude, f, like), code)
        code = self._overflow(code, magnitude, f, saturate)
        sign = b.lshr(b.and_(bits, constant(1 << 31, type)), constant(31 - f.exponent - f.mantissa, type))
        signed = b.xor(code, sign)
        if f.unsigned_nan:                         # neither a negative zero nor a signed NaN
            is_nan = b.icmp_unsigned("==", code, constant(f.nan, type))
            plain = b.or_(b.icmp_unsigned("==", code, constant(0, type)), is_nan)
            return b.select(plain, code, signed)
        return signed

    def _subnormal(self, magnitude: ir.Value, f: Format, like: Element) -> ir.Value:
        """Adding a power of two whose last place is the smallest subnormal rounds there, to nearest even."""
        magic = constant_float(2.0 ** (1 - f.bias - f.mantissa + 23), self.type(F32, like))
        shifted = self.b.fadd(self.b.bitcast(magnitude, magic.type), magic)
        return self.b.sub(self.b.bitcast(shifted, magnitude.type), self.b.bitcast(magic, magnitude.type))

    def _overflow(self, code: ir.Value, magnitude: ir.Value, f: Format, saturate: bool) -> ir.Value:
        b, type = self.b, code.type
        if saturate or not f.has_nan:
            beyond = f.largest
        else:
            beyond = f.infinity if f.infinity is not None else f.nan
        code = b.select(b.icmp_signed(">", code, constant(f.largest, type)), constant(beyond, type), code)
        return b.select(b.icmp_unsigned(">", magnitude, constant(0x7f800000, type)), constant(f.nan, type), code)

    def _encode_power(self, bits: ir.Value, saturate: bool) -> ir.Value:
        """f8e8m0, powers of two: the exponent, rounded to nearest, ties up. What is not positive gives NaN, or the
        least power when saturating; NaN gives NaN."""
        b, type = self.b, bits.type
        code = b.lshr(b.add(bits, constant(1 << 22, type)), constant(23, type))
        denormal = b.zext(b.icmp_unsigned(">=", bits, constant(0x600000, type)), type)
        code = b.select(b.icmp_unsigned("<", bits, constant(1 << 23, type)), denormal, code)
        if saturate:
            code = b.select(b.icmp_signed(">", code, constant(254, type)), constant(254, type), code)
        bad = constant(0 if saturate else 255, type)
        code = b.select(b.icmp_signed("<=", bits, constant(0, type)), bad, code)
        magnitude = b.and_(bits, constant(0x7fffffff, type))
        return b.select(b.icmp_unsigned(">", magnitude, constant(0x7f800000, type)), constant(255, type), code)


class _Casts(_SmallFloats):
    def __init__(self, builder: ir.IRBuilder, target: Target) -> None:
        super().__init__(builder, converts_half(target))
        self.target = target

    def convert(self, value: Element, to: DType, saturate: bool) -> Element:
        source = value.dtype
        if source.is_float and source.compute != source.name:
            return cast_value(self.b, self.target, self.decode(value), to, saturate)
        if to.is_float and to.compute != to.name:
            return self.encode(cast_value(self.b, self.target, value, F32), to, saturate)
        if to == BOOL:
            return Element(self.differs_from_zero(value), BOOL)
        if source == BOOL:
            return self.from_bool(value, to)
        if source.is_float and to.is_float:
            return Element((self.b.fpext if to == F64 else self.b.fptrunc)(value.value, self.type(to, value)), to)
        if source.is_float:
            return self.float_to_integer(value, to)
        if to.is_float:
            convert = self.b.sitofp if source.kind == "int" else self.b.uitofp
            return Element(convert(value.value, self.type(to, value)), to)
        return self.integer_to_integer(value, to)

    def differs_from_zero(self, value: Element) -> ir.Value:
        if value.dtype.is_float:
            return self.b.fcmp_unordered("!=", value.value, ir.Constant(value.value.type, None))
        return self.b.icmp_unsigned("!=", value.value, ir.Constant(value.value.type, None))

    def from_bool(self, value: Element, to: DType) -> Element:
        convert = self.b.uitofp if to.is_float else self.b.zext
        return Element(convert(value.value, self.type(to, value)), to)

    def integer_to_integer(self, value: Element, to: DType) -> Element:
        type = self.type(to, value)
        have, want = register_type(value.dtype).width, register_type(to).width
        if have < want:
            extend = self.b.sext if value.dtype.kind == "int" else self.b.zext
            return self.packed(Element(extend(value.value, type), to))
        return self.packed(Element(value.value if have == want else self.b.trunc(value.value, type), to))

    def packed(self, value: Element) -> Element:
        """A sub-byte integer wraps to its width, kept extended to the byte it stands in."""
        if value.dtype.bits >= 8:
            return value
        shift = constant(8 - value.dtype.bits, value.value.type)
        high = self.b.shl(value.value, shift)
        return Element((self.b.ashr if value.dtype.kind == "int" else self.b.lshr)(high, shift), value.dtype)

    def float_to_integer(self, value: Element, to: DType) -> Element:
        """Truncates. Types below 32 bits wrap from i32; out of range and NaN give the least value."""
        if to.bits < 32:
            return self.integer_to_integer(self.float_to_integer(value, I32), to)
        type, float_type = self.type(to, value), value.value.type
        if to == I32 and value.dtype == F32 and self.target.arch == "x86_64":
            converted = self._x86_f32_to_i32(value, type)
            if converted is not None:
                return Element(converted, to)
        limit = constant_float(float(1 << (to.bits - (to.kind == "int"))), float_type)
        if to.kind == "int":
            fits = self.b.fcmp_ordered("<", self.magnitude(value.value), limit)
            least = constant(-1 << (to.bits - 1), type)
            return Element(self.b.select(fits, self.b.fptosi(value.value, type), least), to)
        above = self.b.fcmp_ordered(">", value.value, constant_float(-1.0, float_type))
        fits = self.b.and_(above, self.b.fcmp_ordered("<", value.value, limit))
        return Element(self.b.select(fits, self.b.fptoui(value.value, type), constant(0, type)), to)

    def _x86_f32_to_i32(self, value: Element, type: ir.Type) -> ir.Value | None:
        """By the instruction, which gives the least value out of range and for NaN by itself; one that rounds to
        nearest even where that was done to the value before. None for vectors that the target has no such one for."""
        rounded = _rounded_to_even(value.value)
        prefix = _F32_TO_I32[rounded is not None].get(value.lanes)
        if prefix is None or (value.lanes == 16 and "avx512f" not in self.target.features) or (
                value.lanes == 8 and "avx" not in self.target.features):
            return None
        operand = value.value if rounded is None else rounded
        arguments = [operand]
        if value.lanes == 1:
            vector = ir.VectorType(operand.type, 4)
            arguments = [self.b.insert_element(ir.Constant(vector, None), operand, ir.Constant(ir.IntType(32), 0))]
        if value.lanes == 16:
            current = ir.Constant(ir.IntType(32), 4)        # the rounding mode that is set: to nearest even
            arguments += [ir.Constant(type, None), ir.Constant(ir.IntType(16), -1), current]
        return self.b.call(intrinsic(self.b.module, prefix, [], type, [a.type for a in arguments]), arguments)

    def magnitude(self, value: ir.Value) -> ir.Value:
        return self.b.call(intrinsic(self.b.module, "llvm.fabs", [value.type], value.type, [value.type]), [value])


def _rounded_to_even(value: ir.Value) -> ir.Value | None:
    """What `value` is the rounding of, to the nearest even integer; None when it is no such rounding."""
    if isinstance(value, ir.CallInstr) and value.callee.name.startswith("llvm.roundeven."):
        return value.args[0]
    return None


def constant_float(value: float, type: ir.Type) -> ir.Constant:
    """A floating-point constant in a scalar or every lane."""
    if isinstance(type, ir.VectorType):
        return ir.Constant(type, [ir.Constant(type.element, value)] * type.count)
    return ir.Constant(type, value)
