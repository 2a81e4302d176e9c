"""Counted loops over SSA values for code emitted with llvmlite's builder.

Owns the block and phi structure of a loop only: what a loop computes is the caller's. The loop is tested before
the first iteration and then at the bottom, the form that LLVM's back end wants, so that it needs no rotation pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir

I64 = ir.IntType(64)

Body = Callable[[ir.IRBuilder, ir.Value, list[ir.Value]], Sequence[ir.Value]]


def i64(value: int | ir.Value) -> ir.Value:
    """`value` as an i64 operand; integers become constants."""
    return ir.Constant(I64, value) if isinstance(value, int) else value


def least(builder: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """The smaller of two signed integers."""
    return builder.select(builder.icmp_signed("<", x, y), x, y)


def counted_loop(
    builder: ir.IRBuilder,
    name: str,
    start: int | ir.Value,
    stop: int | ir.Value,
    step: int | ir.Value,
    carried: Sequence[ir.Value],
    body: Body,
    goes_on: Callable[[Sequence[ir.Value]], ir.Value] | None = None,
) -> list[ir.Value]:
    """Emit `for index in range(start, stop, step)` with `step` > 0, and leave `builder` behind the loop.

    `body(builder, index, values)` emits one iteration: it receives the carried values and returns their successors.
    `goes_on(values)`, where given, is an i1 without which the next iteration, or the first one, does not begin.
    Returns the values after the last iteration, which are `carried` themselves when there is none.
    """
    start, stop, step = i64(start), i64(stop), i64(step)
    entry = builder.block

    def once_more(at: ir.Value, values: Sequence[ir.Value]) -> ir.Value:
        inside = builder.icmp_signed("<", at, stop)
        return inside if goes_on is None else builder.and_(inside, goes_on(values))

    first = builder.append_basic_block(f"{name}.body")
    after = builder.append_basic_block(f"{name}.end")
    builder.cbranch(once_more(start, carried), first, after)

    builder.position_at_end(first)
    index = builder.phi(I64, name=name)
    index.add_incoming(start, entry)
    values = []
    for value in carried:
        phi = builder.phi(value.type)
        phi.add_incoming(value, entry)
        values.append(phi)
    results = list(body(builder, index, list(values)))
    if len(results) != len(values):
        raise ValueError(f"loop {name}: the body returned {len(results)} values, {len(values)} are carried")
    latch = builder.block
    following = builder.add(index, step, flags=["nsw"])
    index.add_incoming(following, latch)
    for phi, result in zip(values, results, strict=True):
        phi.add_incoming(result, latch)
    builder.cbranch(once_more(following, results), first, after)

    builder.position_at_end(after)
    finals: list[ir.Value] = []
    for before, result in zip(carried, results, strict=True):
        final = builder.phi(before.type)
        final.add_incoming(before, entry)
        final.add_incoming(result, latch)
        finals.append(final)
    return finals
