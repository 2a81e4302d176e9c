"""The native thread pool: every chunk once, whoever calls, whatever is cancelled, forked or scarce."""

from __future__ import annotations

import ctypes
import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from onnxc.codegen.llvm.pool import declare_pool, pool_ir
from onnxc.codegen.llvm.target import Target, TargetError
from onnxc.runtime.loader import NativeModule
from onnxc.runtime.threads import ThreadPool

I32, I64, PTR = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p

# Bodies of parallel loops. Their argument is an array of i64:
#   @visit: [0] is the address of an array of counts, which it raises for its range; [1] counts calls; [2] collects
#           a bit for each thread number; [3] counts ranges that do not begin at a multiple of the grain in [4]
#   @meet: arrives, then waits until [1] threads have come or 2^32 looks have passed; [2] counts those who met
#   @stop: counts a call in [0], and sets the cancel word in [1] at call number [2]
#   @nest: launches @visit over [1] indices with grain [2] on the pool in [0], with the arguments in [3]
#   @bounds: appends the bounds of its range behind [0], the number of words in use
BODIES = """
declare void @onnxc_parallel_for(ptr, ptr, ptr, i64, i64, ptr)

define void @visit(ptr %arg, i64 %begin, i64 %end, i64 %thread) {
  %calls = getelementptr i64, ptr %arg, i64 1
  %threads = getelementptr i64, ptr %arg, i64 2
  %crooked = getelementptr i64, ptr %arg, i64 3
  %grain.at = getelementptr i64, ptr %arg, i64 4
  %c = atomicrmw add ptr %calls, i64 1 monotonic
  %bit = shl i64 1, %thread
  %t = atomicrmw or ptr %threads, i64 %bit monotonic
  %grain = load i64, ptr %grain.at
  %rest = urem i64 %begin, %grain
  %is.crooked = icmp ne i64 %rest, 0
  %one.crooked = zext i1 %is.crooked to i64
  %k = atomicrmw add ptr %crooked, i64 %one.crooked monotonic
  %counts = load ptr, ptr %arg
  br label %each
each:
  %i = phi i64 [ %begin, %0 ], [ %next, %each ]
  %at = getelementptr i64, ptr %counts, i64 %i
  %old = load i64, ptr %at
  %new = add i64 %old, 1
  store i64 %new, ptr %at
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %end
  br i1 %more, label %each, label %done
done:
  ret void
}

define void @meet(ptr %arg, i64 %begin, i64 %end, i64 %thread) {
  %wanted.at = getelementptr i64, ptr %arg, i64 1
  %met.at = getelementptr i64, ptr %arg, i64 2
  %wanted = load i64, ptr %wanted.at
  %before = atomicrmw add ptr %arg, i64 1 seq_cst
  br label %look
look:
  %tries = phi i64 [ 0, %0 ], [ %tries.next, %again ]
  %now = load atomic i64, ptr %arg acquire, align 8
  %all = icmp sge i64 %now, %wanted
  br i1 %all, label %met, label %again
again:
  %tries.next = add i64 %tries, 1
  %on = icmp slt i64 %tries.next, 4294967296
  br i1 %on, label %look, label %done
met:
  %m = atomicrmw add ptr %met.at, i64 1 monotonic
  br label %done
done:
  ret void
}

define void @stop(ptr %arg, i64 %begin, i64 %end, i64 %thread) {
  %word.at = getelementptr i64, ptr %arg, i64 1
  %when.at = getelementptr i64, ptr %arg, i64 2
  %word = load ptr, ptr %word.at
  %when = load i64, ptr %when.at
  %calls = atomicrmw add ptr %arg, i64 1 seq_cst
  %now = icmp eq i64 %calls, %when
  br i1 %now, label %set, label %done
set:
  store atomic i32 1, ptr %word seq_cst, align 4
  br label %done
done:
  ret void
}

define void @nest(ptr %arg, i64 %begin, i64 %end, i64 %thread) {
  %total.at = getelementptr i64, ptr %arg, i64 1
  %grain.at = getelementptr i64, ptr %arg, i64 2
  %inner.at = getelementptr i64, ptr %arg, i64 3
  %pool = load ptr, ptr %arg
  %total = load i64, ptr %total.at
  %grain = load i64, ptr %grain.at
  %inner = load ptr, ptr %inner.at
  br label %each
each:
  %i = phi i64 [ %begin, %0 ], [ %next, %each ]
  %offset = mul i64 %i, 5
  %visit.arg = getelementptr i64, ptr %inner, i64 %offset
  call void @onnxc_parallel_for(ptr %pool, ptr @visit, ptr %visit.arg, i64 %total, i64 %grain, ptr null)
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %end
  br i1 %more, label %each, label %done
done:
  ret void
}

define void @launch_often(ptr %pool, ptr %fn, ptr %arg, i64 %total, i64 %grain, i64 %times) {
  br label %each
each:
  %i = phi i64 [ 0, %0 ], [ %next, %each ]
  call void @onnxc_parallel_for(ptr %pool, ptr %fn, ptr %arg, i64 %total, i64 %grain, ptr null)
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %times
  br i1 %more, label %each, label %done
done:
  ret void
}

define void @nothing(ptr %arg, i64 %begin, i64 %end, i64 %thread) {
  ret void
}

define void @bounds(ptr %arg, i64 %begin, i64 %end, i64 %thread) {
  %n = atomicrmw add ptr %arg, i64 2 monotonic
  %b.i = add i64 %n, 1
  %e.i = add i64 %n, 2
  %b.at = getelementptr i64, ptr %arg, i64 %b.i
  %e.at = getelementptr i64, ptr %arg, i64 %e.i
  store i64 %begin, ptr %b.at
  store i64 %end, ptr %e.at
  ret void
}
"""


class Native:
    """The bodies and the pool in one object, callable."""

    def __init__(self, parking: str) -> None:
        target = Target.host()
        self.module = NativeModule(target.compile(BODIES, linked=[pool_ir(target, parking)]))
        self.parallel_for = self.module.function("onnxc_parallel_for", None, PTR, PTR, PTR, I64, I64, PTR)
        self.launch_often = self.module.function("launch_often", None, PTR, PTR, PTR, I64, I64, I64)

    def pool(self, threads: int, spin_ns: int = -1) -> ThreadPool:
        return ThreadPool(self.module, threads, spin_ns)

    def body(self, name: str) -> int:
        return self.module.address(name)

    def visit(self, pool: int | None, total: int, grain: int,
              cancel: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """One launch of @visit: the counts of [0, total) with a guard at either end, and the argument's words."""
        counts = np.zeros(max(total, 0) + 2, np.int64)
        words = np.array([counts.ctypes.data + 8, 0, 0, 0, max(grain, 1)], np.int64)
        self.parallel_for(pool, self.body("visit"), words.ctypes.data, total, grain, cancel)
        assert counts[0] == counts[-1] == 0
        return counts[1:-1], words


PARKINGS = ["pthread", "futex"] if sys.platform == "linux" else ["pthread"]


@pytest.fixture(scope="module", params=PARKINGS)
def native(request: pytest.FixtureRequest) -> Native:
    return Native(request.param)


def in_child(work: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether `work` is true in a forked child that ends by itself in time."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if work() else 2
        finally:
            os._exit(code)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("the forked child hangs")


TOTALS = (-1, 0, 1, 2, 3, 7, 8, 9, 63, 64, 65, 1000)
GRAINS = (-5, 0, 1, 2, 3, 8, 64, 999, 1000, 1 << 62)


@pytest.mark.parametrize("threads", range(1, 9))
def test_every_index_is_visited_exactly_once(native, threads):
    with native.pool(threads) as pool:
        for total, grain in itertools.product(TOTALS, GRAINS):
            counts, (_, calls, bits, crooked, step) = native.visit(pool.pointer, total, grain)
            assert (counts == 1).all(), (total, grain)
            assert crooked == 0
            chunks = -(-total // step) if total > 0 else 0
            assert calls == (min(chunks, 1) if threads == 1 else chunks), (total, grain)
            assert bits < 1 << threads


def test_without_a_pool_the_caller_does_it_in_one_call(native):
    for total, grain in itertools.product(TOTALS, GRAINS):
        counts, (_, calls, bits, _, _) = native.visit(None, total, grain)
        assert (counts == 1).all()
        assert calls == bits == (1 if total > 0 else 0)


def test_ranges_near_the_end_of_the_index_type_do_not_wrap(native):
    top = (1 << 63) - 1
    with native.pool(3) as pool:
        for grain in (1 << 61, (1 << 61) + 1, top - 1):
            words = np.zeros(32, np.int64)
            native.parallel_for(pool.pointer, native.body("bounds"), words.ctypes.data, top, grain, None)
            found = sorted(zip(words[1:words[0]:2].tolist(), words[2:words[0] + 1:2].tolist(), strict=True))
            assert found == [(b, min(b + grain, top)) for b in range(0, top, grain)]


@pytest.mark.parametrize("spin_ns", [0, 1000, -1])
def test_chunks_run_at_the_same_time(native, spin_ns):
    """All bodies wait for each other, so that fewer threads than chunks could not finish the launch in time."""
    with native.pool(4, spin_ns) as pool:
        for _ in range(50):
            words = np.array([0, 4, 0], np.int64)
            native.parallel_for(pool.pointer, native.body("meet"), words.ctypes.data, 4, 1, None)
            assert words.tolist() == [4, 4, 4]


@pytest.mark.parametrize("spin_ns", [0, -1])
def test_launches_after_rests_of_every_length_lose_nothing(native, spin_ns):
    """Rests around the spin time meet workers while they fall asleep."""
    with native.pool(4, spin_ns) as pool:
        for step in range(300):
            counts, _ = native.visit(pool.pointer, 100, 1)
            assert (counts == 1).all()
            until = time.perf_counter() + step * 4e-7
            while time.perf_counter() < until:
                pass


@pytest.mark.parametrize("spin_ns", [0, -1])
def test_many_callers_share_one_pool(native, spin_ns):
    faults = []

    def call(pool: ThreadPool) -> None:
        for round_ in range(200):
            counts, words = native.visit(pool.pointer, 500 + round_, 7)
            if not (counts == 1).all() or words[3]:
                faults.append(round_)

    with native.pool(4, spin_ns) as pool:
        callers = [threading.Thread(target=call, args=(pool,)) for _ in range(6)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(60)
            assert not caller.is_alive()
    assert not faults


def test_a_launch_inside_a_launch_runs_in_its_thread(native):
    outer, total, grain = 24, 50, 3
    with native.pool(4) as pool:
        counts = np.zeros((outer, total), np.int64)
        inner = np.zeros((outer, 5), np.int64)
        inner[:, 0] = counts.ctypes.data + np.arange(outer) * total * 8
        inner[:, 4] = grain
        words = np.array([pool.pointer, total, grain, inner.ctypes.data], np.int64)
        native.parallel_for(pool.pointer, native.body("nest"), words.ctypes.data, outer, 1, None)
    assert (counts == 1).all()
    assert (inner[:, 1] == 1).all()


@pytest.mark.parametrize("threads", [1, 3])
def test_a_cancelled_launch_starts_no_chunk(native, threads):
    with native.pool(threads) as pool:
        for word in (1, -1, 1 << 30):
            cancel = I32(word)
            for total, grain in ((1, 1), (100, 1), (100, 100), (100, 1000)):
                counts, words = native.visit(pool.pointer, total, grain, ctypes.addressof(cancel))
                assert words[1] == 0
                assert (counts == 0).all()
        cancel = I32(0)
        counts, _ = native.visit(pool.pointer, 100, 3, ctypes.addressof(cancel))
        assert (counts == 1).all()


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_cancelling_leaves_out_the_chunks_that_have_not_begun(native, threads):
    with native.pool(threads) as pool:
        for when in (0, 10, 500):
            cancel = I32(0)
            words = np.array([0, ctypes.addressof(cancel), when], np.int64)
            native.parallel_for(pool.pointer, native.body("stop"), words.ctypes.data, 100_000, 1, int(words[1]))
            # The caller of `when` sets the word within its chunk; each other thread can be in chunks until it sees it.
            if threads == 1:
                assert words[0] == when + 1
            else:
                assert when + 1 <= words[0] < 100_000


def test_a_hundred_thousand_launches(native):
    """Launch after launch with workers awake: none is lost, and none costs a system call's time."""
    with native.pool(2) as pool:
        counts = np.zeros(3, np.int64)
        words = np.array([counts.ctypes.data, 0, 0, 0, 1], np.int64)
        begun = time.perf_counter()
        native.launch_often(pool.pointer, native.body("visit"), words.ctypes.data, 3, 1, 100_000)
        spent = time.perf_counter() - begun
    assert counts.tolist() == [100_000] * 3
    assert words[1] == 300_000
    # 0.2 us each where measured; the bound leaves room for machines whose cores are taken.
    assert spent < 5.0


def test_an_idle_pool_uses_no_processor_time(native):
    with native.pool(4) as pool:
        native.visit(pool.pointer, 100, 1)
        time.sleep(0.02)
        before = time.process_time()
        time.sleep(0.3)
        assert time.process_time() - before < 0.02


def test_workers_start_with_the_first_launch_and_end_with_the_pool(native):
    def threads() -> int:
        return len(os.listdir("/proc/self/task"))

    if sys.platform != "linux":
        pytest.skip("threads are counted in /proc")
    before = threads()
    with native.pool(5) as pool:
        native.visit(pool.pointer, 1, 1)
        assert threads() == before
        native.visit(pool.pointer, 10, 1)
        assert threads() == before + 4
        native.visit(pool.pointer, 10, 1)
        assert threads() == before + 4
    assert threads() == before


def test_pools_end_at_any_moment(native):
    """Freed while the workers start, run out of a launch, spin, or sleep."""
    for rest in (0.0, 0.0, 1e-5, 5e-5, 1e-4, 5e-4) * 15:
        with native.pool(3) as pool:
            native.visit(pool.pointer, 10, 1)
            time.sleep(rest)


FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}


def blocked_signals(thread: str) -> set[int]:
    """What a thread of this process blocks, of the signals with names."""
    status = Path(f"/proc/self/task/{thread}/status").read_text()
    mask = int(next(line for line in status.splitlines() if line.startswith("SigBlk")).split()[1], 16)
    return {number for number in signal.valid_signals() if mask >> (number - 1) & 1}


def wait_for(look: Callable[[], set[int]], good: Callable[[set[int]], bool], seconds: float = 5.0) -> set[int]:
    """What `look` finds once it is good; fails when it does not become so in time."""
    deadline = time.monotonic() + seconds
    while not good(found := look()):
        assert time.monotonic() < deadline, found
        time.sleep(0.001)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="signal masks are read from /proc")
def test_workers_take_no_signals_but_their_own_faults(native):
    before = set(os.listdir("/proc/self/task"))
    with native.pool(3) as pool:
        native.visit(pool.pointer, 10, 1)
        workers = set(os.listdir("/proc/self/task")) - before
        assert len(workers) == 2
        for worker in workers:
            # While a thread is being made, the C library blocks everything in it.
            blocked = wait_for(lambda worker=worker: blocked_signals(worker),
                               lambda mask: not FAULTS & mask)
            assert {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGALRM} <= blocked
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


def fine(native: Native, pool: int | None) -> bool:
    return all((native.visit(pool, total, 3)[0] == 1).all() for total in (1, 10, 1000) for _ in range(20))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
class TestFork:
    """A child has the pool's memory and none of its threads."""

    @pytest.mark.parametrize("rest", [0.0, 0.01])
    def test_child_and_parent_go_on(self, native, rest):
        with native.pool(3) as pool:
            assert fine(native, pool.pointer)
            time.sleep(rest)

            def child() -> bool:
                words = np.array([0, 3, 0], np.int64)
                native.parallel_for(pool.pointer, native.body("meet"), words.ctypes.data, 3, 1, None)
                met = words[2] == 3
                pool.close()
                return bool(met)

            assert in_child(child)
            assert fine(native, pool.pointer)

    def test_child_of_an_unused_pool(self, native):
        with native.pool(3) as pool:
            assert in_child(lambda: fine(native, pool.pointer))
            assert fine(native, pool.pointer)

    def test_child_whose_parent_is_inside_a_launch(self, native):
        with native.pool(2) as pool:
            words = np.array([0, 3, 0], np.int64)
            arguments = pool.pointer, native.body("meet"), words.ctypes.data, 2, 1, None
            parent_launch = threading.Thread(target=native.parallel_for, args=arguments)
            parent_launch.start()
            while words[0] < 1:
                time.sleep(0.001)
            assert in_child(lambda: fine(native, pool.pointer))
            words[0] = 3
            parent_launch.join(30)
            assert not parent_launch.is_alive()
            assert fine(native, pool.pointer)

    def test_child_that_was_not_told(self, native):
        """A program that is no Python program may fork: nothing waits for the missing workers, not even the end."""
        new = native.module.function("onnxc_pool_new", PTR, I64, I64)
        free = native.module.function("onnxc_pool_free", None, PTR)
        pool = new(3, -1)
        assert fine(native, pool)

        def child() -> bool:
            worked = fine(native, pool)
            free(pool)
            return worked

        for rest in (0.0, 0.01):
            time.sleep(rest)
            assert in_child(child)
        assert fine(native, pool)
        free(pool)


SCARCE = """
import resource, sys
sys.path[:0] = {path!r}
from test_pool import Native, fine
native = Native({parking!r})
pool = native.pool(6)
pages = int(open("/proc/self/statm").read().split()[0])
room = pages * resource.getpagesize() + {extra}
resource.setrlimit(resource.RLIMIT_STACK, (8 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1]))
resource.setrlimit(resource.RLIMIT_AS, (room, room))
assert fine(native, pool.pointer)
import os
print("workers", len(os.listdir("/proc/self/task")) - 1)
pool.close()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits address space through /proc")
@pytest.mark.parametrize(("extra", "workers"), [(2 << 20, 0), (20 << 20, 2)])
def test_threads_that_cannot_be_made_are_done_without(extra, workers):
    """An address-space limit lets no, or not every, 8 MiB stack in."""
    path = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    script = SCARCE.format(path=path, parking=PARKINGS[-1], extra=extra)
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False,
                          env=environment, preexec_fn=_default_stack)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["workers", str(workers)]


def _default_stack() -> None:
    import resource
    resource.setrlimit(resource.RLIMIT_STACK, (8 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1]))


def test_dropping_the_last_reference_ends_the_workers(native):
    pool = native.pool(3)
    native.visit(pool.pointer, 10, 1)
    finalizer = pool._finalizer
    del pool
    gc.collect()
    assert not finalizer.alive


def test_interpreter_ends_with_workers_running():
    """No crash and no hang at exit while workers spin, sleep, and while a daemon thread is inside a launch."""
    script = ("import sys, threading\n"
              f"sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[2])]!r}\n"
              "from test_pool import Native, fine\n"
              f"native = Native({PARKINGS[-1]!r}); pool = native.pool(3, 10**9); fine(native, pool.pointer)\n"
              "launch = lambda: native.launch_often(pool.pointer, native.body('nothing'), None, 100, 1, 10**9)\n"
              "threading.Thread(target=launch, daemon=True).start()\n")
    for _ in range(3):
        subprocess.run([sys.executable, "-c", script], timeout=60, check=True)


def test_bad_sizes_and_systems_are_refused(native):
    with pytest.raises(ValueError, match="at least 1"):
        native.pool(0)
    assert native.pool(1 << 40).threads == 4096
    threads = native.module.function("onnxc_pool_threads", I64, PTR)
    assert threads(None) == 1
    for name, arguments in (("onnxc_pool_free", [None]), ("onnxc_pool_abandon", [None])):
        native.module.function(name, None, PTR)(*arguments)
    with pytest.raises(TargetError, match="POSIX threads"):
        pool_ir(Target.parse("x86_64-pc-windows-msvc/x86-64-v3"))
    with pytest.raises(TargetError, match="futexes"):
        pool_ir(Target.parse("arm64-apple-darwin/apple-m1"), "futex")


def test_declarations_match_the_definitions():
    from llvmlite import ir
    module = ir.Module()
    functions = declare_pool(module)
    assert declare_pool(module) == functions
    target = Target.host()
    block = ir.IRBuilder(ir.Function(module, ir.FunctionType(ir.IntType(64), []), "count").append_basic_block())
    pool = block.call(functions.new, [ir.IntType(64)(5), ir.IntType(64)(0)])
    threads = block.call(functions.threads, [pool])
    block.call(functions.free, [pool])
    block.ret(threads)
    assert NativeModule(target.compile(module, linked=[pool_ir(target)])).function("count", I64)() == 5


@pytest.mark.parametrize("text", ["x86-64", "aarch64-neon", "arm64-apple-darwin/apple-m1"])
def test_pool_compiles_for_every_target_and_wants_only_allowed_symbols(text):
    """And that on Arm the launch word is read and changed with acquiring and releasing accesses."""
    target = Target.parse(text)
    assembly = target.assembly(pool_ir(target))
    assert "onnxc_parallel_for" in assembly
    if target.arch == "aarch64":
        words = set(assembly.split())
        assert words >= {"ldaxr", "stlxr", "ldar"} or words >= {"swpal", "casa", "ldar"}
