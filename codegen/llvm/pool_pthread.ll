; Parking where there are no futexes: one mutex and two condition variables in the pool's parking objects.
; Whoever changes `state` takes the mutex before it signals, and whoever sleeps looks at `state` under the mutex, so no
; wake-up falls between the look and the sleep.

declare i32 @pthread_mutex_init(ptr, ptr) nounwind
declare i32 @pthread_mutex_destroy(ptr) nounwind
declare i32 @pthread_mutex_lock(ptr) nounwind
declare i32 @pthread_mutex_unlock(ptr) nounwind
declare i32 @pthread_cond_init(ptr, ptr) nounwind
declare i32 @pthread_cond_destroy(ptr) nounwind
declare i32 @pthread_cond_wait(ptr, ptr) nounwind
declare i32 @pthread_cond_broadcast(ptr) nounwind

; Room for the largest of these objects in use: 64 bytes for the mutex (macOS), 48 for a condition (Linux, macOS).
%park.objects = type { [64 x i8], [64 x i8], [64 x i8] }

define internal void @park.init(ptr %pool) nounwind {
  %mutex = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 15
  %workers = getelementptr %park.objects, ptr %mutex, i64 0, i32 1
  %caller = getelementptr %park.objects, ptr %mutex, i64 0, i32 2
  call void @llvm.memset.p0.i64(ptr %mutex, i8 0, i64 192, i1 false)
  %m = call i32 @pthread_mutex_init(ptr %mutex, ptr null)
  %w = call i32 @pthread_cond_init(ptr %workers, ptr null)
  %c = call i32 @pthread_cond_init(ptr %caller, ptr null)
  ret void
}

define internal void @park.destroy(ptr %pool) nounwind {
  %mutex = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 15
  %workers = getelementptr %park.objects, ptr %mutex, i64 0, i32 1
  %caller = getelementptr %park.objects, ptr %mutex, i64 0, i32 2
  %c = call i32 @pthread_cond_destroy(ptr %caller)
  %w = call i32 @pthread_cond_destroy(ptr %workers)
  %m = call i32 @pthread_mutex_destroy(ptr %mutex)
  ret void
}

; Sleeps while the generation is `seen`.
define internal void @park.worker(ptr %pool, i64 %seen) nounwind {
  %asleep.at = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 13
  %state.at = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 8
  %mutex = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 15
  %workers = getelementptr %park.objects, ptr %mutex, i64 0, i32 1
  %l = call i32 @pthread_mutex_lock(ptr %mutex)
  %counted = atomicrmw add ptr %asleep.at, i64 1 seq_cst
  br label %look
look:
  %state = load atomic i64, ptr %state.at seq_cst, align 8
  %generation = lshr i64 %state, 32
  %same = icmp eq i64 %generation, %seen
  br i1 %same, label %sleep, label %done
sleep:
  %w = call i32 @pthread_cond_wait(ptr %workers, ptr %mutex)
  br label %look
done:
  %uncounted = atomicrmw sub ptr %asleep.at, i64 1 seq_cst
  %u = call i32 @pthread_mutex_unlock(ptr %mutex)
  ret void
}

; All sleepers, whatever `most` is: one that a signal wakes need not be one that still sleeps.
define internal void @park.wake_workers(ptr %pool, i64 %most) nounwind noinline {
  %mutex = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 15
  %workers = getelementptr %park.objects, ptr %mutex, i64 0, i32 1
  %l = call i32 @pthread_mutex_lock(ptr %mutex)
  %b = call i32 @pthread_cond_broadcast(ptr %workers)
  %u = call i32 @pthread_mutex_unlock(ptr %mutex)
  ret void
}

; Sleeps while the lower half of the state is that of `state`.
define internal void @park.caller(ptr %pool, i64 %state) nounwind {
  %state.at = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 8
  %mutex = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 15
  %caller = getelementptr %park.objects, ptr %mutex, i64 0, i32 2
  %wanted = trunc i64 %state to i32
  %l = call i32 @pthread_mutex_lock(ptr %mutex)
  br label %look
look:
  %now = load atomic i64, ptr %state.at seq_cst, align 8
  %low = trunc i64 %now to i32
  %same = icmp eq i32 %low, %wanted
  br i1 %same, label %sleep, label %done
sleep:
  %w = call i32 @pthread_cond_wait(ptr %caller, ptr %mutex)
  br label %look
done:
  %u = call i32 @pthread_mutex_unlock(ptr %mutex)
  ret void
}

define internal void @park.wake_caller(ptr %pool) nounwind noinline {
  %mutex = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 15
  %caller = getelementptr %park.objects, ptr %mutex, i64 0, i32 2
  %l = call i32 @pthread_mutex_lock(ptr %mutex)
  %b = call i32 @pthread_cond_broadcast(ptr %caller)
  %u = call i32 @pthread_mutex_unlock(ptr %mutex)
  ret void
}
