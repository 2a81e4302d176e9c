"""The verifier: valid modules pass, each rule has a module that breaks it, and the error shows where."""

import time

import numpy as np
import pytest

import onnxc.ops.fold
import onnxc.ops.program
import onnxc.ops.tensor  # noqa: F401  (registers the ops that the texts use)
from onnxc.errors import RuntimeException
from onnxc.ir.core import Block, Module, Op, Ref
from onnxc.ir.parser import parse_module
from onnxc.ir.registry import REQUIRED, TypeInferenceError, register
from onnxc.ir.types import F32, Mem, Scalar, Tensor
from onnxc.ir.verify import VerifyError, find_problems, verify

VEC = Tensor(F32, (3,))


def _same(types, attrs):
    if attrs["axis"] < 0:
        raise TypeInferenceError("the axis is negative")
    return [types[0]]


def _yields_result(op):
    given = [v.type for v in op.regions[0].terminator.inputs]
    if given != [r.type for r in op.results]:
        yield "the region does not yield the results"


register("test.typed", "x, y?, zs*", attrs={"axis": REQUIRED, "mode": "a"}, infer=_same, doc="gives its first operand")
register("test.sealed", "xs*", "results*", traits="isolated", regions=1, check=_yields_result, doc="isolated region")

GRAPH = """
const @w = dense<f32[3]: 1.0, 2.0, 3.0>
func @main(%x: f32[3]) -> (f32[3]) kind "graph" {
  %c = t.const() {value = none, ref = @w} : f32[3]
  %a = test.typed(%x, _, %c) {axis = 1, mode = "b"} : f32[3] loc "n"
  %s = test.sealed(%a) : f32[3] (%p: f32[3]) {
    %q = test.opaque(%p) : f32[3] () {
      test.use(%p)
      yield()
    }
    yield(%q)
  }
  %o = onnx.Unknown(%s) {anything = 1} : f32[3]
  return(%o)
}
"""


def test_a_valid_module_passes():
    verify(parse_module(GRAPH), 2)
    verify(Module(), 2)
    verify(parse_module('func @f() kind "graph" {\n}'), 2)


TEXT_FAULTS = [
    # replace in GRAPH, by, the fault
    ("%o = onnx.Unknown(%s) {anything = 1}", "%o = t.unknown(%s)", "there is no op t.unknown"),
    ("%o = onnx.Unknown(%s) {anything = 1}", "%o = Unknown(%s)", "there is no op Unknown"),
    ("test.typed(%x, _, %c)", "test.typed()", "test.typed takes (x, y, zs) but has 0 operands"),
    ("test.typed(%x, _, %c)", "test.typed(_, %x)", "operand 'x' of test.typed is absent, but it is not optional"),
    ('{axis = 1, mode = "b"}', "", "test.typed lacks attribute 'axis'"),
    ("axis = 1,", "axis = 1, other = 2,", "test.typed has no attribute 'other'; it has ['axis', 'mode']"),
    ("axis = 1", "axis = -1", "test.typed does not take its operands: the axis is negative"),
    ("axis = 1", 'axis = "x"', "test.typed does not take its operands: TypeError"),
    ('} : f32[3] loc "n"', '} : f32[4] loc "n"', "test.typed has results (f32[4]), but its operands and"),
    ("%a = test.typed", "%a, %a2 = test.typed", "test.typed gives (result) but has 2 results"),
    ("    yield(%q)\n  }", "    yield(%q)\n  } () {\n    yield()\n  }", "test.sealed has 1 regions, not 2"),
    ("yield(%q)", "yield()", "the region does not yield the results"),
    ("yield()", "return()", "return ends the body of a function and cannot stand elsewhere"),
    ("return(%o)", "yield(%o)", "yield ends a region and cannot stand elsewhere"),
    ("return(%o)", "return(%o)\n  test.use(%o)", "return is not the last op of its block"),
    ("  return(%o)\n", "", "it has results but does not end in return"),
    ("return(%o)", "return()", "it returns (), but its results are (f32[3])"),
    ("return(%o)", "return(_)", "it returns (None), but its results are (f32[3])"),
    ("-> (f32[3])", "-> (f32[4])", "it returns (f32[3]), but its results are (f32[4])"),
    ("ref = @w", "ref = @v", "attribute 'ref' names @v, which the module does not have"),
    ("anything = 1", "anything = [1, [@v]]", "attribute 'anything' names @v, which the module does not have"),
    ("value = none, ref = @w} : f32[3]", "value = none, ref = @w} : f32[2]", "t.const gives f32[2], but the array"),
    ("value = none, ref", "value = dense<f32[]: 1.0>, ref", "t.const holds either a value or a reference"),
    ("ref = @w", "ref = none", "t.const holds either a value or a reference to a constant"),
    ('kind "graph" {', 'kind "graph" {uses = @v} {', "attribute 'uses' names @v, which the module does not have"),
]


def texts(module):
    return [p.text for p in find_problems(module)]


@pytest.mark.parametrize(("old", "new", "says"), TEXT_FAULTS, ids=[f[2] for f in TEXT_FAULTS])
def test_each_rule_has_a_text_that_breaks_it(old, new, says):
    assert GRAPH.count(old) == 1
    text = GRAPH.replace(old, new)
    if "%a2" in new:
        text = text.replace('} : f32[3] loc "n"', '} : f32[3], f32[3] loc "n"')
    assert any(t.startswith(says) for t in texts(parse_module(text)))


KERNEL = """
func @k(%x: mem<f32[N, M]>, %i: mem<i64[N]>, %o: mem<f32[N, M]>) kind "kernel" {symbols = ["K"]} {
  k.parallel() {axes = [<i>], extents = [<N>]} () {
    %at = k.load(%i) {index = [<i>], where = [], other = 0} : i64
    %s = k.reduce() {axes = [<j>], extents = [<M + K>], kinds = ["add"]} : f32 () {
      %v = k.load(%x, %at) {index = [<$0>, <j>], where = [[<j>, 0, <M>]], other = 0} : f32
      yield(%v)
    }
    k.sweep() {axes = [<l>], extents = [<M>]} () {
      k.store(%o, %s) {index = [<i>, <l>], where = [], combine = none}
    }
    k.scan() {axis = <p>, extent = <M>, kind = "add", exclusive = false} () {
      %w = k.load(%x) {index = [<i>, <p>], where = [], other = 0} : f32
      yield(%w)
    } (%acc: f32) {
      k.store(%o, %acc) {index = [<i>, <p>], where = [], combine = none}
    }
  }
}
"""
CONTRACT = """
func @k(%x: mem<f32[M, K]>, %y: mem<f32[K, N]>, %o: mem<f32[M, N]>) kind "kernel" {
  k.contract() {batch = [], m = [[<i>, <M>]], n = [[<j>, <N>]], k = [[<k>, <K>]], accumulate = !f32} () {
    %a = k.load(%x) {index = [<i>, <k>], where = [], other = 0} : f32
    yield(%a)
  } () {
    %b = k.load(%y) {index = [<k>, <j>], where = [], other = 0} : f32
    yield(%b)
  } (%c: f32) {
    k.store(%o, %c) {index = [<i>, <j>], where = [], combine = none}
  }
}
"""
KERNEL_FAULTS = [
    (KERNEL, "index = [<$0>, <j>]", "index = [<$1>, <j>]", "'$1' in k.load is no axis around it"),
    (KERNEL, "index = [<$0>, <j>]", "index = [<$0>, <l>]", "'l' in k.load is no axis around it"),
    (KERNEL, "[[<j>, 0, <M>]]", "[[<j>, 0, <Q>]]", "'Q' in k.load is no axis around it"),
    (KERNEL, "extents = [<M + K>]", "extents = [<M + j>]", "'j' in k.reduce is no axis around it"),
    (KERNEL, '{symbols = ["K"]} ', "", "'K' in k.reduce is no axis around it"),
    (KERNEL, "axes = [<l>]", "axes = [<i>]", "axis 'i' of k.sweep has the name of another symbol in sight"),
    (KERNEL, "axes = [<l>]", "axes = [<N>]", "axis 'N' of k.sweep has the name of another symbol in sight"),
    (KERNEL, "axes = [<l>], extents = [<M>]", "axes = [<l>, <l>], extents = [<M>, 2]", "axis 'l' of k.sweep has"),
    (KERNEL, "axes = [<l>]", "axes = [<l>, <q>]", "k.sweep needs as many extents as axes"),
    (KERNEL, "axes = [<l>]", "axes = [<l*2>]", "l*2 cannot be an axis of k.sweep, only a symbol can"),
    (KERNEL, 'kinds = ["add"]', 'kinds = ["sum"]', "k.reduce has no kind 'sum'"),
    (KERNEL, 'kinds = ["add"]', 'kinds = ["argmax"]', "k.reduce of kinds ['argmax'] has 1 results, not 2"),
    (KERNEL, "yield(%v)", "yield(%v, %v)", "region 0 of k.reduce yields (f32, f32), not (f32)"),
    (KERNEL, "yield(%v)", "yield(%at)", "region 0 of k.reduce yields (i64), not (f32)"),
    (KERNEL, "%acc: f32", "%acc: f64", "region 1 of k.scan takes (f32), not (f64)"),
    (KERNEL, "yield(%w)", "yield()", "region 0 of k.scan yields (), not 1 scalars"),
    (CONTRACT, "index = [<i>, <k>]", "index = [<j>, <k>]", "'j' in k.load is no axis around it"),
    (CONTRACT, "index = [<i>, <j>]", "index = [<i>, <k>]", "'k' in k.store is no axis around it"),
    (CONTRACT, "[[<i>, <M>]]", "[<i>]", "'m' of k.contract is a list of [axis, extent]"),
    (CONTRACT, "%c: f32", "%c: f64", "region 2 of k.contract takes (f32), not (f64)"),
]


def test_a_kernel_may_use_the_symbols_that_the_program_passes():
    kernel = KERNEL.replace('{symbols = ["K"]} ', "")
    program = 'func @main() kind "program" {symbols = ["N", "K"]} {\n}\n'
    assert texts(parse_module(kernel)) != []
    assert texts(parse_module(kernel + program)) == []


def test_the_kernels_that_faults_are_made_of_are_valid():
    verify(parse_module(KERNEL), 2)
    verify(parse_module(CONTRACT), 2)


@pytest.mark.parametrize(("base", "old", "new", "says"), KERNEL_FAULTS, ids=[f[3] for f in KERNEL_FAULTS])
def test_each_rule_of_kernels_has_a_text_that_breaks_it(base, old, new, says):
    assert base.count(old) == 1
    assert any(t.startswith(says) for t in texts(parse_module(base.replace(old, new))))


# ---- faults that no text can have: the module is broken by hand ------------------------------------------------------
def _ops(module):
    return {op.name: op for op in module.walk()}


def _foreign_operand(module):
    other = parse_module(GRAPH)
    _ops(module)["test.typed"].set_operand(0, other.main.args[0])


def _use_before_definition(module):
    ops = _ops(module)
    ops["test.typed"].set_operand(0, ops["onnx.Unknown"].result)


def _inside_out(module):
    ops = _ops(module)
    ops["onnx.Unknown"].set_operand(0, ops["test.opaque"].result)


def _captured(module):
    ops = _ops(module)
    ops["test.opaque"].set_operand(0, ops["test.typed"].result)


def _lost_use(module):
    module.main.args[0].uses.clear()


def _stale_use(module):
    module.main.args[0].uses.append((_ops(module)["onnx.Unknown"], 0))


def _double_use(module):
    uses = module.main.args[0].uses
    uses.append(uses[0])


def _wrong_parent(module):
    _ops(module)["test.sealed"].regions[0].parent = module.main


def _wrong_body(module):
    module.main.body.parent = None


def _wrong_index(module):
    _ops(module)["test.typed"].result.index = 1


def _wrong_argument(module):
    module.main.args[0].owner = Block()


def _wrong_links(module):
    _ops(module)["test.typed"]._prev = None


def _cut_chain(module):
    _ops(module)["test.typed"]._next = None


def _wrong_block(module):
    _ops(module)["test.typed"].block = None


def _odd_attribute(module):
    _ops(module)["onnx.Unknown"].attrs["anything"] = (1, [2])


def _odd_array(module):
    _ops(module)["onnx.Unknown"].attrs["anything"] = np.array(["2020-01-01"], "M8[D]")


def _odd_constant(module):
    module.constants["odd"] = [1.0]


def _odd_name(module):
    module.funcs["alias"] = module.main


UNSEEN = "is not defined before it where it can be seen"
TYPED = "test.typed[0]"
HAND_FAULTS = [
    (_foreign_operand, f"operand 0 of test.typed, %x: f32[3], {UNSEEN}"),
    (_use_before_definition, f"operand 0 of test.typed, %o: f32[3], {UNSEEN}"),
    (_inside_out, f"operand 0 of onnx.Unknown, %q: f32[3], {UNSEEN}"),
    (_captured, f"operand 0 of test.opaque, %a: f32[3], {UNSEEN}"),
    (_lost_use, f"%x: f32[3] lists the uses none, but in the function they are {TYPED}"),
    (_stale_use, f"%x: f32[3] lists the uses {TYPED}, onnx.Unknown[0], but in the function they are {TYPED}"),
    (_double_use, f"%x: f32[3] lists the uses {TYPED}, {TYPED}, but in the function they are {TYPED}"),
    (_wrong_parent, "one of its regions belongs to something else"),
    (_wrong_body, "its body belongs to something else"),
    (_wrong_index, "result 0 of test.typed, %a: f32[3], is not owned by it"),
    (_wrong_argument, "argument 0, %x: f32[3], is not owned by its block"),
    (_wrong_links, "test.typed is not linked to its block and its predecessor"),
    (_cut_chain, "a block counts 5 ops, but 2 are linked"),
    (_wrong_block, "test.typed is not linked to its block and its predecessor"),
    (_odd_attribute, "attribute 'anything' holds a list, which is no attribute"),
    (_odd_array, "attribute 'anything' holds an array that has numpy type datetime64[D], which is no element type"),
    (_odd_constant, "constant @odd is no array but a list"),
    (_odd_name, "it is listed as @alias"),
]


@pytest.mark.parametrize(("breaks", "says"), HAND_FAULTS, ids=lambda f: f.__name__ if callable(f) else "")
def test_each_rule_of_structure_has_a_module_that_breaks_it(breaks, says):
    module = parse_module(GRAPH)
    breaks(module)
    assert says in texts(module)
    with pytest.raises(VerifyError):      # which prints the broken module, as far as it goes
        verify(module)


def test_the_constant_of_a_program_has_the_type_of_its_buffer():
    module = Module()
    module.constants["w"] = np.ones((2, 3), np.float32)
    func = module.add(parse_module('func @main() kind "program" {\n}').main)
    func.body.append(Op("p.const", (), [Mem(F32, (2, 3))], {"ref": Ref("w")}))
    verify(module)
    func.body.append(Op("p.const", (), [Mem(F32, (3, 2))], {"ref": Ref("w")}))
    assert texts(module) == ["p.const gives mem<f32[3, 2]>, but the array it stands for is f32[2, 3]"]


def test_equal_dims_in_other_words_are_the_same_type():
    text = 'func @f(%x: f32[N]) -> (f32[max(N, min(M, 0))]) kind "g" {\n  return(%x)\n}'
    verify(parse_module(text))


def test_the_error_shows_the_op_between_its_neighbours_and_lists_all_faults():
    text = GRAPH.replace("axis = 1", "axis = -1").replace("onnx.Unknown", "t.unknown")
    with pytest.raises(VerifyError) as e:
        verify(parse_module(text))
    assert [p.op.name for p in e.value.problems] == ["test.typed", "t.unknown"]
    assert isinstance(e.value, RuntimeException)
    message = str(e.value)
    assert "the IR is not valid: 2 faults\nfunction @main: test.typed does not take its operands" in message
    assert '>   %a = test.typed(%x, _, %c) {axis = -1, mode = "b"} : f32[3] loc "n"\n' in message
    assert "    %s = test.sealed(%a) : f32[3] (%p: f32[3]) {\n" in message


def test_an_error_spells_out_the_first_faults_and_counts_the_others():
    lines = "\n".join(f"  %v{i} = t.unknown() : f32[]" for i in range(50))
    with pytest.raises(VerifyError) as e:
        verify(parse_module(f'func @f() kind "g" {{\n{lines}\n}}'))
    assert len(e.value.problems) == 50
    assert str(e.value).count("there is no op") == 10
    assert str(e.value).endswith("and 40 more")


def test_text_that_does_not_read_back_is_a_fault_at_level_two(monkeypatch):
    module = parse_module(GRAPH)
    monkeypatch.setattr("onnxc.ir.verify.print_module", lambda m: GRAPH.replace("axis = 1", "axis = 2"))
    verify(module, 1)
    with pytest.raises(VerifyError, match="attribute 'axis' is 1 and 2"):
        verify(module, 2)
    monkeypatch.setattr("onnxc.ir.verify.print_module", lambda m: GRAPH.replace("axis = 1", "axis = ?"))
    with pytest.raises(VerifyError, match="does not read back as the module: .*line 5, column"):
        verify(module, 2)


def test_ten_thousand_ops_are_verified_in_a_moment():
    line = '  %v{j} = t.transpose(%v{i}) {{perm = [1, 0]}} : f32[{t}] loc "n{i}"'
    lines = [line.format(i=i, j=i + 1, t="N, 3" if i % 2 else "3, N") for i in range(10_000)]
    module = parse_module('func @main(%v0: f32[N, 3]) kind "graph" {\n' + "\n".join(lines) + "\n}\n")
    start = time.process_time()
    verify(module)
    assert time.process_time() - start < 1      # about 0.1 s on an idle core


def test_scalar_types_are_compared_as_types():
    module = parse_module('func @f(%x: f32) -> (f32) kind "kernel" {\n  return(%x)\n}')
    assert module.funcs["f"].result_types == [Scalar(F32)]
    verify(module, 2)
