"""Aligned memory and arenas."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest

from onnxc.runtime.memory import ArenaPool, aligned


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
    with pytest.raises(MemoryError, match="for run 3"):
        ArenaPool(purpose="run 3").acquire(nbytes)


@pytest.mark.parametrize(("nbytes", "align"), [(-1, 64), (8, 0), (8, -2), (8, 48)])
def test_impossible_requests_are_refused(nbytes, align):
    with pytest.raises(ValueError, match="power of two"):
        aligned(nbytes, align)


def test_a_released_arena_is_used_again():
    arenas = ArenaPool()
    first = arenas.acquire(10_000)
    address = first.ctypes.data
    assert first.nbytes >= 10_000
    assert address % 64 == 0
    arenas.release(first)
    assert arenas.acquire(9_000).ctypes.data == address
    assert arenas.idle_bytes == 0


def test_runs_at_the_same_time_get_arenas_apart():
    arenas = ArenaPool()
    held = [arenas.acquire(5000) for _ in range(8)]
    starts = sorted(arena.ctypes.data for arena in held)
    assert all(b - a >= 5000 for a, b in itertools.pairwise(starts))


def test_the_largest_few_stay_and_the_smallest_that_fits_is_taken():
    arenas = ArenaPool(keep=2)
    held = [arenas.acquire(size) for size in (1 << 14, 1 << 20, 1 << 16, 1 << 18)]
    for arena in held:
        arenas.release(arena)
    assert arenas.idle_bytes == (1 << 20) + (1 << 18)
    assert arenas.acquire(1 << 17).nbytes == 1 << 18
    assert arenas.acquire(1 << 17).nbytes == 1 << 20
    assert ArenaPool(keep=0).clear() == 0
    arenas.release(held[0])
    assert arenas.clear() == 1 << 14


def test_negative_sizes_are_refused_even_with_idle_arenas():
    arenas = ArenaPool()
    arenas.release(arenas.acquire(100))
    with pytest.raises(ValueError, match="at least 0"):
        arenas.acquire(-5000)
    with pytest.raises(ValueError, match="at least 0"):
        ArenaPool(keep=-1)


def test_many_threads_never_share_an_arena():
    arenas = ArenaPool(keep=3)
    faults = []

    def run(mark: int) -> None:
        for step in range(300):
            arena = arenas.acquire(1000 + 37 * step)
            arena[:1000] = mark
            if not (arena[:1000] == mark).all():
                faults.append(mark)
            arenas.release(arena)

    threads = [threading.Thread(target=run, args=(mark,)) for mark in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
