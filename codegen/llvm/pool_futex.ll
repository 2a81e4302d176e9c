; Parking on Linux: futexes on the two halves of `state`, with nothing to initialise or to destroy.
; The upper half (the generation) is what workers sleep on, the lower half what the caller of a launch sleeps on.

declare i64 @syscall(i64, ...) nounwind

define internal void @park.init(ptr %pool) nounwind {
  ret void
}

define internal void @park.destroy(ptr %pool) nounwind {
  ret void
}

; Sleeps while the generation is `seen`. The count of sleepers goes down by whoever ends the sleep: the waker for each
; thread that it woke, the worker itself when it was not woken (the generation had changed, or a signal came).
define internal void @park.worker(ptr %pool, i64 %seen) nounwind {
  %asleep.at = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 13
  %state.at = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 8
  %generation.at = getelementptr i8, ptr %state.at, i64 4
  %seen.low = trunc i64 %seen to i32
  %counted = atomicrmw add ptr %asleep.at, i64 1 seq_cst
  %number = load i64, ptr @futex.syscall
  %r = call i64 (i64, ...) @syscall(i64 %number, ptr %generation.at, i32 128, i32 %seen.low, ptr null, ptr null, i32 0)
  %woken = icmp eq i64 %r, 0
  br i1 %woken, label %done, label %uncount
uncount:
  %uncounted = atomicrmw sub ptr %asleep.at, i64 1 seq_cst
  br label %done
done:
  ret void
}

define internal void @park.wake_workers(ptr %pool, i64 %most) nounwind noinline {
  %asleep.at = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 13
  %state.at = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 8
  %generation.at = getelementptr i8, ptr %state.at, i64 4
  %most.low = trunc i64 %most to i32
  %number = load i64, ptr @futex.syscall
  %woken = call i64 (i64, ...) @syscall(i64 %number, ptr %generation.at, i32 129, i32 %most.low, ptr null, ptr null, i32 0)
  %some = icmp sgt i64 %woken, 0
  br i1 %some, label %uncount, label %done
uncount:
  %uncounted = atomicrmw sub ptr %asleep.at, i64 %woken seq_cst
  br label %done
done:
  ret void
}

; Sleeps while the lower half of the state is that of `state`.
define internal void @park.caller(ptr %pool, i64 %state) nounwind {
  %state.at = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 8
  %low = trunc i64 %state to i32
  %number = load i64, ptr @futex.syscall
  %r = call i64 (i64, ...) @syscall(i64 %number, ptr %state.at, i32 128, i32 %low, ptr null, ptr null, i32 0)
  ret void
}

define internal void @park.wake_caller(ptr %pool) nounwind noinline {
  %state.at = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 8
  %number = load i64, ptr @futex.syscall
  %r = call i64 (i64, ...) @syscall(i64 %number, ptr %state.at, i32 129, i32 1, ptr null, ptr null, i32 0)
  ret void
}
