"""The error function.

Near 0, erf(x) = x + x Q(x**2). Further out, erf(x) = 1 - 2**g(|x|) with a polynomial g for log2(erfc): there only the
absolute error of 2**g counts, and no division is needed. Both minimise the greatest error (Remez exchange; g weighted
by erfc), with coefficients rounded to the format.
"""

from __future__ import annotations

import dataclasses

from onnxc.ir.types import F32, F64
from onnxc.ops.expander import Term, formula, select
from onnxc.ops.mathfns.floats import at_most, horner, power_of_two, round_to_integer

__all__ = ["erf"]


@dataclasses.dataclass(frozen=True, slots=True)
class _Table:
    """`inner` is Q, for |x| below `inner_end`; `outer` is g up to `one`, from where erf rounds to 1; `exp2` is
    (2**f - 1) / f as accurate as 1 - 2**g needs it."""

    inner: tuple[float, ...]
    inner_end: float
    outer: tuple[float, ...]
    one: float
    exp2: tuple[float, ...]


_TABLES = {
    F32: _Table(
        inner=(0.12837913632392883, -0.37612447142601013, 0.11281320452690125, -0.026748865842819214,
               0.0049675083719193935, -0.0005862090620212257),
        inner_end=0.92,
        # Among the neighbours of the rounded coefficients, ones for which erf is monotone on all of f32.
        outer=(-0.00016551942098885775, -1.6273821592330933, -0.918422520160675, -0.1506861299276352,
               0.03243006020784378, -0.004482631105929613, 0.00029217550763860345),
        one=3.95,
        exp2=(0.6931470036506653, 0.24022239446640015, 0.0555073618888855, 0.009671725332736969,
              0.001326447818428278)),
    F64: _Table(
        inner=(0.1283791670955126, -0.3761263890318375, 0.11283791670954857, -0.026866170645072893,
               0.005223977624780843, -0.0008548326978740998, 0.0001205533103685957, -1.4925593505968366e-05,
               1.6460972802128258e-06, -1.6350025057560472e-07, 1.4657878655718597e-08, -1.1365661012451599e-09,
               5.945252694283175e-11),
        inner_end=1.0,
        outer=(-2.883656219862093e-08, -1.627906780549179, -0.9184490313638541, -0.1482685558080824,
               0.02759924862938287, 0.0002868161023754949, -0.0024105618274763946, 0.0007914684081453636,
               3.5716663876217944e-05, -0.00016215943836872168, 9.453747041953005e-05, -3.545287693849542e-05,
               9.917875761863888e-06, -2.15229872278551e-06, 3.6413700791136894e-07, -4.735426320644253e-08,
               4.583154785572731e-09, -3.112476452459623e-10, 1.3236558141860646e-11, -2.6518766451647677e-13),
        one=6.0,
        exp2=(0.6931471805599453, 0.24022650695910175, 0.055504108664824574, 0.009618129107576465,
              0.0013333558145569111, 0.00015403530479615583, 1.5252734734366471e-05, 1.3215424111158216e-06,
              1.0177658673704501e-07, 7.075678748953616e-09, 4.518724898634517e-10)),
}


def _erf(x: Term) -> Term:
    """At most 2 ULP, in [-1, 1], odd; monotone for f32."""
    table = _TABLES[x.dtype]
    a = abs(x)
    inner = a.fma(horner(x * x, table.inner), a)
    exponent = horner(at_most(a, table.one), table.outer)
    n, shifted = round_to_integer(exponent, 1.0)
    power = horner(exponent - n, (1.0, *table.exp2))
    outer = (-power).fma(power_of_two(shifted), 1.0)
    return select(a < table.inner_end, inner, outer).apply("copysign", x)


erf = formula(_erf)
