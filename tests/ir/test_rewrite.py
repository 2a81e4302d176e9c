"""The rewrite driver: what rules may do, in which order they apply, when the driver stops, and what it reports."""

import re

import numpy as np
import pytest

import onnxc.ops.program
import onnxc.ops.tensor  # noqa: F401  (registers t.const and the terminators)
from onnxc.ir.core import Module, Value
from onnxc.ir.parser import parse_module
from onnxc.ir.printer import print_func
from onnxc.ir.registry import register
from onnxc.ir.rewrite import Fuel, Match, RewriteError, RewriteLog, RewriteLoop, RuleSet, merge_locs, rewrite, rule
from onnxc.ir.types import F32, Tensor
from onnxc.ir.verify import verify


def _first(types, attrs):
    return [types[0]]


for _name in ("neg", "f", "g", "h"):
    register(f"test.r_{_name}", "x", infer=_first, doc="a pure op of one operand")
register("test.r_add", "x, y", traits="pure commutative", infer=_first, doc="a commutative op")
register("test.r_sub", "x, y", infer=_first, doc="an op that is not commutative")
register("test.r_two", "x", "a, b", infer=lambda types, attrs: [types[0], types[0]], doc="two results")
register("test.r_effect", "x", "", traits="write", infer=lambda types, attrs: [], doc="an op with an effect")
register("test.r_loop", "xs*", "results*", traits="pure isolated", regions=1, doc="a region")


def module_of(*lines, args="%x: f32[], %y: f32[]", result="%o"):
    body = "\n".join(f"  {line}" for line in lines)
    return parse_module(f'func @main({args}) -> (f32[]) kind "graph" {{\n{body}\n  return({result})\n}}')


def body_of(module):
    return [line.strip() for line in print_func(module.main).splitlines()[1:-1]]


def apply(module, *rules, **options):
    log = options.setdefault("log", RewriteLog())
    count = rewrite(module.main, module, RuleSet(rules), **options)
    verify(module, 2)
    assert len(log.applied) >= count
    return count


@rule("double-negation", root="test.r_neg")
def double_negation(m: Match) -> Value | None:
    inner = m.made_by(m.op.operand(0), "test.r_neg")
    return inner.operand(0) if inner is not None else m.no("the operand is no negation")


@rule("f-to-g", root="test.r_f")
def f_to_g(m: Match) -> Value:
    return m.builder.value("test.r_g", m.op.operand(0))


@rule("g-to-f", root="test.r_g")
def g_to_f(m: Match) -> Value:
    return m.builder.value("test.r_f", m.op.operand(0))


@rule("g-to-h", root="test.r_g")
def g_to_h(m: Match) -> Value:
    return m.builder.value("test.r_h", m.op.operand(0))


@rule("add-zero", root="test.r_add")
def add_zero(m: Match) -> Value | None:
    found = m.split(lambda v: m.const(v) is not None and not np.any(m.const(v)))
    return found[1] if found else m.no("no operand is the constant 0")


def test_a_rule_replaces_and_what_it_leaves_unused_is_erased():
    module = module_of("%a = test.r_neg(%x) : f32[]", "%b = test.r_neg(%a) : f32[]", "%o = test.r_f(%b) : f32[]")
    log = RewriteLog()
    assert apply(module, double_negation, log=log) == 1
    assert body_of(module) == ["%o = test.r_f(%x) : f32[]", "return(%o)"]
    (done,) = log.applied
    assert (done.serial, done.rule, done.func) == (1, "double-negation", "main")
    assert done.before == "%b = test.r_neg(%a) : f32[]"
    assert done.after == ("%x: f32[]",)
    assert re.fullmatch(r"ir/test_rewrite\.py:\d+", done.place)
    assert str(log).splitlines()[0] == "    1 x double-negation"


def test_what_a_rewrite_makes_is_looked_at_again_with_its_users_and_producers():
    chain = [f"%v{i + 1} = test.r_neg(%v{i}) : f32[]" for i in range(7)]
    module = module_of(*chain, args="%v0: f32[]", result="%v7")
    assert apply(module, double_negation) == 3
    assert body_of(module) == ["%v7 = test.r_neg(%v0) : f32[]", "return(%v7)"]
    module = module_of("%o = test.r_f(%x) : f32[]")
    assert apply(module, g_to_h, f_to_g) == 2
    assert body_of(module) == ["%o = test.r_h(%x) : f32[]", "return(%o)"]


def test_the_first_rule_of_the_set_wins():
    for rules, made in (((g_to_f, g_to_h), "r_f"), ((g_to_h, g_to_f), "r_h")):
        module = module_of("%o = test.r_g(%x) : f32[]")
        apply(module, *rules)
        assert body_of(module)[0] == f"%o = test.{made}(%x) : f32[]"


def test_operands_match_both_ways_only_where_the_op_is_commutative():
    zero = "%z = t.const() {value = dense<f32[]: 0.0>, ref = none} : f32[]"
    for operands in ("%x, %z", "%z, %x"):
        module = module_of(zero, f"%a = test.r_add({operands}) : f32[]", "%o = test.r_f(%a) : f32[]")
        assert apply(module, add_zero) == 1
        assert body_of(module) == ["%o = test.r_f(%x) : f32[]", "return(%o)"]
    pairs = []

    @rule("see-pairs", root=("test.r_add", "test.r_sub"))
    def see_pairs(m):
        pairs.append([(a.name, b.name) for a, b in m.pairs()])

    apply(module_of("%o = test.r_sub(%x, %y) : f32[]"), see_pairs)
    apply(module_of("%o = test.r_add(%x, %y) : f32[]"), see_pairs)
    assert pairs == [[("x", "y")], [("x", "y"), ("y", "x")]]


def test_a_rule_may_look_at_every_op():
    seen = []

    @rule("see-all", root="*")
    def see_all(m):
        seen.append(m.op.name)

    apply(module_of("%o = test.r_f(%x) : f32[]", "test.r_effect(%o)"), see_all)
    assert seen == ["test.r_f", "test.r_effect", "return"]


def test_refusals_are_counted_by_reason_once_an_op():
    module = module_of("%a = test.r_neg(%x) : f32[]", "%b = test.r_f(%a) : f32[]", "%c = test.r_neg(%y) : f32[]",
                       "%o = test.r_add(%b, %c) : f32[]")
    log = RewriteLog()
    # The rewrite of f makes the driver look at the negations again, which does not count twice.
    apply(module, double_negation, f_to_g, add_zero, log=log)
    assert dict(log.refused) == {
        ("double-negation", "the operand is no negation"): 2, ("add-zero", "no operand is the constant 0"): 1,
    }
    assert "    2 x double-negation refused: the operand is no negation" in str(log)


def test_what_a_refusing_rule_made_is_taken_out_again():
    @rule("half-way", root="test.r_f")
    def half_way(m):
        a = m.builder.value("test.r_g", m.op.operand(0))
        m.builder.value("test.r_h", a)
        return m.no("changed its mind")

    module = module_of("%o = test.r_f(%x) : f32[]")
    before = body_of(module)
    assert apply(module, half_way) == 0
    assert body_of(module) == before
    assert len(module.main.args[0].uses) == 1


def test_only_pure_ops_without_uses_are_erased():
    module = module_of("%a = test.r_f(%x) : f32[]", "%b = test.r_g(%a) : f32[]", "test.r_effect(%x)",
                       "%u = onnx.Unknown(%x) : f32[]", "%o = test.r_h(%x) : f32[]")
    assert apply(module) == 0
    assert [line.split("(")[0] for line in body_of(module)] == [
        "test.r_effect", "%u = onnx.Unknown", "%o = test.r_h", "return",
    ]


def test_an_op_that_was_replaced_goes_even_if_nothing_says_that_it_is_pure():
    @rule("known", root="onnx.Unknown")
    def known(m):
        return m.builder.value("test.r_f", m.op.operand(0))

    module = module_of("%o = onnx.Unknown(%x) : f32[]")
    apply(module, known)
    assert body_of(module) == ["%o = test.r_f(%x) : f32[]", "return(%o)"]


def test_ops_without_results_are_replaced_by_nothing():
    @rule("no-effect", root="test.r_effect")
    def no_effect(m):
        return ()

    module = module_of("test.r_effect(%x)", "test.r_effect(%y)", result="%x")
    assert apply(module, no_effect) == 2
    assert body_of(module) == ["return(%x)"]


def test_several_results_are_replaced_together():
    @rule("split", root="test.r_two")
    def split(m):
        return m.builder.value("test.r_f", m.op.operand(0)), m.op.operand(0)

    module = module_of("%a, %b = test.r_two(%x) : f32[], f32[]", "%o = test.r_add(%a, %b) : f32[]")
    apply(module, split)
    assert body_of(module) == ["%a = test.r_f(%x) : f32[]", "%o = test.r_add(%a, %x) : f32[]", "return(%o)"]


REGION = (
    '%o = test.r_loop(%x) : f32[] (%p: f32[]) {',
    "  %a = test.r_neg(%p) : f32[]",
    "  %b = test.r_neg(%a) : f32[]",
    "  yield(%b)",
    "}",
)


def test_rules_apply_inside_regions_and_the_op_around_is_looked_at_again():
    @rule("empty-loop", root="test.r_loop")
    def empty_loop(m):
        region = m.op.regions[0]
        return m.op.operand(0) if region.terminator.operand(0) is region.args[0] else m.no("the body works")

    module = module_of(*REGION)
    assert apply(module, empty_loop, double_negation) == 2
    assert body_of(module) == ["return(%x)"]


def test_regions_move_into_the_replacement():
    @rule("rebuild", root="test.r_loop")
    def rebuild(m):
        if m.op.loc == "again":
            return m.no("done")
        types = [r.type for r in m.op.results]
        op = m.builder.op("test.r_loop", m.op.operands, types=types, regions=m.move_regions())
        op.loc = "again"
        return op.results

    module = module_of(*REGION)
    assert apply(module, rebuild) == 1
    assert body_of(module)[0] == '%o = test.r_loop(%x) : f32[] loc "again" (%p: f32[]) {'
    assert len(body_of(module)) == 6


def test_a_replacement_stands_for_the_ops_that_it_absorbed():
    @rule("fuse", root="test.r_g")
    def fuse(m):
        inner = m.made_by(m.op.operand(0), "test.r_f")
        return m.builder.value("test.r_h", inner.operand(0)) if inner else None

    module = module_of('%a = test.r_f(%x) : f32[] loc "conv"', '%o = test.r_g(%a) : f32[] loc "relu"')
    apply(module, fuse)
    assert body_of(module)[0] == '%o = test.r_h(%x) : f32[] loc "conv, relu"'
    # An op that lives on keeps its place for itself.
    module = module_of('%a = test.r_f(%x) : f32[] loc "conv"', '%b = test.r_g(%a) : f32[] loc "relu"',
                       "%o = test.r_add(%a, %b) : f32[]")
    apply(module, fuse)
    assert body_of(module)[1] == '%b = test.r_h(%x) : f32[] loc "relu"'
    assert merge_locs("a, b", "", "b", "c") == "a, b, c"


def test_only_use_says_whether_a_value_dies_with_its_use():
    seen = {}

    @rule("see-uses", root="test.r_add")
    def see_uses(m):
        seen.update({v.name: m.only_use(v) for v in m.op.inputs})

    apply(module_of("%a = test.r_f(%x) : f32[]", "%o = test.r_add(%a, %x) : f32[]"), see_uses)
    assert seen == {"a": True, "x": False}


def test_the_part_of_one_pass_can_be_taken_out_of_a_log():
    log = RewriteLog()
    apply(module_of("%o = test.r_f(%x) : f32[]"), double_negation, f_to_g, log=log)
    apply(module_of("%o = test.r_neg(%x) : f32[]"), double_negation, log=log)
    earlier = log.copy()
    apply(module_of("%a = test.r_f(%x) : f32[]", "%o = test.r_neg(%a) : f32[]"), double_negation, f_to_g, log=log)
    part = log.since(earlier)
    assert [a.rule for a in part.applied] == ["f-to-g"]
    assert dict(part.refused) == {("double-negation", "the operand is no negation"): 1}
    assert len(log.applied) == 2
    assert len(earlier.applied) == 1


# ---- fuel ------------------------------------------------------------------------------------------------------------
def test_fuel_stops_rewriting_and_numbers_run_through_all_passes():
    lines = [f"%v{i} = test.r_f(%x) : f32[]" for i in range(6)] + [f"test.r_effect(%v{i})" for i in range(6)]
    for limit in range(14):
        module, other = module_of(*lines, result="%x"), module_of(*lines, result="%x")
        log, fuel = RewriteLog(), Fuel(limit)
        for m in (module, other):
            rewrite(m.main, m, RuleSet([f_to_g]), log, fuel)
            verify(m, 2)
        applied = min(limit, 12)
        assert [a.serial for a in log.applied] == list(range(1, applied + 1))
        assert fuel.used == applied
        assert fuel.is_spent == (limit <= 12)
        made = [sum("r_g" in line for line in body_of(m)) for m in (module, other)]
        assert made == [min(limit, 6), max(0, applied - 6)]


def test_each_rewrite_is_shown_to_the_caller():
    seen = []
    module = module_of("%a = test.r_f(%x) : f32[]", "%o = test.r_f(%a) : f32[]")
    rewrite(module.main, module, RuleSet([f_to_g]), after=lambda step: (verify(module, 2), seen.append(step.serial)))
    assert seen == [1, 2]


# ---- loops -----------------------------------------------------------------------------------------------------------
def test_rules_that_undo_each_other_are_named():
    module = module_of("%a = test.r_h(%x) : f32[]", "%o = test.r_f(%a) : f32[]")
    with pytest.raises(RewriteLoop) as e:
        rewrite(module.main, module, RuleSet([f_to_g, double_negation, g_to_f]))
    assert sorted(e.value.rules) == ["f-to-g", "g-to-f"]
    text = str(e.value)
    assert "rewriting in @main does not end: " in text
    assert "test.r_f(%a)" in text
    assert "test.r_g(%a)" in text
    assert "ir/test_rewrite.py:" in text


def test_a_rule_that_makes_more_of_itself_is_stopped():
    @rule("grow", root="test.r_f")
    def grow(m):
        b = m.builder
        return b.value("test.r_add", b.value("test.r_f", m.op.operand(0)), b.value("test.r_f", m.op.operand(0)))

    module = module_of("%o = test.r_f(%x) : f32[]")
    with pytest.raises(RewriteLoop) as e:
        rewrite(module.main, module, RuleSet([grow]))
    assert e.value.rules == ("grow",)


def test_long_chains_of_different_ops_are_no_loop():
    chain = [f"%v{i + 1} = test.r_neg(%v{i}) : f32[]" for i in range(2000)]
    module = module_of(*chain, args="%v0: f32[]", result="%v2000")
    assert apply(module, double_negation) == 1000


def test_the_limit_is_the_length_of_a_line_of_descent():
    for limit, ends in ((1, False), (2, True)):
        module = module_of("%o = test.r_f(%x) : f32[]")
        if ends:
            assert apply(module, f_to_g, g_to_h, limit=limit) == 2
        else:
            with pytest.raises(RewriteLoop):
                apply(module, f_to_g, g_to_h, limit=limit)


# ---- rules that break the contract -----------------------------------------------------------------------------------
def _wrong_type(m):
    return m.builder.op("test.r_f", [m.op.operand(0)], types=[Tensor(F32, (2,))]).result


def _wrong_count(m):
    return m.op.operand(0), m.op.operand(0)


def _itself(m):
    return m.op.result


def _wraps_itself(m):
    return m.builder.value("test.r_f", m.op.result)


def _raises(m):
    return m.op.operand(7)


def _leaks(m):
    made = m.builder.value("test.r_f", m.op.operand(0))
    m.op.set_operand(0, made)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (_wrong_type, "gave %?: f32[2] for %o: f32[], which has another type"),
        (_wrong_count, "gave 2 values for 1 results"),
        (_itself, "gave a result of the op itself; a replacement is made anew"),
        (_wraps_itself, "made an op that uses a result of the op that it replaces"),
        (_raises, "failed with IndexError"),
        (_leaks, "gave no replacement, but an op uses what it made"),
    ],
    ids=lambda p: getattr(p, "__name__", ""),
)
def test_a_rule_that_breaks_the_contract_is_named(function, says):
    module = module_of("%o = test.r_f(%x) : f32[]")
    with pytest.raises(RewriteError) as e:
        rewrite(module.main, module, RuleSet([rule("bad", root="test.r_f")(function)]))
    assert says in str(e.value)
    assert "rule bad (ir/test_rewrite.py:" in str(e.value)
    assert "test.r_f(" in str(e.value)


def test_rules_have_unique_names_of_one_form():
    for name in ("Not This", "under_score", "", "-a", "a-", "é"):
        with pytest.raises(ValueError, match="cannot name a rule"):
            rule(name, root="test.r_f")
    with pytest.raises(ValueError, match="there are two rules 'f-to-g'"):
        RuleSet([f_to_g, f_to_g])
    both = RuleSet([f_to_g]) + RuleSet([g_to_h])
    assert [r.name for r in both] == ["f-to-g", "g-to-h"]
    assert len(both) == 2


def test_a_set_of_a_namespace_has_the_rules_in_the_order_of_the_file():
    names = [r.name for r in RuleSet.of(globals())]
    assert names == ["double-negation", "f-to-g", "g-to-f", "g-to-h", "add-zero"]


def test_an_empty_function_is_left_alone():
    module = Module()
    func = module.add(parse_module('func @f() kind "graph" {\n}').funcs["f"])
    assert rewrite(func, module, RuleSet([f_to_g])) == 0
