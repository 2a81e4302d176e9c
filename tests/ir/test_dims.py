"""The algebra of dims against brute force: every operation and every proof on all small values of the symbols."""

import itertools
import operator

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from onnxc.ir.dims import (
    Bounds,
    Dim,
    DimLike,
    calls_of,
    ceildiv,
    dim_joint,
    dim_max,
    dim_min,
    evaluate,
    floordiv,
    linear_parts,
    mod,
    parse_dim,
    product,
    provably_less,
    provably_nonneg,
    simplify,
    substitute,
    sym,
    symbols_of,
)
from tests.ir.strategies import DIMS as ANY_DIMS

N, M, I, J = map(sym, "NMij")  # noqa: E741
SMALL = range(5)
OPERATIONS = {
    "+": (operator.add, operator.add), "-": (operator.sub, operator.sub), "*": (operator.mul, operator.mul),
    "//": (floordiv, operator.floordiv), "%": (mod, operator.mod), "min": (dim_min, min), "max": (dim_max, max),
    "ceil": (ceildiv, lambda a, n: -(-a // n)),
}
LEAVES = st.one_of(st.integers(-3, 6), st.sampled_from("NMij"))
DIVISORS = st.one_of(st.integers(1, 4), st.sampled_from(["N", ("*", 2, "M"), ("+", "N", 1)]))
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["+", "-", "*", "min", "max"]), inner, inner),
        st.tuples(st.sampled_from(["//", "%", "ceil"]), inner, DIVISORS),
    ),
    max_leaves=7,
)


def dim_of(tree):
    """The tree as a dim."""
    if isinstance(tree, tuple):
        return OPERATIONS[tree[0]][0](dim_of(tree[1]), dim_of(tree[2]))
    return sym(tree) if isinstance(tree, str) else tree


def number_of(tree, env):
    """The tree in Python's integers."""
    if isinstance(tree, tuple):
        return OPERATIONS[tree[0]][1](number_of(tree[1], env), number_of(tree[2], env))
    return env[tree] if isinstance(tree, str) else tree


def envs(names="NMij", values=SMALL):
    for point in itertools.product(values, repeat=len(names)):
        yield dict(zip(names, point, strict=True))


def points(*dims, bounds=None, names="NMij", values=SMALL):
    """(env, values of dims) for all small values of the symbols within the bounds, where no divisor is zero."""
    for env in envs(names, values):
        try:
            if bounds is not None and not all(env[s] <= evaluate(u, env) for s, u in bounds.upper.items()):
                continue
            if bounds is not None and any(env[s] < 1 for s in bounds.positive):
                continue
            yield env, [evaluate(d, env) for d in dims]
        except ZeroDivisionError:
            continue


@settings(max_examples=300)
@given(TREES)
@example(("//", ("+", ("*", 4, "N"), 3), 4))
@example(("%", ("-", "N", 1), 3))
@example(("min", ("//", ("%", "N", 2), 2), ("//", ("%", "M", 2), 2)))
def test_every_operation_gives_the_number_that_integers_give(tree):
    d = dim_of(tree)
    for env in envs():
        try:
            expected = number_of(tree, env)
        except ZeroDivisionError:
            continue
        assert evaluate(d, env) == expected, f"{tree} as {d} at {env}"


@given(TREES, TREES, TREES)
def test_sums_and_products_are_canonical(a, b, c):
    a, b, c = map(dim_of, (a, b, c))
    assert a + b == b + a
    assert a * b == b * a
    assert (a + b) + c == a + (b + c)
    assert (a * b) * c == a * (b * c)
    assert a * (b + c) == a * b + a * c
    assert a - a == 0
    assert isinstance(a - a, int)
    assert hash(a + b) == hash(b + a)


@given(TREES, TREES)
def test_substitution_commutes_with_evaluation(tree, inner):
    d, e = dim_of(tree), dim_of(inner)
    assume(isinstance(e, Dim) or e > 0)         # N may be a divisor
    replaced = substitute(d, {"N": e})
    assert "N" not in symbols_of(replaced) or "N" in symbols_of(e)
    for env, (value,) in points(e, values=range(3)):
        if value < 0:
            continue                # symbols are sizes
        try:
            expected = evaluate(d, {**env, "N": value})
            assert evaluate(replaced, env) == expected
        except ZeroDivisionError:
            continue


@settings(max_examples=400)
@given(TREES)
@example(("*", "N", ("min", ("-", "N", 5), "M")))
def test_what_is_proven_nonnegative_is(tree):
    d = dim_of(tree)
    if provably_nonneg(d):
        for env, (value,) in points(d):
            assert value >= 0, f"{d} at {env}"


BOUNDS = [
    Bounds({"i": N - 1, "j": M - 1}),
    Bounds({"i": N - 1, "j": I}),                  # a triangular nest
    Bounds({"i": N * 2 + 1, "j": floordiv(M, 2)}, positive="N"),
    Bounds({"j": 3}, positive="NM"),
]


@settings(max_examples=400)
@given(TREES, st.sampled_from(BOUNDS))
@example(("*", "i", ("min", ("-", "N", 4), "M")), BOUNDS[0])       # a factor that may be negative
@example(("*", ("-", "i", 2), ("-", "i", 3)), BOUNDS[0])
@example(("//", "i", ("+", "i", 1)), BOUNDS[0])
@example(("-", ("-", "N", 1), "i"), BOUNDS[0])
def test_what_is_proven_within_bounds_holds_within_them(tree, bounds):
    d = dim_of(tree)
    proven = provably_nonneg(d, bounds)
    simpler = simplify(d, bounds)
    for env, (value, simplified) in points(d, simpler, bounds=bounds):
        assert value == simplified, f"{d} became {simpler}, at {env}"
        assert value >= 0 or not proven, f"{d} at {env}"


@settings(max_examples=200)
@given(TREES, TREES, st.sampled_from([None, *BOUNDS]))
def test_what_is_proven_less_is(a, b, bounds):
    a, b = dim_of(a), dim_of(b)
    if provably_less(a, b, bounds):
        for _, (x, y) in points(a, b, bounds=bounds):
            assert x < y


def test_the_facts_that_kernels_need_are_proven():
    nest = BOUNDS[0]
    assert provably_less(I * M + J, N * M, nest)                 # a row-major index is in range
    assert provably_less(I, N, nest)
    assert provably_nonneg(N - 1 - I, nest)
    assert provably_less(mod(I, 4), 4)
    assert simplify(floordiv(I * M + J, M), nest) == I
    assert simplify(mod(I * M + J, M), nest) == J
    assert simplify(dim_min(I, N), nest) == I
    assert not provably_less(I + 1, N, nest)
    assert not provably_nonneg(N - 1)
    assert provably_nonneg(N - 1, Bounds(positive="N"))


def test_what_sizes_broadcast_to():
    m, n, p = map(sym, "mnp")
    joint = dim_joint(m, n)
    for sizes in ((0, 1), (1, 0), (0, 0), (1, 1), (1, 7), (7, 1), (7, 7)):
        assert (evaluate(joint, dict(zip("mn", sizes, strict=True))),) == np.broadcast_shapes(*((s,) for s in sizes))
    assert dim_joint(joint, m) == dim_joint(n, joint) == joint == parse_dim(str(joint))
    assert dim_joint(joint, p) == dim_joint(m, dim_joint(p, n))
    assert (dim_joint(m), dim_joint(m, 1), dim_joint(m, dim_min(m, 512)), dim_joint(1)) == (m, m, m, 1)


def test_extrema_of_equal_things_are_one_of_them():
    a, b = floordiv(mod(N, 2), 2), floordiv(mod(M, 2), 2)       # both are always 0, though not seen to be equal
    assert dim_min(a, b) in (a, b)
    assert dim_max(a, b) in (a, b)
    assert dim_min(N, 0) == 0
    assert dim_max(N, -1) == N
    assert dim_min(N, M, 3, N, 5) == dim_min(dim_min(M, 3), N)
    assert dim_max(2, 3) == 3
    assert dim_max(N) == N


@given(ANY_DIMS)
def test_text_reads_back(d):
    assert parse_dim(str(d)) == d
    assert parse_dim(f" ( {d} ) ") == d


def test_text_is_short_and_plain():
    assert str(N * 2 + 1 - M) == "-M + N*2 + 1"
    assert str(floordiv(N + 3, 2)) == "((N + 1) // 2) + 1"
    assert str(mod(N * M, 4)) == "((M*N) % 4)"
    assert str(dim_min(N, M, 7) * 3) == "min(M, N, 7)*3"
    assert str(-N) == "-N"
    assert parse_dim("2*(N + M) - --3") == N * 2 + M * 2 - 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "ends too early"), ("N +", "ends too early"), ("N N", "unexpected 'N'"), ("N ? 2", "unexpected '?"),
        ("(N", "lacks ')'"), ("min(N", "lacks ')'"), ("N // 0", "divisors are positive"), ("N % -1", "divisors are"),
        ("*", "cannot hold '*' here"), ("1.5", "unexpected '.5'"), ("99999999999999999999", "does not fit into 64"),
        ("9223372036854775807*2", "does not fit into 64 bits"), ("N*9223372036854775807*2", "does not fit"),
    ],
)
def test_other_text_is_a_value_error(text, says):
    with pytest.raises(ValueError) as e:
        parse_dim(text)
    assert says in str(e.value)


def test_symbols_are_identifiers():
    for name in ("N", "seq_len", "$0", "a.b", "_"):
        assert parse_dim(name) == sym(name)
    for name in ("", "1a", "a b", "a-b", "é"):
        with pytest.raises(ValueError, match="cannot name a dimension"):
            sym(name)


def test_known_values_are_ints_and_unknown_ones_have_no_truth():
    assert isinstance(N * 0, int)
    assert isinstance(floordiv(N * 4, N), int)
    assert isinstance(floordiv(N * 4 + 3, 4), Dim)
    assert product([]) == 1
    assert product([N, 2, M]) == N * M * 2
    with pytest.raises(TypeError, match="is not known"):
        bool(N)
    with pytest.raises(KeyError):
        evaluate(N, {})
    assert symbols_of([N + M, 3, floordiv(I, J)]) == {"N", "M", "i", "j"}
    assert symbols_of(3) == frozenset()


@given(TREES)
def test_equal_dims_are_one_key(tree):
    d = dim_of(tree)
    assume(isinstance(d, Dim))
    again = parse_dim(str(d))
    assert {d: 1}[again] == 1
    assert len({d, again}) == 1


def halved(times: int) -> DimLike:
    """N halved and rounded up, as strided convolutions do it to an image."""
    d: DimLike = sym("N")
    for _ in range(times):
        d = ceildiv(d, 2)
    return d


def test_long_chains_of_divisions_are_walked_once():
    """Each end of a quotient's range needs both ends of its operand's: 2**60 steps if each were found anew."""
    d = halved(60)
    assert provably_nonneg(d)
    assert not provably_nonneg(d - 1)
    assert provably_less(sym("i"), d, Bounds({"i": d - 1}))
    assert dim_max(d, 0) == d


def test_what_a_substitution_does_not_touch_stays_as_it_is():
    d = halved(30)
    index = sym("i") * d + sym("j")
    (call,) = calls_of([d])
    assert next(calls_of([substitute(index, {"j": 5})])) is call
    assert substitute(index, {"i": 2}) == 2 * d + sym("j")


@pytest.mark.parametrize(("d", "parts"), [
    ("3*i + j", ("3", "j")), ("i*N + i + 4", ("N + 1", "4")), ("i*i", None), ("(i // 2) + i", None), ("N", ("0", "N")),
    ("i*(N // 2) - (j % 3)", ("(N // 2)", "-(j % 3)"))])
def test_parts_of_what_is_linear(d, parts):
    found = linear_parts(parse_dim(d), "i")
    assert found == (None if parts is None else tuple(map(parse_dim, parts)))
