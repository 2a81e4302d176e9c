"""Aligned memory, and the memory that programs keep between runs."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import onnxc
from onnxc.runtime.memory import aligned
from onnxc.runtime.program import NativeProgram
from tests.session import models


@pytest.mark.parametrize("align", [1, 2, 64, 4096, 1 << 21])
@pytest.mark.parametrize("nbytes", [0, 1, 63, 64, 65, 100_000])
def test_size_and_alignment_hold(nbytes, align):
    for _ in range(5):
        block = aligned(nbytes, align)
        assert (block.dtype, block.shape) == (np.uint8, (nbytes,))
        assert block.ctypes.data % align == 0
        block[:] = 7
        assert block.sum() == 7 * nbytes


@pytest.mark.parametrize("nbytes", [1 << 62, (1 << 63) - 65, 1 << 63, 1 << 80])
def test_too_much_is_a_memory_error_with_size_and_purpose(nbytes):
    with pytest.raises(MemoryError, match=rf"no {nbytes} bytes .*for the weights"):
        aligned(nbytes, purpose="the weights")


@pytest.mark.parametrize(("nbytes", "align"), [(-1, 64), (8, 0), (8, -2), (8, 48)])
def test_impossible_requests_are_refused(nbytes, align):
    with pytest.raises(ValueError, match="power of two"):
        aligned(nbytes, align)


@pytest.fixture(scope="module")
def compiled():
    return onnxc.compile(models.chain(3).SerializeToString())


def run(program: NativeProgram, rows: int) -> np.ndarray:
    return program.run([np.ones((rows, 32), np.float32)])[0]


def test_memory_of_a_run_serves_the_next_and_grows_with_the_largest(compiled):
    program = NativeProgram(compiled, threads=1)
    assert program.arena_bytes == 0
    expected = run(program, 100)
    held = program.arena_bytes
    assert held > 0
    run(program, 10)
    assert program.arena_bytes == held
    run(program, 1000)
    assert held < program.arena_bytes == program.memory()["peak"] >= program.memory()["planned"]
    assert program.release_memory() > held
    assert program.arena_bytes == 0
    np.testing.assert_array_equal(run(program, 100), expected)


def test_without_keeping_memory_nothing_is_held_between_runs(compiled):
    program = NativeProgram(compiled, threads=1, keep_memory=False)
    run(program, 100)
    assert program.arena_bytes == 0
    assert program.memory()["peak"] > 0


def test_runs_at_the_same_time_have_memory_apart_and_few_of_them_keep_it(compiled):
    program = NativeProgram(compiled, threads=1)
    one = run(program, 500)
    peak = program.arena_bytes
    faults = []

    def work() -> None:
        for _ in range(40):
            if not np.array_equal(run(program, 500), one):
                faults.append(1)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert program.arena_bytes <= 2 * peak
    assert program.runs == 241
