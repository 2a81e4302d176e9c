"""Printer and parser: what is printed reads back as the same module, and any other text is an error with a place."""

import random
import time

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from onnxc.ir.compare import difference, same_array, same_attr
from onnxc.ir.core import Module, Op, Ref
from onnxc.ir.dims import parse_dim, sym
from onnxc.ir.parser import MAX_NESTING, IRSyntaxError, parse_attr, parse_func, parse_module, parse_type
from onnxc.ir.printer import attr_text, constant_hash, dense_text, print_func, print_module
from onnxc.ir.registry import REQUIRED, register
from onnxc.ir.types import ALL_DTYPES, F32, I64, Mem, Scalar, Seq, Tensor, tensor_of
from tests.ir.strategies import ATTRS, DIMS, TYPES, arrays, modules

SLOW_DATA = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))

register("test.isolated", "xs*", "results*", traits="isolated", regions=-1, doc="regions that see nothing from outside")
register("test.defaults", "x", attrs={"axis": REQUIRED, "keep": True, "mode": "sum"}, doc="an op with defaults")

EVERY_FORM = """\
const @w : f32[2] sha256 "{hash}"
const @"odd name" : c64[2] sha256 "{complex_hash}"

func @main(%x:0: f32[N, N*2 + 1], %"a b": seq<f32[*]>, %m: map<i64, f32>, %q: mem<f16[N, 3]>) -> (f32[N], f32) \
kind "graph" {dims = [1, <N*2>, none], types = [!f32, !scalar<f32>, !f32[3], !opt<str[]>], "odd key" = @"odd name"} {
  %0 = t.const() {{ref = @w, value = none}} : f32[2]
  %y, %z = "odd op"(%x:0, _, %"a b") : f32[N], f32 loc "n\\"1"
  test.loop(%0) {{flag = true, f = 1e-05, raw = bytes "00ff"}} (%i: i64, %"j j": f32[]) {
    test.a(%i, %y) {{a = dense<u4[3]: 1, 2, 15>, b = dense<f32[0]>, c = dense<str[1]: "\\u00e9">}}
    yield()
  } () {
  }
  return(%y, %z)
}
""".replace("{{", "{").replace("}}", "}")


def every_form():
    constants = {"w": np.array([1, np.nan], np.float32), "odd name": np.array([1 - 2j, complex(np.nan, np.inf)], "c8")}
    text = EVERY_FORM.replace("{hash}", constant_hash(constants["w"]))
    return text.replace("{complex_hash}", constant_hash(constants["odd name"])), constants


def test_every_form_reads_and_prints_back():
    text, constants = every_form()
    module = parse_module(text, constants)
    assert print_module(module) == text
    again = parse_module(print_module(module, inline=True))
    assert difference(module, again) is None


@SLOW_DATA
@given(modules())
def test_generated_modules_read_back(module):
    text = print_module(module)
    again = parse_module(text, module.constants)
    assert difference(module, again) is None
    assert print_module(again) == text
    assert difference(module, parse_module(print_module(module, inline=True))) is None
    for func in module.funcs.values():
        assert print_func(parse_func(print_func(func))) == print_func(func)


@settings(deadline=None)
@given(ATTRS)
def test_attributes_read_back(attr):
    again = parse_attr(attr_text(attr))
    assert same_attr(again, attr)
    assert type(again) is type(attr)


@given(TYPES)
def test_types_read_back(t):
    assert parse_type(str(t)) == t


@given(DIMS)
def test_dims_read_back(d):
    assert parse_dim(str(d)) == d


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_arrays_of_every_type_read_back(dtype):
    @settings(max_examples=20, deadline=None)
    @given(arrays(dtype))
    def check(a):
        again = parse_attr(dense_text(a))
        assert same_array(again, a)
        assert tensor_of(again) == tensor_of(a)

    check()


def test_strings_of_fixed_width_print_as_the_same_strings_in_objects():
    fixed, objects = np.array(["a", "bc"]), np.array(["a", "bc"], object)
    assert dense_text(fixed) == dense_text(objects) == 'dense<str[2]: "a", "bc">'
    assert constant_hash(fixed) == constant_hash(objects)
    assert same_array(parse_attr(dense_text(fixed)), objects)


def test_numpy_numbers_print_as_numbers():
    assert attr_text(np.float64(0.5)) == "0.5"
    assert attr_text((np.int64(3), np.int32(-1))) == "[3, -1]"


def test_an_element_type_and_a_scalar_type_are_two_attributes():
    assert parse_attr(attr_text(F32)) is F32
    assert parse_attr(attr_text(Scalar(F32))) == Scalar(F32)
    assert parse_type("f32") == Scalar(F32)


def test_a_name_may_end_in_the_mark_that_stands_before_a_type():
    func = parse_func('func @f(%"x:": f32[]) kind "graph" {\n  return(%"x:")\n}')
    assert func.args[0].name == "x:"
    assert print_func(func) == 'func @f(%"x:": f32[]) kind "graph" {\n  return(%"x:")\n}'


def test_values_of_one_name_get_numbers_in_time():
    module = Module()
    func = module.add(parse_func('func @main() kind "graph" {\n}'))
    for _ in range(20_000):
        func.body.append(Op("test.a", (), [Tensor(F32, ())], names=["x"]))
    start = time.process_time()
    text = print_module(module)
    assert time.process_time() - start < 5      # quadratic numbering takes minutes
    assert "%x_19999 = " in text


def test_comments_and_line_breaks_do_not_matter():
    module = parse_module('; head\nfunc @main(%x: f32[2]) ; the entry\n  kind "graph" {\n  return(\n %x) } ; end')
    assert print_module(module) == 'func @main(%x: f32[2]) kind "graph" {\n  return(%x)\n}\n'


def test_types_are_taken_whole_whatever_the_spacing():
    func = parse_func('func @f(%a: f32 [2], %b: f32, %c: mem< f32[ N , min(2, M) ] >) kind "k" {}')
    assert [str(a.type) for a in func.args] == ["f32[2]", "f32", "mem<f32[N, min(M, 2)]>"]


def test_attributes_left_out_get_the_defaults_of_the_row():
    func = parse_func('func @f(%x: f32[]) kind "g" {\n  %y = test.defaults(%x) {mode = "max", axis = 1} : f32[]\n}')
    assert list(func.body.first.attrs.items()) == [("axis", 1), ("keep", True), ("mode", "max")]
    bare = parse_func('func @f(%x: f32[]) kind "g" {\n  %y = test.defaults(%x) : f32[]\n}')
    assert list(bare.body.first.attrs) == ["keep", "mode"]      # the verifier asks for the required one


def test_regions_see_the_values_around_them_unless_the_op_is_isolated():
    text = 'func @f(%x: f32[]) kind "g" {{\n  {op}(%x) (%a: f32[]) {{\n    yield({value})\n  }}\n}}'
    seen = parse_func(text.format(op="test.open", value="%x"))
    assert seen.body.first.regions[0].first.operands == (seen.args[0],)
    parse_func(text.format(op="test.isolated", value="%a"))
    with pytest.raises(IRSyntaxError, match="%x is not defined here"):
        parse_func(text.format(op="test.isolated", value="%x"))
    # Inside an isolated region the name is free again; inside an open one it is not, nor after it for its own values.
    parse_func('func @f(%x: f32[]) kind "g" {\n  test.isolated(%x) (%x: f32[]) {\n    yield(%x)\n  }\n}')
    with pytest.raises(IRSyntaxError, match="%x is defined twice"):
        parse_func('func @f(%x: f32[]) kind "g" {\n  test.open(%x) (%x: f32[]) {\n  }\n}')
    with pytest.raises(IRSyntaxError, match="%a is not defined here"):
        parse_func('func @f(%x: f32[]) kind "g" {\n  test.open(%x) (%a: f32[]) {\n  }\n  test.use(%a)\n}')


ERRORS = [
    # text, line, column, what the error says
    ("foo", 1, 1, "expected 'func' or 'const', found \"foo\""),
    ('func @m() kind "g" {', 1, 21, "found the end of the text"),
    ('func @m() kind "g" {\n  %x = t.add(%y)\n}', 2, 14, "%y is not defined here"),
    ('func @m() kind "g" {\n  %x = t.add(_, %"y z")\n}', 2, 17, '%"y z" is not defined here'),
    ('func @m() kind "g" {\n  %x = test.a() : f32[]\n  %x = test.a() : f32[]\n}', 3, 3, "%x is defined twice"),
    ('func @m(%x: f32[], %x: f32[]) kind "g" {\n}', 1, 20, "%x is defined twice"),
    ('func @m() kind "g" {\n  %a = t.x()\n}', 2, 3, "1 results but 0 types"),
    ('func @m() kind "g" {\n  t.x() : f32[]\n}', 3, 1, "0 results but 1 types"),
    ('func @m() kind "g" {\n  %a, t.x()\n}', 2, 7, "expected a result"),
    ('func @m() kind "g" {\n  %a t.x()\n}', 2, 6, "expected '=' after the results"),
    ('func @m() kind "g" {\n  t.x\n}', 3, 1, "expected '(' and the operands"),
    ('func @m() kind "g" {\n  t.x(%)\n}', 2, 7, "expected an operand"),
    ('func @m() kind "g" {\n  t.x() {a = 1, a = 2}\n}', 2, 17, "attribute 'a' is given twice"),
    ('func @m() kind "g" {\n  t.x() {a 1}\n}', 2, 12, "expected '=' and the value of attribute 'a'"),
    ('func @m() kind "g" {\n  t.x() {a = }\n}', 2, 14, "expected an attribute's value"),
    ('func @m() kind "g" {\n  t.x() {a = tru}\n}', 2, 14, "expected an attribute's value"),
    ('func @m() kind "g" {\n  t.x() {a = [1, 2}\n}', 2, 19, "expected ']' or ','"),
    ('func @m() kind "g" {\n  t.x() {a = <N + >}\n}', 2, 15, "a dimension ends too early"),
    ('func @m() kind "g" {\n  t.x() {a = <N // 0>}\n}', 2, 15, "divisors are positive"),
    ('func @m() kind "g" {\n  t.x() {a = bytes "0g"}\n}', 2, 20, "hex digits"),
    ('func @m() kind "g" {\n  t.x() {a = "\\q"}\n}', 2, 14, "an escape that JSON does not know"),
    ('func @m(%x: f32[-1]) kind "g" {\n}', 1, 17, "a dimension is negative: -1"),
    ('func @m(%x: f32[2, N N]) kind "g" {\n}', 1, 19, "unexpected 'N'"),
    ('func @m(%x: f32[2) kind "g" {\n}', 1, 17, "not closed by ']'"),
    ('func @m(%x: f33[]) kind "g" {\n}', 1, 13, "no element type 'f33'"),
    ('func @m(%x: mem<f32[*]>) kind "g" {\n}', 1, 17, "memory has an element type and a shape"),
    ('func @m(%x: seq<f32[]) kind "g" {\n}', 1, 22, "expected '>' at the end of the type"),
    ('func @m(%x f32) kind "g" {\n}', 1, 12, "expected ':' and the type of %x"),
    ("func @m() {\n}", 1, 11, "expected 'kind'"),
    ('func @m() kind "g" {\n}\nfunc @m() kind "g" {\n}', 3, 1, "a function @m exists already"),
    ("const @w = dense<f32[1]: 1.0>\nconst @w = dense<f32[1]: 1.0>", 2, 1, "a constant @w exists already"),
    ('const @w : f32[3] sha256 "aa"', 1, 7, "its content was not given"),
    ("const @w = dense<f32[3]: 1.0>", 1, 18, "has 3 elements, but 1 are given"),
    ("const @w = dense<f32[1000000000000]>", 1, 18, "has 1000000000000 elements, but 0 are given"),
    ("const @w = dense<f32[N]: 1.0>", 1, 18, "an array has a shape of numbers"),
    ("const @w = dense<f32[2]: 1.0, a>", 1, 31, "'a' is no element of type f32"),
    ("const @w = dense<f32[2]: 1.0, 1_0>", 1, 31, "'1_0' is no element of type f32"),
    ("const @w = dense<i32[1]: 1.0>", 1, 26, "'1.0' is no element of type i32"),
    ("const @w = dense<bool[1]: 1>", 1, 27, "'1' is no element of type bool"),
    ("const @w = dense<c64[1]: 1.0>", 1, 26, "'1.0' is no element of type c64"),
    ("const @w = dense<i4[1]: 8>", 1, 18, "8 is out of the range of i4"),
    ("const @w = dense<f16[1]: 1e6>", 1, 18, "out of the range of f16"),
    ("const @w = dense<f4e2m1[1]: nan>", 1, 18, "out of the range of f4e2m1"),
    ("const @w = dense<str[1]: a>", 1, 26, "expected a string"),
]


@pytest.mark.parametrize(("text", "line", "column", "says"), ERRORS, ids=[e[3] for e in ERRORS])
def test_errors_point_at_the_place(text, line, column, says):
    with pytest.raises(IRSyntaxError) as e:
        parse_module(text)
    assert says in str(e.value)
    assert (e.value.line, e.value.column) == (line, column)
    shown, caret = str(e.value).splitlines()[1:]
    source = text.splitlines()[line - 1] if column > 1 or line <= len(text.splitlines()) else ""
    assert shown[4:] == source.rstrip()
    assert caret == " " * (4 + column - 1) + "^"


def test_an_error_in_a_long_line_shows_the_part_around_it():
    text = 'func @m() kind "g" {\n  t.x() {a = [' + "1, " * 10_000 + "?" + ", 1" * 10_000 + "]}\n}"
    with pytest.raises(IRSyntaxError) as e:
        parse_module(text)
    shown, caret = str(e.value).splitlines()[1:]
    assert len(shown) <= 104
    assert shown[caret.index("^")] == "?"


def test_constants_are_taken_by_name_and_checked_by_content():
    module = parse_module("const @w = dense<f32[2]: 1.0, 2.0>")
    text = print_module(module)
    assert parse_module(text, module.constants).constants["w"] is module.constants["w"]
    for other in ([1.0, 3.0], [1.0, 2.0, 3.0]):
        with pytest.raises(IRSyntaxError, match="is not what this text was printed with"):
            parse_module(text, {"w": np.array(other, np.float32)})
    with pytest.raises(IRSyntaxError, match="was not given"):
        parse_module(text, {"v": module.constants["w"]})


@pytest.mark.parametrize(
    "text",
    [
        'func @m() kind "g" {\n' + "test.a() () {" * 5000,
        'func @m() kind "g" {\n test.a() {a = ' + "[" * 5000,
        "func @m(%x: " + "seq<" * 5000,
        "func @m(%x: f32[" + "(" * 5000 + "N" + ")" * 5000 + "]",
        "func @m(%x: f32[" + "-" * 50_000 + "N]",
        "func @m(%x: f32[" + "*".join(f"(a{i} + b{i})" for i in range(40)) + "]",
        "func @m(%x: f32[" + "*".join(["9000000000000000000"] * 300) + "]",
        "func @m(%x: f32[" + "9" * 5000 + "]",
        "func @m(%x: f32[min(" + ", ".join(f"a{i}" for i in range(300)) + ")]",
        'func @m() kind "g" {\n test.a() {a = ' + "9" * 5000,
        'func @m() kind "g" {\n test.a() ' + ";" * 60 + "\n?",
        'func @m() kind "g" {\n test.a(%a' + "_" * 60 + "?",
        'func @m() kind "g" {\n test.a() {"' + "\\a" * 20_000,
    ],
    ids=["regions", "lists", "types", "parentheses", "signs", "products", "numbers", "number", "arguments", "integer",
         "comment", "underscores", "string"],
)
def test_text_without_measure_is_an_error_and_soon(text):
    start = time.process_time()
    with pytest.raises(IRSyntaxError):
        parse_module(text)
    assert time.process_time() - start < 2


def test_nesting_up_to_the_limit_reads_and_prints():
    text = 'func @m() kind "g" {\n' + "test.a() () {" * MAX_NESTING + "}" * MAX_NESTING + "}"
    module = parse_module(text)
    assert difference(module, parse_module(print_module(module))) is None


def mutations(text, count, seed):
    """Texts near `text`: pieces cut out, doubled, swapped for odd characters, or moved."""
    rng = random.Random(seed)
    odd = list('%@{}()[]<>:=,_"!;\\-+*/ \n\t') + ["dense<", "1e999", "nan", "->", "func", "\x00", "é", "(" * 50, "none"]
    for _ in range(count):
        t = text
        for _ in range(rng.randint(1, 3)):
            i, n = rng.randrange(len(t)), rng.randint(0, 4)
            t = t[:i] + rng.choice([*odd, t[i:i + n] * 2, "", t[-n:] if n else ""]) + t[i + n:]
        yield t


def test_mutated_text_parses_or_is_a_syntax_error():
    text, constants = every_form()
    inline = print_module(parse_module(text, constants), inline=True)
    survived = 0
    for mutated in [*mutations(text, 1500, 1), *mutations(inline, 1500, 2)]:
        try:
            module = parse_module(mutated, constants)
        except IRSyntaxError as e:
            assert 1 <= e.line <= mutated.count("\n") + 1
        else:
            survived += 1
            assert difference(module, parse_module(print_module(module, inline=True))) is None
    assert survived > 100       # the mutations are small enough to reach deep places


def test_large_modules_read_in_about_a_second():
    line = '  %v{j} = test.conv(%v{i}, %x, _) {{pads = [1, 1], s = "abc", f = 1.5}} : f32[N, {d}] loc "n{i}"'
    lines = [line.format(i=i, j=i + 1, d=i % 97) for i in range(10_000)]
    text = 'func @main(%v0: f32[N, 3], %x: f32[3]) kind "graph" {\n' + "\n".join(lines) + "\n}\n"
    start = time.process_time()
    module = parse_module(text)
    assert time.process_time() - start < 5      # about 0.5 s on an idle core
    assert print_module(module) == text


def test_types_inside_types():
    assert parse_type("mem<f16[N, 3]>") == Mem(ALL_DTYPES[9], (sym("N"), 3))
    assert parse_type("seq<seq<i64[]>>") == Seq(Seq(Tensor(I64, ())))
    assert parse_attr('@"a b"') == Ref("a b")
    assert parse_attr("dense<bf16[1]: 1.5>").dtype == ml_dtypes.bfloat16
    for bad in ("f32[2] 1", "f32[2]]", "", "tensor<f32>"):
        with pytest.raises(IRSyntaxError):
            parse_type(bad)
