"""One random sequence of calls."""

from __future__ import annotations

import traceback
from collections.abc import Callable

from tests.calls import objects, options, runs, values
from tests.calls.world import Fault, Side, World
from tests.graphs.choices import Choices

__all__ = ["play"]

_ALL = [(step, weight) for each in (runs, options, values, objects) for step, weight in each.STEPS]
_STEPS = [step for step, weight in _ALL for _ in range(weight)]


def play(choices: Choices, sides: tuple[Side, Side], steps: int, folder: str,
         tell: Callable[[str], None]) -> tuple[str, str, World]:
    """What kind of fault a sequence shows ("" for none), all about it, and what came of the sequence."""
    world = World(choices, sides, folder, tell)
    try:
        for _ in range(1 + choices.below(3)):
            runs.open_plain(world)
        for _ in range(1 + choices.below(steps)):
            choices.pick(_STEPS)(world)
        world.check_kept()
    except Fault as fault:
        return fault.kind, "\n".join(["  " + line[:300] for line in world.log[:-1]] + [str(fault)]), world
    except Exception as error:
        return f"driver {type(error).__name__}", "\n".join(world.log[-3:]) + "\n" + traceback.format_exc(), world
    return "", "", world
